"""``anova``: tables of tests, and models compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ..capabilities import require
from ..designs.design import Design
from ..designs.labels import TermLabel
from ..designs.nesting import (
    Difference,
    difference,
    restriction,
    why_incomparable,
)
from ..designs.term_nesting import restricted_alike
from ..errors import ConvergenceWarning, DataError, warn_user
from ..formulas.parse import parse
from ..inference.profiles.boundary import boundary_p_value, chi2_tail, likelihood_ratio
from ..inference.profiles.null_information import boundary_p_value_of
from ..inputs.arguments import flag, generator, hinted, instance, shown, whole_number
from ..inputs.arguments import names as read_names
from ..inputs.arguments import seed as read_seed
from ..inputs.names import unique
from ..numerics.memory import check_room
from ..results.anova import hypothesis_table
from ..results.lmm import LMMResults
from ..results.summary import method_name
from ..tables.page import Table, table
from .fit import fit
from .fit_many import fit_many
from .simulate import draws_in_chunks

# A likelihood ratio that no rounding explains.
_LESS = -1e-4
_RESTRICTED = (
    "restricted likelihoods of models with other fixed effects, or the same in other units or "
    "contrasts, cannot be compared: leave refit=True, which fits them by ML"
)


@hinted
def anova(
    res: LMMResults,
    *others: LMMResults,
    type: int = 3,
    df_method: str | None = None,
    marginal: str = "lmertest",
    refit: bool = True,
    bootstrap: int | None = None,
    seed: int | None = None,
    names: Sequence[str] | None = None,
    test: bool = True,
) -> pd.DataFrame:
    """Analysis of variance of one fit; likelihood ratio or F tests of several.

    Parameters
    ----------
    res : LMMResults
    *others : LMMResults
        Fits of the same response to the same rows, of which every one is a special case of the
        next when they are ordered by their number of parameters.
    type, marginal
        Of one fit: as in :meth:`LMMResults.anova`.
    df_method : str, optional
        Of one fit: as in :meth:`LMMResults.anova`. Of several, which differ in their fixed
        effects alone: F tests in place of likelihood ratios, each of the restriction of the
        larger model that the smaller one is. "kenward-roger" is ``pbkrtest::KRmodcomp``,
        "satterthwaite" is ``SATmodcomp``; fits are taken as they are, by REML or ML.
    refit : bool
        Of likelihood ratios: fit models by REML again by ML, as lme4 does. Restricted likelihoods
        can only be compared where the fixed effects are the same, and are with ``refit=False``.
    bootstrap : int, optional
        Of likelihood ratios: draw so many responses from the smaller model, fit both to them,
        and give the share of likelihood ratios that are as large in the column ``p_bootstrap``.
        It is exact for variances too, whose ratios have no chi-square distribution.
    seed : int, optional
        Of the bootstrap.
    names : sequence of str, optional
        Of several: what they are called, in the order in which they are given. By default
        Model 1, Model 2 and so on by their number of parameters. Their formulas stand below.
    test : bool
        Of several: ``test=False`` gives their log-likelihoods and information criteria alone,
        whether or not one is a special case of another, as nlme's.

    Returns
    -------
    pandas.DataFrame
        Of one fit the table of :meth:`LMMResults.anova`. Of several a row a fit, the one with
        fewest parameters first: npar, aic, bic, llf, deviance, chisq, df, p_value. Where variances
        of random effects, or a nugget or range of residuals, are at the end of their range in the
        smaller model ``p_boundary`` is that of
        :func:`lmm_jax.inference.profiles.boundary.boundary_p_value`; ``p_value`` is that of the
        chi-square distribution, as lme4 prints it, which is too large then. With ``df_method``:
        npar, df_num, df_denom, f, p_value (or chisq, df, p_value for "normal").

    Raises
    ------
    DataError
        The fits cannot be compared; the message says why.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> data = lmm.load_dataset("sleepstudy")
    >>> small = lmm.fit("Reaction ~ Days + (1 | Subject)", data)
    >>> large = lmm.fit("Reaction ~ Days + (Days | Subject)", data)
    >>> print(lmm.anova(small, large, names=["intercepts", "slopes"]))
    Likelihood ratio tests, models refitted by ML
    <BLANKLINE>
     model       npar       aic       bic       llf  deviance   chisq  df  p_value
     intercepts     4  1802.079  1814.850  -897.039  1794.079           0
     slopes         6  1763.939  1783.097  -875.970  1751.939  42.139   2   <0.001
    <BLANKLINE>
     model       p_boundary
     intercepts
     slopes          <0.001
    <BLANKLINE>
    intercepts: Reaction ~ Days + (1 | Subject)
    slopes: Reaction ~ Days + (Days | Subject)

    A straight line against any curve:

    >>> curve = lmm.fit("Reaction ~ C(Days) + (Days | Subject)", data)
    >>> table = lmm.anova(large, curve, df_method="kenward-roger")
    >>> print(table[["df_num", "df_denom", "f", "p_value"]].round(3))
             df_num  df_denom      f  p_value
    model
    Model 1       0       NaN    NaN      NaN
    Model 2       8     136.0  0.662    0.725

    References
    ----------
    Halekoh & Højsgaard (2014), doi:10.18637/jss.v059.i09.
    """
    if isinstance(res, list | tuple):
        raise DataError("res is a list: fits are compared one beside the other, lmm.anova(a, b)")
    instance(res, "res", LMMResults, "a result of lmm.fit")
    if not others:
        if bootstrap is not None or seed is not None or not flag(refit, "refit"):
            raise DataError("refit, bootstrap and seed belong to comparisons of several fits")
        if names is not None:
            raise DataError("names belong to comparisons of several fits")
        if not flag(test, "test"):
            raise DataError("test belongs to comparisons of several fits")
        return res.anova(type, df_method=df_method, marginal=marginal)
    for name, given in {"type": type != 3, "marginal": marginal != "lmertest"}.items():
        if given:
            raise DataError(f"{name} belongs to the table of one fit: several have likelihoods")
    fits = [res, *others]
    for i, one in enumerate(fits):
        instance(one, f"the model {i + 1}", LMMResults, "a result of lmm.fit")
        require(one, "comparisons of models")
    order = sorted(range(len(fits)), key=lambda i: fits[i].n_params)
    called = [f"Model {i + 1}" for i in range(len(fits))]
    if names is not None:
        own = read_names(names, "names", len(fits))
        if len(set(own)) < len(own):
            raise DataError(f"names={shown(list(own))}: two models have one name")
        called = [own[i] for i in order]
    found = _compared([fits[i] for i in order], df_method, refit, bootstrap, seed, test)
    return _called(found, called)


def _called(found: Table, names: Sequence[str]) -> Table:
    """A comparison whose models have short names, and their formulas below."""
    legend = [f"{name}: {formula}" for name, formula in zip(names, found.index, strict=True)]
    own = found.set_axis(pd.Index(names, name="model"))
    return table(own, found.title, [*legend, *found.notes], method=found.method)


def _compared(
    fits: list[LMMResults], df_method: str | None, refit: Any, bootstrap: Any, seed: Any, test: Any
) -> Table:
    """A row a fit, the one with fewest parameters first."""
    refit = flag(refit, "refit")
    n = None if bootstrap is None else whole_number(bootstrap, "bootstrap", least=1)
    if not flag(test, "test"):
        if n is not None or seed is not None or df_method is not None:
            raise DataError("test=False: bootstrap, seed and df_method belong to tests")
        return _untested(fits, refit=refit)
    steps = [_step(small, large) for small, large in pairwise(fits)]
    if df_method is not None:
        if not refit or n is not None or seed is not None:
            raise DataError("refit, bootstrap and seed belong to likelihood ratios: drop df_method")
        return _restrictions_table(fits, steps, df_method)
    given = fits
    if refit:
        fits = [by_ml(one) for one in fits]
    else:
        _check_restricted(fits, [_designs(small, large) for small, large in pairwise(fits)])
    _same_criterion(fits)
    found_table = _likelihood_table(fits, steps)
    if n is not None:
        pairs = pairwise(fits)
        start = 0 if seed is None else read_seed(seed)
        found = [_bootstrap(small, large, n, start + i) for i, (small, large) in enumerate(pairs)]
        found_table = found_table.assign(p_bootstrap=[np.nan, *found])
    how = _made(given, fits)
    return table(found_table, f"Likelihood ratio tests, {how}", method=how)


def _untested(fits: list[LMMResults], *, refit: bool) -> Table:
    """A row a fit, of the same rows."""
    given, pairs = fits, [_designs(small, large) for small, large in pairwise(fits)]
    if refit:
        fits = [by_ml(one) for one in fits]
    else:
        _check_restricted(fits, pairs)
    _same_criterion(fits)
    names = ["npar", "aic", "bic", "llf", "deviance"]
    how = _made(given, fits)
    return table(_criteria(fits)[names], f"Information criteria, {how}", method=how)


def _check_restricted(fits: Sequence[LMMResults], pairs: Sequence[tuple[Design, Design]]) -> None:
    """Refuse restricted likelihoods of other fixed effects."""
    alike = (restricted_alike(a.exog, b.exog) for a, b in pairs)
    if any(one.reml for one in fits) and not all(alike):
        raise DataError(_RESTRICTED)


def _made(given: Sequence[LMMResults], fits: Sequence[LMMResults]) -> str:
    """What models a comparison is of: those that were given, or their refits by ML."""
    again = any(one is not own for one, own in zip(fits, given, strict=True))
    kinds = dict.fromkeys(method_name(one.reml) for one in fits)
    return f"models {'refitted' if again else 'fitted'} by {' and '.join(kinds)}"


def _same_criterion(fits: Sequence[LMMResults]) -> None:
    if len({one.reml for one in fits}) > 1:
        raise DataError("one model was fitted by REML and another by ML: leave refit=True")


def _designs(small: LMMResults, large: LMMResults) -> tuple[Design, Design]:
    """Designs of two fits whose likelihoods can be compared."""
    a, b = small.design, large.design
    assert a is not None and b is not None  # require has looked
    reason = why_incomparable(a, b)
    if reason is not None:
        raise DataError(f"{_name(small)} and {_name(large)} cannot be compared: {reason}")
    return a, b


def _step(small: LMMResults, large: LMMResults) -> Difference:
    """What the larger model adds to the smaller one."""
    found = difference(*_designs(small, large))
    names = f"{_name(small)} and {_name(large)} cannot be compared"
    if found is None:
        raise DataError(
            f"{names}: the one with fewer parameters is no special case of the other, so their "
            "likelihood ratio has no known distribution; test=False gives aic and bic"
        )
    if small.n_params == large.n_params:
        raise DataError(f"{names}: they have the same number of parameters")
    return found


def _name(res: LMMResults) -> str:
    """The formula, and the random effects where these came beside it."""
    name = res.formula or f"{res.endog_name} (from arrays)"
    if res.formula is not None and parse(res.formula).bars:
        return name
    return " + ".join([name, *map(_as_a_term, res.term_labels)])


def _as_a_term(label: TermLabel) -> str:
    if label.is_component:
        return f"({label.group})"
    names = ("1" if name == "Intercept" else name for name in label.names)
    return f"({' + '.join(names)} | {label.group})"


def by_ml(res: LMMResults) -> LMMResults:
    """The same model fitted by ML."""
    return fit(res.design, reml=False) if res.reml else res  # type: ignore[arg-type]


def _restrictions_table(
    fits: Sequence[LMMResults], steps: Sequence[Difference], df_method: str
) -> Table:
    """A row a fit, with the F test of what the one before leaves out of it."""
    labels = unique(_name(one) for one in fits)
    rows = []
    for small, large, step, label in zip(fits, fits[1:], steps, labels[1:], strict=False):
        if step.random:
            raise DataError(
                f"{_name(small)} and {_name(large)} differ in their random effects, whose tests "
                "are likelihood ratios: leave out df_method"
            )
        design = require(large, "anova").design
        L = restriction(require(small, "anova").design, design)
        rows.append(hypothesis_table(large.with_df(df_method), {label: L}, ""))
    found = pd.concat(rows).drop(columns=["sum_sq", "mean_sq"], errors="ignore")
    found = found.reindex(labels).rename_axis("model")
    found = found.fillna({"df_num": 0, "df": 0}).astype(
        {name: int for name in ("df_num", "df") if name in found}
    )
    found.insert(0, "npar", [one.n_params for one in fits])
    used = fits[-1].with_df(df_method).df_method
    how = f"Degrees of freedom: {used}"
    return table(found, f"F tests of fixed effects, {used}", method=how)


def _likelihood_table(fits: Sequence[LMMResults], steps: Sequence[Difference]) -> pd.DataFrame:
    """A row a fit, compared with the one before."""
    out = _criteria(fits)
    ratios: list[dict[str, float]] = [{"df": 0}]
    ratios += [_ratio(*pair, step) for pair, step in zip(pairwise(fits), steps, strict=True)]
    for name in ("chisq", "df", "p_value", "p_boundary"):
        out[name] = [row.get(name, np.nan) for row in ratios]
    return out if any(step.ends for step in steps) else out.drop(columns="p_boundary")


def _criteria(fits: Sequence[LMMResults]) -> pd.DataFrame:
    """Log-likelihoods and information criteria, a row a fit."""
    rows = [
        {"npar": one.n_params, "aic": one.aic, "bic": one.bic, "llf": one.llf,
         "deviance": -2.0 * one.llf}
        for one in fits
    ]  # fmt: skip
    return pd.DataFrame(rows, index=pd.Index(unique(_name(one) for one in fits), name="model"))


def _ratio(small: LMMResults, large: LMMResults, step: Difference) -> dict[str, float]:
    chisq, df = likelihood_ratio(large.llf, small.llf), large.n_params - small.n_params
    if chisq < _LESS:
        warn_user(
            f"{_name(large)} fits worse than its special case {_name(small)}, by {-chisq:.2g} in "
            "the deviance: one of its optima that is not the highest was found",
            ConvergenceWarning,
        )
    out: dict[str, float] = {"chisq": chisq, "df": df, "p_value": chi2_tail(chisq, df)}
    if step.ends:
        out["p_boundary"] = float("nan")
        grown = _grown(small, large)
        if step.ends == 1:
            out["p_boundary"] = boundary_p_value(chisq, df)
        elif grown is not None and not step.fixed and not step.residual:
            out["p_boundary"] = boundary_p_value_of(large, small, chisq, *grown)
    return out


def _grown(small: LMMResults, large: LMMResults) -> tuple[int, list[int]] | None:
    """The one term that has more coefficients in the larger fit, and which it had before."""
    before = {(x.group, x.factor): x.names for x in small.term_labels}
    found = []
    for t, label in enumerate(large.term_labels):
        own = before.get((label.group, label.factor), ())
        if own != label.names:
            if not set(own) <= set(label.names):
                return None
            found.append((t, [label.names.index(name) for name in own]))
    return found[0] if len(found) == 1 else None


def _bootstrap(small: LMMResults, large: LMMResults, n: int, seed: int) -> float:
    """Share of draws from the smaller model whose likelihood ratio is as large."""
    check_room(n, 1, "draws")
    chunks = draws_in_chunks(small, n, generator(seed))
    gaps = [_many_llf(large, some) - _many_llf(small, some) for some in chunks]
    ratios = 2.0 * np.concatenate(gaps)
    observed = 2.0 * (large.llf - small.llf)
    valid = ratios[np.isfinite(ratios)]
    return float((1 + (valid >= observed).sum()) / (1 + valid.size))


def _many_llf(res: LMMResults, responses: np.ndarray) -> np.ndarray:
    """Log-likelihood of the fit to every column of responses."""
    design: Any = res.design
    return np.asarray(fit_many(design, responses, reml=res.reml, progress=False).llf)
