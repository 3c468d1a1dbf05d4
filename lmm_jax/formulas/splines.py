"""R's `ns`, `bs` and `poly`, and formulaic's regression splines."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from formulaic.materializers.types import FactorValues
from formulaic.transforms import TRANSFORMS
from formulaic.utils.stateful_transforms import stateful_transform

from ..errors import DataError

_DEGREE = 3


@stateful_transform  # type: ignore[untyped-decorator]
def natural_splines(
    x: Any,
    df: float | None = None,
    knots: Any = None,
    intercept: bool = False,
    Boundary_knots: Any = None,
    _state: dict[str, Any] | None = None,
) -> Any:
    """R's `splines::ns`, column by column: cubic B-splines, linear beyond the boundary knots.

    Inner knots are quantiles of the first data, the boundary its range. The B-splines are
    combined to what the two second derivatives at the boundary leave, by the same Householder
    reflections as in R, so that the coefficients are R's too.
    """
    state = {} if _state is None else _state
    values = np.asarray(x, dtype=np.float64)
    if "knots" not in state:
        state["knots"] = _knots(values, df, knots, intercept, Boundary_knots)
    inner, (low, high) = state["knots"]
    padded = np.concatenate([[low] * (_DEGREE + 1), inner, [high] * (_DEGREE + 1)])
    first = 0 if intercept else 1
    count = padded.size - _DEGREE - 1
    from scipy.interpolate import BSpline  # late: it takes longer to import than pandas

    splines = [BSpline(padded, row, _DEGREE, extrapolate=False) for row in np.eye(count)[first:]]
    bends = np.stack([[float(b.derivative(2)(at)) for at in (low, high)] for b in splines])
    q, _ = np.linalg.qr(bends, mode="complete")
    basis = _extended(splines, values, low, high) @ q[:, 2:]
    names = tuple(str(j + 1) for j in range(basis.shape[1]))
    return FactorValues[np.ndarray](basis, column_names=names)  # type: ignore[misc]


def _knots(
    x: np.ndarray, df: float | None, knots: Any, intercept: bool, boundary: Any
) -> tuple[np.ndarray, tuple[float, float]]:
    """Inner knots and the two at the ends."""
    low, high = (float(x.min()), float(x.max())) if boundary is None else _boundary(boundary)
    if knots is None:
        count = int(1 if df is None else df) - 1 - bool(intercept)
        if count < 0:
            raise DataError(f"ns(): df={df:g} is too small, the least is {1 + bool(intercept)}")
        inside = x[(x >= low) & (x <= high)]
        inner = np.quantile(inside, np.linspace(0, 1, count + 2)[1:-1])
    else:
        inner = np.sort(np.atleast_1d(np.asarray(knots, dtype=np.float64)))
    if (
        low == high
        or np.unique(inner).size < inner.size
        or not ((low < inner) & (inner < high)).all()
    ):
        raise DataError(
            f"ns(): the knots {', '.join(f'{k:g}' for k in (low, *inner, high))} are not all "
            "different and inside the range: take fewer degrees of freedom, or give knots="
        )
    return inner, (low, high)


def _boundary(knots: Any) -> tuple[float, float]:
    """R's `Boundary.knots`."""
    ends = np.sort(np.asarray(knots, dtype=np.float64).reshape(-1))
    if ends.size != 2:
        raise DataError(f"Boundary.knots has {ends.size} numbers: the two ends, c(0, 10)")
    return float(ends[0]), float(ends[1])


def _extended(splines: list[Any], x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values of the splines, with their tangents beyond the ends."""
    at = np.clip(x, low, high)
    beyond = x - at
    columns = [b(at) for b in splines]
    if beyond.any():
        slopes = [b.derivative(1)(at) for b in splines]
        columns = [c + s * beyond for c, s in zip(columns, slopes, strict=True)]
    return np.stack(columns, axis=-1)


@stateful_transform  # type: ignore[untyped-decorator]
def b_splines(
    x: Any,
    df: float | None = None,
    knots: Any = None,
    degree: int = 3,
    intercept: bool = False,
    Boundary_knots: Any = None,
    *,
    include_intercept: bool = False,
    lower_bound: float | None = None,
    upper_bound: float | None = None,
    extrapolation: str = "raise",
    _state: dict[str, Any] | None = None,
) -> Any:
    """R's `splines::bs`, by R's names of its arguments or by formulaic's."""
    if Boundary_knots is not None:
        if lower_bound is not None or upper_bound is not None:
            raise DataError("bs(): the ends have one name, Boundary.knots or the two bounds")
        lower_bound, upper_bound = _boundary(Boundary_knots)
    for name, value in (("df", df), ("degree", degree)):
        if value is not None and value != int(value):
            raise DataError(f"bs(): {name}={value} is no whole number")
    least = int(degree) + bool(intercept or include_intercept)
    if df is not None and df < least:
        raise DataError(f"bs(): df={df} is less than a polynomial has, df={least}")
    if extrapolation == "raise":
        _check_range(np.asarray(x, dtype=np.float64), lower_bound, upper_bound, _state or {})
    return TRANSFORMS["bs"](
        x,
        df if df is None else int(df),
        knots if knots is None else np.sort(np.atleast_1d(knots)).tolist(),
        int(degree),
        intercept or include_intercept,
        lower_bound,
        upper_bound,
        extrapolation,
        _state=_state,
    )


def _check_range(x: np.ndarray, low: Any, high: Any, state: dict[str, Any]) -> None:
    """Refuse values beyond the ends, given or those of the data that the columns were made of."""
    low = state.get("lower_bound") if low is None else low
    high = state.get("upper_bound") if high is None else high
    for end, side, beyond in ((low, "below", np.nanmin(x)), (high, "above", np.nanmax(x))):
        if end is not None and (beyond < end if side == "below" else beyond > end):
            raise DataError(
                f"bs(): a value of {beyond:g} is {side} {end:g}, where its polynomials end: "
                'extrapolation="extend" in the formula continues them, as R does with a warning; '
                "ns() goes on in straight lines"
            )


@stateful_transform  # type: ignore[untyped-decorator]
def polynomials(
    x: Any,
    *more: Any,
    degree: float | None = None,
    raw: bool = False,
    _state: dict[str, Any] | None = None,
) -> Any:
    """R's `poly`: orthogonal polynomials, or powers, numbered from 1 either way.

    Of several columns all products up to the degree, named by their degrees, `1.0`, `2.0`, `0.1`.
    The degree and `raw` may stand behind the columns without their names.
    """
    state = {} if _state is None else _state
    columns = [x, *(value for value in more if np.ndim(value))]
    last = [value for value in more if not np.ndim(value)]
    if len(last) > 2 or (last and degree is not None):
        raise DataError("poly(): a degree and raw= follow the columns, each of them once")
    degree = last[0] if last else 1 if degree is None else degree
    raw = last[1] if len(last) > 1 else raw
    whole = isinstance(degree, int | float) and not isinstance(degree, bool)
    if not whole or not degree >= 1 or degree % 1:
        raise DataError(f"poly(…, {degree!r}): the degree is a whole number from 1 on")
    if len({len(column) for column in columns}) > 1:
        raise DataError("poly(): its columns have one length, and the degree is a whole number")
    states = [state, *(state.setdefault(str(i), {}) for i in range(1, len(columns)))]
    powers = [
        np.asarray(TRANSFORMS["poly"](column, int(degree), raw=raw, _state=own))
        for column, own in zip(columns, states, strict=True)
    ]
    degrees = list(product(range(int(degree) + 1), repeat=len(columns)))
    degrees = [row[::-1] for row in degrees if 0 < sum(row) <= degree]  # the first runs fastest
    found = [np.prod([p[:, d - 1] for p, d in zip(powers, row, strict=True) if d], axis=0)
             for row in degrees]  # fmt: skip
    names = tuple(".".join(map(str, row)) for row in degrees)
    return FactorValues(np.stack(found, axis=1), column_names=names)


def centred(transform: Callable[..., Any]) -> Callable[..., Any]:
    """A regression spline that adds nothing to an intercept, if the formula has one.

    The constant lies in the span of `cr` and `cc`: with an intercept beside them, one of `df`
    columns would be lost.
    """

    @stateful_transform  # type: ignore[untyped-decorator]
    def spline(
        x: Any,
        df: float | None = None,
        knots: Any = None,
        _state: dict[str, Any] | None = None,
        _metadata: Any = None,
        **options: Any,
    ) -> Any:
        if (_metadata or {}).get("intercept"):
            options.setdefault("constraints", "center")
        df = df if df is None else int(df)
        return transform(x, df, knots, _state=_state, **options)

    return spline
