"""One source, two runtimes: the functions that NumPy and JAX do not share, under one name.

Numerical code takes its namespace from its arguments, ``xp = namespace(theta, layout)``. Arrays
of JAX and tracers get :data:`JAX`, and are traced; arrays of NumPy get :data:`NUMPY`, and are
worked off at once, without a compilation. Both hold what the code needs of ``jax.numpy``, and
what has no one spelling: loops, branches, updates, sums over segments, triangular solves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .stacked import Stacked, side_by_side
from .stacked_functions import stacked_namespace
from .sums import MANY_SUMS, einsum, segment_products, segment_sum
from .triangular import triangular_solve

_F = TypeVar("_F", bound=Callable[..., Any])
_R = TypeVar("_R")
# Kinds of arrays, places in _SPACES.
_PLAIN, _STACKED, _TRACED = range(3)
# What is no array of JAX, seen without asking: a look at each argument of each call.
_ON_HOST = frozenset({np.ndarray, float, np.float64, int, bool, np.bool_, type(None)})


def namespace(*arrays: Any) -> Any:
    """:data:`JAX` if one of the arrays is JAX's or traced, otherwise :data:`NUMPY`.

    :data:`STACKED`, NumPy of many lanes, if one is :class:`~lmm_jax.numerics.stacked.Stacked`.

    Parameters
    ----------
    *arrays : array, sequence of arrays, or object with arrays
        Of an object the array that its class names in ``_array`` decides.
    """
    return _SPACES[_kind_of(arrays)]


def on_host(array: Any) -> Any:
    """The array as one of NumPy; what is traced has no values yet and stays as it is."""
    return array if isinstance(array, jax.core.Tracer) else np.asarray(array)


def _is_traced(arrays: Sequence[Any]) -> bool:
    return _kind_of(arrays) == _TRACED


def _kind_of(arrays: Sequence[Any]) -> int:
    found = _PLAIN
    for array in arrays:
        kind = type(array)
        if kind in _ON_HOST:
            continue
        if kind is Stacked:
            found = _STACKED
            continue
        if isinstance(array, jax.Array):
            return _TRACED
        name = getattr(kind, "_array", None)
        if name is not None:
            array = (getattr(array, name),)
        if isinstance(array, tuple | list):
            inner = _kind_of(array)
            if inner == _TRACED:
                return inner
            found = max(found, inner)
    return found


def custom_jvp(fun: Callable[..., _R]) -> jax.custom_jvp[_R]:
    """``jax.custom_jvp`` for arrays of JAX; the function itself for those of NumPy."""
    rule = jax.custom_jvp(fun)

    @wraps(fun)
    def call(*args: Any) -> Any:
        return rule(*args) if _is_traced(args) else fun(*args)

    call.defjvp = rule.defjvp  # type: ignore[attr-defined]
    return cast("jax.custom_jvp[_R]", call)


def traced_once(fun: _F, *, static: str | tuple[str, ...] | None = None) -> _F:
    """``jax.jit`` inside a program, which traces the function once for all of its uses.

    Outside of one it is a program itself, in the place of one for each operation.
    """
    program = jax.jit(fun, static_argnames=static)

    @wraps(fun)
    def call(*args: Any, **options: Any) -> Any:
        return (program if _is_traced(args) else fun)(*args, **options)

    return call  # type: ignore[return-value]


# ------------------------------------------------------------ NumPy's side


class _At:
    """``a.at[index].set(b)`` and ``.add(b)`` of JAX: a changed copy."""

    __slots__ = ("array", "index")

    def __init__(self, array: np.ndarray, index: Any = None) -> None:
        self.array, self.index = array, index

    def __getitem__(self, index: Any) -> _At:
        return _At(self.array, index)

    def set(self, values: Any, mode: str | None = None) -> np.ndarray:
        out, (index, values) = self.array.copy(), self._inside(values, mode)
        out[index] = values
        return out

    def add(self, values: Any, mode: str | None = None) -> np.ndarray:
        out, (index, values) = self.array.copy(), self._inside(values, mode)
        lists = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(at, np.ndarray) for at in lists):
            out[index] += values
        elif out.ndim == 1:  # an entry may be named more than once
            out += np.bincount(index, values, out.size)
        else:
            np.add.at(out, index, values)
        return out

    def _inside(self, values: Any, mode: str | None) -> tuple[Any, Any]:
        """Index and values without entries past the end, which ``mode="drop"`` ignores."""
        if mode != "drop":
            return self.index, values
        index = self.index if isinstance(self.index, tuple) else (self.index,)
        kept = np.ones((), bool)
        for at, n in zip(index, self.array.shape, strict=False):
            if not isinstance(at, slice):
                kept = kept & (at < n)
        if kept.all():
            return self.index, values
        rows = np.flatnonzero(kept.all(axis=tuple(range(1, kept.ndim))))  # along the first axis
        short = tuple(
            at if isinstance(at, slice) or len(at) == 1 < len(kept) else at[rows] for at in index
        )
        return (short if isinstance(self.index, tuple) else short[0]), values[rows]


def _fori_loop(lower: int, upper: int, body: Callable[[int, Any], Any], state: Any) -> Any:
    for i in range(int(lower), int(upper)):
        state = body(i, state)
    return state


def _while_loop(go_on: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    while go_on(state):
        state = body(state)
    return state


def _cond(which: Any, first: Callable[..., Any], second: Callable[..., Any], *args: Any) -> Any:
    return first(*args) if which else second(*args)


def _vmap(fun: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(rows: Any) -> Any:
        found = [fun(row) for row in rows]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *found)

    return call


def _choose(which: Any, first: _R, second: _R) -> _R:
    return first if which else second


def _or_nan(fun: Callable[..., Any]) -> Callable[..., Any]:
    """NaN where LAPACK gives up, as JAX has it."""

    def call(A: np.ndarray, *args: Any) -> Any:
        try:
            return fun(A, *args)
        except np.linalg.LinAlgError:
            if A.ndim > 2:  # one by one
                found = [call(*one) for one in zip(A, *args, strict=True)]
                return jax.tree.map(lambda *leaves: np.stack(leaves), *found)
            return jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), fun(_regular(A), *args))

    return call


def _regular(A: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.eye(A.shape[-1], dtype=A.dtype), A.shape)


def _cholesky(A: np.ndarray) -> np.ndarray:
    """Lower factor of each matrix, NaN for those that are not positive definite."""
    try:
        return np.linalg.cholesky(A)
    except np.linalg.LinAlgError:
        if A.ndim == 2:
            return np.full_like(A, np.nan)
        return np.stack([_cholesky(one) for one in A])


def _slice(array: np.ndarray, start: int, size: int, axis: int = 0) -> np.ndarray:
    at = [slice(None)] * array.ndim
    at[axis] = slice(int(start), int(start) + size)
    return array[tuple(at)]


def _put_slice(array: np.ndarray, part: np.ndarray, start: int, axis: int) -> np.ndarray:
    at = [slice(None)] * array.ndim
    at[axis] = slice(int(start), int(start) + part.shape[axis])
    array[tuple(at)] = part  # in place: the loops that use it keep no older state
    return array


def _index(array: np.ndarray, at: int, axis: int, keepdims: bool) -> np.ndarray:
    assert not keepdims
    return np.take(array, at, axis=axis)


def _block_diag(*blocks: np.ndarray) -> np.ndarray:
    rows, columns = (sum(b.shape[axis] for b in blocks) for axis in (0, 1))
    out, i, j = np.zeros((rows, columns), blocks[0].dtype), 0, 0
    for block in blocks:
        k, m = block.shape
        out[i : i + k, j : j + m] = block
        i, j = i + k, j + m
    return out


# NumPy's own wrappers of these take longer than the small arrays of a step.


def _reduction(ufunc: np.ufunc, wrapper: Callable[..., Any]) -> Callable[..., Any]:
    def call(array: Any, axis: Any = None, **options: Any) -> Any:
        if options or type(array) is not np.ndarray:
            return wrapper(array, axis=axis, **options)
        if axis == 0 and array.ndim == 2 and len(array) > MANY_SUMS * max(array.shape[1], 1):
            # few columns of many rows: NumPy would go row by row, ten times as slow
            return np.array([ufunc.reduce(column) for column in array.T])
        return ufunc.reduce(array, axis=axis)

    return call


def _row_products(rows: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    return np.einsum("nk,nkc->nc", rows, matrices)


def _stack(arrays: Sequence[Any], axis: int = 0) -> np.ndarray:
    return np.array(arrays) if axis == 0 else np.stack(arrays, axis)


def _moveaxis(array: np.ndarray, source: int, destination: int) -> np.ndarray:
    if not (type(source) is type(destination) is int):
        return np.moveaxis(array, source, destination)
    order = list(range(array.ndim))
    axis = order.pop(source)
    order.insert(destination % array.ndim, axis)
    return array.transpose(order)


def _pad(array: np.ndarray, widths: Sequence[tuple[int, int]]) -> np.ndarray:
    """The array between zeros."""
    shape = [a + n + b for n, (a, b) in zip(array.shape, widths, strict=True)]
    out = np.zeros(shape, array.dtype)
    out[tuple(slice(a, a + n) for n, (a, _) in zip(array.shape, widths, strict=True))] = array
    return out


# What numerical code uses of both libraries as it is.
_SHARED = (
    *("abs", "add", "all", "any", "append", "arange", "arcsin", "argmax", "argmin", "argsort"),
    "asarray",
    *("broadcast_to", "clip", "concatenate", "diag", "diagonal", "einsum", "exp", "exp2", "expm1"),
    *("eye", "floor", "full", "full_like", "isfinite", "log", "log1p", "log2", "max", "maximum"),
    "logaddexp",
    *("mean", "min", "minimum", "moveaxis", "ones", "ones_like", "pad", "repeat", "sin", "sqrt"),
    *("stack", "sum", "swapaxes", "take_along_axis", "tanh", "tensordot", "where", "zeros"),
    "zeros_like",
)
_LINALG = ["cholesky", "eigh", "norm", "slogdet", "solve", "svd"]


def _taken(module: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


NUMPY = SimpleNamespace(
    **_taken(np, _SHARED)
    | dict(
        linalg=SimpleNamespace(
            **_taken(np.linalg, _LINALG)
            | dict(cholesky=_cholesky)
            | {name: _or_nan(getattr(np.linalg, name)) for name in ("eigh", "solve", "svd")}
        ),
        at=_At,
        einsum=einsum,
        sum=_reduction(np.add, np.sum),
        max=_reduction(np.maximum, np.max),
        min=_reduction(np.minimum, np.min),
        all=_reduction(np.logical_and, np.all),
        stack=_stack,
        moveaxis=_moveaxis,
        pad=_pad,
        rsqrt=lambda x: 1.0 / np.sqrt(x),
        row_products=_row_products,
        by_columns=np.asfortranarray,
        by_rows=np.ascontiguousarray,
        stop_gradient=lambda x: x,
        fori_loop=_fori_loop,
        while_loop=_while_loop,
        cond=_cond,
        vmap=_vmap,
        map=lambda fun, rows: _vmap(fun)(rows),
        side_by_side=side_by_side,
        with_lanes=lambda fun, *arrays: fun(*arrays),
        segment_sum=segment_sum,
        segment_products=segment_products,
        solve_triangular=triangular_solve,
        triangular_solve=triangular_solve,
        linear_solve=lambda times, solve, b: solve(b),
        dynamic_slice_in_dim=_slice,
        dynamic_update_slice_in_dim=_put_slice,
        dynamic_index_in_dim=_index,
        block_diag=_block_diag,
        choose=_choose,
    )
)
"""NumPy, and what code shares with JAX."""


def _traced_products(left: jax.Array, right: jax.Array, segments: Any, count: int) -> jax.Array:
    a, b = left.shape[1], right.shape[1]
    products = (left[:, :, None] * right[:, None, :]).reshape(-1, a * b)
    return jax.ops.segment_sum(products, segments, count).reshape(-1, a, b)


JAX = SimpleNamespace(
    **_taken(jnp, _SHARED)
    | dict(
        linalg=SimpleNamespace(**_taken(jnp.linalg, _LINALG)),
        at=lambda array: array.at,
        rsqrt=lax.rsqrt,
        row_products=lambda rows, matrices: jnp.sum(rows[:, :, None] * matrices, axis=1),
        by_columns=lambda x: x,  # XLA lays arrays out as it likes
        by_rows=lambda x: x,
        stop_gradient=lax.stop_gradient,
        fori_loop=lax.fori_loop,
        while_loop=lax.while_loop,
        cond=lax.cond,
        vmap=jax.vmap,
        map=lax.map,
        side_by_side=jax.vmap,
        segment_sum=jax.ops.segment_sum,
        segment_products=_traced_products,
        solve_triangular=jax.scipy.linalg.solve_triangular,
        triangular_solve=lax.linalg.triangular_solve,
        # a symmetric matrix by what it does: differentiated by ``times``, whatever ``solve`` is
        linear_solve=lambda times, solve, b: lax.custom_linear_solve(
            times, b, lambda _, right: solve(right), symmetric=True
        ),
        dynamic_slice_in_dim=lax.dynamic_slice_in_dim,
        dynamic_update_slice_in_dim=lax.dynamic_update_slice_in_dim,
        dynamic_index_in_dim=lax.dynamic_index_in_dim,
        block_diag=jax.scipy.linalg.block_diag,
        choose=lambda which, first, second: jax.tree.map(
            lambda a, b: jnp.where(which, a, b), first, second
        ),
    )
)
"""``jax.numpy``, and what code shares with NumPy."""

STACKED = stacked_namespace(NUMPY)
"""NumPy of many lanes side by side."""

_SPACES = (NUMPY, STACKED, JAX)
