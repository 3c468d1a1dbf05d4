"""Ready-made penalties: pure functions of the parameter, subtracted from the log-likelihood.

Each is a pytree that is called with the fixed effects (``fe_pen``) or with the
covariance of the random effects relative to the residual variance (``cov_pen``)
and returns a scalar. Any function of JAX arrays does as well; automatic
differentiation supplies its derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .errors import DataError
from .inputs.arguments import numbers, shown
from .reprs import brief

_ABOVE_ZERO = float(np.finfo(float).tiny)

__all__ = ["L2", "LogDet", "SmoothL1", "SmoothSCAD"]


def __dir__() -> list[str]:
    return [*__all__, "__all__", "__doc__"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class L2:
    """``sum_j w_j beta_j^2``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(L2(weights=jnp.array([0.0, 2.0]))(jnp.array([5.0, 3.0])))
    18.0
    """

    weights: Any  # (p,) or ()

    __repr__ = brief

    def __call__(self, beta: Array) -> Array:
        """Penalty of the fixed effects."""
        return jnp.sum(self.weights * beta**2)

    def check(self) -> None:
        """Refuse weights that are negative."""
        _check(self, weights=0.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SmoothL1:
    """``sum_j w_j (sqrt(beta_j^2 + eps^2) - eps)``, the lasso's penalty rounded off at zero.

    ``eps`` is in the units of beta; the penalty is within ``w eps`` of ``w |beta|``.
    """

    weights: Any  # (p,) or ()
    eps: Any = 1e-4

    __repr__ = brief

    def __call__(self, beta: Array) -> Array:
        """Penalty of the fixed effects."""
        return jnp.sum(self.weights * (jnp.sqrt(beta**2 + self.eps**2) - self.eps))

    def check(self) -> None:
        """Refuse weights that are negative, and a corner."""
        _check(self, weights=0.0, eps=_ABOVE_ZERO)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SmoothSCAD:
    """Smoothly clipped absolute deviation of ``sqrt(beta^2 + eps^2) - eps``.

    Linear up to ``tau``, quadratic to ``c tau``, constant beyond: large
    coefficients are not shrunk.

    References
    ----------
    Fan & Li (2001), doi:10.1198/016214501753382273.
    """

    weights: Any  # (p,) or ()
    tau: Any
    c: Any = 3.7
    eps: Any = 1e-4

    __repr__ = brief

    def __call__(self, beta: Array) -> Array:
        """Penalty of the fixed effects."""
        size = jnp.sqrt(beta**2 + self.eps**2) - self.eps
        tau, c = self.tau, self.c
        middle = (2.0 * c * tau * size - size**2 - tau**2) / (2.0 * (c - 1.0))
        flat = 0.5 * tau**2 * (c + 1.0)
        value = jnp.where(size <= tau, tau * size, jnp.where(size <= c * tau, middle, flat))
        return jnp.sum(self.weights * value)

    def check(self) -> None:
        """Refuse weights that are negative, and what is not one function from 0 to ``c tau``."""
        _check(self, weights=0.0, tau=0.0, c=2.0, eps=_ABOVE_ZERO)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogDet:
    """``-w log|cov_re|``, which keeps a covariance off the boundary.

    References
    ----------
    Chung, Rabe-Hesketh, Dorie, Gelman & Liu (2013), doi:10.1007/s11336-013-9328-2.
    """

    weight: Any = 0.5

    __repr__ = brief

    def __call__(self, cov_re: Array) -> Array:
        """Penalty of a relative covariance."""
        return -self.weight * jnp.linalg.slogdet(cov_re)[1]

    def check(self) -> None:
        """Refuse a negative weight, which leads to the boundary."""
        _check(self, weight=0.0)


def _check(penalty: Any, **least: float) -> None:
    """Raise where a number of a penalty is not finite, or below the least that it may be."""
    for name, low in least.items():
        value = getattr(penalty, name)
        if isinstance(value, jax.core.Tracer):
            continue
        what = f"{name} of {type(penalty).__name__}"
        if hasattr(value, "index") and hasattr(value, "to_numpy"):  # labels that nobody would read
            raise DataError(f"{what}: pass numbers without labels, in the order of res.fe_params")
        if (numbers(value, what) < low).any():
            least_of = "more than 0" if low == _ABOVE_ZERO else f"{low:g} or more"
            raise DataError(f"{what}={shown(value)}: {least_of} is needed")
