"""Parameters of a mixed model as a pytree, and their packed vector.

``cov_re`` and ``vcomp`` are relative to the residual variance here (the profile
parameterization: sigma^2 is profiled out of the likelihood).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Params:
    """Parameters of a linear mixed model.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> p = Params(fe_params=jnp.zeros(2), cov_re=jnp.eye(2), vcomp=jnp.zeros(0))
    >>> pack(p, sizes=(2,)).shape
    (5,)
    """

    fe_params: Array  # (p,)      fixed effects
    cov_re: Array  # (k_re, k_re)  relative covariance of the correlated terms, block diagonal
    vcomp: Array  # (k_vc,)    relative variances of the components


def cov_indices(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Entries of ``cov_re`` that are parameters: lower triangles of the blocks, row by row."""
    rows, columns = [np.zeros(0, int)], [np.zeros(0, int)]
    offset = 0
    for k in sizes:
        i, j = np.tril_indices(k)
        rows.append(offset + i)
        columns.append(offset + j)
        offset += k
    return np.concatenate(rows), np.concatenate(columns)


def pack(params: Params, sizes: Sequence[int], *, with_fe: bool = True) -> Array:
    """Flat vector: fixed effects, lower triangle of ``cov_re`` row by row, components.

    Parameters
    ----------
    params : Params
    sizes : sequence of int
        Block sizes of ``cov_re``.
    with_fe : bool
        Whether the fixed effects come first.

    Returns
    -------
    Array, shape (p + n_cov + k_vc,)
    """
    parts = [params.fe_params] if with_fe else []
    return jnp.concatenate([*parts, params.cov_re[cov_indices(sizes)], params.vcomp])


def unpack(vector: Array, sizes: Sequence[int], k_fe: int) -> Params:
    """Inverse of :func:`pack`; ``k_fe = 0`` reads a vector without fixed effects."""
    rows, columns = cov_indices(sizes)
    k = sum(sizes)
    cut = k_fe + rows.size
    lower = vector[k_fe:cut]
    cov = jnp.zeros((k, k), vector.dtype).at[rows, columns].set(lower).at[columns, rows].set(lower)
    return Params(fe_params=vector[:k_fe], cov_re=cov, vcomp=vector[cut:])
