"""Families of contrasts of means: coefficients and labels, as emmeans names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from fractions import Fraction
from math import gcd, lcm
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...errors import DataError
from ...inputs.arguments import choice, is_whole, shown, whole_number
from ...inputs.by_label import in_order, row_names
from ...inputs.matching import spelling

# Names of polynomial contrasts, and how many there are unless more are asked for.
_DEGREES = ("linear", "quadratic", "cubic", "quartic")
_MOST_DEGREES = 6


class Contrasts(NamedTuple):
    """Some contrasts of k means."""

    coefficients: np.ndarray  # (c, k)
    labels: tuple[str, ...]  # (c,)
    adjust: str  # what emmeans adjusts such a family by
    pairwise: bool = False  # all differences of two


def _row(k: int, entries: Mapping[int, float]) -> np.ndarray:
    out = np.zeros(k)
    for place, value in entries.items():
        out[place] = value
    return out


def _differences(levels: Sequence[str], pairs: Sequence[tuple[int, int]]) -> tuple[Any, Any]:
    """First less second of every pair."""
    k = len(levels)
    rows = [_row(k, {i: 1.0, j: -1.0}) for i, j in pairs]
    labels = tuple(f"{levels[i]} - {levels[j]}" for i, j in pairs)
    return np.array(rows).reshape(len(pairs), k), labels


def _pairwise(levels: Sequence[str]) -> Contrasts:
    k = len(levels)
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    return Contrasts(*_differences(levels, pairs), "tukey", True)


def _revpairwise(levels: Sequence[str]) -> Contrasts:
    pairs = [(i, j) for i in range(len(levels)) for j in range(i)]
    return Contrasts(*_differences(levels, pairs), "tukey", True)


def _treatments(levels: Sequence[str], *ref: int) -> Contrasts:
    """Every other level less the mean of the references."""
    k, share = len(levels), {j: -1.0 / len(ref) for j in ref}
    others = [i for i in range(k) if i not in ref]
    rows = [_row(k, {i: 1.0, **share}) for i in others]
    beside = levels[ref[0]] if len(ref) == 1 else f"avg({','.join(levels[j] for j in ref)})"
    labels = tuple(f"{levels[i]} - {beside}" for i in others)
    return Contrasts(np.array(rows).reshape(len(rows), k), labels, "dunnettx")


def _consecutive(levels: Sequence[str]) -> Contrasts:
    pairs = [(i + 1, i) for i in range(len(levels) - 1)]
    return Contrasts(*_differences(levels, pairs), "mvt")


def _mean_changes(levels: Sequence[str]) -> Contrasts:
    """Mean of all levels after a step less that of all before it."""
    k = len(levels)
    rows = [np.where(np.arange(k) > i, 1.0 / (k - i - 1), -1.0 / (i + 1)) for i in range(k - 1)]
    labels = tuple(f"{levels[i]}|{levels[i + 1]}" for i in range(k - 1))
    return Contrasts(np.array(rows).reshape(k - 1, k), labels, "mvt")


def _effects(levels: Sequence[str]) -> Contrasts:
    k = len(levels)
    labels = tuple(f"{level} effect" for level in levels)
    return Contrasts(np.eye(k) - 1.0 / k, labels, "fdr")


def _deleted_effects(levels: Sequence[str]) -> Contrasts:
    """Every mean less that of all others."""
    k = len(levels) if len(levels) > 1 else 0  # a mean alone has no others
    rows = np.eye(k, len(levels)) - (1.0 - np.eye(k, len(levels))) / max(k - 1, 1)
    return Contrasts(rows, tuple(f"{level} effect" for level in levels[:k]), "fdr")


def _helmert(levels: Sequence[str]) -> Contrasts:
    """Every mean less that of all levels before it."""
    k = len(levels)
    rows = [np.where(np.arange(k) < i, -1.0 / i, _row(k, {i: 1.0})) for i in range(1, k)]
    labels = tuple(f"{level} vs earlier" for level in levels[1:])
    return Contrasts(np.array(rows).reshape(k - 1, k), labels, "none")


def _polynomials(levels: Sequence[str], max_degree: Any = None) -> Contrasts:
    """Orthogonal polynomials of equally spaced levels, in the least whole numbers.

    Gram's polynomials by exact orthogonalization of 1, i, i^2, ...
    """
    k = len(levels)
    degrees = min(k - 1, _MOST_DEGREES)
    if max_degree is not None:
        degrees = whole_number(max_degree, "max_degree", least=1)
    if degrees > k - 1:
        raise DataError(f"max_degree={degrees}: {k} levels have polynomials of degree {k - 1}")
    basis: list[list[Fraction]] = []
    for degree in range(degrees + 1):
        column = [Fraction(i) ** degree for i in range(k)]
        for other in basis:
            share = sum((a * b for a, b in zip(column, other, strict=True)), Fraction(0))
            share /= sum((b * b for b in other), Fraction(0))
            column = [a - share * b for a, b in zip(column, other, strict=True)]
        basis.append(column)
    rows = []
    for column in basis[1:]:
        scale = lcm(*(f.denominator for f in column))
        whole = [int(f * scale) for f in column]
        rows.append([w // gcd(*whole) for w in whole])
    names = (*_DEGREES, *(f"degree {d}" for d in range(len(_DEGREES) + 1, degrees + 1)))
    return Contrasts(np.array(rows, float).reshape(degrees, k), names[:degrees], "none")


FAMILIES: dict[str, Callable[[Sequence[str]], Contrasts]] = {
    "pairwise": _pairwise,
    "revpairwise": _revpairwise,
    "trt.vs.ctrl": lambda levels: _treatments(levels, 0),
    "trt.vs.ctrl1": lambda levels: _treatments(levels, 0),
    "trt.vs.ctrlk": lambda levels: _treatments(levels, len(levels) - 1),
    "consec": _consecutive,
    "mean_chg": _mean_changes,
    "eff": _effects,
    "del.eff": _deleted_effects,
    "poly": _polynomials,
    "helmert": _helmert,
    "identity": lambda levels: Contrasts(np.eye(len(levels)), tuple(levels), "none"),
}

# What others, or an adjustment that belongs to them, call these families, in small letters.
_ELSEWHERE = {
    **dict.fromkeys(("tukey", "all"), "pairwise"), "dunnett": "trt.vs.ctrl",
    **dict.fromkeys(("sequen", "sequential"), "consec"), "changepoint": "mean_chg",
    "grandmean": "eff",
}  # fmt: skip


def _references(ref: Any, called: Sequence[Sequence[str]]) -> list[int]:
    """Numbers of the levels that are given by their labels or their numbers, one or several."""
    several = not isinstance(ref, str) and np.iterable(ref)
    found = [_reference(one, called) for one in (ref if several else [ref])]
    if not found or len(set(found)) < len(found):
        raise DataError(f"ref={shown(ref)}: one level, or several that differ, are needed")
    return found


def _reference(ref: Any, called: Sequence[Sequence[str]]) -> int:
    k, levels = len(called[0]), ", ".join(called[0][:12])
    if isinstance(ref, timedelta | np.timedelta64):
        ref = pd.Timedelta(ref)
    elif isinstance(ref, date | np.datetime64):
        ref = pd.Timestamp(ref)
    number = isinstance(ref, Real) and not isinstance(ref, bool)
    for name in (str(ref), f"{ref:g}" if number else spelling(ref)):
        for names in called:
            if name in names:
                return names.index(name)
    if isinstance(ref, str | bool):
        raise DataError(f"ref={ref!r}: there are the levels {levels}")
    if not is_whole(ref) or not -k <= ref < k:
        raise DataError(
            f"ref={shown(ref)}: there are the levels {levels}, numbered from 0 to {k - 1}"
        )
    return int(ref) % k


def contrasts_of(
    method: Any,
    levels: Sequence[str],
    ref: Any = None,
    called: Sequence[Sequence[str]] = (),
    max_degree: int | None = None,
) -> Contrasts:
    """Contrasts of a family, or the caller's own.

    Parameters
    ----------
    method : str, mapping or array
        A name of ``FAMILIES``; ``{label: weights}``; or a matrix with a row a contrast. Weights
        that have labels, those of a series or of the columns of a frame, go by these.
    levels : sequence of str, length k
        Labels of the means.
    ref : int, str or list, optional
        Reference of "trt.vs.ctrl": its label, or its number from 0, from the end where negative;
        several: their mean.
    called : sequence of sequences of str, optional
        What else ``ref`` and labels of weights may call the levels, the first list before the
        next.
    max_degree : int, optional
        Highest degree of "poly"; 6 at most if not given.

    Raises
    ------
    DataError
        An unknown name, or weights that are not k finite numbers.

    Examples
    --------
    >>> found = contrasts_of("poly", ["a", "b", "c", "d"])
    >>> found.labels, found.coefficients.astype(int).tolist()
    (('linear', 'quadratic', 'cubic'), [[-3, -1, 1, 3], [1, -1, -1, 1], [-1, 3, -3, 1]])
    """
    k = len(levels)
    if isinstance(method, str):
        name = choice(method, "method", FAMILIES, elsewhere=_ELSEWHERE)
        if max_degree is not None:
            if name != "poly":
                raise DataError(f"max_degree={max_degree} is for poly: {name} has no degrees")
            return _polynomials(levels, max_degree)
        if ref is None:
            return FAMILIES[name](levels)
        if name != "trt.vs.ctrl":
            raise DataError(f"ref={ref} is for trt.vs.ctrl: {name} has no reference")
        return _treatments(levels, *_references(ref, [*called, levels]))
    labels, rows = _weights(method, levels, [*called])
    try:
        table = np.array(
            [np.atleast_1d(np.squeeze(np.asarray(row, dtype=np.float64))) for row in rows]
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"method={shown(method)}: numbers are needed as weights") from error
    if table.ndim != 2 or table.shape[1:] != (k,) or not np.isfinite(table).all() or not len(table):
        raise DataError(
            f"method has weights of the shape {table.shape}: {k} finite numbers are needed for "
            f"each contrast, of {', '.join(levels[:8])}"
        )
    return Contrasts(table, tuple(labels), "none")


def _weights(
    method: Any, levels: Sequence[str], called: Sequence[Sequence[str]]
) -> tuple[list[str], list[Any]]:
    """Names of the caller's own contrasts, and weights in the order of the levels."""
    if isinstance(method, Mapping):
        given = {
            f"weights of {shown(name)}": row if np.ndim(row) or isinstance(row, Mapping) else [row]
            for name, row in method.items()
        }
        rows = [in_order(row, levels, what, called=called) for what, row in given.items()]
        return [str(name) for name in method], rows
    table = in_order(method, levels, "method", called=called)
    rows = list(np.atleast_2d(np.asarray(table, dtype=object)))
    return list(row_names(method) or [f"c{i + 1}" for i in range(len(rows))]), rows
