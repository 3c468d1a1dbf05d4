"""Many arrays of NumPy side by side: what ``vmap`` is to JAX.

A :class:`Stacked` holds one array for each of many *lanes*, lanes last, and behaves as one of
them: code that is written for one theta takes many, and a call of NumPy, which costs as much as
a thousand numbers, does the work of all of them. What all lanes share stays an array of NumPy.
:func:`stacked_namespace` holds the functions of :mod:`lmm_jax.numerics.namespace` for it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np


class Stacked:
    """One array a lane; its shape, axes and entries are those of a lane.

    Parameters
    ----------
    lanes : ndarray, shape (..., R)
    """

    __slots__ = ("lanes",)
    __array_ufunc__ = None  # operators with arrays of NumPy are those below
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, lanes: np.ndarray) -> None:
        self.lanes = lanes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one lane."""
        return self.lanes.shape[:-1]

    @property
    def ndim(self) -> int:
        """Of one lane."""
        return self.lanes.ndim - 1

    @property
    def size(self) -> int:
        """Numbers in one lane."""
        return self.lanes.size // self.lanes.shape[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the entries."""
        return self.lanes.dtype

    @property
    def T(self) -> Stacked:
        """Axes in reverse order."""
        return Stacked(self.lanes.transpose(*range(self.ndim)[::-1], self.ndim))

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("numbers have no length")
        return len(self.lanes)

    def __bool__(self) -> bool:
        raise TypeError("lanes may differ: use where or cond")

    def __getitem__(self, index: Any) -> Stacked:
        return Stacked(self.lanes[_before_lanes(index)])

    def astype(self, dtype: Any) -> Stacked:
        """In another type."""
        return Stacked(self.lanes.astype(dtype))

    def reshape(self, *shape: Any) -> Stacked:
        """In another shape, numbers or a tuple of them."""
        shape = shape[0] if len(shape) == 1 and type(shape[0]) is tuple else shape
        return Stacked(self.lanes.reshape(*shape, self.lanes.shape[-1]))

    def swapaxes(self, a: int, b: int) -> Stacked:
        """With two axes exchanged."""
        return Stacked(self.lanes.swapaxes(_axis(a), _axis(b)))

    def sum(self, axis: int) -> Stacked:
        """Along an axis."""
        return Stacked(np.add.reduce(self.lanes, axis=_axis(axis)))

    def __matmul__(self, other: Any) -> Stacked:
        return _matmul(self, other)

    def __rmatmul__(self, other: Any) -> Stacked:
        return _matmul(other, self)

    def __neg__(self) -> Stacked:
        return Stacked(-self.lanes)

    def __invert__(self) -> Stacked:
        return Stacked(~self.lanes)


def _operator(fun: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """A method of :class:`Stacked` and the one for the other order."""

    def forward(self: Stacked, other: Any) -> Stacked:
        return Stacked(fun(self.lanes, _beside(other)))

    def backward(self: Stacked, other: Any) -> Stacked:
        return Stacked(fun(_beside(other), self.lanes))

    return forward, backward


for _name in ("add", "sub", "mul", "truediv", "pow", "and", "or"):
    _forward, _backward = _operator(getattr(operator, f"__{_name}__"))
    setattr(Stacked, f"__{_name}__", _forward)
    setattr(Stacked, f"__r{_name}__", _backward)
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Stacked, f"__{_name}__", _operator(getattr(operator, f"__{_name}__"))[0])


def as_lanes(tree: Any) -> Any:
    """Arrays with a last axis of R lanes, of any tree."""
    return jax.tree.map(Stacked, tree)


def lanes_last(tree: Any, R: int) -> Any:
    """The same as arrays again; what lanes share is repeated."""
    return _mapped(lambda leaf: _filled(leaf, R), tree)


def stacked(tree: Any) -> Any:
    """Arrays with a leading axis of R lanes, (R, ...), of any tree, as lanes."""
    return jax.tree.map(lambda rows: Stacked(np.ascontiguousarray(np.moveaxis(rows, 0, -1))), tree)


def lanes_first(tree: Any, R: int) -> Any:
    """The same as arrays again; what lanes share is repeated."""
    return _mapped(lambda leaf: np.moveaxis(_filled(leaf, R), -1, 0), tree)


def side_by_side(fun: Callable[[Any], Any]) -> Callable[[np.ndarray], Any]:
    """The function of the rows of an array, (R, ...), in one call; R is first in what it gives."""

    def call(rows: np.ndarray) -> Any:
        return lanes_first(fun(stacked(rows)), len(rows))

    return call


def _mapped(fun: Callable[[Any], Any], tree: Any) -> Any:
    """The function of every array of a tree; nested tuples, most often, take no time."""
    if isinstance(tree, tuple):
        parts = [_mapped(fun, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return fun(tree) if type(tree) in (Stacked, np.ndarray) else jax.tree.map(fun, tree)


def _filled(array: Any, R: int) -> np.ndarray:
    """The lanes of an array, copies where all share it."""
    if type(array) is Stacked:
        return array.lanes
    array = np.asarray(array)
    return np.broadcast_to(array[..., None], (*array.shape, R))


def _beside(other: Any) -> Any:
    """An operand as it stands beside lanes."""
    if type(other) is Stacked:
        return other.lanes
    return other[..., None] if type(other) is np.ndarray and other.ndim else other


def _axis(axis: Any) -> Any:
    """An axis of one lane, or several, where lanes come last."""
    if type(axis) is tuple:
        return tuple(map(_axis, axis))
    return axis if axis >= 0 else axis - 1


def _before_lanes(index: Any) -> Any:
    """An index of one lane as that of all."""
    if type(index) is tuple:
        for at in index:
            if at is Ellipsis:
                return (*index, slice(None))
    return (Ellipsis, slice(None)) if index is Ellipsis else index


def _count(arrays: Sequence[Any]) -> int:
    """Lanes of the arrays, 0 if none is stacked."""
    for array in arrays:
        if type(array) is Stacked:
            return array.lanes.shape[-1]
    return 0


# ------------------------------------------------------------ functions


def _elementwise(fun: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        for arg in args:
            if type(arg) is Stacked:
                return Stacked(fun(*map(_beside, args)))
        return fun(*args)

    return call


def _reduction(ufunc: np.ufunc, plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(array: Any, axis: Any = None, **options: Any) -> Any:
        if type(array) is not Stacked:
            return plain(array, axis=axis, **options)
        axis = tuple(range(array.ndim)) if axis is None else _axis(axis)
        return Stacked(ufunc.reduce(array.lanes, axis=axis, **options))

    return call


def _concatenate(arrays: Sequence[Any], axis: int = 0) -> Any:
    R = _count(arrays)
    if not R:
        return np.concatenate(arrays, axis)
    return Stacked(np.concatenate([_filled(array, R) for array in arrays], axis=_axis(axis)))


def _stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    R = _count(arrays)
    if not R:
        return np.stack(arrays, axis)
    parts = [array.lanes if type(array) is Stacked else _filled(array, R) for array in arrays]
    if len({part.shape for part in parts}) > 1:
        parts = list(np.broadcast_arrays(*parts))
    return Stacked(np.array(parts) if axis == 0 else np.stack(parts, axis=_axis(axis)))


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
        return self.plain.at(_filled(self.array, R))[_before_lanes(self.index)]

    def set(self, values: Any, mode: str | None = None) -> Any:
        R = _count((self.array, values))
        found = self._plain(R).set(_beside(values) if R else values, mode=mode)
        return Stacked(found) if R else found

    def add(self, values: Any, mode: str | None = None) -> Any:
        R = _count((self.array, values))
        if R and type(self.index) is np.ndarray and self.array.ndim == 1 and mode != "drop":
            rows = _filled(values, R)  # an entry may come more than once
            sums = self.plain.segment_sum(rows, self.index, len(self.array))
            return Stacked(_filled(self.array, R) + sums)
        found = self._plain(R).add(_beside(values) if R else values, mode=mode)
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


def _matmul(A: Any, B: Any) -> Stacked:
    if A.ndim == 1 and type(B) is np.ndarray:
        return Stacked(np.moveaxis(A.lanes.T @ B, 0, -1))
    if A.ndim == 1 or B.ndim == 1:  # elementwise: no small products lane by lane
        product = _beside(A[:, None] if B.ndim > 1 else A) * _beside(B)
        return Stacked(np.add.reduce(product, axis=-2 if A.ndim > 1 else 0))
    found = _matrices_first(A) @ _matrices_first(B)
    return Stacked(found.transpose(*range(1, found.ndim), 0))


def _matrices_first(A: Any) -> Any:
    """Matrices with the axis of lanes before their own, where there is one."""
    if type(A) is not Stacked:
        return A
    return A.lanes.transpose(A.ndim, *range(A.ndim))


def _of_matrices(fun: Callable[..., Any]) -> Callable[..., Any]:
    """A function of LAPACK, which takes matrices along first axes."""

    def call(*args: Any, **options: Any) -> Any:
        R = _count(args)
        if not R:
            return fun(*args, **options)
        found = fun(*(np.moveaxis(_filled(arg, R), -1, 0) for arg in args), **options)
        return _mapped(lambda leaf: Stacked(np.moveaxis(leaf, 0, -1)), found)

    return call


def _diagonal(A: Any, axis1: int = 0, axis2: int = 1) -> Any:
    if type(A) is not Stacked:
        return np.diagonal(A, axis1=axis1, axis2=axis2)
    found = np.diagonal(A.lanes, axis1=_axis(axis1), axis2=_axis(axis2))
    return Stacked(found.swapaxes(-1, -2))


def _moveaxis(array: Any, source: Any, target: Any) -> Any:
    if type(array) is not Stacked:
        return np.moveaxis(array, source, target)
    return Stacked(np.moveaxis(array.lanes, _axis(source), _axis(target)))


def _padding(plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(array: Any, widths: Sequence[tuple[int, int]]) -> Any:
        if type(array) is not Stacked:
            return plain(array, widths)
        return Stacked(plain(array.lanes, (*widths, (0, 0))))

    return call


def _with_lanes(fun: Callable[..., Any], *arrays: Any) -> Any:
    """A function of arrays that may have lanes last, of lanes and of what they share."""
    R = _count(arrays)
    return _mapped(Stacked, fun(*(_filled(array, R) for array in arrays)))


def _repeat(array: Any, count: int, axis: int = 0) -> Any:
    if type(array) is not Stacked:
        return np.repeat(array, count, axis=axis)
    return Stacked(np.repeat(array.lanes, count, axis=_axis(axis)))


def _argmax(array: Any) -> Any:
    if type(array) is not Stacked:
        return np.argmax(array)
    return Stacked(np.argmax(array.lanes.reshape(-1, array.lanes.shape[-1]), axis=0))


def _broadcast_to(array: Any, shape: tuple[int, ...]) -> Any:
    if type(array) is not Stacked:
        return np.broadcast_to(array, shape)
    return Stacked(np.broadcast_to(array.lanes, (*shape, array.lanes.shape[-1])))


def _block_diag(plain: Callable[..., Any], *blocks: Any) -> Any:
    R = _count(blocks)
    if not R:
        return plain(*blocks)
    rows, columns = (sum(b.shape[axis] for b in blocks) for axis in (0, 1))
    out, i, j = np.zeros((rows, columns, R)), 0, 0
    for block in blocks:
        k, m = block.shape
        out[i : i + k, j : j + m] = _beside(block)
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
    return Stacked(np.where(which.lanes, _beside(a), _beside(b)))


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


def stacked_namespace(plain: SimpleNamespace) -> SimpleNamespace:
    """The functions of a namespace of NumPy for arrays of which some are :class:`Stacked`."""
    own: dict[str, Any] = dict(
        linalg=SimpleNamespace(
            cholesky=_of_matrices(plain.linalg.cholesky),
            eigh=_of_matrices(plain.linalg.eigh),
            slogdet=_of_matrices(plain.linalg.slogdet),
            solve=_of_matrices(plain.linalg.solve),
            svd=_of_matrices(plain.linalg.svd),
            norm=lambda x: own["sqrt"](own["sum"](x * x)),
        ),
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
