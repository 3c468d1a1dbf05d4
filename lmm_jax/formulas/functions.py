"""Functions that formulas know: formulaic's transforms, R's and a part of NumPy's."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from formulaic.transforms import TRANSFORMS
from formulaic.utils.stateful_transforms import stateful_transform
from scipy import special

from ..errors import DataError
from ..inputs.arguments import flag
from .columns import beside, check_complete, is_logical, real
from .factors import CONTRASTS, Treatment, cut, factor, relevel
from .grammar import words
from .levels import one_level
from .splines import b_splines, centred, natural_splines, polynomials
from .text import is_text, needs_numbers

_DIGITS = 15  # that a double has


def days_of(x: Any) -> np.ndarray:
    """Days of spans, and of dates since 1970, as R has them."""
    if x.dtype.kind == "M":
        x = pd.to_datetime(x, utc=True) - pd.Timestamp(0, tz="UTC")
    return np.asarray(x / pd.Timedelta(days=1), dtype=np.float64)


@stateful_transform  # type: ignore[untyped-decorator]
def _as_numeric(x: Any, _state: dict[str, Any] | None = None) -> Any:
    """R's as.numeric: codes 1, 2, ... of a categorical, days of dates (since 1970) and spans."""
    kind = getattr(getattr(x, "dtype", None), "kind", "")
    if kind in ("m", "M"):
        return days_of(x)
    if np.ndim(x) == 0:
        return float(x)
    state = {} if _state is None else _state
    if "levels" not in state and not isinstance(getattr(x, "dtype", None), pd.CategoricalDtype):
        return _read(x)
    if "levels" not in state:
        state["levels"] = list(x.cat.categories)
    levels = state["levels"]  # new data, whatever they are: the first data's codes
    codes = np.asarray(pd.Categorical(x, categories=levels).codes)
    return np.where(codes < 0, np.nan, codes + 1.0)


def _read(x: Any) -> Any:
    """Numbers, also those that are spelled in text."""
    try:
        return pd.to_numeric(x).astype("float64")
    except (TypeError, ValueError) as error:
        values = pd.Series(x)
        if not is_text(values):
            raise
        what = needs_numbers(values, f"`{values.name}`")
        raise DataError(
            f"`as_numeric({values.name})` computes with what is text: {what}"
        ) from error


@stateful_transform  # type: ignore[untyped-decorator]
def _as_integer(x: Any, _state: dict[str, Any] | None = None) -> Any:
    """R's as.integer: towards zero."""
    return np.trunc(_as_numeric(x, _state=_state))


def _as_logical(x: Any) -> Any:
    """R's as.logical of numbers and logicals."""
    check_complete(x, "as.logical()")
    if getattr(getattr(x, "dtype", None), "kind", "O") in "biuf":
        return x != 0
    known = {"TRUE": True, "True": True, "true": True, "T": True}
    known |= {"FALSE": False, "False": False, "false": False, "F": False}
    found = pd.Series(x).map(known)
    if found.isna().any():
        raise DataError("as.logical() takes numbers and the words TRUE and FALSE")
    return found.astype(bool)


def _log(x: Any, base: float | None = None) -> Any:
    """R's log; the second argument of numpy's would be the array to write into."""
    return np.log(x) if base is None else np.log(x) / np.log(base)


def _round(x: Any, digits: float = 0) -> Any:
    """R's round (4.0 and later): of the two numbers beside x the one that is nearer."""
    places = int(digits)
    if places == 0:
        return np.round(x)
    column, x = x, np.asarray(x, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        first = np.floor(np.log10(np.abs(x))) + 1  # digits before the point
        by = 10.0 ** abs(places)
        scaled = np.abs(x) * by if places > 0 else np.abs(x) / by
        low, high = np.floor(scaled), np.ceil(scaled)
        below, above = (low / by, high / by) if places > 0 else (low * by, high * by)
        down, up = np.abs(x) - below, above - np.abs(x)
        nearest = np.where((down < up) | ((down == up) & (low % 2 == 0)), below, above)
        full = ~np.isfinite(scaled) | (first + places > _DIGITS)  # x has no more digits
    found = np.where(full, x, np.copysign(nearest, x))
    return beside(found, column) if isinstance(column, pd.Series) else found


def _ifelse(test: Any, yes: Any, no: Any) -> Any:
    """R's ifelse, row by row; logicals on both sides stay logicals."""
    check_complete(test, "a test")
    if np.ndim(test) == 0 and np.ndim(yes) + np.ndim(no):
        raise DataError("ifelse() of one test, not one for every row: write what it chooses")
    if not all(map(is_logical, (yes, no))):
        yes, no = real(yes), real(no)
    chosen = np.where(np.asarray(test, dtype=bool), yes, no)
    return beside(chosen, test, yes, no) if chosen.dtype.kind in "OU" else chosen


def _complete(name: str, f: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the whole column, which one NaN would spoil."""

    @functools.wraps(f)
    def call(*columns: Any, **named: Any) -> Any:
        if columns and getattr(getattr(columns[0], "dtype", None), "kind", "") == "f":
            check_complete(columns[0], f"{name}()")
        return f(*columns, **named)

    return call


def _combined(f: np.ufunc, name: str) -> Callable[..., Any]:
    """`f` of columns row by row."""

    def call(*columns: Any, na_rm: Any = False) -> Any:
        if flag(na_rm, "na.rm"):  # R keeps the rows of missing values
            raise DataError(
                f"{name}(na.rm=TRUE): rows with missing values are left out before a formula is "
                "evaluated. Make the column first: data[['x', 'z']].min(axis=1)"
            )
        return functools.reduce(f, columns)

    return call


def _there(x: Any, na_rm: Any) -> np.ndarray:
    """Values of a column, without missing ones where `na.rm=TRUE` leaves these out."""
    values = np.asarray(x, dtype=np.float64)
    if flag(na_rm, "na.rm"):
        return values[~np.isnan(values)]
    check_complete(values, "a summary")
    return values


def _summary(f: Callable[..., Any]) -> Any:
    """One number of a column, which new data take over from the first data."""

    @stateful_transform  # type: ignore[untyped-decorator]
    def summary(
        x: Any, *more: Any, na_rm: Any = False, _state: dict[str, Any] | None = None
    ) -> Any:
        state = {} if _state is None else _state
        if "value" not in state:
            given = (x, *more) if f is np.size else (_there(v, na_rm) for v in (x, *more))
            state["value"] = float(f(*given))
        return state["value"]

    return summary


@stateful_transform  # type: ignore[untyped-decorator]
def _quantile(
    x: Any,
    probs: Any = (0, 0.25, 0.5, 0.75, 1),
    na_rm: Any = False,
    _state: dict[str, Any] | None = None,
) -> Any:
    """R's quantile, of one probability or of several."""
    state = {} if _state is None else _state
    if "value" not in state:
        found = np.quantile(_there(x, na_rm), probs)
        state["value"] = found if found.ndim else float(found)
    return state["value"]


def _combine(*values: Any) -> Any:
    """R's c: a list of values; a column stays one."""
    if len(values) == 1 and np.ndim(values[0]) == 1:
        return values[0]
    listed = (value if isinstance(value, list | tuple) else [value] for value in values)
    return [one for values in listed for one in values]


def _as_vector(x: Any) -> Any:
    """R's as.vector: a factor is its labels."""
    values = pd.Series(x) if np.ndim(x) == 1 else x
    return values.astype(str) if isinstance(values.dtype, pd.CategoricalDtype) else x


def _extreme(f: Callable[..., Any]) -> Callable[..., float]:
    return lambda *columns: f([f(column) for column in columns])


@stateful_transform  # type: ignore[untyped-decorator]
def _dummy(x: Any, level: Any, _state: dict[str, Any] | None = None) -> Any:
    """lme4's dummy(f, "a"): 1 in the rows of a level."""
    state = {} if _state is None else _state
    if "level" not in state:
        state["level"] = one_level(x, level, "dummy()")
    return np.asarray(pd.Series(getattr(x, "__wrapped__", x)) == state["level"], dtype=np.float64)


def _elementwise(f: np.ufunc, name: str = "") -> Callable[..., Any]:
    """A function of NumPy without the arguments that it would write into."""

    def call(*columns: Any) -> Any:
        if len(columns) != f.nin:
            called = name or f.__name__
            raise TypeError(f"{called}() takes {f.nin} arguments, not {len(columns)}")
        return f(*columns)

    return call


def _bounded(f: Callable[..., Any], most: int) -> Callable[..., Any]:
    """The same for functions that may write into a later argument."""

    def call(*given: Any, **named: Any) -> Any:
        if len(given) > most:
            raise TypeError(f"{f.__name__}() takes {most} arguments here, not {len(given)}")
        return f(*given, **named)

    return call


_UFUNCS = """
    abs absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh cbrt ceil copysign cos
    cosh deg2rad degrees divide equal exp exp2 expm1 fabs float_power floor floor_divide fmax fmin
    fmod greater greater_equal heaviside hypot isfinite isinf less less_equal log log10 log1p log2
    logaddexp logaddexp2 logical_and logical_not logical_or logical_xor maximum minimum mod
    multiply negative not_equal positive power rad2deg radians reciprocal remainder rint sign sin
    sinh sqrt square subtract tan tanh true_divide trunc
"""
_MOST = {
    **dict.fromkeys(words("array asarray column_stack isin mean median std var sum prod ptp"), 2),
    **dict.fromkeys(words("min max amin amax cumsum cumprod nanmean nanmedian nanstd"), 1),
    **dict.fromkeys(words("nanmin nanmax nansum isnan nan_to_num ones_like zeros_like"), 1),
    **dict.fromkeys(words("around round quantile percentile digitize searchsorted diff"), 2),
    **dict.fromkeys(words("where clip interp linspace arange select full_like"), 3),
}
_TYPES = ("float64", "float32", "int64", "int32", "int16", "int8", "uint8", "bool_", "str_")
NUMPY = types.SimpleNamespace(
    **{name: _elementwise(getattr(np, name)) for name in words(_UFUNCS)},
    **{name: _bounded(getattr(np, name), most) for name, most in _MOST.items()},
    **{name: getattr(np, name) for name in (*_TYPES, "pi", "e", "inf", "nan")},
)

# Values that are no columns, unless a column has their name.
CONSTANTS: dict[str, Any] = {
    **{"pi": np.pi, "Inf": np.inf, "NaN": np.nan, "NA": np.nan, "T": True, "F": False},
    **{"bool": bool, "float": float, "int": int, "str": str, "abs": np.abs},
}
# Their arguments stay logicals where they are, and are numbers otherwise.
LOGICALS = frozenset(words("ifelse c as_vector"))
# Their arguments stay what they are: labels and logicals.
LABELLED = frozenset(words("C I as_character as_logical dummy hashed relevel"))


# Functions of one column that NumPy calls by the same name, and R's names of others.
_SAME = "sin cos tan sinh cosh tanh sqrt exp log10 log2 log1p expm1 floor trunc sign abs exp2"
# Of proportions, by R's names and those of their links, and a power.
_OF_SCIPY = {
    **{"logit": "logit", "qlogis": "logit", "plogis": "expit"},
    **{"probit": "ndtri", "qnorm": "ndtri", "pnorm": "ndtr", "boxcox": "boxcox"},
}
_RENAMED = {
    **{"asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2"},
    **{"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "ceiling": "ceil"},
}
# What makes one number of a column.
_SUMMARIES: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "median": np.median,
    "sd": functools.partial(np.std, ddof=1),
    "var": functools.partial(np.var, ddof=1),
    "sum": np.sum,
    "length": np.size,
    "len": np.size,
    "min": _extreme(np.min),
    "max": _extreme(np.max),
}
LIBRARY: dict[str, Any] = {
    **{name: f for name, f in TRANSFORMS.items() if name not in ("Q", "I", "C", "lag")},
    **{name: getattr(NUMPY, name) for name in words(_SAME)},
    **{name: getattr(NUMPY, theirs) for name, theirs in _RENAMED.items()},
    **{name: _elementwise(getattr(special, theirs), name) for name, theirs in _OF_SCIPY.items()},
    **{name: _summary(f) for name, f in _SUMMARIES.items()},
    "cloglog": lambda p: np.log(-np.log1p(-p)),
    "np": NUMPY,
    "I": TRANSFORMS["I"],
    "C": factor,
    "contr": CONTRASTS,
    "Treatment": Treatment,
    "exp10": lambda x: np.power(10.0, x),
    "log": _log,
    "round": _round,
    "pow": np.power,
    "as_numeric": _as_numeric,
    "as_integer": _as_integer,
    "as_logical": _as_logical,
    "as_character": lambda x: pd.Series(x).astype(str),
    "is_na": pd.isna,
    "as_vector": _as_vector,
    "c": _combine,
    "quantile": _quantile,
    "ifelse": _ifelse,
    "pmin": _combined(np.minimum, "pmin"),
    "pmax": _combined(np.maximum, "pmax"),
    "relevel": relevel,
    "cut": cut,
    "dummy": _dummy,
    "ns": natural_splines,
    "bs": b_splines,
    "poly": polynomials,
    **{name: centred(TRANSFORMS[name]) for name in ("cr", "cs", "cc")},
}
for _name in words("scale center standardize poly ns bs cr cs cc cut"):
    LIBRARY[_name] = _complete(_name, LIBRARY[_name])

# What R or another package calls something, and what to write here.
INSTEAD = {
    "Q": "its argument is text, `Q('a b')`, or write the name between backticks",
    "rcs": "natural splines are `ns(x, df)`",
    **dict.fromkeys(
        ("s", "lo", "pspline", "smooth"),
        "splines are `ns(x, df)`, `bs(x, df)` or `cr(x, df)`, of so many columns and no penalty",
    ),
    **dict.fromkeys(
        ("te", "t2"),
        "surfaces are products of splines, `ns(x, 3) * ns(z, 3)`, of so many columns and no "
        "penalty",
    ),
    "ti": "what a surface has beside its margins are products of splines, `ns(x, 3):ns(z, 3)`",
    **dict.fromkeys(
        ("ordered", "as_ordered"), "write `C(f, Poly)`, orthogonal polynomials over the levels"
    ),
    "droplevels": "delete it: levels without rows have no columns",
    "levels": "write the labels, `c('a', 'b')`",
    "signif": "make the column first, or round to decimals, `round(x, 2)`",
    "ave": "write `x.groupby(g).transform('mean')`",
    "rev": "make the column first",
    "sort": "make the column first; the smallest and largest are `min(x)`, `max(x)`",
    "toupper": "write `f.str.upper()`",
    "tolower": "write `f.str.lower()`",
    "is_element": "write `x.isin([1, 2])`",
    "substr": "write `f.str.slice(0, 2)` for `substr(f, 1, 2)`",
    "identity": "delete it, or write `I(x)`",
    "xor": "write `(a | b) & !(a & b)`",
    "matrix": "contrasts are written row by row, `C(f, [[-1, 0], [0, 1], [1, -1]])`",
    "rbind": "contrasts are written row by row, `C(f, [[-1, 0], [0, 1], [1, -1]])`",
    **dict.fromkeys(
        ("interaction", "paste", "paste0"),
        "write `f:h`, which has a level for every combination that is there: `f:h + x`, "
        "`(f:h) * x`, `(1 | f:h)`",
    ),
    "findInterval": "write `cut(x, c(1, 2))`",
    "months": "write `t.dt.month_name()`",
    "weekdays": "write `t.dt.day_name()`",
    "gl": "make the column first",
    **dict.fromkeys(("seq_along", "row_number"), "make the column first, np.arange(len(data))"),
    **dict.fromkeys(("rowMeans", "rowSums"), "write it out, `(x + z) / 2`"),
    "polym": "write `poly(x, 2) * poly(z, 2)`, which has the products too",
    "fct_relevel": "write `relevel(f, 'level')`",
    "Error": "error strata are random effects: `(1 | g)`",
    "strata": "strata are random effects, `(1 | g)`, or a factor",
    "cbind": "a model has one response",
    "Surv": "times to an event, some of them censored, have other models: coxme and survival in R",
    "case_when": "write `ifelse(test, yes, no)`",
    "recode": "write `f.map({'old': 'new'})`",
    "rank": "write `x.rank()`",
    "lag": "make the column first, data.assign(before=data.groupby('g')['x'].shift()): rows "
    "without a value are left out then",
    "cumsum": "write `np.cumsum(x)`",
    "nchar": "write `f.str.len()`",
    "seq": "write the values, `c(1, 2, 3)`",
}
