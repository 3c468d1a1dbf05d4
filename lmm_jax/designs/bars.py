"""Random-effects terms of a formula, and the labels of their levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..covariance.correlated import OF_TERMS, named
from ..errors import DataError, OrderWarning, warn_user
from ..formulas import matrices as mat
from ..formulas import parse as fml
from ..inputs.matching import distinct, spelled
from .rows import are_complete
from .terms import RandomTerm, TermSource, factor_codes

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ _-."


def group_factor(
    expressions: Sequence[str],
    data: pd.DataFrame,
    context: Mapping[str, Any],
    state: dict[str, Any] | None,
) -> tuple[np.ndarray, pd.Index[Any]]:
    """Codes and labels of ``a`` or of the interaction ``a:b`` (labels joined by a colon).

    ``state`` keeps what expressions remember of the data, as in
    :func:`~lmm_jax.formulas.matrices.evaluate`.
    """
    parts = [mat.labels(e, data, context=context, state=state) for e in expressions]
    codes, labels = factor_codes(parts[0])
    for part in parts[1:]:
        right, right_labels = factor_codes(part)
        pair, codes = np.unique(codes * len(right_labels) + right, return_inverse=True)
        left, below = spelled(labels), spelled(right_labels)
        labels = left[pair // len(below)] + ":" + below[pair % len(below)]
    return codes, labels


def group_labels(
    expressions: Sequence[str],
    data: pd.DataFrame,
    context: Mapping[str, Any],
    state: dict[str, Any] | None,
) -> pd.Series[Any]:
    """Label of every row under ``a`` or ``a:b``, spelled as :func:`group_factor` does."""
    parts = [mat.labels(e, data, context=context, state=state) for e in expressions]
    if len(parts) == 1:
        return parts[0]
    joined = []
    for expression, part in zip(expressions, parts, strict=True):
        codes, found = distinct(part, expression)
        joined.append(spelled(found)[codes].to_series(index=data.index))
    out = joined[0]
    for part in joined[1:]:
        out = out + ":" + part
    return out


def labels_present(
    expressions: Sequence[str],
    data: pd.DataFrame,
    context: Mapping[str, Any],
    state: dict[str, Any] | None,
) -> tuple[pd.Series[Any], np.ndarray]:
    """Labels of the rows in which no part of them is missing, and which rows these are, (n,)."""
    present = are_complete(data, expressions)
    rows = data.loc[present]
    if not len(rows):
        return pd.Series([], index=rows.index, dtype=object), present
    return group_labels(expressions, rows, context, state), present


def warn_of_order(what: str, labels: Sequence[str]) -> None:
    """Say which order text was put in where the numbers in it have another."""
    numbers = [label.strip(_LETTERS) for label in labels]
    if not all(number.isdigit() for number in numbers) or list(labels) != sorted(labels):
        return
    values = [int(number) for number in numbers]
    if values != sorted(values):
        warn_user(
            f"{what} are text and were taken in the order {', '.join(labels)}: make the column a "
            "categorical with its categories in the order of time",
            OrderWarning,
        )


def _check_count(bar: fml.Bar, k: int) -> None:
    """A term has coefficients, and several of them where they are correlated."""
    if k == 0:
        raise DataError(f"{bar.text} has no columns: write (1 | g) for an intercept")
    if k == 1 and bar.structure not in ("us", "diag"):
        raise DataError(
            f"{bar.text} has one coefficient, which is correlated with no other: write "
            f"({bar.lhs} | {bar.group_name}) for its variance, or "
            f"{bar.structure}(visit | {bar.group_name}) for residuals, with `row` for their "
            "order in place of a visit or time"
        )


def _warn_of_axes(bar: fml.Bar, names: Sequence[str]) -> None:
    """Warn of `ar1(row + col | field)`, a covariance of three coefficients of every field."""
    axes = [name for name in names if name != "Intercept"]
    if bar.structure == "ar1" and len(axes) == 2 < len(names) and not any("[" in a for a in axes):
        one, two = (f"ar1({axis} | {bar.group_name})" for axis in axes)
        warn_user(
            f"{bar.text} is a covariance of the random coefficients {', '.join(names)}; residuals "
            f"along the rows and columns of a field are `{one} * {two}`",
            OrderWarning,
        )


def bar_terms(
    bars: Sequence[fml.Bar],
    data: pd.DataFrame,
    context: Mapping[str, Any],
    built: Mapping[str, mat.Matrix],
) -> list[RandomTerm]:
    """Terms of an lme4 formula in the order of the formula.

    ``built`` has matrices that exist already, by their right-hand sides.

    ``(x || g)`` and ``diag(x | g)`` become one term a column, so that no covariance is
    left, for the indicator columns of a factor as well.
    """
    factors: dict[tuple[str, ...], tuple[np.ndarray, pd.Index[Any]]] = {}
    states: dict[tuple[str, ...], dict[str, Any]] = {}
    terms: list[RandomTerm] = []
    for bar in bars:
        if bar.group not in factors:
            states[bar.group] = {}
            factors[bar.group] = group_factor(bar.group, data, context, states[bar.group])
        codes, levels = factors[bar.group]
        matrix = built[bar.lhs] if bar.lhs in built else mat.build(bar.lhs, data, context=context)
        k = len(matrix.names)
        _check_count(bar, k)
        _warn_of_axes(bar, matrix.names)
        alone = bar.structure == "diag" and not bar.equal
        for columns in [slice(j, j + 1) for j in range(k)] if alone else [slice(0, k)]:
            names = tuple(matrix.names[columns])
            lhs = ("1" if names == ("Intercept",) else f"0 + {names[0]}") if alone else bar.lhs
            kind = "us" if alone else bar.structure
            if kind in OF_TERMS and OF_TERMS[kind].ordered:
                inside = [name.rpartition("[")[2].rstrip("]") for name in names]
                warn_of_order(f"the coefficients of {bar.text}", inside)
            terms.append(
                RandomTerm(
                    label=f"{lhs} | {bar.group_name}",
                    group=bar.group_name,
                    names=names,
                    levels=levels,
                    codes=codes[:, None],
                    values=np.ascontiguousarray(matrix.values[:, None, columns]),
                    is_component=False,
                    source=TermSource(
                        spec=matrix.spec,
                        columns=tuple(range(k)[columns]),
                        group=bar.group,
                        state=states[bar.group],
                    ),
                    structure=named(kind, len(names), bar.equal),
                )
            )
    return terms
