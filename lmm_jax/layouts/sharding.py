"""A layout spread over devices: every device holds some of the groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ..capabilities import require
from ..errors import DataError
from ..inputs.arguments import hinted, instance, shown
from ..numerics.processes import float64
from .grouped import GroupedLayout


@hinted
def shard(layout: GroupedLayout, mesh: Mesh, axis: str) -> GroupedLayout:
    """Place a layout on several devices, the groups divided among them.

    ``log|V|`` and the gram matrix are sums over groups: each device sums over
    its own, and the compiler inserts the sums over devices.

    Parameters
    ----------
    layout : GroupedLayout
        In a program of several processes, the same on each of them.
    mesh : jax.sharding.Mesh
        With an axis of type Auto of the name ``axis``.
    axis : str
        Axis of the mesh over which the groups are divided.

    Returns
    -------
    GroupedLayout
        The same model, padded by empty groups to a multiple of the axis: arrays
        over groups are divided, everything else is on all devices. In the dtype
        of the layout.

    Raises
    ------
    DataError
        A layout with crossed random effects, or one that is traced, or a mesh without a fitting
        axis.

    Examples
    --------
    >>> import jax, lmm_jax as lmm
    >>> mesh = jax.make_mesh((1,), ("groups",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> layout = lmm.design("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff")).layout
    >>> with jax.enable_x64(True):
    ...     out = jax.jit(lmm.fit_params)(lmm.shard(layout, mesh, "groups"))
    ...     print(f"{out.llf:.4f}")
    -159.8271
    """
    require(layout, "shard")
    instance(mesh, "mesh", Mesh, "a jax.sharding.Mesh (jax.make_mesh)")
    if not isinstance(axis, str) or axis not in mesh.axis_names:
        raise DataError(f"axis={shown(axis)}: the mesh has the axes {list(mesh.axis_names)}")
    kind = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[axis]
    if kind is not AxisType.Auto:
        raise DataError(
            f"the axis {axis!r} is of type {kind.name}: make the mesh with "
            "axis_types=(jax.sharding.AxisType.Auto,)"
        )
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(layout)):
        raise DataError(
            "shard divides arrays that are there, and this layout is traced by JAX: call it before "
            "jit, lmm.shard(layout, mesh, axis), and pass what it gives"
        )
    whole = NamedSharding(mesh, PartitionSpec())
    n = mesh.shape[axis]
    with float64():  # keeps the dtype of the leaves
        buckets = tuple(
            replace(jax.tree.map(lambda a: _divide(a, n, mesh, axis), b), divided=True)
            for b in layout.buckets
        )
        rest = jax.tree.map(lambda a: _place(np.asarray(a), whole), replace(layout, buckets=()))
    return replace(rest, buckets=buckets)


def _divide(values: Any, n: int, mesh: Mesh, axis: str) -> jax.Array:
    """Divided along the groups, with empty ones at the end up to a multiple of n."""
    array = np.asarray(values)
    spare = [(0, 0)] * (array.ndim - 1) + [(0, -array.shape[-1] % n)]
    spec = PartitionSpec(*[None] * (array.ndim - 1), axis)
    return _place(np.pad(array, spare), NamedSharding(mesh, spec))


def _place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """On the devices of this process, its part of an array that every process has."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
