"""Degrees of freedom of the tests of fixed effects: one object a method.

A method says whether its statistics are t and F or z and chi-square, how many degrees of
freedom a contrast has, and which covariance of the fixed effects goes with them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .estimates import Estimates
from .satterthwaite import satterthwaite_df


class DfMethod(Protocol):
    """What a method of degrees of freedom gives."""

    uses_t: bool  # t and F, or z and chi-square

    def cov_beta(self, estimates: Estimates) -> np.ndarray:
        """Covariance of the fixed effects, relative to the residual variance, (p, p)."""
        ...

    def of_contrasts(self, estimates: Estimates, L: np.ndarray, df_resid: int) -> np.ndarray:
        """Degrees of freedom of every contrast ``L[i] @ beta``, (r,).

        Parameters
        ----------
        estimates : Estimates
        L : ndarray, shape (r, p)
        df_resid : int
            Rows less fixed effects.
        """
        ...


class Plain:
    """Methods that leave the covariance of the fixed effects as it is."""

    uses_t = True

    def cov_beta(self, estimates: Estimates) -> np.ndarray:
        """See :meth:`DfMethod.cov_beta`."""
        return estimates.cov_beta


class Normal(Plain):
    """z and chi-square: no uncertainty of the variances is allowed for."""

    uses_t = False

    def of_contrasts(self, estimates: Estimates, L: np.ndarray, df_resid: int) -> np.ndarray:
        """See :meth:`DfMethod.of_contrasts`."""
        return np.full(len(L), np.inf)


class Residual(Plain):
    """Rows less fixed effects, whatever the contrast."""

    def of_contrasts(self, estimates: Estimates, L: np.ndarray, df_resid: int) -> np.ndarray:
        """See :meth:`DfMethod.of_contrasts`."""
        return np.full(len(L), float(df_resid))


class Satterthwaite(Plain):
    """lmerTest's: :func:`lmm_jax.inference.satterthwaite.satterthwaite_df`."""

    def of_contrasts(self, estimates: Estimates, L: np.ndarray, df_resid: int) -> np.ndarray:
        """See :meth:`DfMethod.of_contrasts`."""
        e = estimates
        return satterthwaite_df(L, e.cov_beta, e.dcov_beta, e.joint_cov)


DF_METHODS: dict[str, DfMethod] = {
    "satterthwaite": Satterthwaite(),
    "residual": Residual(),
    "normal": Normal(),
}
