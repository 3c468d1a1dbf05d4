"""Degrees of freedom of the tests of fixed effects: one object a method and fit.

A method says whether its statistics are t and F or z and chi-square, how many degrees of
freedom a contrast has, what becomes of an F test, and which covariance of the fixed effects
goes with them. :func:`bound` makes it for a fit; whoever tests asks that object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from ...capabilities import Subject, require
from ...covariance.residuals import arms_of
from ...designs.design import Design
from ...errors import DataError
from ...inputs.arguments import choice
from ...numerics.processes import float64
from ...numerics.read_only import read_only
from ..estimates import Estimates
from ..residuals.parameters import natural_bend
from .between_within import column_df
from .kenward_roger import (
    KenwardRoger,
    adjusted,
    along_theta,
    contrast_df,
    f_correction,
    kenward_roger,
)
from .robust import KINDS
from .satterthwaite import satterthwaite_df
from .wald import f_denominator

# Shares of a contrast, in standard errors, below which a column has no part in it.
_NOT_USED = 1e-9


class Tested(Subject, Protocol):
    """What the methods need of a fit."""

    @property
    def estimates(self) -> Estimates: ...  # noqa: D102
    @property
    def design(self) -> Design | None: ...  # noqa: D102
    @property
    def df_resid(self) -> int: ...  # noqa: D102


class DfMethod(Protocol):
    """How the fixed effects of one fit are tested."""

    @property
    def uses_t(self) -> bool:
        """Whether statistics are t and F, or z and chi-square."""
        ...

    @property
    def cov_beta(self) -> np.ndarray:
        """Covariance of the fixed effects relative to sigma^2, (p, p)."""
        ...

    def of_contrasts(self, L: np.ndarray) -> np.ndarray:
        """Degrees of freedom of every contrast ``L[i] @ beta``, (r, p) to (r,)."""
        ...

    def of_joint(self, L: np.ndarray) -> tuple[float, float]:
        """Denominator degrees of freedom of the F test of all rows together, and its scale.

        Parameters
        ----------
        L : ndarray, shape (q, p)
            Rows that are uncorrelated.

        Returns
        -------
        df, scale : float
            ``scale F`` is distributed as ``F(q, df)``.
        """
        ...


@dataclass(frozen=True, eq=False)
class Fixed:
    """The same number whatever is tested: infinite for z, rows less fixed effects."""

    cov_beta: np.ndarray
    df: float
    uses_t: bool

    def of_contrasts(self, L: np.ndarray) -> np.ndarray:
        """See :meth:`DfMethod.of_contrasts`."""
        return np.full(len(L), self.df)

    def of_joint(self, L: np.ndarray) -> tuple[float, float]:
        """See :meth:`DfMethod.of_joint`."""
        del L
        return self.df, 1.0


@dataclass(frozen=True, eq=False)
class Satterthwaite:
    """lmerTest's: :func:`lmm_jax.inference.df.satterthwaite.satterthwaite_df`."""

    cov_beta: np.ndarray
    dcov_beta: np.ndarray  # (m, p, p)
    joint_cov: np.ndarray  # (m + 1, m + 1)
    uses_t: bool = True

    def of_contrasts(self, L: np.ndarray) -> np.ndarray:
        """See :meth:`DfMethod.of_contrasts`."""
        return satterthwaite_df(L, self.cov_beta, self.dcov_beta, self.joint_cov)

    def of_joint(self, L: np.ndarray) -> tuple[float, float]:
        """See :meth:`DfMethod.of_joint`: :func:`lmm_jax.inference.df.wald.f_denominator`."""
        return f_denominator(self.of_contrasts(L)), 1.0


@dataclass(frozen=True, eq=False)
class Adjusted:
    """pbkrtest's: :mod:`lmm_jax.inference.df.kenward_roger`."""

    at: KenwardRoger
    uses_t: bool = True

    @property
    def cov_beta(self) -> np.ndarray:
        """See :class:`DfMethod`."""
        return self.at.cov_beta

    def of_contrasts(self, L: np.ndarray) -> np.ndarray:
        """See :meth:`DfMethod.of_contrasts`."""
        return contrast_df(self.at, L)

    def of_joint(self, L: np.ndarray) -> tuple[float, float]:
        """See :meth:`DfMethod.of_joint`."""
        return f_correction(self.at, L)


@dataclass(frozen=True, eq=False)
class ByColumn:
    """A number for every column of X; a contrast has the least of the columns that it uses."""

    cov_beta: np.ndarray
    columns: np.ndarray  # (p,)
    uses_t: bool = True

    def of_contrasts(self, L: np.ndarray) -> np.ndarray:
        """See :meth:`DfMethod.of_contrasts`; what is rounding beside the rest is not used."""
        size = np.abs(L) * np.sqrt(np.diagonal(self.cov_beta))  # free of the columns' units
        used = size > _NOT_USED * size.max(axis=1, keepdims=True, initial=0.0)
        return np.where(used, self.columns, np.inf).min(axis=1, initial=np.inf)

    def of_joint(self, L: np.ndarray) -> tuple[float, float]:
        """See :meth:`DfMethod.of_joint`."""
        return float(self.of_contrasts(L).min(initial=np.inf)), 1.0


def _satterthwaite(fit: Tested) -> DfMethod:
    e = fit.estimates
    return Satterthwaite(e.cov_beta, e.dcov_beta, e.joint_cov)


def _kenward_roger(fit: Tested) -> DfMethod:
    """pbkrtest's; with a residual covariance SAS's, which has second derivatives of V."""
    return _adjusted(fit, "bent" if fit._is_kind("residual") else "expected")


def _kenward_roger_linear(fit: Tested) -> DfMethod:
    return _adjusted(fit, "observed")


def _kenward_roger_expected(fit: Tested) -> DfMethod:
    return _adjusted(fit, "expected")


def _adjusted(fit: Tested, kind: str) -> DfMethod:
    """Kenward and Roger's with the expected information, the observed one, or this and bends."""
    design: Any = require(fit, "kenward-roger").design
    e, theta = fit.estimates, np.asarray(fit.estimates.theta_layout)
    residual = fit._is_kind("residual")
    with float64():
        layout: Any = jax.tree.map(np.asarray, design.compressed.of_moments)
        if residual and kind != "expected":
            at = with_held(_observed(e, theta, layout, bent=kind == "bent"), design.held)
        elif kind == "expected":
            at = expected_adjustment(layout, theta, design.held)
        else:
            moments = along_theta(layout.psi_moments(theta), theta, layout.structures)
            W = _last_first(e.joint_cov)
            at = kenward_roger(moments, layout.beta_map, float(layout.n_obs), W)
            at = with_held(at, design.held)
    return Adjusted(at)


def expected_adjustment(layout: Any, theta: np.ndarray, held: np.ndarray | None) -> KenwardRoger:
    """pbkrtest's, of a layout of NumPy at its theta; ``held`` are fixed effects that are, or NaN.

    Nothing of it depends on the response but theta.
    """
    moments, n, known = layout.psi_moments(theta), float(layout.n_obs), layout.sigma2 is not None
    return with_held(kenward_roger(moments, layout.beta_map, n, None, sigma_known=known), held)


def with_held(at: KenwardRoger, held: np.ndarray | None) -> KenwardRoger:
    """Zeros for the fixed effects that are held."""
    if held is None:
        return at
    free, p = np.isnan(held), held.size
    places = np.ix_(free, free)
    cov, plain, bends = (np.zeros((*A.shape[:-2], p, p)) for A in at[:3])
    cov[places], plain[places], bends[:, *places] = at[:3]
    return at._replace(cov_beta=cov, plain=plain, bends=bends)


def _last_first(cov: np.ndarray) -> np.ndarray:
    """The covariance of (log sigma^2, theta) from that of (theta, log sigma^2)."""
    order = np.roll(np.arange(len(cov)), 1)
    return cov[np.ix_(order, order)]


def _observed(e: Estimates, theta: np.ndarray, layout: Any, *, bent: bool) -> KenwardRoger:
    """With the observed information, of a model with a residual covariance."""
    if bent and not all(s.linear for s in layout.structures):
        raise DataError(
            "df_method='kenward-roger' beside a residual covariance takes second derivatives of V, "
            "which are not there for a term such as ar1(0 + f | g): choose 'kenward-roger-linear'"
        )
    W = _last_first(e.joint_cov)
    P, WQ = layout.weighted_moments(theta, W[1:, 1:])
    gram = layout.waist_at(theta).gram[:-1, :-1]
    across = np.tensordot(W[0, 1:], P, 1)
    WQ = WQ + W[0, 0] * gram + across + across.T
    linear = all(residual.is_linear for residual, _ in arms_of(layout.structures))
    if bent and not linear:
        moved = layout.recentred()
        z = natural_bend(e, layout.structures, None if moved is None else moved[1].means)
        WQ = WQ - 0.25 * layout.bend_form(theta, np.asarray(e.joint_cov), z)
    return adjusted(gram, np.concatenate([gram[None], P]), WQ, W, layout.beta_map)


def _between_within(fit: Tested) -> DfMethod:
    return ByColumn(fit.estimates.cov_beta, column_df(require(fit, "between-within").design))


def _residual(fit: Tested) -> DfMethod:
    return Fixed(fit.estimates.cov_beta, float(fit.df_resid), True)


def _normal(fit: Tested) -> DfMethod:
    return Fixed(fit.estimates.cov_beta, float("inf"), False)


METHODS: dict[str, Callable[[Tested], DfMethod]] = {
    "satterthwaite": _satterthwaite,
    "kenward-roger": _kenward_roger,
    "kenward-roger-linear": _kenward_roger_linear,
    "kenward-roger-expected": _kenward_roger_expected,
    "between-within": _between_within,
    "residual": _residual,
    "normal": _normal,
}
_ALIASES = {"kr": "kenward-roger", "z": "normal"}


# What others call some of the methods.
_ELSEWHERE = {
    "wald": "normal", "asymptotic": "normal", "inf": "normal", "bw": "between-within",
    "betwithin": "between-within", "res": "residual", "sat": "satterthwaite",
}  # fmt: skip


def read_df_method(value: Any) -> str:
    """The name of a method; ``"kr"`` and ``"z"`` are short for two of them."""
    if isinstance(value, str):
        value = _ALIASES.get(value.lower(), value)
        value = value.lower() if value.lower() in METHODS else value
        if value in KINDS:
            raise DataError(
                f"df_method={value!r} is a robust covariance, which a fit is given: "
                f"res.robust({value!r}), with the clusters if they are not those of the model"
            )
    return choice(value, "df_method", METHODS, elsewhere=_ELSEWHERE)


def bound(fit: Tested, name: str) -> DfMethod:
    """The method of that name for a fit.

    Raises
    ------
    DataError
        The method does not exist for this kind of fit; the message says why.
    """
    return read_only(METHODS[name](fit))
