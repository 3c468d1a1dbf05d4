"""Structures of terms whose coefficients are correlated by a few parameters, `ar1(0 + f | g)`.

    Psi = diag(s) C diag(s)          Lambda = diag(s) chol(C)

with C of :mod:`lmm_jax.covariance.correlations`, as residuals have them; Lambda is not linear in
its parameters. What a formula may ask for, by name, stands here as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..numerics.linalg import exact, symmetric_blocks
from ..numerics.namespace import namespace
from .arma import FirstOrders
from .correlations import AT_BOUND, Correlation
from .distances import Autoregressive, Toeplitz
from .structures import CompoundSymmetry, Identity, Pattern, Structure, Unstructured, positive
from .triangles import ZERO_PIVOT
from .visits import Antedependent, Symmetric


@dataclass(frozen=True, slots=True)
class Correlated(Structure):
    """Correlations of k coefficients, in their order, and one variance or k.

    Theta holds s, then the parameters of C. One standard deviation is s itself, of either sign;
    k of them are ``exp(theta)``, since a sign of one alone would be another covariance.

    Attributes
    ----------
    correlation : Correlation
        Of k levels.
    equal : bool
        One variance.
    """

    correlation: Correlation
    equal: bool

    linear = False

    def spelled(self, inside: str) -> str:
        """See :meth:`Structure.spelled`."""
        usual = self.equal == _NAMED[self.correlation.name][1]
        return f"{self.correlation.name}({inside}{'' if usual else f', hom={self.equal}'})"

    @property
    def pattern(self) -> Pattern:
        """See :attr:`Structure.pattern`."""
        return self.correlation.name, self.equal

    def of_size(self, k: int) -> Structure:
        """See :meth:`Structure.of_size`."""
        return named(self.correlation.name, k, self.equal)

    @property
    def n_spread(self) -> int:
        """Entries of theta that are standard deviations."""
        return 1 if self.equal else self.k

    @property
    def n_params(self) -> int:
        """See :attr:`Structure.n_params`."""
        return self.n_spread + self.correlation.n_params

    def directions_at(self, theta: Any) -> Any:
        """See :meth:`Structure.directions_at`: the derivatives of Psi."""
        return self.psi_tangents(theta)

    @property
    def span(self) -> np.ndarray:
        """See :attr:`Structure.span`: changes of all parameters, near unequal variances."""
        return np.asarray(self.psi_tangents(self.start(np.linspace(0.8, 1.2, self.k))))

    @property
    def pivots(self) -> np.ndarray:
        """See :attr:`Structure.pivots`: the standard deviation, if there is one."""
        return np.arange(1 if self.equal else 0)

    @property
    def n_sizes(self) -> int:
        """See :attr:`Structure.n_sizes`."""
        return self.n_spread

    def of_sizes(self, sizes: np.ndarray, rho: float = 0.0) -> np.ndarray:
        """See :meth:`Structure.of_sizes`."""
        start = self.correlation.start(np.asarray(rho))
        spread = sizes if self.equal else np.log(sizes)
        return np.concatenate([spread, np.broadcast_to(start, (len(sizes), start.size))], axis=1)

    def pivot_sizes(self, theta: Any) -> Any:
        """See :meth:`Structure.pivot_sizes`."""
        xp = namespace(theta)
        return xp.abs(xp.diagonal(self.factor(theta)))

    def idle(self, theta: Any, gradient: Any) -> Any:
        """See :meth:`Structure.idle`: correlations of one, variances of zero beside others."""
        xp, own = namespace(theta, gradient), self.n_spread
        change = xp.max(xp.abs(self.psi_tangents(theta)), axis=(-2, -1))
        still = change * (1.0 + xp.abs(theta)) < AT_BOUND
        # correlations reach their bounds where |theta| is large, variances beside others are zero
        # where their logarithm is low
        log_sd = np.arange(theta.shape[-1]) < (0 if self.equal else own)
        outwards = xp.where((theta < 0) | log_sd, -1.0, 1.0)
        bound = still & (outwards * gradient < 0)
        # behind an autocorrelation of one the partial ones make no difference, wherever they are
        idle = still & xp.any(bound, axis=-1)[..., None]
        if not self.equal:
            return idle
        nothing = xp.abs(theta[..., :1]) < ZERO_PIVOT
        return xp.concatenate([xp.zeros_like(nothing), idle[..., 1:] | nothing], axis=-1)

    def _deviations(self, theta: Any) -> Any:
        xp = namespace(theta)
        s = theta[: self.n_spread]
        return xp.broadcast_to(s, (self.k,)) if self.equal else xp.exp(s)

    @property
    def _places(self) -> np.ndarray:
        return np.arange(float(self.k))[None, :, None]

    def factor(self, theta: Any) -> Any:
        """See :meth:`Structure.factor`."""
        return _of_lanes(self._factor, theta)

    @exact
    def _factor(self, theta: Any) -> Any:
        xp = namespace(theta)
        places = xp.asarray(self._places, theta.dtype)
        C = self.correlation.matrix(theta[self.n_spread :], places)[..., 0]
        return self._deviations(theta)[:, None] * xp.linalg.cholesky(C)

    def tangents_at(self, theta: Any) -> Any:
        """See :meth:`Structure.tangents_at`; of theta (..., m) as well, (..., m, k, k)."""
        return _of_lanes(self._tangents, theta)

    @exact
    def _tangents(self, theta: Any) -> Any:
        xp = namespace(theta)
        L, dL, _ = self._bent(theta, second=False)
        s = self._deviations(theta)
        own = L[None] if self.equal else _rows_alone(s[:, None] * L)
        return xp.concatenate([own, s[None, :, None] * dL])

    @exact
    def bend(self, theta: Any, half: Any) -> Any:
        """See :meth:`Structure.bend`."""
        xp = namespace(theta, half)
        L, dL, ddL = self._bent(theta, second=True)
        s = self._deviations(theta)
        scaled = 2.0 * s[:, None] * half
        if self.equal:  # linear in s
            ss = xp.zeros((1, 1), theta.dtype)
            sc = 2.0 * xp.sum(half[None] * dL, axis=(1, 2))[None]
        else:
            ss = xp.eye(self.k, dtype=theta.dtype) * xp.sum(scaled * L, axis=1)[None]
            sc = xp.sum(scaled[None] * dL, axis=2).T
        cc = xp.einsum("ab,klab->kl", scaled, ddL)
        return symmetric_blocks(ss, sc, cc)

    def _bent(self, theta: Any, *, second: bool) -> tuple[Any, Any, Any]:
        """Factor of C with its derivatives, (k, k), (m_c, k, k), (m_c, m_c, k, k).

        ``L_j = L low(L^-1 C_j L^-T)``, where low() is the lower triangle with half of the
        diagonal, and again with ``C_jl - L_j L_l' - L_l L_j'`` in the place of C_j.
        """
        xp = namespace(theta)
        places = xp.asarray(self._places, theta.dtype)
        at = self.correlation.entries(theta[self.n_spread :], places)
        L = xp.linalg.cholesky(at.value[..., 0])
        inverse = xp.solve_triangular(L, xp.eye(self.k, dtype=theta.dtype), lower=True)
        low = xp.asarray(np.tril(np.ones((self.k, self.k))) - 0.5 * np.eye(self.k), theta.dtype)

        def change(dC: Any) -> Any:
            whole = dC.reshape(-1, self.k, self.k)
            inner = xp.einsum("ab,jbc,dc->jad", inverse, whole, inverse)
            return xp.einsum("ab,jbc->jac", L, low[None] * inner).reshape(*dC.shape)

        dL = change(at.first[..., 0])
        if not second:
            return L, dL, None
        across = xp.einsum("jab,lcb->jlac", dL, dL)
        return L, dL, change(at.second[..., 0] - across - xp.swapaxes(across, 0, 1))

    def inverse(self, theta: Any) -> tuple[Any, Any]:
        """See :meth:`Structure.inverse`."""
        xp = namespace(theta)
        L, identity = self.factor(theta), xp.eye(self.k, dtype=theta.dtype)
        regular = xp.min(xp.abs(xp.diagonal(L))) > 0
        safe = xp.where(regular, L, identity)
        return xp.where(regular, xp.solve_triangular(safe, identity, lower=True), 0.0), regular

    def start(self, sd: Any) -> Any:
        """See :meth:`Structure.start`."""
        xp = namespace(sd)
        s = xp.sqrt(xp.mean(sd * sd))[None] if self.equal else xp.log(sd)
        return xp.concatenate([s, self.correlation.start(xp.zeros((), sd.dtype))])

    def canonical(self, theta: Any) -> Any:
        """See :meth:`Structure.canonical`."""
        if not self.equal:
            return theta
        sizes = positive(theta[..., :1])
        return namespace(theta).concatenate([sizes, theta[..., 1:]], axis=-1)

    def mapped(self, theta: Any, A: Any) -> Any:
        """See :meth:`Structure.mapped`; A is a multiple of the identity."""
        xp = namespace(theta, A)
        s, c = theta[..., : self.n_spread], theta[..., self.n_spread :]
        unit = A[..., 0, 0, None]
        return xp.concatenate([s * unit if self.equal else s + xp.log(unit), c], axis=-1)


def _of_lanes(fun: Callable[[Any], Any], theta: Any) -> Any:
    """A function of one theta, at many along leading axes."""
    if theta.ndim == 1:
        return fun(theta)
    out = namespace(theta).side_by_side(fun)(theta.reshape(-1, theta.shape[-1]))
    return out.reshape(*theta.shape[:-1], *out.shape[1:])


def _rows_alone(A: Any) -> Any:
    """Matrices with one row of A each, (k, k, k)."""
    xp = namespace(A)
    return xp.eye(A.shape[0], dtype=A.dtype)[:, :, None] * A[None]


# What a formula may ask for: the correlation, and whether one variance is what the name alone
# means. The second is lme4's and glmmTMB's.
_NAMED: dict[str, tuple[type[Correlation], bool]] = {
    "cs": (Symmetric, False),
    "ar1": (Autoregressive, True),
    "toep": (Toeplitz, False),
    "ad": (Antedependent, False),
    "arma11": (FirstOrders, True),
}
# The correlations of coefficients by their names.
OF_TERMS = {name: kind for name, (kind, _) in _NAMED.items()}


def named(name: str, k: int, equal: bool | None = None) -> Structure:
    """The structure that a formula asks for, of k coefficients.

    Parameters
    ----------
    name : str
        `us`, `diag`, or one of the correlations.
    k : int
    equal : bool, optional
        `hom=` of the formula; as the name alone means if not given.
    """
    if k == 1 or name == "us":  # one coefficient has nothing but its variance
        return Unstructured(k)
    if name == "diag":  # terms of one coefficient each unless they have one variance
        return Identity(k)
    correlation, usual = _NAMED[name]
    equal = usual if equal is None else equal
    if name == "cs" and equal:
        return CompoundSymmetry(k)  # has the bounds of its correlation at finite theta
    if k == 2 and not equal:
        return Unstructured(k)  # any covariance of two has one correlation and two variances
    return Correlated(k, correlation(levels=tuple(map(str, range(k))), width=k), equal)
