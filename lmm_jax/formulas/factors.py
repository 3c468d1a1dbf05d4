"""Factors of formulas: R's `factor`, `C` with its contrasts, `cut` and `relevel`."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from formulaic.transforms import TRANSFORMS
from formulaic.transforms.contrasts import (
    Contrasts,
    ContrastsRegistry,
    CustomContrasts,
    TreatmentContrasts,
)
from formulaic.utils.sentinels import UNSET
from formulaic.utils.stateful_transforms import stateful_transform

from ..errors import DataError, UnknownLabel
from ..inputs.arguments import flag, is_whole, numbers, shown
from ..inputs.arguments import names as texts
from ..inputs.frames import read_frame
from ..inputs.matching import find, first_shown, spelling
from ..inputs.series import check_told_apart
from .columns import beside
from .levels import check_place, in_type_of, levels_of, place_of

# What follows the number of levels in R's functions of contrasts.
_SECOND = {"treatment": "base", "poly": "scores"}


class Treatment(TreatmentContrasts):  # type: ignore[misc]
    """Differences from a reference, the first level if none is named."""

    def __init__(self, reference: Any = UNSET, *, base: Any = UNSET) -> None:
        super().__init__(base if reference is UNSET else reference)

    @TreatmentContrasts.override  # type: ignore[untyped-decorator]
    def _find_base_index(self, levels: Sequence[Any]) -> int:
        if self.base is UNSET:
            return 0
        place = place_of(levels, self.base)
        if place >= 0:
            return place
        advice = f"write `Treatment({levels[0]!r})`"
        if is_whole(self.base):
            placed = f"contr.treatment({len(levels)}, base={self.base})"
            advice += f", or its place after the number of levels, `{placed}`"
        raise DataError(
            f"the reference {self.base!r} is none of the levels {first_shown(levels)}: {advice}"
        )


class Custom(CustomContrasts):  # type: ignore[misc]
    """Contrasts of the caller's; indicators of all levels where the intercept is not there.

    A copy of them: who changes the array later does not change the model.
    """

    @CustomContrasts.override  # type: ignore[untyped-decorator]
    def _get_coding_matrix(
        self, levels: Sequence[Any], reduced_rank: bool = True, sparse: bool = False
    ) -> Any:
        if reduced_rank:
            return super()._get_coding_matrix(levels, reduced_rank, sparse)
        return scipy.sparse.eye(len(levels)).tocsc() if sparse else np.eye(len(levels))

    @CustomContrasts.override  # type: ignore[untyped-decorator]
    def get_coding_column_names(self, levels: Sequence[Any], reduced_rank: bool = True) -> Any:
        """See formulaic's ``Contrasts.get_coding_column_names``."""
        return super().get_coding_column_names(levels, True) if reduced_rank else levels

    @CustomContrasts.override  # type: ignore[untyped-decorator]
    def get_coefficient_row_names(self, levels: Sequence[Any], reduced_rank: bool = True) -> Any:
        """See formulaic's ``Contrasts.get_coefficient_row_names``."""
        return super().get_coefficient_row_names(levels, True) if reduced_rank else levels

    @CustomContrasts.override  # type: ignore[untyped-decorator]
    def get_spans_intercept(self, levels: Sequence[Any], reduced_rank: bool = True) -> bool:
        """See formulaic's ``Contrasts.get_spans_intercept``."""
        return len(levels) > 0 and not reduced_rank

    @CustomContrasts.override  # type: ignore[untyped-decorator]
    def get_drop_field(self, levels: Sequence[Any], reduced_rank: bool = True) -> Any:
        """See formulaic's ``Contrasts.get_drop_field``."""
        return None if reduced_rank else levels[0]


_FAMILIES = {
    **vars(ContrastsRegistry),
    "treatment": Treatment,
    "custom": Custom,
    "sdif": ContrastsRegistry.diff,  # as MASS calls them
}


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class _Counted:
    """R's `contr.treatment(3, base=2)`: contrasts of three levels, which it knows by their places.

    The factor beside it says which levels these are.
    """

    name: str
    count: int
    options: dict[str, Any]

    def __repr__(self) -> str:
        return f"contr.{self.name}({self.count})"

    def of(self, levels: list[Any]) -> Any:
        """The contrasts of these levels."""
        if len(levels) != self.count:
            raise DataError(
                f"{self} is of {self.count} levels, and there are "
                f"{len(levels)}, {first_shown(levels)}: write `contr.{self.name}` without a number"
            )
        options, base = dict(self.options), self.options.get("base", 1)
        if "base" in options and not isinstance(base, str):
            if not is_whole(base) or not 1 <= base <= self.count:
                raise DataError(f"base={base!r}: the place of a level, 1 to {self.count}")
            options["base"] = levels[base - 1]
        return _made(self.name, options)


def _made(name: str, options: Mapping[str, Any]) -> Any:
    """The contrasts of a name; raise for options that they do not have."""
    known = [
        other for other in inspect.signature(_FAMILIES[name]).parameters if other != "reference"
    ]
    for option in options:
        if option not in known:
            own = ", ".join(["n, the number of levels", *known])
            raise DataError(f"contr.{name}() has no `{option}`: it has {own}")
    return _FAMILIES[name](**options)


def _contrasts(name: str) -> Callable[..., Any]:
    """R's function of contrasts, whose argument is a number of levels or their labels.

    The label of a reference, `contr.treatment('b')`, is no number of levels.
    """

    def contr(n: Any = None, *more: Any, **options: Any) -> Any:
        if isinstance(n, pd.Series | np.ndarray):
            raise DataError(
                f"contrasts stand beside the factor: write `C(f, contr.{name})` for contr.{name}(f)"
            )
        second = _SECOND.get(name)
        if second == "scores" and isinstance(n, list):
            raise DataError(f"contr.poly({n!r}): scores have a name, `contr.poly(scores=c(…))`")
        if len(more) > (second is not None):
            raise DataError(f"contr.{name}() takes the number of levels, and others by their names")
        options |= dict(zip([second], more, strict=False)) if second else {}
        if is_whole(n) or isinstance(n, list):
            return _Counted(name=name, count=n if is_whole(n) else len(n), options=options)
        if n is not None:
            if second is None:
                what = "the number of levels, or their labels, is needed"
                raise DataError(f"contr.{name}({n!r}): {what}")
            options[second] = n
        return _made(name, options)

    return contr


CONTRASTS = types.SimpleNamespace(
    **{
        name: found if name == "custom" else _contrasts(name)
        for name, found in _FAMILIES.items()
        if not name.startswith("_")
    }
)


def are_contrasts(value: Any) -> bool:
    """Whether a value of the caller's is contrasts, a class of them, or their columns."""
    kind = value if isinstance(value, type) else type(value)
    return issubclass(kind, Contrasts | Mapping | np.ndarray | pd.DataFrame)


def factor(
    x: Any,
    contrasts: Any = None,
    *,
    levels: Any = None,
    labels: Any = None,
    ordered: bool | None = None,
    spans_intercept: bool = True,
    _state: dict[str, Any] | None = None,
    **_others: Any,
) -> Any:
    """Categories with their contrasts; `ordered` ones have polynomials, as in R."""
    state = {} if _state is None else _state
    check_told_apart(getattr(x, "__wrapped__", x), getattr(x, "name", None) or "a factor")
    as_before = getattr(x, "_self_ordered", False)
    ordered = as_before if ordered is None else flag(ordered, "ordered")
    contrasts = _read(contrasts, ordered)
    if isinstance(levels, np.ndarray):
        levels = levels.reshape(-1).tolist()
    if levels is not None and not isinstance(levels, list | tuple):
        raise DataError(f"levels={levels!r}: list them, `factor(f, levels=c('b', 'a'))`")
    if levels is None and labels is not None:
        levels = levels_of(x, state)
    if levels is not None:
        if len(set(levels)) < len(levels):
            raise DataError(f"levels={list(levels)!r}: each of them once")
        found = pd.unique(pd.Series(getattr(x, "__wrapped__", x)).dropna()).tolist()
        levels = state.setdefault("given", in_type_of(found, levels))
        other = [label for label in found if label not in levels]
        if other:
            raise UnknownLabel(
                f"a factor has the level {other[0]!r}, which is none of levels={list(levels)}: "
                "leave its rows out, subset=, or add it"
            )
    if levels is not None:
        x, levels = _relabelled(x, list(levels), labels)
    if isinstance(contrasts, _Counted | np.ndarray | dict | pd.DataFrame):
        own = levels_of(x, state) if levels is None else list(levels)
        contrasts = _forlevels_of(contrasts, own)
    found = TRANSFORMS["C"](x, contrasts, levels=levels, spans_intercept=spans_intercept)
    found._self_ordered = ordered  # a factor of it is ordered as well
    return found


factor.__is_stateful_transform__ = True  # type: ignore[attr-defined]


def _read(contrasts: Any, ordered: bool) -> Any:
    """Contrasts, or a function that makes them: Treatment for Treatment()."""
    if isinstance(contrasts, str):
        raise DataError(f"C() takes contrasts by a name without quotes, `C(f, Sum)`: {contrasts!r}")
    nested = isinstance(contrasts, list | tuple)
    if nested and any(isinstance(row, list | tuple) for row in contrasts):
        contrasts = numbers(contrasts, "contrasts")  # a matrix, a row a level
    if isinstance(contrasts, list | tuple):
        raise DataError(
            "levels have a name, `factor(f, levels=c('b', 'a'))`, and contrasts are written row by "
            "row, `C(f, [[-1, 0], [0, 1], [1, -1]])`"
        )
    if contrasts is None and ordered:
        return TRANSFORMS["Poly"]()
    found = contrasts() if isinstance(contrasts, type | types.FunctionType) else contrasts
    if not are_contrasts(found):  # a frame of another package
        frame = read_frame(found, lambda _: True)
        found = found if frame is None else frame
    known = found is None or isinstance(found, _Counted) or are_contrasts(found)
    if not known and np.ndim(found) < 2:
        raise DataError(f"{shown(found)} beside a factor: contrasts are needed, `C(f, Sum)`")
    return found


def _forlevels_of(contrasts: Any, levels: list[Any]) -> Any:
    """Contrasts of a counted number of levels, or the caller's own; raise for others."""
    if isinstance(contrasts, _Counted):
        return contrasts.of(levels)
    if isinstance(contrasts, np.ndarray | pd.DataFrame) and not contrasts.size:
        raise DataError("contrasts have no columns: a column a contrast is needed")
    if isinstance(contrasts, pd.DataFrame):
        return Custom(_columns_of(contrasts, levels))
    if isinstance(contrasts, np.ndarray):
        contrasts = numbers(contrasts, "contrasts")
        if contrasts.ndim != 2 or len(contrasts) != len(levels):
            shape = " by ".join(map(str, contrasts.shape))
            raise DataError(
                f"contrasts are {shape} numbers, a row a level is needed: there are "
                f"{len(levels)}: {first_shown(levels)}"
            )
    return Custom(contrasts)


def _columns_of(frame: pd.DataFrame, levels: list[Any]) -> dict[str, np.ndarray]:
    """Contrasts by their names; rows go by the labels of the levels if the frame has these."""
    counted = pd.RangeIndex(len(frame))
    if not frame.columns.is_unique:
        raise DataError(f"contrasts have the columns {first_shown(list(frame.columns))}: name each")
    if isinstance(frame.index, pd.RangeIndex) and frame.index.equals(counted):
        rows = np.arange(len(levels))  # nobody has named them
    else:
        rows = find(frame.index, pd.Index(levels), "contrasts")
    if (rows < 0).any() or len(frame) != len(levels):
        raise DataError(
            f"contrasts have the rows {first_shown(list(frame.index))}: one for each of the levels "
            f"{first_shown(levels)} is needed"
        )
    values = numbers(frame.to_numpy(), "contrasts")[rows]
    return {str(name): values[:, j] for j, name in enumerate(frame.columns)}


def _relabelled(x: Any, levels: list[Any], labels: Any) -> tuple[Any, list[Any]]:
    """Categories in the order of the levels, by R's `labels=` if there are any, one a level.

    Levels of one label are one level; one label is numbered.
    """
    own, given = levels, [labels] if isinstance(labels, str) else labels
    if given is not None:
        if isinstance(given, list | tuple) and len(given) == 1 < len(levels):
            given = [f"{given[0]}{i + 1}" for i in range(len(levels))]
        own = list(texts(given, "labels", len(levels)))
    values, names = pd.Series(getattr(x, "__wrapped__", x)), list(dict.fromkeys(own))
    place = np.array([*map(names.index, own), -1])  # of every level; missing
    codes = pd.Categorical(values, categories=levels).codes
    categories: pd.Index[Any] = pd.Index(names, tupleize_cols=False)
    return beside(pd.Categorical.from_codes(place[codes], categories=categories), values), names


@stateful_transform  # type: ignore[untyped-decorator]
def relevel(x: Any, ref: Any, _state: dict[str, Any] | None = None) -> Any:
    """R's relevel: the level `ref` comes first."""
    state = {} if _state is None else _state
    values = pd.Series(x)
    if "levels" not in state:
        levels = list(values.astype("category").cat.categories)
        at = place_of(levels, ref)
        if at < 0:  # R counts levels by a number
            meant = levels[ref - 1 if is_whole(ref) and 1 <= ref <= len(levels) else 0]
            raise DataError(
                f"relevel(): {ref!r} is none of the levels {first_shown(levels)}: a label is "
                f"needed, `ref={spelling(meant)!r}`"
            )
        check_place(levels, ref, at, "relevel()")
        state["levels"] = [levels[at], *levels[:at], *levels[at + 1 :]]
    if values.isin(state["levels"]).all():
        return beside(pd.Categorical(values, categories=state["levels"]), values)
    return values  # the new level is named where levels are compared


@stateful_transform  # type: ignore[untyped-decorator]
def cut(
    x: Any,
    breaks: Any,
    labels: Any = None,
    include_lowest: bool = False,
    right: bool = True,
    _state: dict[str, Any] | None = None,
) -> Any:
    """R's cut: intervals as categories, `(0,2]`; a number of breaks is of the first data.

    `labels=FALSE` gives the number of the interval.
    """
    state = {} if _state is None else _state
    if "breaks" not in state:
        edges = np.sort(np.atleast_1d(np.asarray(breaks, dtype=np.float64)))
        if edges.size == 1:
            low, high = float(np.min(x)), float(np.max(x))
            edges = np.linspace(low, high, int(edges[0]) + 1)
            edges[[0, -1]] += np.array([-1.0, 1.0]) * (high - low) / 1000
        state["breaks"] = edges
    edges = state["breaks"]
    if labels is None or labels is True:
        left, end = ("(", "]") if right else ("[", ")")
        labels = [f"{left}{a:.3g},{b:.3g}{end}" for a, b in pairwise(edges)]
    codes = _intervals(np.asarray(x, dtype=np.float64), edges, include_lowest, right)
    if labels is False:
        return codes + 1.0
    own = texts(labels, "labels", edges.size - 1)
    names = list(dict.fromkeys(own))  # intervals of one label are one level
    place = np.array([names.index(name) for name in own])
    return beside(pd.Categorical.from_codes(place[codes], categories=pd.Index(names)), x)


def _intervals(values: np.ndarray, edges: np.ndarray, closed: bool, right: bool) -> np.ndarray:
    """Number of every value's interval, from 0; the outermost edge is of the last where closed."""
    codes = np.searchsorted(edges, values, side="left" if right else "right") - 1
    if closed:
        codes = np.where(values == (edges[0] if right else edges[-1]), 0 if right else -2, codes)
        codes = np.where(codes == -2, edges.size - 2, codes)
    if ((codes < 0) | (codes >= edges.size - 1)).any():
        raise DataError(
            f"cut() has no interval for values outside {edges[0]:g} to {edges[-1]:g}: add breaks, "
            "-Inf and Inf among them, or include_lowest=True"
        )
    return codes.astype(np.int64)
