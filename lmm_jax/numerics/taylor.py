"""Functions with two derivatives, by the rules of differentiation: values that carry them along.

NumPy has no automatic differentiation, and what a small matrix depends on is a handful of
parameters: sums, products and a few functions of one variable give every derivative that is
needed, in NumPy and, traced, in JAX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array

from .namespace import namespace

# Logit from which exponentials leave the range of floats.
_LARGEST = 700.0


@dataclass(frozen=True, slots=True, eq=False)
class Taylor:
    """A value of any shape S with its derivatives in m parameters.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = variables(np.array([2.0, 3.0]))
    >>> z = x * x * y
    >>> float(z.value), z.first.tolist(), z.second.tolist()
    (12.0, [12.0, 4.0], [[6.0, 4.0], [4.0, 0.0]])
    """

    value: Any  # S
    first: Any  # (m, *S)
    second: Any  # (m, m, *S)

    def __add__(self, other: Any) -> Taylor:
        if not isinstance(other, Taylor):
            return Taylor(self.value + other, self.first, self.second)
        return Taylor(
            self.value + other.value, self.first + other.first, self.second + other.second
        )

    __radd__ = __add__

    def __neg__(self) -> Taylor:
        return Taylor(-self.value, -self.first, -self.second)

    def __sub__(self, other: Any) -> Taylor:
        return self + (-other)

    def __rsub__(self, other: Any) -> Taylor:
        return -self + other

    def __mul__(self, other: Any) -> Taylor:
        # the parameters' axes are written out: JAX can be told to add none by itself
        if not isinstance(other, Taylor):
            if isinstance(other, float):
                return Taylor(self.value * other, self.first * other, self.second * other)
            by = other[None]
            return Taylor(self.value * other, self.first * by, self.second * by[None])
        a, b = self, other
        across = a.first[:, None] * b.first[None]
        u, v = a.value[None], b.value[None]
        return Taylor(
            a.value * b.value,
            a.first * v + u * b.first,
            a.second * v[None] + u[None] * b.second + across + across.swapaxes(0, 1),
        )

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Taylor:
        if not isinstance(other, Taylor):
            return self * (1.0 / other)
        inverse = 1.0 / other.value
        return self * other.through(inverse, -(inverse**2), 2.0 * inverse**3)

    def through(self, value: Any, slope: Any, bend: Any) -> Taylor:
        """``f(self)`` from f and its first two derivatives at the value.

        Where these have a larger shape than the value, the value is repeated along it.
        """
        extra = value.ndim - self.value.ndim
        first = self.first.reshape(*self.first.shape, *(1,) * extra)
        second = self.second.reshape(*self.second.shape, *(1,) * extra)
        across = first[:, None] * first[None]
        slope, bend = slope[None], bend[None]
        return Taylor(value, slope * first, slope[None] * second + bend[None] * across)

    def __getitem__(self, at: Any) -> Taylor:
        at = at if isinstance(at, tuple) else (at,)
        whole = slice(None)
        return Taylor(self.value[at], self.first[whole, *at], self.second[whole, whole, *at])


def variables(x: Any) -> list[Taylor]:
    """The entries of x, (m,), as parameters: numbers with unit first derivatives."""
    xp, m = namespace(x), x.shape[0]
    units, zero = xp.eye(m, dtype=x.dtype), xp.zeros((m, m), x.dtype)
    return [Taylor(x[j], units[j], zero) for j in range(m)]


def constant(value: Any, m: int) -> Taylor:
    """A value without derivatives."""
    xp = namespace(value)
    shape = tuple(value.shape)
    return Taylor(value, xp.zeros((m, *shape), value.dtype), xp.zeros((m, m, *shape), value.dtype))


def stack(parts: list[Taylor]) -> Taylor:
    """Values of one shape along a new first axis."""
    return _together("stack", parts)


def joined(parts: list[Taylor]) -> Taylor:
    """Values along their first axis, one after another."""
    return _together("concatenate", parts)


def _together(how: str, parts: list[Taylor]) -> Taylor:
    """Of values and derivatives, whose axes of parameters come first."""
    values = [part.value for part in parts]
    put = getattr(namespace(values), how)
    return Taylor(
        put(values),
        put([part.first for part in parts], axis=1),
        put([part.second for part in parts], axis=2),
    )


def exp(x: Taylor) -> Taylor:
    """Exponential function."""
    y = namespace(x.value).exp(x.value)
    return x.through(y, y, y)


def tanh(x: Taylor) -> Taylor:
    """Hyperbolic tangent."""
    y = namespace(x.value).tanh(x.value)
    slope = 1.0 - y * y
    return x.through(y, slope, -2.0 * y * slope)


def log_left(x: Taylor) -> Taylor:
    """``log(1 - tanh(x)^2)``, with its digits where that is small."""
    xp, at = namespace(x.value), x.value
    y = xp.tanh(at)
    value = float(np.log(4.0)) - 2.0 * xp.logaddexp(at, -at)
    return x.through(value, -2.0 * y, -2.0 * (1.0 - y * y))


def expit(x: Taylor) -> Taylor:
    """``1 / (1 + exp(-x))``."""
    xp = namespace(x.value)
    y, rest = (1.0 / (1.0 + xp.exp(-xp.maximum(at, -_LARGEST))) for at in (x.value, -x.value))
    slope = y * rest
    return x.through(y, slope, slope * (rest - y))


def powers(x: Taylor, exponents: Array) -> Taylor:
    """``x^d`` of a number for whole exponents ``d >= 0`` of any shape; ``0^0`` is 1."""
    xp = namespace(x.value, exponents)
    d, at = exponents, x.value

    def power(less: float) -> Array:  # 1 in the place of 0^0, which JAX cannot differentiate
        some = d > less
        return xp.where(some, at, 1.0) ** xp.where(some, d - less, 0.0)

    return x.through(
        power(0.0),
        xp.where(d > 0, d * power(1.0), 0.0),
        xp.where(d > 1, d * (d - 1.0) * power(2.0), 0.0),
    )
