"""Random effects given y at the estimates, and how they move with the fixed effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ...designs.design import Design
from ...layouts.contract import BlupTerms, Layout
from ...numerics.namespace import namespace
from ...numerics.processes import float64
from ...numerics.programs import compiled
from ..estimates import Estimates
from .joint_effects import GroupEffects
from .related_effects import spread_effects


class TermRows(NamedTuple):
    """One term at some rows, of the fit or new."""

    codes: np.ndarray  # (n, S)  level of each row; -1: one that the fit has not seen
    values: np.ndarray  # (n, S, k)  covariates; NaN where a category of theirs is new

    @property
    def unseen(self) -> np.ndarray:
        """Rows with a level that the fit has not seen, (n,)."""
        return np.any(self.codes < 0, axis=1)

    def take(self, at: slice) -> TermRows:
        """Some of the rows."""
        return TermRows(self.codes[at], self.values[at])

    def seen(self) -> TermRows:
        """The same with nothing of the term in rows with unseen levels."""
        new = self.unseen
        if not new.any():
            return self
        values = np.where(new[:, None, None], 0.0, self.values)
        return TermRows(np.where(new[:, None], 0, self.codes), values)


def _all_blups(theta: jax.Array, beta: jax.Array, layout: Layout) -> tuple[BlupTerms, ...]:
    return layout.blups(theta, beta)


def _all_means(theta: jax.Array, betas: jax.Array, layout: Layout) -> tuple[jax.Array, ...]:
    def means(beta: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(part.b for part in layout.blups(theta, beta))

    found: tuple[jax.Array, ...] = namespace(theta, betas, layout).vmap(means)(betas)
    return found


_blups = compiled(_all_blups, host=1e-7)
_means = compiled(_all_means, host=1e-7)


def group_effects(estimates: Estimates, design: Design) -> GroupEffects:
    """Conditional means (BLUPs) and covariances given y at the estimates."""
    with float64():
        theta: Any = estimates.theta_layout
        beta = estimates.beta_layout
        parts = _blups(theta, beta, design.compressed.layout)
    return GroupEffects(
        means=[estimates.y_scale * np.asarray(part.b) for part in parts],
        covariances=[np.asarray(part.cov) for part in parts],
        through=[None if part.through is None else np.asarray(part.through) for part in parts],
        priors=[F @ F.T for F in estimates.factors],
        joint=design.compressed.layout.joint_covariance(theta),
    )


def level_effects(means: Sequence[np.ndarray], design: Design, t: int) -> np.ndarray:
    """Effects of the levels of term t in the coordinates of the data, (..., L, k).

    Parameters
    ----------
    means : sequence of ndarray, shape (..., q, G)
        Of every bucket, in the coordinates of the layout.
    design : Design
    t : int
    """
    places, k = design.places.level_maps[t], design.sizes[t]
    out = np.zeros((*means[0].shape[:-2], places.slot.size, k))
    for b, values in enumerate(means):
        at = places.bucket == b
        rows = places.slot[at][:, None] + np.arange(k)
        out[..., at, :] = values[..., rows, places.group[at][:, None]]
    out = out @ np.asarray(design.compressed.layout.whiteners[t]).T
    basis = design.compressed.basis(t)
    return out if basis is None else spread_effects(basis, out)


def effect_slopes(estimates: Estimates, design: Design) -> list[np.ndarray]:
    """Derivative of the BLUPs in the fixed effects, ``-Psi Z' V^-1 X``, (L, k, p) a term.

    Zero in what is held fixed: there is no error to hand on.
    """
    layout = design.compressed.layout
    free = estimates.beta_layout.size
    betas = np.concatenate([np.zeros((1, free)), np.eye(free)])
    with float64():
        found = _means(estimates.theta_layout, betas, layout)
    means = [np.asarray(b[1:]) - np.asarray(b[:1]) for b in found]  # linear in beta
    inward = np.linalg.inv(np.asarray(layout.beta_map))
    columns = np.arange(free) if design.held is None else np.flatnonzero(np.isnan(design.held))
    out = []
    for t, term in enumerate(design.terms):
        own = np.moveaxis(level_effects(means, design, t), 0, -1) @ inward
        slopes = np.zeros((term.n_levels, design.sizes[t], estimates.beta.size))
        slopes[..., columns] = own
        out.append(slopes)
    return out


def random_part(
    terms: Sequence[TermRows], effects: Sequence[np.ndarray], n_rows: int
) -> np.ndarray:
    """``Z b`` for some rows, (n,); an unseen level adds nothing.

    Parameters
    ----------
    terms : sequence of TermRows
    effects : sequence of ndarray, shape (L, k)
    n_rows : int
    """
    total = np.zeros(n_rows)
    for term, b in zip(terms, effects, strict=True):
        codes, values = term.seen()
        total += np.einsum("nsk,nsk->n", values, b[codes])
    return total
