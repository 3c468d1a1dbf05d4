"""Standard deviations that follow a covariate, measured at its mean while an optimum is sought.

With ``s = level + delta a`` sigma is the standard deviation where ``a = 0``: at a size of one, in
the year zero. Far from the rows it is all but determined by delta, and so are the variances of
random effects relative to it: Newton's method would follow a bent ridge. With
``a' = (a - c) / u`` of mean 0 and variance 1 and ``t = delta' c / u``,

    R' = exp(-2 t) R        Lambda = exp(t) Lambda'        delta = delta' / u

and levels of arms that sigma is not of are ``level + t_1 - t``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax import Array

from ...covariance.residuals import arms_of, terms_of
from ...covariance.structures import Structure
from ...covariance.theta import theta_slices
from ...numerics.namespace import namespace
from .starts import Squares

# Of a step along the imaginary axis, which leaves derivatives all their digits.
_STEP = 1e-30


@dataclass(frozen=True)
class Covariates:
    """Mean and standard deviation of what the standard deviations of every arm follow."""

    structures: tuple[Structure, ...]
    centres: tuple[tuple[float, float], ...]  # an arm; (0, 1) where there is none

    @property
    def reference(self) -> tuple[int, float] | None:
        """Place of delta' in theta, and c / u, of the arm that sigma is of; None: has no covariate.

        ``log sigma^2`` at the reference is that at the mean less ``2 delta' c / u``.
        """
        s, at = arms_of(self.structures)[0]
        c, u = self.centres[0]
        return (at.start + s.spread.n_params - 1, c / u) if s.spread.of else None

    @property
    def means(self) -> tuple[float, ...]:
        """Mean of the covariate of every arm; 0 where there is none."""
        return tuple(c for c, _ in self.centres)

    def inward(self, theta: np.ndarray) -> np.ndarray:
        """Theta where sigma is that at the mean."""
        return self._moved(theta, back=False)

    def outward(self, theta: np.ndarray) -> np.ndarray:
        """The way back."""
        return self._moved(theta, back=True)

    def slopes(self, inner: np.ndarray) -> np.ndarray:
        """Derivative of :meth:`outward`, (m, m)."""
        along = [
            self.outward(inner + 1j * move).imag / _STEP for move in _STEP * np.eye(len(inner))
        ]
        return np.column_stack(along) if along else np.zeros((0, 0))

    @property
    def slope_of_log_scale(self) -> np.ndarray:
        """Derivative of log sigma^2 at the reference in theta of these coordinates, (m,)."""
        out = np.zeros(theta_slices(self.structures)[-1].stop)
        if self.reference is not None:
            place, c = self.reference
            out[place] = -2.0 * c
        return out

    def _moved(self, theta: np.ndarray, *, back: bool) -> np.ndarray:
        out = np.array(theta, dtype=np.result_type(theta, np.float64))
        terms, arms = terms_of(self.structures), arms_of(self.structures)
        shifts = []
        for (s, at), (c, u) in zip(arms, self.centres, strict=True):
            last = at.start + s.spread.n_params - 1
            t = 0.0
            if s.spread.of:
                t = out[last] * (c / u if back else c)
                out[last] = out[last] / u if back else out[last] * u
            shifts.append(t)
        sign = 1.0 if back else -1.0
        for (s, at), t in zip(arms[1:], shifts[1:], strict=True):
            out[at.start : at.start + s.spread.n_levels] += sign * (shifts[0] - t)
        for term, at in zip(terms, theta_slices(terms), strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                out[at] = term.mapped(out[at], np.exp(sign * shifts[0]) * np.eye(term.k))
        return out


def has_covariates(structures: tuple[Structure, ...]) -> bool:
    """Whether standard deviations follow a covariate."""
    return any(residual.spread.of for residual, _ in arms_of(structures))


def covariates_of(structures: tuple[Structure, ...], rows: list[Squares]) -> Covariates:
    """Of the covariates of a layout that has some.

    Parameters
    ----------
    structures : tuple of Structure
    rows : list of Squares
        :meth:`OfResiduals._squares`.
    """
    centres = []
    for arm, (s, _) in enumerate(arms_of(structures)):
        if not s.spread.of:
            centres.append((0.0, 1.0))
            continue
        own = [np.broadcast_arrays(b.slopes[-1], b.rows) for b in rows if b.arm == arm]
        a, n = (np.concatenate([part[i].ravel() for part in own]) for i in (0, 1))
        c = float(np.sum(a * n) / np.sum(n))
        u = float(np.sqrt(np.sum(n * (a - c) ** 2) / np.sum(n)))
        centres.append((c, u if u > 0 else 1.0))
    return Covariates(structures, tuple(centres))


def from_mean(bucket: Any, found: Covariates) -> Any:
    """A bucket of any residual layout with the covariate measured from its mean."""
    c, u = found.centres[bucket.arm]
    if (c, u) == (0.0, 1.0):
        return bucket

    there = _there(bucket)

    def moved(slopes: Array) -> Array:
        xp = namespace(slopes)
        own = xp.where(there, (slopes[-1] - c) / u, 0.0)
        return xp.at(slopes)[-1].set(own)

    names = [name for name in ("slopes", "slopes_before") if hasattr(bucket, name)]
    return replace(bucket, **{name: moved(getattr(bucket, name)) for name in names})


def _there(bucket: Any) -> Any:
    """Where slopes are those of rows, and not of padding."""
    if not hasattr(bucket, "slopes_before"):
        return bucket.present > 0
    # links that are merged are as many as there are columns, whatever they count
    return bucket.counts > 0 if bucket.in_order else True
