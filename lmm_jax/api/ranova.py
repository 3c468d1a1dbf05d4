"""``ranova``: which random effects a model needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from ..capabilities import require
from ..designs.design import Design
from ..designs.nesting import coefficients_of, only, with_terms
from ..designs.terms import RandomTerm
from ..inference.profiles.boundary import chi2_tail, likelihood_ratio
from ..inference.profiles.null_information import boundary_p_value_of
from ..inputs.arguments import hinted, instance
from ..inputs.names import unique
from ..likelihood.profile import loglike_of_theta
from ..numerics.processes import float64
from ..results.lmm import LMMResults
from ..results.summary import fitted_by, method_name
from ..tables.page import table
from .fit import fit


@hinted
def ranova(res: LMMResults) -> pd.DataFrame:
    """Likelihood ratio tests of the random-effects terms, each left out in turn.

    Of a term ``(x + z | g)`` every covariate is left out in turn, and its intercept stays; a term
    ``(1 | g)`` or ``(0 + x | g)`` is left out as a whole. The criterion is that of the fit.

    Parameters
    ----------
    res : LMMResults

    Returns
    -------
    pandas.DataFrame
        Rows ``<none>`` and the terms: npar, llf, aic, chisq, df, p_value (of the chi-square
        distribution, as lmerTest prints it) and ``p_boundary`` (see :func:`anova`).

    Raises
    ------
    DataError
        A result without its data, or with held or penalized parameters.

    References
    ----------
    Kuznetsova, Brockhoff & Christensen (2017), doi:10.18637/jss.v082.i13.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> print(lmm.ranova(res)[["npar", "llf", "chisq", "df"]].round(2))
                             npar     llf  chisq  df
    term
    <none>                      6 -871.81    NaN   0
    Days in (Days | Subject)    4 -893.23  42.84   2
    """
    instance(res, "res", LMMResults, "a result of lmm.fit")
    require(res, "comparisons of models")
    rows, index = [random_row(res.n_params, res.llf)], ["<none>"]
    for drop in random_drops(res):
        rows.append(drop.row)
        index.append(drop.label)
    made = pd.DataFrame(rows, index=pd.Index(unique(index), name="term"))
    title = f"Random effects left out in turn, {method_name(res.reml)}"
    return table(made, title, method=fitted_by(res))


class Drop(NamedTuple):
    """A part of the random effects, left out."""

    label: str
    terms: list[RandomTerm]  # that stay
    row: dict[str, float]  # of the table


def random_drops(res: LMMResults) -> Iterator[Drop]:
    """All parts of the random effects of a fit that may go, each left out in turn."""
    design = res.design
    assert design is not None  # the caller has looked
    for label, t, rest in _random_drops(design):
        own = [only(design.terms[t], rest)] if rest else []
        terms = [*design.terms[:t], *own, *design.terms[t + 1 :]]
        small, llf, n_params = _fit_with(res, design, terms)
        row = random_row(n_params, llf)
        row["chisq"], row["df"] = (
            likelihood_ratio(res.llf, llf, nested=True),
            res.n_params - n_params,
        )
        row["p_value"] = chi2_tail(row["chisq"], int(row["df"]))
        row["p_boundary"] = boundary_p_value_of(res, small, row["chisq"], t, rest)
        yield Drop(label, terms, row)


def random_row(n_params: int, llf: float) -> dict[str, float]:
    """A row of the table for a fit."""
    return {"npar": n_params, "llf": llf, "aic": 2.0 * (n_params - llf), "chisq": np.nan,
            "df": 0, "p_value": np.nan, "p_boundary": np.nan}  # fmt: skip


def _random_drops(design: Design) -> Iterator[tuple[str, int, list[int]]]:
    """What may go: a label, the number of the term, and its coefficients that are left."""
    for t, term in enumerate(design.terms):
        parts = coefficients_of(term)
        parts.pop("Intercept", None)
        made_of = {name: set(name.split(":")) for name in parts}
        if (sum(map(len, parts.values())) == len(term.names) and len(parts) == 1) or not parts:
            label = "(1 | " + term.group + ")" if term.names == ("Intercept",) else term.text
            yield label, t, []
            continue
        for name, places in parts.items():
            if any(made_of[name] < other for other in made_of.values()):
                continue  # as long as its interaction is there
            rest = [j for j in range(len(term.names)) if j not in places]
            yield f"{name} in {term.text}", t, rest


def _fit_with(
    res: LMMResults, design: Design, terms: list[RandomTerm]
) -> tuple[LMMResults | None, float, int]:
    """A fit with some of the random effects, its log-likelihood and parameters.

    Without any random effects there is no fit, only the likelihood of the larger one at zero.
    """
    if terms or design.residual is not None:
        small = fit(with_terms(design, terms), reml=res.reml)
        return small, small.llf, small.n_params
    layout = jax.tree.map(np.asarray, design.compressed.layout)
    with float64():
        zero: Any = np.zeros(res.theta.size)
        llf = loglike_of_theta(zero, layout, reml=res.reml)
    return None, float(llf), res.n_params - res.theta.size
