"""``drop1``: which terms of the fixed effects a model needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.linalg import null_space

from ..capabilities import require
from ..designs.design import Design
from ..designs.fixed_terms import fixed_terms
from ..designs.nesting import restriction, with_fixed_terms
from ..errors import DataError
from ..inference.contrasts.anova import hypotheses
from ..inference.profiles.boundary import chi2_tail, likelihood_ratio
from ..inputs.arguments import choice, flag, hinted, instance
from ..results.anova import hypothesis_table
from ..results.lmm import LMMResults
from ..tables.page import table
from .anova import by_ml
from .fit import fit


@hinted
def drop1(
    res: LMMResults, test: str = "F", *, marginal: bool = True, df_method: str | None = None
) -> pd.DataFrame:
    """Tests of the terms of the fixed effects that may be left out, one at a time.

    A term that is part of an interaction stays as long as that is there, or is tested beside it:
    that its marginal means are equal, the hypothesis of a table of type III.

    Parameters
    ----------
    res : LMMResults
    test : {"F", "chisq"}
        F tests of the fit as it is, or likelihood ratio tests of fits by ML.
    marginal : bool
        Leave out terms that are part of no other. False: test every term beside all others, by
        the hypotheses of :meth:`LMMResults.anova` of type III, whatever the contrasts of the
        fit; with ``"chisq"`` what afex's ``mixed(method = "LRT")`` gives.
    df_method : str, optional
        Of the F tests alone: as in :func:`lmm_jax.fit`; that of the fit if not given.

    Returns
    -------
    pandas.DataFrame
        F: the columns of :meth:`LMMResults.anova`. Chi-square: rows ``<none>`` and the terms,
        npar (parameters that go), aic, chisq, p_value.

    Raises
    ------
    DataError
        A result without its data; fixed effects held fixed; for ``"chisq"`` covariances held
        fixed, penalties and sums over rows too; an unknown test or method; ``df_method`` with
        ``"chisq"``.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    >>> print(lmm.drop1(res, "chisq").round(3))
                npar      aic  chisq  p_value
    term
    <none>         0  625.906    NaN      NaN
    Variety:Nf     6  616.043  2.137    0.907
    """
    instance(res, "res", LMMResults, "a result of lmm.fit")
    design: Design = require(res, "anova").design
    at = fixed_terms(design)
    inner = {a for a, t in at.terms.items() if any(map(t.is_marginal_to, at.terms.values()))}
    marginal = flag(marginal, "marginal")
    may_go = [name for name in at.terms if name not in inner or not marginal]
    beside = {} if marginal else hypotheses(design, 3)
    p = design.exog.shape[1]
    if choice(test, "test", ("F", "chisq")) == "F":
        fit_of = res.with_df(df_method)
        # degrees of freedom depend on the rows: of a lone term those of type I, as in lmerTest
        own = hypotheses(design, 1) if len(at.terms) == 1 else {}
        rows_of = {name: own.get(name, np.eye(p)[at.columns[name]]) for name in may_go}
        has_rows = design.source is not None and design.source.rows is not None
        if not marginal:
            rows_of = beside
        elif design.dropped and has_rows:  # without a term, what depended on it is there
            rows_of = {name: restriction(_without(design, name), design) for name in may_go}
        how = f"Degrees of freedom: {fit_of.df_method}"
        title = f"Terms left out in turn, {fit_of.df_method}"
        return hypothesis_table(fit_of, rows_of, title, how)
    if df_method is not None:
        raise DataError("df_method belongs to F tests: drop it, or test='chisq'")
    full = by_ml(require(res, "comparisons of models"))
    rows = [{"npar": 0, "aic": full.aic, "chisq": np.nan, "p_value": np.nan}]
    for name in may_go:
        less = _restricted(design, beside[name]) if name in inner else _without(design, name)
        small = fit(less, reml=False)
        chisq = likelihood_ratio(full.llf, small.llf, nested=True)
        df = full.n_params - small.n_params
        p_value = chi2_tail(chisq, df) if df else np.nan  # other terms stand for it
        rows.append({"npar": df, "aic": small.aic, "chisq": chisq, "p_value": p_value})
    made = pd.DataFrame(rows, index=pd.Index(["<none>", *may_go], name="term"))
    title, how = "Terms left out in turn, likelihood ratios by ML", "Likelihood ratios by ML"
    return table(made, title, method=how)


def _restricted(design: Design, L: np.ndarray) -> Design:
    """The design of fixed effects for which ``L beta = 0``."""
    free = null_space(L) if len(L) else np.eye(L.shape[1])
    names = tuple(f"x{j + 1}" for j in range(free.shape[1]))
    return replace(design, exog=design.exog @ free, exog_names=names, source=None, dropped=())


def _without(design: Design, name: str) -> Design:
    """The design without a term of its fixed effects."""
    return with_fixed_terms(design, [term for term in fixed_terms(design).terms if term != name])
