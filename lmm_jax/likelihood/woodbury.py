"""Solves and determinants with ``s I + A B A'``, B block diagonal and possibly singular."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import lu_factor, lu_solve

from ..covariance.params import real_array
from ..errors import DataError
from ..inputs.arguments import hinted, number
from ..numerics.linalg import exact
from ..numerics.processes import check_process


@hinted
@exact
def woodbury_solver(s: Array | float, A: Array, Q: Array, d: Array) -> Callable[[Array], Array]:
    """Function that applies ``(s I + A B A')^-1`` with ``B = blockdiag(Q, diag(d))``.

    Parameters
    ----------
    s : float or Array, shape ()
        Positive.
    A : Array, shape (n, m)
    Q : Array, shape (k, k)
        Symmetric positive semidefinite; ``k = 0`` is allowed.
    d : Array, shape (m - k,)
        Non-negative.

    Returns
    -------
    callable
        From a right-hand side of shape (n,) or (n, r) to the solution, at the
        cost of products with A and one solve of size m.

    Notes
    -----
    ``(s I + A B A')^-1 = (I - A B (s I + A'A B)^-1 A') / s``: nothing inverts B,
    so zero variances are fine.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> A = jnp.ones((3, 1))
    >>> x = woodbury_solver(1.0, A, jnp.zeros((0, 0)), jnp.array([2.0]))(jnp.ones(3))
    >>> [f"{value:.4f}" for value in x.tolist()]
    ['0.1429', '0.1429', '0.1429']
    """
    check_process()
    s, A, Q, d = _read(s, A, Q, d)
    AB = _times_block(A, Q, d)
    inner = lu_factor(_inner(s, A, AB))

    @exact
    def solve(rhs: Array) -> Array:
        return (rhs - AB @ lu_solve(inner, A.T @ rhs)) / s

    return solve


@hinted
@exact
def woodbury_logdet(s: Array | float, A: Array, Q: Array, d: Array) -> Array:
    """``log|s I + A B A'|`` with ``B = blockdiag(Q, diag(d))``.

    Parameters
    ----------
    s, A, Q, d
        As in :func:`woodbury_solver`.

    Returns
    -------
    Array, shape ()
        ``(n - m) log s + log|s I + A'A B|``.
    """
    check_process()
    s, A, Q, d = _read(s, A, Q, d)
    n, m = A.shape
    return (n - m) * jnp.log(s) + jnp.linalg.slogdet(_inner(s, A, _times_block(A, Q, d)))[1]


def _read(s: Any, A: Any, Q: Any, d: Any) -> tuple[Any, Array, Array, Array]:
    """Arrays of floats whose shapes fit each other."""
    if not isinstance(s, jax.Array | np.ndarray):
        s = number(s, "s")
    elif s.shape != ():
        raise DataError(f"s has the shape {s.shape}: one number is needed")
    else:
        s = real_array(s, "s")
    A, Q, d = (jnp.asarray(real_array(v, n)) for v, n in ((A, "A"), (Q, "Q"), (d, "d")))
    k, m = Q.shape[-1] if Q.ndim else -1, A.shape[-1] if A.ndim else -1
    if A.ndim != 2 or Q.shape != (k, k) or d.shape != (m - k,):
        raise DataError(
            f"A, Q and d have the shapes {A.shape}, {Q.shape} and {d.shape}: (n, m), (k, k) and "
            "(m - k,) are needed"
        )
    return s, A, Q, d


def _times_block(A: Array, Q: Array, d: Array) -> Array:
    """``A B``."""
    k = Q.shape[0]
    return jnp.concatenate([A[:, :k] @ Q, A[:, k:] * d[None, :]], axis=1)


def _inner(s: Array | float, A: Array, AB: Array) -> Array:
    """``s I + A'A B``."""
    return s * jnp.eye(A.shape[1], dtype=A.dtype) + A.T @ AB
