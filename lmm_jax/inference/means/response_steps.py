"""Functions that responses are transformed by, and their inverses with three derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

Jet = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Step(NamedTuple):
    """A function f(y, c) of the response and a constant, by its inverse."""

    forward: Callable[[np.ndarray, float], np.ndarray]
    inverse: Callable[[np.ndarray, float], Jet]  # with three derivatives
    least: Callable[[float], float] = lambda c: -np.inf  # value of f
    most: Callable[[float], float] = lambda c: np.inf


def _constant(x: np.ndarray, value: float) -> np.ndarray:
    return np.full_like(x, value)


def _line(x: np.ndarray, value: np.ndarray, slope: float) -> Jet:
    return value, _constant(x, slope), np.zeros_like(x), np.zeros_like(x)


def _log(x: np.ndarray, base: float) -> Jet:
    L = float(np.log(base))
    out = np.exp(L * x)
    return out, L * out, L**2 * out, L**3 * out


def _power(x: np.ndarray, a: float) -> Jet:
    r = 1.0 / a
    if a % 2 == 1:  # odd: negative numbers as well
        s, size = np.where(x < 0, -1.0, 1.0), np.abs(x)
    else:
        s, size = np.ones_like(x), x
    # a coefficient of zero is one wherever x is
    parts = [c * size ** (r - k) if c else np.zeros_like(x)
             for k, c in enumerate((1.0, r, r * (r - 1), r * (r - 1) * (r - 2)))]  # fmt: skip
    return s * parts[0], parts[1], s * parts[2], parts[3]


def _box_cox(x: np.ndarray, a: float) -> Jet:
    """w^(1 / a), w = 1 + a x."""
    if a == 0:
        return _log(x, np.e)
    w, r = 1.0 + a * x, 1.0 / a
    return (
        w**r,
        w ** (r - 1),
        (1 - a) * w ** (r - 2),
        (1 - a) * (1 - 2 * a) * w ** (r - 3),
    )


def _logit(x: np.ndarray, _: float) -> Jet:
    p = special.expit(x)
    v = p * special.expit(-x)
    return p, v, v * (1 - 2 * p), v * (1 - 6 * v)


def _probit(x: np.ndarray, _: float) -> Jet:
    f = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    return special.ndtr(x), f, -x * f, (x * x - 1) * f


def _cloglog(x: np.ndarray, _: float) -> Jet:
    u = np.exp(x)
    v = np.exp(x - u)
    return -np.expm1(-u), v, v * (1 - u), v * (1 - 3 * u + u * u)


def _atanh(x: np.ndarray, _: float) -> Jet:
    t = np.tanh(x)
    v = 1 - t * t
    return t, v, -2 * t * v, v * (6 * t * t - 2)


def _end_of_box_cox(sign: int) -> Callable[[float], float]:
    return lambda a: -1.0 / a if a * sign < 0 else sign * np.inf


STEPS = {
    "add": Step(lambda y, c: y + c, lambda x, c: _line(x, x - c, 1.0)),
    "times": Step(lambda y, c: y * c, lambda x, c: _line(x, x / c, 1.0 / c)),
    "power": Step(
        lambda y, a: np.sign(y) * np.abs(y) ** a if a % 2 == 1 else y**a,
        _power,
        lambda a: -np.inf if a % 2 == 1 and a > 0 else 0.0,
    ),
    "log": Step(lambda y, base: np.log(y) / np.log(base), _log),
    "log1p": Step(
        lambda y, _: np.log1p(y), lambda x, _: (np.expm1(x), *[np.exp(x)] * 3)
    ),
    "sqrt": Step(
        lambda y, _: np.sqrt(y),
        lambda x, _: (np.square(x), 2.0 * x, _constant(x, 2.0), np.zeros_like(x)),
        lambda _: 0.0,
    ),
    "exp": Step(
        lambda y, _: np.exp(y),
        lambda x, _: (np.log(x), 1 / x, -1 / x**2, 2 / x**3),
        lambda _: 0.0,
    ),
    "logit": Step(lambda y, _: special.logit(y), _logit),
    "probit": Step(lambda y, _: special.ndtri(y), _probit),
    "cloglog": Step(lambda y, _: np.log(-np.log1p(-y)), _cloglog),
    "asin": Step(
        lambda y, _: np.arcsin(y),
        lambda x, _: (np.sin(x), np.cos(x), -np.sin(x), -np.cos(x)),
        lambda _: -np.pi / 2,
        lambda _: np.pi / 2,
    ),
    "asinh": Step(
        lambda y, _: np.arcsinh(y), lambda x, _: (np.sinh(x), np.cosh(x)) * 2
    ),
    "atanh": Step(lambda y, _: np.arctanh(y), _atanh),
    "boxcox": Step(
        lambda y, a: special.boxcox(y, a), _box_cox, _end_of_box_cox(-1), _end_of_box_cox(1)
    ),
}  # fmt: skip


def chained(outer: Jet, inner: Jet) -> Jet:
    """Derivatives of g(h(x)) from those of g at h(x) and those of h."""
    g, g1, g2, g3 = outer
    _, h1, h2, h3 = inner
    return g, g1 * h1, g2 * h1**2 + g1 * h2, g3 * h1**3 + 3 * g2 * h1 * h2 + g1 * h3
