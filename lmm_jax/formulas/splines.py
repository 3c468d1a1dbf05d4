"""Natural cubic splines as R's `ns`, `poly`, and formulaic's regression splines."""

from __future__ import annotations

from collections.abc import Callable
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
    ends = (x.min(), x.max()) if boundary is None else np.sort(np.asarray(boundary, dtype=float))
    low, high = (float(end) for end in ends)
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
def polynomials(
    x: Any, degree: float = 1, raw: bool = False, _state: dict[str, Any] | None = None
) -> Any:
    """R's `poly`: orthogonal polynomials, or powers, numbered from 1 either way."""
    whole = isinstance(degree, int | float) and not isinstance(degree, bool)
    if not whole or not degree >= 1 or degree % 1:
        raise DataError(f"poly(…, {degree!r}): the degree is a whole number from 1 on")
    found = TRANSFORMS["poly"](x, int(degree), raw=raw, _state=_state)
    names = tuple(str(k) for k in range(1, int(degree) + 1))
    return FactorValues(np.asarray(found), column_names=names)


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
