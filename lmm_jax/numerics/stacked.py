"""Many arrays of NumPy side by side: what ``vmap`` is to JAX.

A :class:`Stacked` holds one array for each of many *lanes*, lanes last, and behaves as one of
them: code that is written for one theta takes many, and a call of NumPy, which costs as much as
a thousand numbers, does the work of all of them. What all lanes share stays an array of NumPy.
The functions of :mod:`lmm_jax.numerics.namespace` for it are in :mod:`.stacked_functions`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
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
        return Stacked(self.lanes[before_lanes(index)])

    def astype(self, dtype: Any) -> Stacked:
        """In another type."""
        return Stacked(self.lanes.astype(dtype))

    def reshape(self, *shape: Any) -> Stacked:
        """In another shape, numbers or a tuple of them."""
        shape = shape[0] if len(shape) == 1 and type(shape[0]) is tuple else shape
        return Stacked(self.lanes.reshape(*shape, self.lanes.shape[-1]))

    def swapaxes(self, a: int, b: int) -> Stacked:
        """With two axes exchanged."""
        return Stacked(self.lanes.swapaxes(lane_axis(a), lane_axis(b)))

    def sum(self, axis: int) -> Stacked:
        """Along an axis."""
        return Stacked(np.add.reduce(self.lanes, axis=lane_axis(axis)))

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
        return Stacked(fun(self.lanes, beside(other)))

    def backward(self: Stacked, other: Any) -> Stacked:
        return Stacked(fun(beside(other), self.lanes))

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
    return mapped(lambda leaf: filled(leaf, R), tree)


def stacked(tree: Any) -> Any:
    """Arrays with a leading axis of R lanes, (R, ...), of any tree, as lanes."""
    return jax.tree.map(lambda rows: Stacked(np.ascontiguousarray(np.moveaxis(rows, 0, -1))), tree)


def lanes_first(tree: Any, R: int) -> Any:
    """The same as arrays again; what lanes share is repeated."""
    return mapped(lambda leaf: np.moveaxis(filled(leaf, R), -1, 0), tree)


def side_by_side(fun: Callable[[Any], Any]) -> Callable[[np.ndarray], Any]:
    """The function of the rows of an array, (R, ...), in one call; R is first in what it gives."""

    def call(rows: np.ndarray) -> Any:
        return lanes_first(fun(stacked(rows)), len(rows))

    return call


def mapped(fun: Callable[[Any], Any], tree: Any) -> Any:
    """The function of every array of a tree; nested tuples, most often, take no time."""
    if isinstance(tree, tuple):
        parts = [mapped(fun, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return fun(tree) if type(tree) in (Stacked, np.ndarray) else jax.tree.map(fun, tree)


def filled(array: Any, R: int) -> np.ndarray:
    """The lanes of an array, copies where all share it."""
    if type(array) is Stacked:
        return array.lanes
    array = np.asarray(array)
    return np.broadcast_to(array[..., None], (*array.shape, R))


def beside(other: Any) -> Any:
    """An operand as it stands beside lanes."""
    if type(other) is Stacked:
        return other.lanes
    return other[..., None] if type(other) is np.ndarray and other.ndim else other


def lane_axis(axis: Any) -> Any:
    """An axis of one lane, or several, where lanes come last."""
    if type(axis) is tuple:
        return tuple(map(lane_axis, axis))
    return axis if axis >= 0 else axis - 1


def before_lanes(index: Any) -> Any:
    """An index of one lane as that of all."""
    if type(index) is tuple:
        for at in index:
            if at is Ellipsis:
                return (*index, slice(None))
    return (Ellipsis, slice(None)) if index is Ellipsis else index


def count_lanes(arrays: Sequence[Any]) -> int:
    """Lanes of the arrays, 0 if none is stacked."""
    for array in arrays:
        if type(array) is Stacked:
            return array.lanes.shape[-1]
    return 0


def _matmul(A: Any, B: Any) -> Stacked:
    if A.ndim == 1 and type(B) is np.ndarray:
        return Stacked(np.moveaxis(A.lanes.T @ B, 0, -1))
    if A.ndim == 1 or B.ndim == 1:  # elementwise: no small products lane by lane
        product = beside(A[:, None] if B.ndim > 1 else A) * beside(B)
        return Stacked(np.add.reduce(product, axis=-2 if A.ndim > 1 else 0))
    axes = max(A.ndim, B.ndim)
    found = _matrices_first(A, axes) @ _matrices_first(B, axes)
    return Stacked(found.transpose(*range(1, found.ndim), 0))


def _matrices_first(A: Any, axes: int) -> Any:
    """Matrices with the axis of lanes, where there is one, before as many others."""
    if type(A) is not Stacked:
        return A
    first = A.lanes.transpose(A.ndim, *range(A.ndim))
    return first.reshape(len(first), *(1,) * (axes - A.ndim), *A.shape)
