"""The functions of :mod:`lmm_jax.numerics.namespace` for arrays of which some have lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from .stacked import Stacked, before_lanes, beside, count_lanes, filled, lane_axis, mapped


def _elementwise(fun: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        for arg in args:
            if type(arg) is Stacked:
                return Stacked(fun(*map(beside, args)))
        return fun(*args)

    return call


def _reduction(ufunc: np.ufunc, plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(array: Any, axis: Any = None, **options: Any) -> Any:
        if type(array) is not Stacked:
            return plain(array, axis=axis, **options)
        axis = tuple(range(array.ndim)) if axis is None else lane_axis(axis)
        return Stacked(ufunc.reduce(array.lanes, axis=axis, **options))

    return call


def _mean(array: Any, axis: Any = None) -> Any:
    if type(array) is not Stacked:
        return np.mean(array, axis=axis)
    axis = tuple(range(array.ndim)) if axis is None else lane_axis(axis)
    return Stacked(array.lanes.mean(axis=axis))


def _concatenate(arrays: Sequence[Any], axis: int = 0) -> Any:
    R = count_lanes(arrays)
    if not R:
        return np.concatenate(arrays, axis)
    return Stacked(np.concatenate([filled(array, R) for array in arrays], axis=lane_axis(axis)))


def _stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    R = count_lanes(arrays)
    if not R:
        return np.stack(arrays, axis)
    parts = [array.lanes if type(array) is Stacked else filled(array, R) for array in arrays]
    if len({part.shape for part in parts}) > 1:
        parts = list(np.broadcast_arrays(*parts))
    return Stacked(np.array(parts) if axis == 0 else np.stack(parts, axis=lane_axis(axis)))


class _At:
    """``a.at[index].set(b)`` and ``.add(b)``, of an array or lanes that get lanes."""

    __slots__ = ("array", "index", "plain")

    def __init__(self, array: Any, plain: SimpleNamespace, index: Any = None) -> None:
        self.array, self.plain, self.index = array, plain, index

    def __getitem__(self, index: Any) -> _At:
        return _At(self.array, self.plain, index)

    def _plain(self, R: int) -> Any:
        """The same of the array that all lanes make up, of R lanes; of none as it is."""
        if not R:
            return self.plain.at(self.array)[self.index]
        return self.plain.at(filled(self.array, R))[before_lanes(self.index)]

    def set(self, values: Any, mode: str | None = None) -> Any:
        R = count_lanes((self.array, values))
        found = self._plain(R).set(beside(values) if R else values, mode=mode)
        return Stacked(found) if R else found

    def add(self, values: Any, mode: str | None = None) -> Any:
        R = count_lanes((self.array, values))
        if R and type(self.index) is np.ndarray and self.array.ndim == 1 and mode != "drop":
            rows = filled(values, R)  # an entry may come more than once
            sums = self.plain.segment_sum(rows, self.index, len(self.array))
            return Stacked(filled(self.array, R) + sums)
        found = self._plain(R).add(beside(values) if R else values, mode=mode)
        return Stacked(found) if R else found


@cache
def lane_spec(spec: str, stacked: tuple[bool, ...]) -> str:
    """An Einstein sum with the axis of lanes, Z, wherever there are lanes."""
    inputs, out = spec.split("->")
    names = [n + "Z" if many else n for n, many in zip(inputs.split(","), stacked, strict=True)]
    return f"{','.join(names)}->{out}Z"


def _einsum(spec: str, *operands: Any) -> Any:
    stacked = tuple(type(operand) is Stacked for operand in operands)
    if not any(stacked):
        return np.einsum(spec, *operands)
    arrays = [o.lanes if many else o for o, many in zip(operands, stacked, strict=True)]
    return Stacked(np.einsum(lane_spec(spec, stacked), *arrays))


def _of_matrices(fun: Callable[..., Any]) -> Callable[..., Any]:
    """A function of LAPACK, which takes matrices along first axes."""

    def call(*args: Any, **options: Any) -> Any:
        R = count_lanes(args)
        if not R:
            return fun(*args, **options)
        found = fun(*(np.moveaxis(filled(arg, R), -1, 0) for arg in args), **options)
        return mapped(lambda leaf: Stacked(np.moveaxis(leaf, 0, -1)), found)

    return call


def _diagonal(A: Any, axis1: int = 0, axis2: int = 1) -> Any:
    if type(A) is not Stacked:
        return np.diagonal(A, axis1=axis1, axis2=axis2)
    found = np.diagonal(A.lanes, axis1=lane_axis(axis1), axis2=lane_axis(axis2))
    return Stacked(found.swapaxes(-1, -2))


def _diag(d: Any) -> Any:
    if type(d) is not Stacked:
        return np.diag(d)
    (n, R), at = d.lanes.shape, np.arange(len(d))
    out = np.zeros((n, n, R), d.dtype)
    out[at, at] = d.lanes
    return Stacked(out)


def _moveaxis(array: Any, source: Any, target: Any) -> Any:
    if type(array) is not Stacked:
        return np.moveaxis(array, source, target)
    return Stacked(np.moveaxis(array.lanes, lane_axis(source), lane_axis(target)))


def _padding(plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(array: Any, widths: Sequence[tuple[int, int]]) -> Any:
        if type(array) is not Stacked:
            return plain(array, widths)
        return Stacked(plain(array.lanes, (*widths, (0, 0))))

    return call


def _with_lanes(fun: Callable[..., Any], *arrays: Any) -> Any:
    """A function of arrays that may have lanes last, of lanes and of what they share."""
    R = count_lanes(arrays)
    return mapped(Stacked, fun(*(filled(array, R) for array in arrays)))


def _repeat(array: Any, count: int, axis: int = 0) -> Any:
    if type(array) is not Stacked:
        return np.repeat(array, count, axis=axis)
    return Stacked(np.repeat(array.lanes, count, axis=lane_axis(axis)))


def _argmax(array: Any) -> Any:
    if type(array) is not Stacked:
        return np.argmax(array)
    return Stacked(np.argmax(array.lanes.reshape(-1, array.lanes.shape[-1]), axis=0))


def _broadcast_to(array: Any, shape: tuple[int, ...]) -> Any:
    if type(array) is not Stacked:
        return np.broadcast_to(array, shape)
    return Stacked(np.broadcast_to(array.lanes, (*shape, array.lanes.shape[-1])))


def _block_diag(plain: Callable[..., Any], *blocks: Any) -> Any:
    R = count_lanes(blocks)
    if not R:
        return plain(*blocks)
    rows, columns = (sum(b.shape[axis] for b in blocks) for axis in (0, 1))
    out, i, j = np.zeros((rows, columns, R)), 0, 0
    for block in blocks:
        k, m = block.shape
        out[i : i + k, j : j + m] = beside(block)
        i, j = i + k, j + m
    return Stacked(out)


def _cond(which: Any, first: Callable[..., Any], second: Callable[..., Any], *args: Any) -> Any:
    if type(which) is not Stacked:
        return first(*args) if which else second(*args)
    if which.lanes.all():
        return first(*args)
    if not which.lanes.any():
        return second(*args)
    return _chosen(which, first(*args), second(*args))


def _chosen(which: Any, a: Any, b: Any) -> Any:
    """Of two trees, array by array, that of the lanes for which it holds and the other."""
    if type(which) is not Stacked:
        return a if which else b
    if isinstance(a, tuple):
        parts = [_chosen(which, x, y) for x, y in zip(a, b, strict=True)]
        return type(a)(*parts) if hasattr(a, "_fields") else tuple(parts)
    return Stacked(np.where(which.lanes, beside(a), beside(b)))


def _while_loop(go_on: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    """Until no lane goes on; lanes that have ended stay as they were."""
    going = go_on(state)  # all lanes share it as long as they share the state
    while going.lanes.any() if type(going) is Stacked else going:
        new = body(state)
        some = type(going) is Stacked and not going.lanes.all()
        state = _chosen(going, new, state) if some else new
        going = go_on(state)
    return state


def _flat(array: Any) -> Any:
    return array.reshape(-1) if type(array) is Stacked else np.reshape(array, (-1,))


def _like(fun: Callable[..., Any]) -> Callable[..., Any]:
    def call(array: Any, *args: Any) -> Any:
        if type(array) is not Stacked:
            return fun(array, *args)
        return Stacked(fun(array.lanes, *args))

    return call


def _segment_products(plain: SimpleNamespace, left: Any, right: Any, at: Any, count: int) -> Any:
    if type(left) is not Stacked:
        if type(right) is not Stacked:
            return plain.segment_products(left, right, at, count)
        n, b, R = right.lanes.shape
        found = plain.segment_products(left, right.lanes.reshape(n, b * R), at, count)
        return Stacked(found.reshape(count, left.shape[1], b, R))
    products = left[:, :, None] * right[:, None]
    return Stacked(plain.segment_sum(products.lanes, at, count))


def _unlaned(fun: Callable[..., Any]) -> Callable[..., Any]:
    """An order of memory, which lanes have of their own."""
    return lambda array: array if type(array) is Stacked else fun(array)


def _linear_algebra(plain: SimpleNamespace) -> SimpleNamespace:
    names = ("cholesky", "eigh", "slogdet", "solve", "svd")
    own: dict[str, Any] = {name: _of_matrices(getattr(plain.linalg, name)) for name in names}
    solve = own.pop("solve")

    def solve_all(A: Any, b: Any) -> Any:
        """NumPy takes a stack of vectors for a matrix."""
        return solve(A, b) if b.ndim > 1 else solve(A, b[:, None])[:, 0]

    return SimpleNamespace(norm=_norm, solve=solve_all, **own)


def _norm(x: Any) -> Any:
    """Of a vector a lane."""
    return Stacked(np.sqrt(np.add.reduce(x.lanes * x.lanes, axis=0)))


def stacked_namespace(plain: SimpleNamespace) -> SimpleNamespace:
    """The functions of a namespace of NumPy for arrays of which some are :class:`Stacked`."""
    own: dict[str, Any] = dict(
        linalg=_linear_algebra(plain),
        sum=_reduction(np.add, plain.sum),
        max=_reduction(np.maximum, plain.max),
        min=_reduction(np.minimum, plain.min),
        all=_reduction(np.logical_and, plain.all),
        any=_reduction(np.logical_or, plain.any),
        concatenate=_concatenate,
        stack=_stack,
        append=lambda a, b: own["concatenate"]([_flat(a), _flat(b)]),
        at=lambda array: _At(array, plain),
        einsum=_einsum,
        mean=_mean,
        diag=_diag,
        diagonal=_diagonal,
        moveaxis=_moveaxis,
        swapaxes=lambda array, a, b: array.swapaxes(a, b),
        pad=_padding(plain.pad),
        argmax=_argmax,
        repeat=_repeat,
        with_lanes=_with_lanes,
        broadcast_to=_broadcast_to,
        block_diag=partial(_block_diag, plain.block_diag),
        segment_products=partial(_segment_products, plain),
        row_products=lambda rows, matrices: _einsum("nk,nkc->nc", rows, matrices),
        solve_triangular=_of_matrices(plain.solve_triangular),
        triangular_solve=_of_matrices(plain.triangular_solve),
        cond=_cond,
        choose=_chosen,
        while_loop=_while_loop,
    )
    elementwise = (
        *("abs", "add", "clip", "exp", "exp2", "floor", "isfinite", "log", "log2"),
        *("maximum", "minimum", "rsqrt", "sqrt", "tanh"),
    )
    own |= {name: _elementwise(getattr(plain, name)) for name in (*elementwise, "where")}
    like = ("full_like", "ones_like", "segment_sum", "zeros_like")
    own |= {name: _like(getattr(plain, name)) for name in like}
    unlaned = ("by_columns", "by_rows")
    own |= {name: _unlaned(getattr(plain, name)) for name in unlaned}
    same = ("arange", "asarray", "eye", "fori_loop", "full", "ones", "stop_gradient", "zeros")
    own |= {name: getattr(plain, name) for name in same}
    return SimpleNamespace(**own)
