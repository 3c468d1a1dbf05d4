"""What plots read of a result: levels and variables of its rows, its own kind."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype

from ..capabilities import require
from ..designs.labels import factor_names
from ..errors import DataError
from ..inference.means.transformations import untransformed
from ..inputs.arguments import choice, items, shown, whole_number
from ..inputs.matching import find, spelling
from ..inputs.names import unquoted
from ..tables.paper import method_name
from .places import Places, has_places, places_of

# Kinds of residuals, and what an axis calls them.
KINDS = {
    "response": "residuals",
    "pearson": "Pearson residuals",
    "standardized": "standardized residuals",
    "normalized": "normalized residuals",
    "marginal": "marginal residuals",
    "whitened": "whitened residuals",
}
# What the plots take, and where it comes from.
_KINDS = {
    "LMMResults": "a result of lmm.fit",
    "MarginalMeans": "means of lmm.emmeans",
    "ContrastResults": "a result of res.t_test",
    "DeltaResults": "a result of lmm.hypotheses",
    "ProfileResults": "a result of lmm.profile",
    "BootstrapResults": "a result of lmm.bootstrap",
    "BootstrapStatistics": "what boot.apply or boot.statistics gives",
    "Influence": "a result of lmm.influence",
    "ManyResults": "a result of lmm.fit_many",
    "ManyTests": "what its t_test gives",
}


def is_a(value: Any, kind: str) -> bool:
    """Whether a value is of a class of results, which stand above the plots and are not imported.

    >>> is_a(3, "LMMResults")
    False
    """
    return any(
        base.__name__ == kind and base.__module__.split(".")[0] == "lmm_jax"
        for base in type(value).__mro__
    )


def expect(value: Any, what: str, *kinds: str) -> Any:
    """The value itself, if it is of one of some kinds of results."""
    if not any(is_a(value, kind) for kind in kinds):
        needed = ", or ".join(_KINDS[kind] for kind in kinds)
        raise DataError(f"{what} is a {type(value).__name__}: {needed} is needed")
    return value


def fitted(res: Any) -> Any:
    """A fit."""
    return expect(res, "res", "LMMResults")


def marginal_means(means: Any) -> Any:
    """Marginal means or contrasts of them."""
    return expect(means, "means", "MarginalMeans")


def labels_of(means: Any) -> list[str]:
    """Columns of the table of means that are labels."""
    columns = list(means.to_frame("none", output="pandas").columns)
    return [str(name) for name in columns[: columns.index("estimate")]]


def row_names(table: pd.DataFrame, columns: list[str]) -> list[str]:
    """What the rows of a table of means are called by some of its labels."""
    rows = table[columns].itertuples(index=False)
    return [
        ", ".join(f"{v:g}" if isinstance(v, float) else spelling(v) for v in row) for row in rows
    ]


def what_of(means: Any, scale: str = "link") -> str:
    """Label of the axis of the estimates."""
    back = scale == "response" and means.transformation is not None
    if means.kind == "contrast":
        return "Ratio" if back and means.ratios else "Difference"
    if means.kind.endswith(".trend"):
        return f"Slope of {means.kind.removesuffix('.trend')}"
    name = (untransformed if back else unquoted)(means.response).replace("`", "")
    return f"Estimated marginal mean of {name}" if name else "Estimated marginal mean"


def intervals(level: float) -> str:
    """What bars are, as labels of axes say it."""
    return f"{100 * level:g}% intervals"


def heading(means: Any) -> str:
    """Label of the axis on which the rows of a table of means stand."""
    names = labels_of(means)
    own = {"contrast": "Contrast"} if means.kind == "contrast" else {}
    return ", ".join(own.get(name, name) for name in names)


def without_variance(res: Any) -> set[tuple[str, str]]:
    """Factor and name of the random coefficients whose variance is zero."""
    terms = zip(res.term_labels, res.estimates.covariances, strict=True)
    return {
        (label.factor, name)
        for label, covariance in terms
        for name, variance in zip(label.names, np.diagonal(covariance), strict=True)
        if variance == 0
    }


def adjustments(means: Any, adjust: str | None = None, level: float | None = None) -> str:
    """How p values and limits of contrasts are adjusted, as papers spell it; empty if not."""
    how = sorted(set(means._compared(adjust, level).adjust) - {"none"})
    return ", ".join(map(method_name, how))


class Residuals(NamedTuple):
    """Residuals of one kind."""

    label: str
    values: np.ndarray  # (n,)

    @property
    def title(self) -> str:
        """The label with a capital."""
        return self.label[0].upper() + self.label[1:]


def residuals_of(res: Any, kind: str | None, usual: str) -> Residuals:
    """Residuals of a kind; if none is asked the usual one, whitened for a residual covariance."""
    if kind is None:
        kind = usual if fitted(res).residual is None else "whitened"
    label = KINDS[choice(kind, "kind", list(KINDS))]
    return Residuals(label, np.asarray(fitted(res).resid(kind), dtype=float))


def level_name(level: Any) -> str:
    """A level as it is printed; that of a component is a pair of group and column.

    >>> level_name(("a", 2.0))
    'a:2'
    """
    return ":".join(map(spelling, level)) if isinstance(level, tuple) else spelling(level)


class LevelRows(NamedTuple):
    """Level of every row of a fit."""

    factor: str
    codes: np.ndarray  # (n,)
    levels: pd.Index[Any]

    @property
    def names(self) -> list[str]:
        """Levels as they are printed."""
        return [level_name(level) for level in self.levels]

    @property
    def rows(self) -> list[np.ndarray]:
        """Rows of every level, in their order."""
        order = np.argsort(self.codes, kind="stable")
        ends = np.searchsorted(self.codes[order], np.arange(len(self.levels) + 1))
        return [order[a:b] for a, b in pairwise(ends)]


def factor_of(res: Any, factor: str | None) -> str:
    """Name of a grouping factor or component of the random effects, the first if none is asked."""
    names = list(dict.fromkeys(label.factor for label in res.term_labels))
    if not names:
        raise DataError("this fit has no random effects to be drawn")
    return names[0] if factor is None else choice(factor, "factor", names)


def rows_by_level(res: Any, factor: str | None, *, subjects_first: bool = False) -> LevelRows:
    """Level of every row: of a factor of the random effects, or the subjects of the residuals.

    The first factor if none is asked, or the subjects where these come first.
    """
    design = require(res, "resid").design
    named = zip(factor_names(design.terms), design.terms, strict=True)
    known = {
        name: LevelRows(name, np.asarray(term.codes[:, 0]), term.levels)
        for name, term in named
        if not term.is_component
    }
    residual = design.residual
    if residual is not None and residual.subjects is not None:
        name = residual.term.subject
        own = {name: LevelRows(name, np.asarray(residual.rows.subject), residual.subjects)}
        known = own | known if subjects_first else known | own
    if factor is not None:
        return known[choice(factor, "factor", list(known))]
    if known:
        return next(iter(known.values()))
    if design.terms:
        return _component_groups(design.terms[0])
    if residual is None:
        raise DataError("this fit has no grouping factor whose levels could be compared")
    return LevelRows("subject", np.zeros(design.nobs, int), pd.Index(["all rows"]))


def _component_groups(term: Any) -> LevelRows:
    """The groups that the columns of a variance component lie in."""
    of_level, groups = pd.factorize(term.levels.get_level_values(0))
    name = term.source.group[0].strip("`") if term.source.group else "group"
    return LevelRows(name, of_level[term.codes[:, 0]], pd.Index(groups))


def variable_of(res: Any, x: Any, what: str = "x") -> pd.Series[Any]:
    """A variable in the rows that were used: by its name in the formula, or as an array.

    Parameters
    ----------
    res : LMMResults
    x : str, array or Series
        A series may have all rows of the data: its labels say which were used.
    what : str
        What an error calls it.
    """
    design = require(res, "resid").design
    if isinstance(x, str):
        rows = _own_variables(design)
        if x not in rows:
            known = ", ".join(map(str, rows.columns)) or "unknown, since there is no formula"
            raise DataError(
                f"{what}={shown(x)}: the variables of the fixed effects are {known}; pass the "
                f"values, data[{x!r}]"
            )
        return rows[x].set_axis(design.index)
    if isinstance(x, pd.Series) and x.index.is_unique and design.index.isin(x.index).all():
        return x.loc[design.index]
    values = np.asarray(items(x, what, f"{design.nobs} values are needed"), dtype=object)
    if values.shape != (design.nobs,):
        raise DataError(f"{what} has the shape {values.shape}: {design.nobs} values are needed")
    found = pd.Series(values, index=design.index, name=getattr(x, "name", None) or what)
    kind = pd.api.types.infer_dtype(values)
    if kind == "date":
        return pd.to_datetime(found)
    return found.infer_objects() if kind.startswith(("datetime", "timedelta")) else found


def _own_variables(design: Any) -> pd.DataFrame:
    """Variables of the fixed effects in the rows that were used; none without a formula."""
    source = design.source
    return pd.DataFrame() if source is None or source.rows is None else source.rows


def other_variables(res: Any, x: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Factors of the fixed effects beside a variable, and places of covariates, in the rows."""
    design = require(res, "resid").design
    rows = _own_variables(design).drop(columns=x, errors="ignore")
    reference = res.basis.reference if len(rows.columns) else None
    known = () if reference is None else tuple(reference.variables.factors)
    rows = (
        rows.set_axis(range(design.nobs)) if len(rows) else pd.DataFrame(index=range(design.nobs))
    )
    factors = [n for n in rows if n in known or not has_places(rows[n].dtype)]
    covariates = {n: places_of(rows[n], str(n)).values for n in rows if n not in factors}
    return rows[factors], pd.DataFrame(covariates, index=rows.index)


def other_effects(res: Any, factor: str, x: str) -> np.ndarray:
    """Levels and covariates of the random effects beside a factor and x, (n, columns)."""
    design = require(res, "resid").design
    own = re.compile(rf"(?<!\w){re.escape(x)}(?!\w)")
    columns: list[np.ndarray] = []
    for name, term in zip(factor_names(design.terms), design.terms, strict=True):
        if name != factor:
            columns.append(np.asarray(term.codes[:, 0], float))
        columns += [term.values[:, 0, j] for j, n in enumerate(term.names) if not own.search(n)]
    return np.column_stack(columns) if columns else np.zeros((design.nobs, 0))


def covariate_of(res: Any, x: Any = None, what: str = "x") -> Places:
    """A covariate in the rows that were used; the first of the formula if none is asked."""
    if x is None:
        rows = _own_variables(require(res, "resid").design)
        x = next((name for name in rows if has_places(rows[name].dtype)), None)
        if x is None:
            raise DataError(f"the fixed effects have no covariate: pass {what}, data['time']")
    found = variable_of(res, x, what)
    if isinstance(x, str) and not (has_places(found.dtype) or is_bool_dtype(found.dtype)):
        instead = "draw its means, plots.interaction(lmm.emmeans(...))"
        if what == "time":
            levels = ", ".join(f"{level!r}: {i}" for i, level in enumerate(found.unique()[:2], 1))
            instead = f"pass the times of its levels, data[{x!r}].map({{{levels}, ...}})"
        raise DataError(f"{what}={shown(x)} is a factor, and numbers are needed: {instead}")
    return places_of(found, what)


def how_many(levels: Any) -> int | None:
    """The number of levels that is asked for; None where they are named, or not asked for."""
    count = isinstance(levels, int | np.integer) and not isinstance(levels, bool)
    return whole_number(levels, "levels", least=1) if count else None


def levels_named(known: pd.Index[Any], levels: Any, factor: str) -> list[int]:
    """Numbers of the levels that are named, in their order."""
    wanted = [levels] if isinstance(levels, str) or not np.iterable(levels) else list(levels)
    names = list(map(level_name, known)) if isinstance(known, pd.MultiIndex) else known
    places = find(pd.Index(names), pd.Series(wanted), factor)
    if not wanted or (places < 0).any():
        unknown = [level for level, place in zip(wanted, places, strict=True) if place < 0]
        raise DataError(f"levels: {factor!r} has no level {shown(unknown)}")
    return [int(i) for i in places]


def levels_asked(at: LevelRows, levels: Any, most: int) -> list[int]:
    """Numbers of the levels asked for, in their order: named, or the first that have rows."""
    count = how_many(levels)
    if levels is None or count is not None:
        return [int(i) for i in np.unique(at.codes)][: most if count is None else count]
    return levels_named(at.levels, levels, at.factor)
