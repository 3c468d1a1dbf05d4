"""Solves and determinants with ``s I + A B A'``, B block diagonal and possibly singular."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import lu_factor, lu_solve

from .linalg import exact
from .processes import check_process


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
    AB = _times_block(A, Q, d)
    inner = lu_factor(_inner(s, A, AB))

    @exact
    def solve(rhs: Array) -> Array:
        return (rhs - AB @ lu_solve(inner, A.T @ rhs)) / s

    return solve


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
    n, m = A.shape
    return (n - m) * jnp.log(s) + jnp.linalg.slogdet(_inner(s, A, _times_block(A, Q, d)))[1]


def _times_block(A: Array, Q: Array, d: Array) -> Array:
    """``A B``."""
    k = Q.shape[0]
    return jnp.concatenate([A[:, :k] @ Q, A[:, k:] * d[None, :]], axis=1)


def _inner(s: Array | float, A: Array, AB: Array) -> Array:
    """``s I + A'A B``."""
    return s * jnp.eye(A.shape[1], dtype=A.dtype) + A.T @ AB
