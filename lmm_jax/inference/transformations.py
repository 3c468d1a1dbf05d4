"""Transformed responses: from estimates on the scale of the fit back to that of the data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Transformation:
    """A response ``f(y)`` by the inverse of f."""

    name: str  # as the formula spells the function
    inverse: Function
    slope: Function  # derivative of the inverse
    bend: Function  # second derivative
    is_log: bool = False  # differences become ratios


def _power(base: float) -> tuple[Function, Function, Function]:
    log = float(np.log(base))
    return (
        lambda x: np.exp(log * x),
        lambda x: log * np.exp(log * x),
        lambda x: log**2 * np.exp(log * x),
    )


_KNOWN = {
    "log": Transformation("log", *_power(np.e), is_log=True),
    "log2": Transformation("log2", *_power(2.0), is_log=True),
    "log10": Transformation("log10", *_power(10.0), is_log=True),
    "log1p": Transformation("log1p", np.expm1, np.exp, np.exp),
    "sqrt": Transformation("sqrt", np.square, lambda x: 2.0 * x, lambda x: np.full_like(x, 2.0)),
}
_CALL = re.compile(r"(?:np\.|numpy\.)?(log|log2|log10|log1p|sqrt)\((.*)\)")


def transformation_of(response: str) -> Transformation | None:
    """The transformation that an expression of the response is; None for a plain response.

    Examples
    --------
    >>> transformation_of("np.log(y + 1)").name, transformation_of("log(y) - log(x)")
    ('log', None)
    """
    found = _CALL.fullmatch(response.strip())
    if found is None:
        return None
    depth = 0
    for character in found.group(2):  # the bracket that closes last is the one that opened first
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return None
    return _KNOWN[found.group(1)]
