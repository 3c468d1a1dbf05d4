"""Responses of ``fit_many`` as one layout of arrays side by side: crossed factors, in NumPy.

What depends on the response is :class:`lmm_jax.numerics.stacked.Stacked`, what all share is not;
the criterion is the layout's own. Where rows are missing everything depends on the response.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from ..covariance.theta import theta_size
from ..layouts.contract import Maps, maps_of
from ..likelihood.criterion import empty_jet
from ..likelihood.profile import profile_jet, profile_waist
from ..numerics.namespace import NUMPY
from ..numerics.stacked import Stacked, filled
from ..optimize.grids import second_grid, start_grid
from ..optimize.minimize import has_few_groups
from ..optimize.newton import Solution, tick
from ..optimize.point import State
from ..optimize.starts import with_submodels
from .driver import LaneProblem, minimize_all, take
from .lane_starts import lowest, of_candidates, with_far
from .ticks import tick_lanes

# Lanes that candidates of a grid make up where there are fewer: a call costs as much as a thousand
# numbers.
_TOGETHER = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class LayoutLanes:
    """R responses."""

    layout: Any  # of arrays of which some are Stacked
    usable: np.ndarray  # (R,)  bool: whether there is a model to be fitted

    def maps(self) -> LaneMaps:
        """From the layout's coordinates to those of the data, lanes last in every array."""
        maps = maps_of(self.layout)
        static = {name: maps.pop(name) for name in ("structures", "n_components")}
        return LaneMaps(usable=self.usable, **jax.tree.map(_with_axis, maps), **static)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LaneMaps(Maps):
    """The maps of R responses, R or 1 lanes last, and which of them are models."""

    usable: np.ndarray


def _with_axis(array: Any) -> Any:
    return array.lanes if type(array) is Stacked else np.asarray(array)[..., None]


def minimize_layouts(
    lanes: LayoutLanes, *, reml: bool, maxiter: int, tol: float, grid: bool
) -> Solution:
    """Best optimum of every lane, as :func:`lmm_jax.optimize.minimize.minimize` finds it for one.

    Parameters
    ----------
    lanes : LayoutLanes
    reml, maxiter, tol
        As in :func:`lmm_jax.optimize.minimize.minimize`.
    grid : bool
        Start from the local minima of a grid, or from moment estimates.

    Returns
    -------
    Solution
        NumPy arrays with lanes last.
    """
    layout, R = lanes.layout.without_padding().with_sums(), lanes.usable.size
    structures, p = layout.structures, layout.beta_origin.shape[0]
    shapes = empty_jet(NUMPY, theta_size(structures), p, layout.sizes, layout.S0.dtype)
    with np.errstate(all="ignore"):
        starts, wanted = _find_starts(layout, R, reml=reml, grid=grid)
        beta = _beta_at(starts[0], layout, R, reml=reml)
    problem = _Layouts(
        data=layout.measured_from(beta),
        usable=lanes.usable,
        axis=-1,
        structures=structures,
        shapes=shapes,
        few=filled(has_few_groups(layout), R),
        any_size=True,
        options={"reml": reml, "maxiter": maxiter, "tol": tol},
        grid=grid and second_grid(structures) is not None,
    )
    with np.errstate(all="ignore"):
        found = minimize_all(problem, starts, wanted)
    at = found.jet.profile
    return found._replace(
        jet=found.jet._replace(profile=at._replace(beta=at.beta + filled(beta, R)))
    )


def _find_starts(layout: Any, R: int, *, reml: bool, grid: bool) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (K, m, R), best first, and which of them deserve a run, (K, R)."""
    if not grid:
        return filled(layout.start_moments(), R)[None], np.ones((1, R), bool)
    points: Any
    points, near = start_grid(layout.structures)
    points = points[:, :, None]
    found: Any = lowest(_deviances(points, layout, R, reml=reml), points, near)
    starts, wanted = found
    wanted[0] = True  # a lane without a finite value gets one run, which says so
    return starts, wanted


def _beta_at(theta: np.ndarray, layout: Any, R: int, *, reml: bool) -> Any:
    """Fixed effects from which y is measured, so that they take no digits, (p,)."""
    at = layout.waist_at(Stacked(theta))
    beta = filled(profile_waist(at, layout, reml=reml).beta, R)
    return Stacked(np.where(np.isfinite(beta).all(axis=0), beta, 0.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layouts(LaneProblem):
    """Lanes of a layout, on the host."""

    options: dict[str, Any]
    grid: bool  # whether optima in doubt are challenged from a grid of singular covariances

    def advance(self, state: State, data: Any, least: int) -> State:
        evaluate = partial(profile_jet, layout=data, reml=self.options["reml"])
        how = {name: self.options[name] for name in ("maxiter", "tol")}
        ticked = lambda at: tick(at, evaluate, self.structures, **how)  # noqa: E731
        return tick_lanes(state, ticked, least, axis=self.axis)

    def pick(self, tree: Any, lanes: np.ndarray, total: int) -> Any:
        del total
        if type(tree) is tuple:
            data, state = tree
            return some_lanes(data, lanes), take(state, lanes, self.axis)
        return some_lanes(tree, lanes)

    def smaller(self, size: int) -> int:
        return 0

    def more_starts(
        self, theta: np.ndarray, which: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        grid = second_grid(self.structures) if self.grid else None
        if grid is None:
            return None
        layout = some_lanes(self.data, which)
        points: Any = grid.thetas
        best: Any = Stacked(theta[:, which])
        thetas: Any = filled(with_submodels(points, best, layout), which.size)
        values = _deviances(thetas, layout, which.size, reml=self.options["reml"])
        starts, wanted = lowest(values, thetas, grid.neighbours)
        few: Any = self.few
        starts, wanted = with_far(starts, wanted, best.lanes, self.structures, few[which])
        return np.asarray(starts), np.asarray(wanted)


def some_lanes(tree: Any, lanes: np.ndarray) -> Any:
    """Some of the lanes of a tree; what they share stays as it is."""
    return jax.tree.map(
        lambda leaf: Stacked(leaf.lanes[..., lanes]) if type(leaf) is Stacked else leaf, tree
    )


def _deviances(thetas: np.ndarray, layout: Any, R: int, *, reml: bool) -> Any:
    """-2 log-likelihoods of candidates (N, m, R) or (N, m, 1) in every lane, (N, R)."""

    def of(theta: Any, copies: np.ndarray | None) -> np.ndarray:
        some = layout if copies is None else some_lanes(layout, copies)
        at = theta[:, 0] if theta.shape[1] == 1 else Stacked(theta)
        value = profile_waist(some.waist_at(at), some, reml=reml).deviance
        return filled(value, R if copies is None else copies.size)

    return of_candidates(of, thetas, R, _TOGETHER // R)
