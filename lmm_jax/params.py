"""Parameters of a mixed model as a pytree, and their packed vector.

Three parameterizations are in use:

- user: covariances of the data;
- profile: divided by the residual variance, which is profiled out of the likelihood;
- square root: Cholesky factor of the profile covariance, square roots of the components.

A :class:`Params` holds profile values; :func:`pack` writes profile or square-root
vectors, and :meth:`Params.rescaled` multiplies by a residual variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .linalg import psd_cholesky
from .processes import check_process
from .reprs import brief


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Params:
    """Parameters of a linear mixed model, a pytree.

    ``cov_re`` and ``vcomp`` are relative to the residual variance unless a
    function says otherwise; :meth:`from_components` fills in what is left out.

    Examples
    --------
    >>> import numpy as np
    >>> p = Params.from_components(fe_params=np.zeros(2), cov_re=np.eye(2))
    >>> pack(p).shape, pack(p, with_fe=False).shape
    ((5,), (3,))
    """

    fe_params: Array  # (p,)      fixed effects
    cov_re: Array  # (k_re, k_re)  covariance of the correlated terms, block diagonal
    vcomp: Array  # (k_vc,)    variances of the components

    __repr__ = brief

    @staticmethod
    def from_components(
        fe_params: Any = None, cov_re: Any = None, cov_re_sqrt: Any = None, vcomp: Any = None
    ) -> Params:
        """Parameters from a covariance or from its lower triangular square root.

        Parameters
        ----------
        fe_params : array, shape (p,), optional
        cov_re : array, shape (k_re, k_re), optional
        cov_re_sqrt : array, shape (k_re, k_re), optional
            ``L`` with ``cov_re = L L'``; instead of ``cov_re``.
        vcomp : array, shape (k_vc,), optional

        Raises
        ------
        ValueError
            Both ``cov_re`` and ``cov_re_sqrt``, or a matrix that is not square.
        """
        if cov_re is not None and cov_re_sqrt is not None:
            raise ValueError("give cov_re or cov_re_sqrt, not both")
        cov = _array(np.zeros((0, 0)) if cov_re is None else cov_re)
        if cov_re_sqrt is not None:
            L = _array(cov_re_sqrt)
            cov = L @ L.T
        if cov.ndim != 2 or cov.shape[0] != cov.shape[1]:
            raise ValueError(f"cov_re has the shape {cov.shape}: a square matrix is needed")
        return Params(
            fe_params=_array(np.zeros(0) if fe_params is None else fe_params),
            cov_re=cov,
            vcomp=_array(np.zeros(0) if vcomp is None else vcomp),
        )

    def rescaled(self, factor: Any) -> Params:
        """Covariances times ``factor``: the residual variance leads from profile to user."""
        return Params(
            fe_params=self.fe_params, cov_re=self.cov_re * factor, vcomp=self.vcomp * factor
        )


def _array(values: Any) -> Any:
    """Leave arrays and tracers alone, make NumPy arrays of everything else."""
    return values if isinstance(values, jax.Array) else np.asarray(values, dtype=np.float64)


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


def pack(
    params: Params,
    sizes: Sequence[int] | None = None,
    *,
    with_fe: bool = True,
    sqrt: bool = False,
) -> Array:
    """Flat vector: fixed effects, lower triangle of ``cov_re`` row by row, components.

    Parameters
    ----------
    params : Params
        Profile parameterization.
    sizes : sequence of int, optional
        Block sizes of ``cov_re``; one block if not given.
    with_fe : bool
        Whether the fixed effects come first.
    sqrt : bool
        Square-root parameterization: the Cholesky factor of ``cov_re`` and the
        square roots of ``vcomp``.

    Returns
    -------
    Array, shape (p + n_cov + k_vc,)
    """
    check_process()
    sizes = _block_sizes(params, sizes)
    cov, vcomp = jnp.asarray(params.cov_re), jnp.asarray(params.vcomp)
    if sqrt:
        cov, vcomp = psd_cholesky(cov) if cov.size else cov, jnp.sqrt(vcomp)
    parts = [jnp.asarray(params.fe_params)] if with_fe else []
    return jnp.concatenate([*parts, cov[cov_indices(sizes)], vcomp])


def unpack(
    vector: Any, sizes: Sequence[int], k_fe: int, k_vc: int | None = None, *, sqrt: bool = False
) -> Params:
    """Inverse of :func:`pack`.

    Parameters
    ----------
    vector : Array, shape (k_fe + n_cov + k_vc,)
    sizes : sequence of int
        Block sizes of ``cov_re``.
    k_fe : int
        Fixed effects at the start of the vector; 0 for a vector without them.
    k_vc : int, optional
        Number of components, to check the length.
    sqrt : bool
        The vector is in the square-root parameterization.

    Returns
    -------
    Params
        Profile parameterization.

    Raises
    ------
    ValueError
        The vector has another length.
    """
    check_process()
    vector = jnp.asarray(vector)
    rows, columns = cov_indices(sizes)
    k, cut = sum(sizes), k_fe + rows.size
    if vector.ndim != 1 or vector.size < cut or (k_vc is not None and vector.size != cut + k_vc):
        parts = f"{k_fe} fixed effects, {rows.size} covariances and {k_vc or 'the'} components"
        raise ValueError(f"a vector of {parts} is needed, not one of shape {vector.shape}")
    lower, vcomp = vector[k_fe:cut], vector[cut:]
    cov = jnp.zeros((k, k), vector.dtype).at[rows, columns].set(lower)
    if sqrt:
        cov, vcomp = cov @ cov.T, vcomp**2
    else:
        cov = cov.at[columns, rows].set(lower)
    return Params(fe_params=vector[:k_fe], cov_re=cov, vcomp=vcomp)


def _block_sizes(params: Params, sizes: Sequence[int] | None) -> Sequence[int]:
    k = params.cov_re.shape[0]
    sizes = ((k,) if k else ()) if sizes is None else sizes
    if sum(sizes) != k:
        raise ValueError(f"block sizes {tuple(sizes)} do not add up to the {k} rows of cov_re")
    return sizes
