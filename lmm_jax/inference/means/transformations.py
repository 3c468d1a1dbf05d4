"""Transformed responses: from estimates on the scale of the fit back to that of the data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...errors import DataError

Function = Callable[[np.ndarray], np.ndarray]


class Carried(NamedTuple):
    """Estimates on the scale of the response, of any one shape."""

    estimate: np.ndarray
    std_error: np.ndarray  # by the delta method
    conf_low: np.ndarray
    conf_high: np.ndarray


@dataclass(frozen=True)
class Transformation:
    """A response ``f(y)`` by the inverse of f."""

    name: str  # as the formula spells the function
    forward: Function  # f
    inverse: Function
    slope: Function  # derivative of the inverse
    bend: Function  # second derivative
    twist: Function  # third derivative
    is_log: bool = False  # differences become ratios
    shift: float = 0.0  # of f(y + shift)
    least: float = -np.inf  # value of f

    def __reduce__(self) -> tuple[Callable[[str, float], Transformation], tuple[str, float]]:
        return known_transformation, (self.name, self.shift)  # functions have no pickles

    def back(self, x: np.ndarray, half: float = 0.0) -> np.ndarray:
        """The response at x on the scale of the fit, with half a variance for its curvature.

        What is outside of what f can be is at its end.
        """
        x = np.maximum(x, self.least)
        out: np.ndarray = self.inverse(x) - self.shift
        return out + half * self.bend(x) if half else out  # limits on one side are infinite

    def carried(
        self,
        estimate: np.ndarray,
        std_error: np.ndarray,
        conf_low: np.ndarray,
        conf_high: np.ndarray,
        half: float = 0.0,
    ) -> Carried:
        """Estimates and limits by :meth:`back`, ``se = |h'(x)| se(x)``, h the inverse of f."""
        return Carried(
            self.back(estimate, half),
            np.abs(self.back_slope(estimate, half)) * std_error,
            self.back(conf_low, half),
            self.back(conf_high, half),
        )

    def back_slope(self, x: np.ndarray, half: float = 0.0) -> np.ndarray:
        """The derivative of :meth:`back`."""
        x = np.maximum(x, self.least)
        out: np.ndarray = self.slope(x) + half * self.twist(x)
        return out


def _power(base: float) -> tuple[Function, Function, Function, Function]:
    log = float(np.log(base))
    return (
        lambda x: np.exp(log * x),
        lambda x: log * np.exp(log * x),
        lambda x: log**2 * np.exp(log * x),
        lambda x: log**3 * np.exp(log * x),
    )


_ALL = (
    Transformation("log", np.log, *_power(np.e), is_log=True),
    Transformation("log2", np.log2, *_power(2.0), is_log=True),
    Transformation("log10", np.log10, *_power(10.0), is_log=True),
    Transformation("log1p", np.log1p, np.expm1, np.exp, np.exp, np.exp),
    Transformation(
        "sqrt",
        np.sqrt,
        np.square,
        lambda x: 2.0 * x,
        lambda x: np.full_like(x, 2.0),
        np.zeros_like,
        least=0.0,
    ),
)
_KNOWN = {known.name: known for known in _ALL}
TRANSFORMATIONS = tuple(_KNOWN)
_NUMBER = r"[\d.][\d.eE]*"
# y + 1, y - 0.5, 1 + y
_SHIFTED = re.compile(r"[^\W\d][\w. ]*?(?:\s*([+-])\s*([\d.eE]+))?")
_SHIFTED_LEFT = re.compile(r"([\d.eE]+)\s*\+\s*[^\W\d][\w. ]*")
_QUOTED = re.compile(r"`[^`]*`")  # a name of any characters
_NAME = re.compile(r"[^\W\d][\w.]*")
_CALL = re.compile(rf"(?:np\.|numpy\.)?({'|'.join(TRANSFORMATIONS)})\((.*)\)")


def known_transformation(name: str, shift: float = 0.0) -> Transformation:
    """The transformation of that name, of a response and a constant."""
    return replace(_KNOWN[name], shift=shift)


def is_name(response: str) -> bool:
    """Whether a response is a column as it is.

    Examples
    --------
    >>> is_name("`RT (ms)`"), is_name("RT.ms"), is_name("y + 1")
    (True, True, False)
    """
    return _NAME.fullmatch(_QUOTED.sub("y", response.strip())) is not None


def way_back(response: str) -> Transformation | None:
    """The transformation by which a response is carried back; None for a column as it is.

    Raises
    ------
    DataError
        Any other expression.

    Examples
    --------
    >>> way_back("log(y)").name, way_back("y")
    ('log', None)
    """
    found = transformation_of(response)
    if found is None and not is_name(response):
        raise no_way_back(response)
    return found


def no_way_back(response: str) -> DataError:
    """The error for a response that is an expression of which nothing is known."""
    some = " and ".join([", ".join(TRANSFORMATIONS[:-1]), TRANSFORMATIONS[-1]])
    return DataError(
        f"the response {response} is no function that can be carried back: "
        f"{some} of a column, or of one and a constant, can"
    )


def untransformed(response: str) -> str:
    """What a response is called on its own scale.

    Examples
    --------
    >>> untransformed("np.log(`RT (ms)` + 1)"), untransformed("sqrt(2 + y)"), untransformed("y")
    ('RT (ms)', 'y', 'y')
    """
    if transformation_of(response) is None:
        return response.strip().strip("`")
    inner = response[response.index("(") + 1 : response.rindex(")")].strip()
    if inner.startswith("`"):
        return inner[1:].partition("`")[0]
    return re.sub(rf"^{_NUMBER}\s*\+\s*|\s*[+-]\s*{_NUMBER}$", "", inner)


def transformation_of(response: str) -> Transformation | None:
    """The transformation that an expression of the response is; None for any other.

    Examples
    --------
    >>> found = transformation_of("np.log(y + 1)")
    >>> found.name, found.shift, transformation_of("log(y) - log(x)")
    ('log', 1.0, None)
    >>> transformation_of("sqrt(`RT (ms)`)").name
    'sqrt'
    """
    found = _CALL.fullmatch(_QUOTED.sub("y", response.strip()))
    if found is None:
        return None
    depth = 0
    for character in found.group(2):  # the bracket that closes last is the one that opened first
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return None
    shift = _shift(found.group(2).strip())
    return None if shift is None else known_transformation(found.group(1), shift)


def _shift(inner: str) -> float | None:
    """The constant that is added to the response; None for what is no response and constant."""
    left, right = _SHIFTED_LEFT.fullmatch(inner), _SHIFTED.fullmatch(inner)
    try:
        if left is not None:
            return float(left.group(1))
        if right is None:
            return None
        sign, value = right.groups()
        return 0.0 if sign is None else float(sign + value)
    except ValueError:
        return None
