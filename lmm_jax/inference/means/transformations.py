"""Transformed responses: from estimates on the scale of the fit back to that of the data.

A response such as ``2 * asin(sqrt(y / 100))`` is a chain of steps, each with an inverse of which
three derivatives are known; the derivatives of the chain follow.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...errors import DataError, FormulaError
from ...formulas.expressions import hide, to_python
from .response_steps import STEPS, Jet, chained


class Carried(NamedTuple):
    """Estimates on the scale of the response, of any one shape."""

    estimate: np.ndarray
    std_error: np.ndarray  # by the delta method
    conf_low: np.ndarray
    conf_high: np.ndarray


@dataclass(frozen=True)
class Transformation:
    """A response ``f(y)`` by the steps of f."""

    name: str  # as the formula spells the function
    steps: tuple[tuple[str, float], ...]  # from the response on; a constant each

    def forward(self, y: np.ndarray) -> np.ndarray:
        """f, (n,)."""
        for name, c in self.steps:
            y = STEPS[name].forward(y, c)
        return y

    def _jet(self, x: np.ndarray) -> Jet:
        """The inverse h of f with three derivatives; what f cannot be is at its end."""
        x = np.asarray(x, dtype=np.float64)
        jet = (x, np.ones_like(x), np.zeros_like(x), np.zeros_like(x))
        with np.errstate(all="ignore"):  # at ends and at infinity
            for place, (name, c) in enumerate(reversed(self.steps)):
                step = STEPS[name]
                outer = step.inverse(np.clip(jet[0], step.least(c), step.most(c)), c)
                jet = chained(outer, jet) if place else outer
        return jet

    def back(self, x: np.ndarray, half: float = 0.0) -> np.ndarray:
        """The response at x on the scale of the fit, with half a variance for its curvature."""
        value, _, bend, _ = self._jet(x)
        # limits on one side are infinite
        return np.where(np.isfinite(x), value + half * bend, value) if half else value

    def carried(
        self,
        estimate: np.ndarray,
        std_error: np.ndarray,
        conf_low: np.ndarray,
        conf_high: np.ndarray,
        half: float = 0.0,
    ) -> Carried:
        """Estimates and limits by :meth:`back`, ``se = |h'(x)| se(x)``, h the inverse of f."""
        low, high = self.back(conf_low, half), self.back(conf_high, half)
        return Carried(
            self.back(estimate, half),
            np.abs(self.back_slope(estimate, half)) * std_error,
            np.minimum(low, high),  # 1 / y turns them round
            np.maximum(low, high),
        )

    def back_slope(self, x: np.ndarray, half: float = 0.0) -> np.ndarray:
        """The derivative of :meth:`back`."""
        _, slope, _, twist = self._jet(x)
        return slope + half * twist if half else slope

    @property
    def of_differences(self) -> Transformation | None:
        """What carries differences back: of logarithms to ratios, of logits to odds ratios."""
        *inner, (name, base) = self.steps
        if name not in ("log", "logit") or any(kind not in _LINEAR for kind, _ in inner):
            return None
        return Transformation(name, (("log", base if name == "log" else np.e),))

    @property
    def ratio(self) -> str:
        """What differences are, carried back."""
        return "odds ratio" if self.steps[-1][0] == "logit" else "ratio"


# Functions of the response by their names, and the steps they are.
_FUNCTIONS: dict[str, tuple[tuple[str, float], ...]] = {
    "log": (("log", float(np.e)),),
    "log2": (("log", 2.0),),
    "log10": (("log", 10.0),),
    "log1p": (("log1p", 0.0),),
    "sqrt": (("sqrt", 0.0),),
    "logit": (("logit", 0.0),),
    "probit": (("probit", 0.0),),
    "cloglog": (("cloglog", 0.0),),
    "asinh": (("asinh", 0.0),),
    "atanh": (("atanh", 0.0),),
}
TRANSFORMATIONS = tuple(_FUNCTIONS)
_FUNCTIONS |= {
    "qlogis": _FUNCTIONS["logit"],
    "qnorm": _FUNCTIONS["probit"],
    "arcsinh": _FUNCTIONS["asinh"],
    "arctanh": _FUNCTIONS["atanh"],
    **dict.fromkeys(("asin", "arcsin"), (("asin", 0.0),)),
    "exp": (("exp", 0.0),),
    "expm1": (("exp", 0.0), ("add", -1.0)),
    "square": (("power", 2.0),),
    "reciprocal": (("power", -1.0),),
    "I": (),
}
# Functions of the response and a constant.
_WITH_CONSTANT = {"log": "log", "boxcox": "boxcox", "pow": "power", "power": "power"}
_SIGNS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_LINEAR = ("add", "times")
_QUOTED = re.compile(r"`[^`]*`")  # a name of any characters
_NAME = re.compile(r"[^\W\d][\w.]*")


def known_transformation(name: str) -> Transformation:
    """The transformation of that name, of a response."""
    return Transformation(name, _FUNCTIONS[name])


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
    some = ", ".join(TRANSFORMATIONS)
    return DataError(
        f"the response {response} is no function that can be carried back: {some}, exp, asin, "
        "boxcox(y, 0.3), powers and 1 / y of one column, sums and products of these with numbers, "
        "can"
    )


def untransformed(response: str) -> str:
    """What a response is called on its own scale.

    Examples
    --------
    >>> untransformed("np.log(`RT (ms)` + 1)"), untransformed("sqrt(2 + y)"), untransformed("y")
    ('RT (ms)', 'y', 'y')
    """
    found = None if is_name(response) else _read(response)
    return response.strip().strip("`") if found is None else found[0]


def transformation_of(response: str) -> Transformation | None:
    """The transformation that an expression of the response is; None for any other.

    Examples
    --------
    >>> found = transformation_of("np.log(y + 1)")
    >>> found.name, found.steps[0], transformation_of("log(y) - log(x)")
    ('log', ('add', 1.0), None)
    >>> transformation_of("2 * asin(sqrt(`RT (ms)`))").name
    '2 * asin(sqrt(`RT (ms)`))'
    """
    found = None if is_name(response) else _read(response)
    if found is None or all(kind in _LINEAR for kind, _ in found[1]):  # another unit, no function
        return None
    *inner, last = found[1]
    name = response.strip()
    if all(kind == "add" for kind, _ in inner):  # one function of the response and a constant
        name = next((known for known in TRANSFORMATIONS if _FUNCTIONS[known] == (last,)), name)
    return Transformation(name, tuple(found[1]))


def _read(response: str) -> tuple[str, list[tuple[str, float]]] | None:
    """The column that a response is a function of, and the steps of that; None for any other."""
    try:
        hidden, quoted = hide(to_python(response))
        tree = ast.parse(hidden.strip(), mode="eval").body
        found = _steps(tree)
    except (SyntaxError, ValueError, FormulaError, ArithmeticError, TypeError):
        return None
    if found is None:
        return None
    name, steps = found
    match = re.fullmatch(r"__quoted_(\d+)__", name)
    return (name if match is None else quoted[int(match[1])]), steps


def _steps(node: ast.expr) -> tuple[str, list[tuple[str, float]]] | None:
    """The one column of an expression, and what is done to it."""
    if isinstance(node, ast.Call):
        return _called(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _then(node.operand, "times", -1.0)
    if isinstance(node, ast.BinOp):
        return _computed(node)
    text = ast.unparse(node)
    return (text, []) if is_name(text) and not isinstance(node, ast.Constant) else None


def _then(node: ast.expr, *more: str | float) -> tuple[str, list[tuple[str, float]]] | None:
    """The steps of an expression and others after them: names and constants in turn."""
    found = _steps(node)
    pairs = list(zip(more[::2], more[1::2], strict=True))
    return None if found is None else (found[0], [*found[1], *pairs])  # type: ignore[list-item]


def _called(node: ast.Call) -> tuple[str, list[tuple[str, float]]] | None:
    function = re.sub(r"^(np|numpy)\.", "", ast.unparse(node.func))
    if node.keywords or not node.args:
        return None
    if len(node.args) == 1 and function in _FUNCTIONS:
        return _then(node.args[0], *(part for step in _FUNCTIONS[function] for part in step))
    constant = _number(node.args[1]) if len(node.args) == 2 else None
    if constant is None or function not in _WITH_CONSTANT:
        return None
    return _then(node.args[0], _WITH_CONSTANT[function], constant)


def _computed(node: ast.BinOp) -> tuple[str, list[tuple[str, float]]] | None:
    left, right = _number(node.left), _number(node.right)
    if right is not None:
        if right == 0 and not isinstance(node.op, ast.Add | ast.Sub):
            return None
        steps = {
            ast.Add: ("add", right), ast.Sub: ("add", -right), ast.Mult: ("times", right),
            ast.Div: ("times", 1.0 / right if right else 0.0), ast.Pow: ("power", right),
        }.get(type(node.op))  # fmt: skip
        return None if steps is None else _then(node.left, *steps)
    if left is None or (left == 0 and not isinstance(node.op, ast.Add | ast.Sub)):
        return None
    turned = {
        ast.Add: ("add", left), ast.Sub: ("times", -1.0, "add", left),
        ast.Mult: ("times", left), ast.Div: ("power", -1.0, "times", left),
    }.get(type(node.op))  # fmt: skip
    return None if turned is None else _then(node.right, *turned)


def _number(node: ast.expr) -> float | None:
    """The value of an expression of numbers alone."""
    if isinstance(node, ast.Constant):
        plain = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        return float(node.value) if plain else None  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _number(node.operand)
        return None if value is None else value if isinstance(node.op, ast.UAdd) else -value
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        left, right = _number(node.left), _number(node.right)
        return None if left is None or right is None else _SIGNS[type(node.op)](left, right)
    return None
