"""Residual covariances: a correlation of the rows of a subject, and a variance of every row.

Relative to sigma^2 the residuals of a subject have the covariance

    R = diag(exp(s)) C diag(exp(s))          s = sum_k A_k phi_k

with C of :mod:`lmm_jax.covariance.correlations` and log standard deviations s that are linear in
their parameters: one a visit or stratum less that of the first, whose variance is sigma^2, or
a multiple of a covariate. R has an entry among the structures of a model, after those of the
random effects, of which it has none (``k = 0``): a stretch of theta is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array

from ..numerics.linalg import symmetric_blocks
from ..numerics.namespace import namespace
from ..numerics.taylor import Taylor, exp
from .correlations import AT_BOUND, Correlation
from .steps import Step
from .structures import Structure
from .theta import theta_slices


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Standard deviations of the rows.

    Attributes
    ----------
    levels : tuple of str
        Visits or strata with a standard deviation each, the reference first; or none.
    of : {"", "power", "expo"}
        What they are multiplied by: nothing, ``|x|^delta``, or ``exp(delta x)``.
    anchored : bool
        Whether the standard deviation of the reference is sigma; of several residual
        covariances (one an arm) only that of the first is.
    """

    levels: tuple[str, ...] = ()
    of: str = ""
    anchored: bool = True

    @property
    def n_params(self) -> int:
        """Parameters: the rows of A."""
        return self.n_levels + bool(self.of)

    @property
    def n_levels(self) -> int:
        """Parameters of levels, or the one of all rows where sigma belongs to others."""
        return max(len(self.levels), 1) - self.anchored

    @property
    def names(self) -> tuple[str, ...]:
        """What the standard deviations are called that are reported."""
        return tuple(f"sd[{level}]" for level in self.levels) or ("sd",)

    def slopes(self, codes: np.ndarray | None, x: np.ndarray | None, shape: Any) -> np.ndarray:
        """A, (m, *shape), from codes of levels or a covariate of that shape."""
        rows: list[Any] = []
        if self.levels:
            assert codes is not None
            rows += [codes == level for level in range(self.anchored, len(self.levels))]
        elif not self.anchored:
            rows.append(np.ones(shape))
        if self.of:
            assert x is not None
            rows.append(np.log(np.abs(x)) if self.of == "power" else x)
        return np.array(rows, dtype=float).reshape(len(rows), *shape)

    def deviations(self, phi: Sequence[Taylor], sigma: Taylor) -> dict[str, Taylor]:
        """Standard deviations by name, and the exponent of a covariate."""
        n = self.n_levels
        sizes = [sigma] * self.anchored + [sigma * exp(x) for x in phi[:n]]
        out = dict(zip(self.names, sizes, strict=True))
        return {**out, self.of: phi[n]} if self.of else out


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualStructure(Structure):
    """Covariance of the residuals of a subject, relative to sigma^2."""

    k: int = 0
    correlation: Correlation
    spread: Spread
    arm: str | None = None  # the subjects that it belongs to; None: all

    @property
    def n_params(self) -> int:
        """See :attr:`Structure.n_params`: of the standard deviations, then of C."""
        return self.spread.n_params + self.correlation.n_params

    @property
    def tangents(self) -> np.ndarray:
        """See :attr:`Structure.tangents`: of no coefficient."""
        return np.zeros((self.n_params, 0, 0))

    @property
    def directions(self) -> np.ndarray:
        """See :attr:`Structure.directions`: of no coefficient."""
        return np.zeros((0, 0, 0))

    @property
    def pivots(self) -> np.ndarray:
        """See :attr:`Structure.pivots`: none, R is regular at every theta."""
        return np.zeros(0, np.int32)

    @property
    def rotates(self) -> bool:
        """See :attr:`Structure.rotates`."""
        return False

    def factor(self, theta: Any) -> Any:
        """See :meth:`Structure.factor`: no coefficient, no factor."""
        return namespace(theta).zeros((*theta.shape[:-1], 0, 0), theta.dtype)

    def inverse(self, theta: Array) -> tuple[Array, Array]:
        """See :meth:`Structure.inverse`."""
        return self.factor(theta), namespace(theta).ones((), bool)

    def canonical(self, theta: Any) -> Any:
        """See :meth:`Structure.canonical`."""
        return theta

    def idle(self, theta: Any, gradient: Any) -> Any:
        """See :meth:`Structure.idle`: of levels whose variance is zero, and of the correlation.

        Rows that random effects tell apart have a regular covariance without a variance of theirs.
        """
        xp, m = namespace(theta, gradient), self.spread.n_params
        logs, slopes = theta[..., :m], gradient[..., :m]
        still = xp.exp(2.0 * logs) * (1.0 + xp.abs(logs)) < AT_BOUND
        levels = np.arange(m) < self.spread.n_levels
        own = self.correlation.idle(theta[..., m:], gradient[..., m:])
        return xp.concatenate([still & (slopes >= -AT_BOUND) & levels, own], axis=-1)

    def mapped(self, theta: np.ndarray, A: np.ndarray) -> np.ndarray:
        """See :meth:`Structure.mapped`."""
        del A
        return theta

    # ---- the matrices, at places (d, r, g) and slopes A (m_s, r, g)

    def _cut(self, phi: Any) -> tuple[Any, Any]:
        return phi[: self.spread.n_params], phi[self.spread.n_params :]

    def _sizes(self, s: Any, slopes: Any) -> Any:
        """``exp(s_a + s_b)``, (r, r, g)."""
        xp = namespace(s, slopes)
        sd = xp.exp(xp.einsum("k,kag->ag", s, slopes))
        return sd[:, None] * sd[None]

    def matrix(self, phi: Any, places: Any, slopes: Any) -> Any:
        """R, (r, r, g).

        Parameters
        ----------
        phi : Array, shape (m,)
        places : Array, shape (d, r, g)
        slopes : Array, shape (m_s, r, g)
        """
        s, c = self._cut(phi)
        return self._sizes(s, slopes) * self.correlation.matrix(c, places)

    def variances(self, phi: Any, slopes: Any) -> Any:
        """Diagonal of R, (...), from slopes (m_s, ...)."""
        xp = namespace(phi, slopes)
        return xp.exp(2.0 * xp.tensordot(self._cut(phi)[0], slopes, 1))

    def with_tangents(self, phi: Any, places: Any, slopes: Any) -> tuple[Any, Any]:
        """R, (r, r, g), and its derivatives, (m, r, r, g)."""
        xp = namespace(phi, places)
        s, c = self._cut(phi)
        size = self._sizes(s, slopes)
        C, tangents = self.correlation.with_tangents(c, places)
        R = size * C
        of_spread = (slopes[:, :, None] + slopes[:, None]) * R[None]
        of_correlation = size[None] * tangents
        g = R.shape[-1]
        parts = [xp.broadcast_to(D, (*D.shape[:3], g)) for D in (of_spread, of_correlation)]
        return R, xp.concatenate(parts)

    def bend_at(self, phi: Any, places: Any, slopes: Any, slope: Any) -> Any:
        """``sum_ab slope_ab d2 R_ab``, (m, m); the slope is symmetric, (r, r, g)."""
        xp = namespace(phi, slope)
        s, c = self._cut(phi)
        weighted = slope * self._sizes(s, slopes)
        C, tangents, cc = self.correlation.with_bend(c, places, weighted)
        K = weighted * C
        ss = 2.0 * (
            xp.einsum("kag,lag->kl", slopes, slopes * xp.sum(K, axis=1)[None])
            + xp.einsum("kag,lag->kl", slopes, xp.einsum("abg,lbg->lag", K, slopes))
        )
        sc = 2.0 * xp.einsum(
            "kag,lag->kl", *_wide(slopes, xp.sum(weighted[None] * tangents, axis=2))
        )
        return symmetric_blocks(ss, sc, cc)

    def bent(self, phi: Any, places: Any, slopes: Any, W: Any) -> Any:
        """``sum_kl W_kl d2 R / d phi_k d phi_l``, (r, r, g); W is symmetric, (m, m)."""
        xp = namespace(phi, W)
        (s, c), m = self._cut(phi), self.spread.n_params
        size, C = self._sizes(s, slopes), self.correlation.entries(c, places)
        pairs = slopes[:, :, None] + slopes[:, None]  # (m_s, r, r, g)
        twice = xp.einsum("kabg,klabg->abg", pairs, W[:m, :m, None, None, None] * pairs[None])
        across = xp.einsum("kl,kabg->labg", W[:m, m:], pairs)
        out = twice * C.value + 2.0 * xp.sum(across * C.first, axis=0)
        return size * (out + xp.einsum("kl,klabg->abg", W[m:, m:], C.second))

    # ---- row after row, where the correlation is one of neighbours in time

    def steps(self, phi: Any, gaps: Any, follows: Any, slopes: Any, slopes_before: Any) -> Step:
        """From the row before to every row.

        Parameters
        ----------
        phi : Array, shape (m,)
        gaps : Array, shape S
            Positive, also where there is no row before.
        follows : Array, shape S
            1 where there is a row before, otherwise 0.
        slopes, slopes_before : Array, shape (m_s, *S)
            Alike where there is no row before.
        """
        xp = namespace(phi, gaps)
        s, c = self._cut(phi)
        at, there = self.correlation.fading(c, gaps), follows
        absent = 1.0 - there
        a, loss = at.value * there, at.loss * there + absent
        left = at.left * there + absent
        first, second = at.first * there[None], at.second * there[None, None]
        less = slopes - slopes_before
        log_ratio = _combined(s, less)
        ratio = xp.exp(log_ratio)
        b = a * ratio
        slope = a[None] * first / left[None]  # d log h = -(1/2) d log(1 - a^2)
        bend = (first[:, None] * first[None] + a[None, None] * second) / left[None, None]
        return Step(
            left=left,
            log_h=-_combined(s, slopes) - 0.5 * xp.log(left),
            b=b,
            rest=loss - a * xp.expm1(log_ratio),
            dlog_h=xp.concatenate([-slopes, slope]),
            db=xp.concatenate([b[None] * less, first * ratio[None]]),
            log_h_bend=bend + 2.0 * slope[:, None] * slope[None],
            growth=less,
            b_bend=second * ratio[None, None],
        )

    # ---- reports

    @property
    def is_linear(self) -> bool:
        """Whether R is linear in variances and covariances that can be reported."""
        if self.spread.of or not self.correlation.name:
            return not self.spread.of
        own = self.correlation.name == "symm" and self.spread.levels == self.correlation.levels
        return self.correlation.linear and (own or not self.spread.levels)

    def natural(
        self, phi: Sequence[Taylor], sigma: Taylor, *, variances: bool = False
    ) -> dict[str, Taylor]:
        """Standard deviations (or variances), correlations, ranges: what is reported, by name.

        Parameters
        ----------
        phi : sequence of Taylor
            This structure's stretch of theta.
        sigma : Taylor
        variances : bool
            Squares of the standard deviations, and all second derivatives.
        """
        own, c = self._cut(list(phi))
        out = self.spread.deviations(own, sigma)
        if variances:
            out = {k: x * x if k.startswith("sd") else x for k, x in out.items()}
        out |= self.correlation.natural_bent(c) if variances else self.correlation.natural(c)
        return {_of_arm(name, self.arm): x for name, x in out.items()}

    def untold(self, together: np.ndarray) -> list[str]:
        """See :meth:`Correlation.untold`."""
        return [_of_arm(name, self.arm) for name in self.correlation.untold(together)]

    def of_other(self, phi: np.ndarray, other: ResidualStructure) -> np.ndarray:
        """Parameters that mean here what phi means to another of the kind; NaN if nothing does."""
        s, c = self._cut(phi)
        return np.append(s, self.correlation.of_other(c, other.correlation))

    def begin(self, rho: Any, s: Any) -> Any:
        """Theta of log standard deviations s, (m_s,), and correlations near rho."""
        return namespace(rho, s).concatenate([s, self.correlation.start(rho)])


def _combined(s: Any, slopes: Any) -> Any:
    """``sum_k s_k slopes_k``, of the shape of one of them."""
    xp = namespace(s, slopes)
    return xp.sum(s.reshape(-1, *(1,) * (slopes.ndim - 1)) * slopes, axis=0)


def terms_of(structures: Sequence[Structure]) -> list[Structure]:
    """Structures of the random effects, which come first in those of a layout."""
    return [s for s in structures if not isinstance(s, ResidualStructure)]


def arms_of(structures: Sequence[Structure]) -> list[tuple[ResidualStructure, slice]]:
    """The residual covariance of every arm, and where its parameters stand in theta."""
    places = zip(structures, theta_slices(structures), strict=True)
    return [(s, at) for s, at in places if isinstance(s, ResidualStructure)]


def residual_of(structures: Sequence[Structure], arm: int) -> tuple[ResidualStructure, slice]:
    """That of one arm."""
    return arms_of(structures)[arm]


# The standard deviation that is sigma itself.
SIGMA = "sd"


def natural_values(
    x: Sequence[Taylor], structures: Sequence[Structure], *, variances: bool = False
) -> dict[str, Taylor]:
    """What is reported of all residual covariances, by name.

    Parameters
    ----------
    x : sequence of Taylor
        Their stretches of theta, then ``log sigma^2``.
    structures : sequence of Structure
        Of a layout; those of the terms are passed over.
    variances : bool
        See :meth:`ResidualStructure.natural`.
    """
    found: dict[str, Taylor] = {}
    sigma, first = exp(0.5 * x[-1]), 0
    for residual, _ in arms_of(structures):
        own = x[first : first + residual.n_params]
        found |= residual.natural(own, sigma, variances=variances)
        first += residual.n_params
    return found


def _of_arm(name: str, arm: str | None) -> str:
    """``sd[visit]`` of an arm is ``sd[arm,visit]``; ``rho`` is ``rho[arm]``."""
    if arm is None:
        return name
    kind, _, rest = name.partition("[")
    return f"{kind}[{arm},{rest}" if rest else f"{name}[{arm}]"


def _wide(a: Any, b: Any) -> tuple[Any, Any]:
    """Two arrays with one number of groups, g."""
    xp, g = namespace(a, b), max(a.shape[-1], b.shape[-1])
    return tuple(xp.broadcast_to(x, (*x.shape[:-1], g)) for x in (a, b))  # type: ignore[return-value]
