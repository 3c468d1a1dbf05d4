"""``step``: terms that a model does not need, left out one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..capabilities import require
from ..covariance.params import Params
from ..covariance.structures import Unstructured
from ..designs.design import Design
from ..designs.fixed_terms import fixed_terms
from ..designs.nesting import can_be_read, with_fixed_terms, with_formula, with_terms
from ..designs.terms import RandomTerm
from ..errors import DataError
from ..inference.df.robust import KINDS as ROBUST
from ..inputs.arguments import flag, hinted, instance, items, probability
from ..inputs.names import chosen_name, unique
from ..results.elimination import StepResults
from ..results.lmm import LMMResults
from ..results.summary import fitted_by, method_name
from ..tables.page import table
from .drop1 import drop1
from .fit import fit
from .ranova import Drop, random_drops, random_row


@hinted
def step(
    res: LMMResults,
    *,
    alpha_random: float = 0.1,
    alpha_fixed: float = 0.05,
    reduce_random: bool = True,
    reduce_fixed: bool = True,
    keep: Sequence[str] = (),
    df_method: str | None = None,
) -> StepResults:
    """Backward elimination of random, then of fixed effects, as lmerTest's ``step``.

    Of the parts of the random effects that :func:`ranova` leaves out in turn the one with the
    largest p value goes if that exceeds ``alpha_random``, and the others are tested again without
    it; then the terms of the fixed effects by the F tests of :func:`drop1`. All fits are by the
    criterion of ``res``. What is tested after a selection is not what its p value says: the table
    describes how a model was found.

    Parameters
    ----------
    res : LMMResults
        The largest model.
    alpha_random, alpha_fixed : float
        A part stays whose p value is at most this one.
    reduce_random, reduce_fixed : bool
        Whether random, fixed effects may go.
    keep : sequence of str
        Terms of the fixed effects that stay, by their names or as the formula spells them.
    df_method : str, optional
        As in :func:`lmm_jax.fit`; that of the fit if not given.

    Returns
    -------
    StepResults
        The two tables, the fit that is left and its formula. Where no random effects are left the
        fit is least squares: their variances are held at zero.

    Raises
    ------
    DataError
        A result without its data, with held or penalized parameters; an unknown term to keep.

    References
    ----------
    Kuznetsova, Brockhoff & Christensen (2017), doi:10.18637/jss.v082.i13.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> sleep = lmm.load_dataset("sleepstudy")
    >>> found = lmm.step(lmm.fit("Reaction ~ Days + I(Days^2) + (Days | Subject)", sleep))
    >>> found.formula
    'Reaction ~ Days + (Days | Subject)'
    >>> print(found.fixed[["eliminated", "df_denom", "f", "p_value"]].round(3))
                  eliminated  df_denom       f  p_value
    term
    I(Days ** 2)           1     143.0   1.656      0.2
    Days                   0      17.0  45.853      0.0
    """
    instance(res, "res", LMMResults, "a result of lmm.fit")
    require(res, "comparisons of models")
    if res.df_method in ROBUST:
        raise DataError(
            f"step tests by the covariance of the model, and this result has that of "
            f"{res.df_method}: pass the fit, or res.with_df('satterthwaite')"
        )
    design: Design = require(res, "anova").design
    alpha_random = probability(alpha_random, "alpha_random")
    alpha_fixed = probability(alpha_fixed, "alpha_fixed")
    names = list(fixed_terms(design).terms)
    stays = {chosen_name(name, "keep", names) for name in items(keep, "keep")}
    if not flag(reduce_random, "reduce_random"):
        alpha_random = 1.0
    if not flag(reduce_fixed, "reduce_fixed"):
        stays = set(names)
    res, random = _less_random(res.with_df(df_method), alpha_random)
    res, fixed = _less_fixed(res, alpha_fixed, stays)
    return StepResults(random=random, fixed=fixed, fit=res, formula=_formula_of(res))


def _formula_of(res: LMMResults) -> str | None:
    """Formula of the model that is left; None where no formula says all of it."""
    held = res._is_kind("held covariances")  # least squares: terms that are no more
    return res.formula if held or can_be_read(require(res, "anova").design) else None


def _less_random(res: LMMResults, alpha: float) -> tuple[LMMResults, pd.DataFrame]:
    """The fit without the random effects that are not needed, and what has gone."""
    gone: list[Drop] = []
    first = random_row(res.n_params, res.llf)
    while True:
        drops = [] if _is_least_squares(res) else list(random_drops(res))
        worst = max(drops, key=lambda drop: drop.row["p_value"], default=None)
        if worst is None or not worst.row["p_value"] > alpha:
            break
        gone.append(worst)
        res = _with_random(res, worst.terms)
    rows = [{"eliminated": 0, **first}]
    rows += [{"eliminated": i, **drop.row} for i, drop in enumerate(gone, 1)]
    rows += [{"eliminated": 0, **drop.row} for drop in drops]
    labels = unique(["<none>", *(drop.label for drop in (*gone, *drops))])
    made = pd.DataFrame(rows, index=pd.Index(labels, name="term"))
    title = f"Random effects, {method_name(res.reml)}"
    return res, table(made, title, method=fitted_by(res))


def _less_fixed(res: LMMResults, alpha: float, stays: set[str]) -> tuple[LMMResults, pd.DataFrame]:
    """The fit without the terms that are not needed, and what has gone."""
    gone: list[pd.DataFrame] = []
    while True:
        tests = drop1(res)
        p_values = tests["p_value"].drop(labels=[name for name in tests.index if name in stays])
        if not (p_values > alpha).any():
            break
        name = p_values.idxmax()
        gone.append(tests.loc[[name]])
        res = _with_fixed(res, [term for term in _terms_of(res) if term != name])
    order = [*range(1, len(gone) + 1), *[0] * len(tests)]
    made = pd.concat([part for part in (*gone, tests) if len(part)] or [tests])
    made.insert(0, "eliminated", order)
    how = f"Degrees of freedom: {res.df_method}"
    return res, table(made, f"Fixed effects, {res.df_method}", method=how)


def _terms_of(res: LMMResults) -> list[str]:
    assert res.design is not None  # the caller has looked
    return list(fixed_terms(res.design).terms)


def _with_random(res: LMMResults, terms: Sequence[RandomTerm]) -> LMMResults:
    """The fit with other random effects; least squares without any."""
    design = res.design
    assert design is not None  # the caller has looked
    if terms or design.residual is not None:
        return _refit(res, with_formula(with_terms(design, terms), design.source))
    one = design.terms[0]  # held at zero
    if not one.structure.unrestricted:
        ones = np.ones((design.nobs, one.values.shape[1], 1))
        one = replace(one, names=("Intercept",), values=ones, structure=Unstructured(1))
    alone = with_terms(design, [one])
    fixed = replace(alone, terms=())
    return _refit(res, replace(alone, source=with_formula(fixed, design.source).source), held=True)


def _with_fixed(res: LMMResults, names: Sequence[str]) -> LMMResults:
    """The fit with some of its fixed effects."""
    assert res.design is not None  # the caller has looked
    design, held = with_fixed_terms(res.design, names), _is_least_squares(res)
    named = with_formula(replace(design, terms=()) if held else design, design.source)
    return _refit(res, replace(design, source=named.source), held=held)


def _refit(res: LMMResults, design: Design, *, held: bool = False) -> LMMResults:
    options: dict[str, Any] = {"reml": res.reml, "df_method": res.df_method}
    if held:
        k, p = sum(design.sizes) - design.n_components, design.exog.shape[1]
        zero, free = (
            Params.from_components(
                fe_params=flags, cov_re=np.zeros((k, k)), vcomp=np.zeros(design.n_components)
            )
            for flags in (np.zeros(p), np.ones(p))
        )
        options |= {"start_params": zero, "free": free}
    return fit(design, **options)


def _is_least_squares(res: LMMResults) -> bool:
    """Whether no random effects are left: what a fit of them holds at zero."""
    return res._is_kind("held covariances")
