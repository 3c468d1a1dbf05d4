"""Derivatives in every mode of JAX against central differences, in two programs.

``jax.test_util.check_grads`` asks the same of a function and compiles a dozen programs for it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from helpers import assert_close

STEP = 1e-5  # central differences: step^2 of the third derivative, rounding over the step
TOL = 1e-7  # relative to the value and to the derivative


def check_derivatives(fun: Callable[..., Any], *arguments: Any, order: int = 2) -> None:
    """Slopes along random directions, forwards and backwards, to order one or two.

    ``g(t, s) = <w, fun(arguments + t u + s v)>`` with random u, v and w: its slope in t by jvp
    and by vjp, and the mixed second derivative by either of either, in float64.
    """
    leaves, tree = jax.tree.flatten(arguments)
    shapes = tuple((np.shape(leaf), np.asarray(leaf).dtype) for leaf in leaves)
    first, second, u, v = _programs(fun, tree, shapes)
    at, slope = first(arguments)

    def difference(move, which):
        ahead = jax.tree.map(lambda a, m: a + STEP * m, arguments, move)
        behind = jax.tree.map(lambda a, m: a - STEP * m, arguments, move)
        return (which(first(ahead)) - which(first(behind))) / (2 * STEP)

    scale = max(1.0, abs(float(at)))
    for got in slope:
        assert_close(got, difference(u, lambda found: found[0]), TOL, scale)
    if order == 2:
        for got in second(arguments):
            assert_close(got, difference(v, lambda found: found[1][0]), TOL, scale)


@lru_cache(maxsize=8)  # the same function at several points
def _programs(fun: Callable[..., Any], tree: Any, shapes: Any) -> tuple[Any, ...]:
    """First and second derivatives of ``g``, and its directions u and v."""
    arguments = tree.unflatten([jax.ShapeDtypeStruct(*shape) for shape in shapes])
    rng = np.random.default_rng(0)
    u, v = (jax.tree.map(lambda a: rng.normal(size=a.shape), arguments) for _ in range(2))
    w = jax.tree.map(lambda a: rng.normal(size=a.shape), jax.eval_shape(fun, *arguments))

    def value(at):
        return _dot(w, fun(*at))

    def forwards(f, move):
        return lambda at: jax.jvp(f, (at,), (move,))[1]

    def backwards(f, move):
        return lambda at: _dot(move, jax.grad(f)(at))

    modes = forwards, backwards
    slopes = [mode(value, u) for mode in modes]
    first = jax.jit(lambda at: (value(at), [slope(at) for slope in slopes]))
    second = jax.jit(lambda at: [mode(slope, v)(at) for mode in modes for slope in slopes])
    return first, second, u, v


def _dot(a: Any, b: Any) -> Any:
    products = jax.tree.map(lambda x, y: (x * y).sum(), a, b)
    return sum(jax.tree.leaves(products))
