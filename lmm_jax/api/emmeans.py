"""``emmeans``, ``emtrends``, ``joint_tests``: marginal means of a fit and their comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..capabilities import require
from ..designs.variables import Variables, column_of
from ..errors import DataError
from ..formulas import matrices as mat
from ..inference.grid import Grid, average, grid_values, make_grid
from ..inference.linear_functions import linear_functions
from ..inference.transformations import transformation_of
from ..inputs.arguments import choice, hinted, instance, items, mapping, numbers, probability, shown
from ..results.lmm import LMMResults
from ..results.marginal import MarginalMeans
from ..results.marginal_labels import Labels

WEIGHTS = ("equal", "proportional", "outer", "cells", "flat")
# Step of the difference quotient of a trend, in units of the covariate's range (emmeans').
_STEP = 1e-3


class MeansAndContrasts(NamedTuple):
    """What ``specs="pairwise ~ A"`` asks for."""

    emmeans: MarginalMeans
    contrasts: MarginalMeans


class _Asked(NamedTuple):
    """Specs read: variables that stay, those that divide, and a family of contrasts."""

    specs: tuple[str, ...]
    by: tuple[str, ...]
    method: str | None


@hinted
def emmeans(
    res: LMMResults,
    specs: Any,
    *,
    by: Any = None,
    at: Mapping[str, Any] | None = None,
    weights: Any = "equal",
    cov_reduce: Any = "mean",
    df_method: str | None = None,
    level: float = 0.95,
) -> Any:
    """Estimated marginal means.

    The fixed effects' mean at every combination of the levels of the factors, covariates at
    their means, averaged over the factors that ``specs`` does not name.

    Parameters
    ----------
    res : LMMResults
    specs : str or list of str
        Variables whose combinations get a mean; ``"1"`` for the mean over everything; or a formula
        ``"~ A | B"``, ``"pairwise ~ A * B | C"``: variables after ``|`` are those of ``by``, and a
        family of contrasts on the left gives these as well.
    by : str or list of str, optional
        Variables in whose groups means are compared.
    at : mapping, optional
        Values of variables: ``{"x": [0, 10], "A": ["a", "b"]}``.
    weights : {"equal", "proportional", "outer", "cells", "flat"} or array
        How levels are averaged: equally; by how often the combinations occur in the data; by
        products of how often each occurs; by the rows of the cell; equally over cells that
        have rows; or with a number for each combination.
    cov_reduce : {"mean", "range"} or callable
        Value, or values, of covariates; those of at most two values keep both.
    df_method : str, optional
        As in :func:`lmm_jax.fit`; that of the fit if not given.
    level : float
        Coverage of the limits.

    Returns
    -------
    MarginalMeans
        Or, with contrasts on the left of ``specs``, the pair ``emmeans``, ``contrasts``.

    Raises
    ------
    DataError
        Unknown variables or levels, a fit without what it takes.

    References
    ----------
    Searle, Speed & Milliken (1980), doi:10.1080/00031305.1980.10483031.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("yld ~ Variety + Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    >>> means = lmm.emmeans(res, "Nf")
    >>> print(means.to_frame()[["Nf", "estimate", "std_error", "df"]].round(2))
        Nf  estimate  std_error    df
    0  n00     79.39       7.13  6.64
    1  n20     98.89       7.13  6.64
    2  n40    114.22       7.13  6.64
    3  n60    123.39       7.13  6.64
    >>> means.pairs().to_frame()["p_value"].round(4).tolist()[:3]
    [0.0002, 0.0, 0.0]
    """
    fit = _checked(res, df_method)
    asked, known = _read_specs(specs, by), _variables(fit)
    values = _values(fit, known, at, cov_reduce)
    grid = _grid(known, values, asked)
    means = _means(fit, known, grid, asked, weights, level)
    if asked.method is None:
        return means
    return MeansAndContrasts(means, means.contrast(asked.method))


@hinted
def emtrends(
    res: LMMResults,
    specs: Any,
    var: str,
    *,
    by: Any = None,
    at: Mapping[str, Any] | None = None,
    weights: Any = "equal",
    cov_reduce: Any = "mean",
    df_method: str | None = None,
    level: float = 0.95,
) -> Any:
    """Estimated marginal slopes of a covariate.

    The difference quotient of the mean with a step of a thousandth of the covariate's range,
    upwards, as emmeans': exact where the mean is linear in it.

    Parameters
    ----------
    res : LMMResults
    specs, by, at, weights, cov_reduce, df_method, level
        As in :func:`emmeans`.
    var : str
        The covariate.

    Returns
    -------
    MarginalMeans
        Estimates are slopes; or the pair with contrasts.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> data = lmm.load_dataset("orthodont")
    >>> res = lmm.fit("distance ~ age * Sex + (age | Subject)", data)
    >>> lmm.emtrends(res, "Sex", "age").to_frame()["estimate"].round(3).tolist()
    [0.784, 0.48]
    """
    fit = _checked(res, df_method)
    asked, known = _read_specs(specs, by), _variables(fit)
    if not isinstance(var, str) or var not in known.covariates:
        raise DataError(f"var={shown(var)}: the covariates are {', '.join(known.covariates)}")
    values = _values(fit, known, at, cov_reduce)
    covariate = known.covariates[var]
    step = _STEP * (covariate.high - covariate.low)
    grid = _grid(known, values, asked)
    means = _means(fit, known, grid, asked, weights, level, slope=(var, step))
    if asked.method is None:
        return means
    return MeansAndContrasts(means, means.contrast(asked.method))


@hinted
def joint_tests(
    res: LMMResults,
    *,
    by: Any = None,
    at: Mapping[str, Any] | None = None,
    df_method: str | None = None,
) -> pd.DataFrame:
    """F tests of the main effects and interactions of all variables, on a reference grid.

    Hypotheses are those of equally weighted means, so that they agree with an analysis of
    variance of type III. A covariate stands at its mean less one and plus one, which tests
    its slope.

    Parameters
    ----------
    res : LMMResults
    by : str or list of str, optional
        Variables in whose groups the others are tested: simple effects.
    at : mapping, optional
        Values of variables, as in :func:`emmeans`.
    df_method : str, optional
        As in :func:`lmm_jax.fit`; that of the fit if not given.

    Returns
    -------
    pandas.DataFrame
        term (and the columns of ``by``), df_num, df_denom, f, p_value. The denominator is the
        least of the degrees of freedom of orthogonal rows, and F is not scaled, as in emmeans.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    >>> lmm.joint_tests(res)[["term", "f"]].round(3).to_numpy().tolist()
    [['Variety', 1.485], ['Nf', 37.686], ['Variety:Nf', 0.303]]
    """
    fit = _checked(res, df_method)
    known = _variables(fit)
    given = {} if at is None else mapping(at, "at")
    around = {
        name: [c.mean - 1.0, c.mean + 1.0]
        for name, c in known.covariates.items()
        if name not in given and c.few is None
    }
    values = _values(fit, known, {**given, **around}, "mean")
    groups = _names(by, "by")
    asked = _Asked(tuple(name for name in values if name not in groups), groups, None)
    means = _means(fit, known, _grid(known, values, asked), asked, "equal", 0.95)
    return means.joint_tests()


# ------------------------------------------------------------ arguments


def _checked(res: Any, df_method: str | None) -> LMMResults:
    instance(res, "res", LMMResults, "a result of lmm.fit")
    require(res, "emmeans")
    return res.with_df(df_method)  # type: ignore[no-any-return]


def _names(given: Any, what: str) -> tuple[str, ...]:
    if given is None:
        return ()
    found = [given] if isinstance(given, str) else items(given, what)
    if not all(isinstance(name, str) for name in found):
        raise DataError(f"{what}={shown(given)}: names of variables are needed")
    return tuple(dict.fromkeys(found))


def _read_specs(specs: Any, by: Any) -> _Asked:
    """A name, a list of them, or a formula."""
    groups = _names(by, "by")
    if isinstance(specs, str) and ("~" in specs or "|" in specs):
        left, _, right = specs.rpartition("~")
        inner, _, outer = right.partition("|")
        method = left.strip() or None
        return _Asked(_split(inner), (*_split(outer), *groups), method)
    found = _names(specs, "specs")
    if not found:
        raise DataError(f"specs={shown(specs)}: name a variable, or '1' for the overall mean")
    return _Asked(tuple(n for n in found if n != "1" and n not in groups), groups, None)


def _split(text: str) -> tuple[str, ...]:
    parts = text.replace("*", " ").replace("+", " ").replace(":", " ").split()
    return tuple(dict.fromkeys(part.strip("`") for part in parts if part != "1"))


def _variables(fit: LMMResults) -> Variables:
    return fit.reference.variables


def _values(fit: LMMResults, known: Variables, at: Any, cov_reduce: Any) -> dict[str, list[Any]]:
    given = {}
    for name, wanted in ({} if at is None else mapping(at, "at")).items():
        if name not in known:
            raise DataError(f"at has {shown(name)}: the variables are {_listed(known)}")
        one = isinstance(wanted, str) or not np.iterable(wanted)
        found = [wanted] if one else list(wanted)
        given[name] = found if name in known.factors else list(numbers(found, f"at[{name!r}]"))
        if not found:
            raise DataError(f"at has no values for {shown(name)}")
    if not callable(cov_reduce):
        choice(cov_reduce, "cov_reduce", ("mean", "range"))
    rows = None if fit.design is None or fit.design.source is None else fit.design.source.rows
    return grid_values(known, given, cov_reduce, rows)


def _listed(known: Variables) -> str:
    return ", ".join([*known.factors, *known.covariates]) or "none"


def _grid(known: Variables, values: dict[str, list[Any]], asked: _Asked) -> Grid:
    for name in (*asked.specs, *asked.by):
        if name not in values:
            raise DataError(
                f"{name!r} is no variable of the fixed effects: there are {_listed(known)}"
            )
    return make_grid(values, [*asked.specs, *asked.by], known)


# ------------------------------------------------------------ means


def _means(
    fit: LMMResults,
    known: Variables,
    grid: Grid,
    asked: _Asked,
    weights: Any,
    level: float,
    slope: tuple[str, float] | None = None,
) -> MarginalMeans:
    """Averages of the grid's rows, or of their difference quotients."""
    how = weights
    if isinstance(weights, str):
        choice(weights, "weights", WEIGHTS)
    else:
        how = numbers(weights, "weights")
    averaged = average(grid, [*asked.specs, *asked.by], how)
    L, gap, offset = _rows(fit, known, grid, slope)
    at = linear_functions(
        _weighted(averaged.weights, L),
        _weighted(averaged.weights, gap),
        _weighted(averaged.weights, offset[:, None])[:, 0],
        fit.estimates.beta,
        fit.tests,
        fit.scale,
    )
    labels = averaged.labels or {"1": ["overall"]}
    over = [n for n, v in grid.values.items() if n not in labels and len(v) > 1]
    notes: tuple[str, ...] = ()
    if over:
        notes = (f"Averaged over the levels of {', '.join(over)}",)
        if not isinstance(weights, str) or weights != "equal":
            notes += (f"Weights: {weights if isinstance(weights, str) else 'given'}",)
    source = fit._known("emmeans").source
    return MarginalMeans(
        at=at,
        labels=Labels(
            table=pd.DataFrame(labels),
            factors=tuple(labels),
            covariates=frozenset(known.covariates),
        ),
        by=asked.by,
        kind="emmean" if slope is None else f"{slope[0]}.trend",
        level=probability(level, "level"),
        df_method=fit.df_method,
        tests=fit.tests,
        beta=fit.estimates.beta,
        scale=fit.scale,
        transformation=None if slope else transformation_of(source.response),  # type: ignore[union-attr]
        notes=notes,
    )


def _weighted(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Averages of rows; a row of no weight may be anything."""
    used = (np.nan_to_num(weights) != 0).any(axis=0)
    out: np.ndarray = weights[:, used] @ rows[used]
    return out


def _rows(
    fit: LMMResults, known: Variables, grid: Grid, slope: tuple[str, float] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of X at the grid, what estimable functions miss, and the offset."""
    matrix, offset = _replayed(fit, known, grid, None)
    if slope is not None:
        ahead, further = _replayed(fit, known, grid, slope)
        matrix, offset = (ahead - matrix) / slope[1], (further - offset) / slope[1]
    source = fit._known("emmeans").source
    assert source is not None  # require has looked
    kept = list(source.kept)
    dropped = [j for j in range(matrix.shape[1]) if j not in set(kept)]
    L = matrix[:, kept]
    return L, matrix[:, dropped] - L @ fit.reference.aliases, offset


def _replayed(
    fit: LMMResults, known: Variables, grid: Grid, moved: tuple[str, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    columns = {}
    for v, (name, values) in enumerate(grid.values.items()):
        shift = moved[1] if moved is not None and moved[0] == name else 0.0
        own = [values[p] for p in grid.places[:, v]]
        columns[name] = column_of(name, [x + shift for x in own] if shift else own, known)
    frame = pd.DataFrame(columns, index=range(len(grid.places)))
    source = fit._known("emmeans").source
    assert source is not None  # require has looked
    matrix = mat.replay(source.spec, frame, context=source.context)
    parts = [mat.evaluate(e, frame, context=source.context) for e in source.offsets]
    return matrix, np.sum(parts, axis=0) if parts else np.zeros(len(frame))
