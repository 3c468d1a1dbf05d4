"""Covariance structures of random-effects terms: what Psi may be, and its parameters.

A term with ``k`` coefficients per level has a relative covariance ``Psi = Lambda Lambda'``
(``k x k``, in units of the residual variance). A structure says which, by ``m`` parameters:
every theta in R^m is a covariance, singular ones lie at finite theta. Structures are static:
hashable, equal by kind and size, known while a program is traced. Those in which Lambda is
linear in theta are here; :mod:`lmm_jax.covariance.correlated` has the others, and the names by
which a formula asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jax import Array

from ..numerics.namespace import namespace
from .triangles import (
    ZERO_PIVOT,
    canonical_factor,
    diagonal_places,
    lower_indices,
    lower_units,
)

# Name of the correlations of a covariance, "" for none, and whether there is one variance.
Pattern = tuple[str, bool]


@dataclass(frozen=True, slots=True)
class Structure:
    """Relative covariance of the ``k`` coefficients that a level of a term has.

    Layouts contract their derivatives in Psi with ``dPsi / dtheta_j = E_j Lambda' + Lambda E_j'``,
    ``E_j = dLambda / dtheta_j``. Where Lambda is linear, ``Lambda = sum_j theta_j E_j``, these
    are constants.
    """

    k: int  # coefficients per level

    unrestricted: ClassVar[bool] = False  # Psi is any covariance, and Lambda triangular
    linear: ClassVar[bool] = True  # Lambda in theta

    def spelled(self, inside: str) -> str:
        """The term as a formula has it, of ``x | g``."""
        return f"({inside})"

    @property
    def pattern(self) -> Pattern | None:
        """What its covariance looks like; None where it may be any."""
        return None

    def of_size(self, k: int) -> Structure:
        """The same of k coefficients."""
        raise NotImplementedError

    @property
    def n_params(self) -> int:
        """``m``, the length of theta."""
        raise NotImplementedError

    @property
    def tangents(self) -> np.ndarray:
        """``E_j = dLambda / dtheta_j``, (m, k, k); constants, of a linear structure."""
        raise NotImplementedError

    def tangents_at(self, theta: Any) -> Any:
        """The same at a theta, (m,)."""
        return namespace(theta).asarray(self.tangents, theta.dtype)

    def bend(self, theta: Any, half: Any) -> Any:
        """``2 <half, d2Lambda / dtheta_j dtheta_l>``, (m, m), of a structure that is not linear.

        Parameters
        ----------
        theta : Array, shape (m,)
        half : Array, shape (k, k)
            Derivative of a criterion in Psi, times Lambda.
        """
        raise NotImplementedError

    @property
    def directions(self) -> np.ndarray:
        """Symmetric matrices whose combinations Psi runs through, (m, k, k); constants."""
        raise NotImplementedError

    def directions_at(self, theta: Any) -> Any:
        """The same, or of a structure that is not linear those that Psi takes near theta."""
        return namespace(theta).asarray(self.directions, theta.dtype)

    def psi_tangents(self, theta: Any) -> Any:
        """``dPsi / dtheta_j = E_j Lambda' + Lambda E_j'``, (..., m, k, k), at theta, (..., m)."""
        half = self.tangents_at(theta) @ self.factor(theta).swapaxes(-1, -2)[..., None, :, :]
        return half + half.swapaxes(-1, -2)

    @property
    def span(self) -> np.ndarray:
        """Symmetric matrices whose combinations Psi takes near a regular one, (m, k, k)."""
        return self.directions

    @property
    def pivots(self) -> np.ndarray:
        """Places in theta, (r,): Psi is singular where one of these entries is zero.

        The criterion is even in each of them, all else at zero.
        """
        raise NotImplementedError

    @property
    def n_sizes(self) -> int:
        """Standard deviations that can be chosen apart, with no correlation."""
        return int(self.pivots.size)

    def of_sizes(self, sizes: np.ndarray, rho: float = 0.0) -> np.ndarray:
        """Theta of coefficients of these sizes, (N, n_sizes) to (N, m), mostly uncorrelated.

        Where a structure has parameters of correlations alone, these are near rho.
        """
        del rho
        out = np.zeros((len(sizes), self.n_params))
        out[:, self.pivots] = sizes
        return out

    def pivot_sizes(self, theta: Any) -> Any:
        """Sizes of Lambda's pivots, of which none is zero where Lambda is regular."""
        return namespace(theta).abs(theta[self.pivots])

    def idle(self, theta: Any, gradient: Any) -> Any:
        """Which entries of theta make no difference to Psi, (..., m).

        Those of a covariance of zero, and those so far out that Psi has reached its bound, where
        the criterion, by its gradient, falls towards that: there is no optimum farther in.
        """
        del gradient
        return namespace(theta).zeros(theta.shape, bool)

    @property
    def rotates(self) -> bool:
        """Whether theta has directions, rotations of Lambda, along which Psi stays."""
        return self.unrestricted and self.k > 1

    def factor(self, theta: Any) -> Any:
        """Lambda: (..., m) -> (..., k, k), of JAX or NumPy, in the dtype of theta."""
        return (theta[..., None, None] * self.tangents.astype(theta.dtype)).sum(-3)

    def inverse(self, theta: Array) -> tuple[Array, Array]:
        """``Lambda^-1`` (k, k), zeros for a singular Lambda, and whether it is regular, ()."""
        raise NotImplementedError

    def start(self, sd: Array) -> Array:
        """Theta, (m,), of uncorrelated coefficients with standard deviations near sd, (k,)."""
        raise NotImplementedError

    def canonical(self, theta: Any) -> Any:
        """The theta that is reported: signs fixed, exact zeros for negligible pivots, (..., m)."""
        raise NotImplementedError

    def mapped(self, theta: Any, A: Any) -> Any:
        """Theta of ``A Lambda``, (..., m); A is a whitener that the structure allows."""
        return theta * A[..., 0, 0, None]


class Unstructured(Structure):
    """Any covariance: lme4's theta, the column-major lower triangle of Lambda.

    Examples
    --------
    >>> import numpy as np
    >>> Unstructured(2).factor(np.array([1.0, 0.5, 2.0])).tolist()
    [[1.0, 0.0], [0.5, 2.0]]
    """

    __slots__ = ()
    unrestricted = True

    def of_size(self, k: int) -> Structure:
        """See :meth:`Structure.of_size`."""
        return Unstructured(k)

    @property
    def n_params(self) -> int:
        """See :attr:`Structure.n_params`."""
        return self.k * (self.k + 1) // 2

    @property
    def tangents(self) -> np.ndarray:
        """See :attr:`Structure.tangents`."""
        return lower_units(self.k)

    @property
    def directions(self) -> np.ndarray:
        """See :attr:`Structure.directions`: the entries of Psi."""
        E = lower_units(self.k)
        return np.maximum(E, np.swapaxes(E, 1, 2))

    @property
    def pivots(self) -> np.ndarray:
        """See :attr:`Structure.pivots`: the diagonal of Lambda."""
        return diagonal_places(self.k)

    def factor(self, theta: Any) -> Any:
        """See :meth:`Structure.factor`."""
        xp = namespace(theta)
        k, lanes = self.k, theta.shape[:-1]
        if k == 1:  # elementwise, also for many thetas at once
            return theta.reshape(*lanes, 1, 1)
        at = (..., *lower_indices(k))
        return xp.at(xp.zeros((*lanes, k, k), theta.dtype))[at].set(theta)

    def inverse(self, theta: Array) -> tuple[Array, Array]:
        """See :meth:`Structure.inverse`."""
        xp = namespace(theta)
        identity = xp.eye(self.k, dtype=theta.dtype)
        regular = xp.min(xp.abs(theta[self.pivots])) > 0
        safe = xp.where(regular, self.factor(theta), identity)
        return xp.where(regular, xp.solve_triangular(safe, identity, lower=True), 0.0), regular

    def start(self, sd: Array) -> Array:
        """See :meth:`Structure.start`."""
        xp = namespace(sd)
        return xp.at(xp.zeros(self.n_params, sd.dtype))[self.pivots].set(sd)

    def canonical(self, theta: Any) -> Any:
        """See :meth:`Structure.canonical`."""
        xp, L = namespace(theta), canonical_factor(self.factor(theta))
        diagonal = xp.diagonal(L, axis1=-2, axis2=-1)
        return (L * xp.where(diagonal < 0, -1.0, 1.0)[..., None, :])[..., *lower_indices(self.k)]

    def mapped(self, theta: Any, A: Any) -> Any:
        """See :meth:`Structure.mapped`; A is lower triangular with a positive diagonal."""
        return (A @ self.factor(theta))[..., *lower_indices(self.k)]


class CompoundSymmetry(Structure):
    """One variance and one correlation, ``Psi = s^2 ((1 - rho) I + rho J)`` with J of ones.

    In a formula `cs(x | g, hom=True)`.

    ``Lambda = a (I - J / k) + b J / k`` with ``theta = (a, b)``: Psi has the eigenvalues
    ``a^2 = s^2 (1 - rho)``, k - 1 times, and ``b^2 = s^2 (1 + (k - 1) rho)``, so that rho runs
    from ``-1 / (k - 1)`` to 1.

    Examples
    --------
    >>> import numpy as np
    >>> L = CompoundSymmetry(3).factor(np.array([1.0, 4.0]))
    >>> L.tolist()
    [[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 2.0]]
    """

    __slots__ = ()

    def spelled(self, inside: str) -> str:
        """See :meth:`Structure.spelled`."""
        return f"cs({inside}, hom=True)"

    @property
    def pattern(self) -> Pattern:
        """See :attr:`Structure.pattern`."""
        return "cs", True

    def of_size(self, k: int) -> Structure:
        """See :meth:`Structure.of_size`."""
        return CompoundSymmetry(k) if k > 1 else Unstructured(k)

    @property
    def n_params(self) -> int:
        """See :attr:`Structure.n_params`."""
        return 2

    @property
    def tangents(self) -> np.ndarray:
        """See :attr:`Structure.tangents`."""
        mean = np.full((self.k, self.k), 1.0 / self.k)
        return np.stack([np.eye(self.k) - mean, mean])

    @property
    def directions(self) -> np.ndarray:
        """See :attr:`Structure.directions`: Psi has the squares of theta for coordinates."""
        return self.tangents

    @property
    def pivots(self) -> np.ndarray:
        """See :attr:`Structure.pivots`: both, Psi is linear in their squares."""
        return np.arange(2)

    def inverse(self, theta: Array) -> tuple[Array, Array]:
        """See :meth:`Structure.inverse`: that of ``(1 / a, 1 / b)``."""
        xp = namespace(theta)
        regular = xp.min(xp.abs(theta)) > 0
        safe = xp.where(regular, theta, 1.0)
        return xp.where(regular, self.factor(1.0 / safe), 0.0), regular

    def start(self, sd: Array) -> Array:
        """See :meth:`Structure.start`: the root mean square."""
        xp = namespace(sd)
        return xp.broadcast_to(xp.sqrt(xp.mean(sd * sd)), (2,))

    def canonical(self, theta: Any) -> Any:
        """See :meth:`Structure.canonical`."""
        return positive(theta)


class Identity(Structure):
    """One variance and no correlation, ``Psi = theta^2 I``: `diag(x | g, hom=True)`."""

    __slots__ = ()

    def spelled(self, inside: str) -> str:
        """See :meth:`Structure.spelled`."""
        return f"diag({inside}, hom=True)"

    @property
    def pattern(self) -> Pattern:
        """See :attr:`Structure.pattern`."""
        return "", True

    def of_size(self, k: int) -> Structure:
        """See :meth:`Structure.of_size`."""
        return Identity(k) if k > 1 else Unstructured(k)

    @property
    def n_params(self) -> int:
        """See :attr:`Structure.n_params`."""
        return 1

    @property
    def tangents(self) -> np.ndarray:
        """See :attr:`Structure.tangents`."""
        return np.eye(self.k)[None]

    @property
    def directions(self) -> np.ndarray:
        """See :attr:`Structure.directions`."""
        return self.tangents

    @property
    def pivots(self) -> np.ndarray:
        """See :attr:`Structure.pivots`."""
        return np.arange(1)

    def inverse(self, theta: Array) -> tuple[Array, Array]:
        """See :meth:`Structure.inverse`."""
        xp = namespace(theta)
        regular = xp.abs(theta[0]) > 0
        return xp.where(regular, self.factor(1.0 / xp.where(regular, theta, 1.0)), 0.0), regular

    def start(self, sd: Array) -> Array:
        """See :meth:`Structure.start`: the root mean square."""
        xp = namespace(sd)
        return xp.sqrt(xp.mean(sd * sd))[None]

    def canonical(self, theta: Any) -> Any:
        """See :meth:`Structure.canonical`."""
        return positive(theta)


def positive(theta: Any) -> Any:
    """Sizes of numbers, zero where they are negligible."""
    xp = namespace(theta)
    size = xp.abs(theta)
    return xp.where(size < ZERO_PIVOT, 0.0, size)


class OfTerms:
    """What holds the structures of a model's terms."""

    __slots__ = ()
    structures: tuple[Structure, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Coefficients per level of each term."""
        return term_sizes(self.structures)

    @property
    def is_structured(self) -> bool:
        """Whether a term may not have any covariance."""
        return any(not structure.unrestricted for structure in self.structures)


def unstructured(sizes: Sequence[int]) -> tuple[Structure, ...]:
    """Structures of terms with ``sizes`` coefficients per level, any covariance each."""
    return tuple(Unstructured(k) for k in sizes)


def term_sizes(structures: Sequence[Structure]) -> tuple[int, ...]:
    """Coefficients per level of each term."""
    return tuple(structure.k for structure in structures)
