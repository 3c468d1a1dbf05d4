"""Minimization of the profiled criterion: which starts, which runs, which optimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax import Array

from ..covariance.residuals import arms_of
from ..covariance.structures import Structure
from ..covariance.theta import theta_size, theta_slices
from ..layouts.contract import Layout
from ..likelihood.criterion import empty_jet
from ..likelihood.profile import profile_jet
from ..numerics.namespace import NUMPY, namespace, traced_once
from .better import better
from .challenge import run_and_challenge
from .followers import ends_at_known, without_followers
from .grids import in_rows, leaves_gaps, parts_of, second_grid, start_grid
from .history import Recorder
from .newton import CONVERGED, DECREMENT_TOL, NOISY, NONFINITE, PIVOT_TOL, Solution, newton
from .point import State
from .starts import SMALL_PROBLEM, Starts, look, start_values, with_far_starts, with_submodels

After = Callable[[State[Any]], State[Any]] | None  # see newton

# Groups below which an optimum may well not be the only one, and relative standard deviations.
FEW_GROUPS, _EXTREME = 12, 100.0
# Relative standard deviation of one of several terms' coefficients that is next to none.
_HARDLY = 1e-2
# Decrement at which the optimum of a sample of the groups is near enough to start from.
_SAMPLE_TOL = 1e-2


def minimize(
    layout: Layout,
    start: Array | None = None,
    *,
    reml: bool,
    maxiter: int,
    tol: float = DECREMENT_TOL,
    watch: Recorder | None = None,
) -> Solution:
    """Best optimum over the starts that the data suggest.

    A small problem is looked over on a grid of relative standard deviations,
    one axis a coefficient, and Newton runs from every local minimum of the grid
    (six at most); a large one starts from moment estimates, a very large one from the
    optimum that a sample of its groups has. An optimum on the boundary is
    challenged by one more run from the interior, and one in doubt by singular covariances
    and submodels (:func:`in_doubt`). Of runs side by side in NumPy one that goes to the best
    optimum so far goes no farther (:mod:`.followers`).

    Parameters
    ----------
    layout : Layout
    start : Array, shape (m,), optional
        The only start, in the layout's coordinates.
    reml : bool
    maxiter : int
        Limit on the steps of one run.
    tol : float
        See :func:`lmm_jax.optimize.newton.newton`.
    watch : Recorder, optional
        Notes the steps of all runs.
    """
    xp = namespace(layout.S0)
    centred = layout.size() <= SMALL_PROBLEM  # many groups leave no such distance to go
    if xp is NUMPY:
        layout = layout.without_padding().with_sums()
    search = _Search(
        layout=layout, maxiter=maxiter, tol=tol, watch=watch, reml=reml, centred=centred
    )
    nothing = _nothing_found(search)
    if search.centred and layout.start_candidates() is None:
        return _look_and_run(_grids(layout, start), nothing, search)
    beta = nothing.jet.profile.beta
    if start is not None:
        return _run_all(Starts(start[None], xp.ones(1, bool), beta), nothing, search)
    starts = Starts(*find_starts(layout, reml=reml, maxiter=maxiter), beta)
    run = lambda starts, best: _run_all(starts, best, search)  # noqa: E731
    return run_and_challenge(starts, nothing, layout, run)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Search:
    """What all runs of one minimization share; see :func:`minimize`."""

    layout: Layout
    maxiter: Any
    tol: Any
    watch: Recorder | None
    reml: bool = field(metadata={"static": True})
    centred: bool = field(metadata={"static": True})  # y is measured from the best beta so far
    _array: ClassVar[str] = "layout"

    @property
    def side_by_side(self) -> bool:
        """Whether NumPy, to which a call is dearer than small arrays, runs from all at once."""
        return namespace(self.layout) is NUMPY and self.layout.takes_many and self.watch is None


@traced_once  # inner programs are traced once for all of their uses
def _descend(
    theta: Array, beta: Array, search: _Search, after: After = None, go: Any = True
) -> Solution:
    """A run with y measured from fixed effects beta, so that they take no digits."""
    near = search.layout.measured_from(beta) if search.centred else search.layout
    found = _newton_on(
        near, theta, reml=search.reml, maxiter=search.maxiter, tol=search.tol, watch=search.watch,
        after=after, go=go,
    )  # fmt: skip
    return moved(found, beta)


def moved(found: Solution, beta: Any) -> Solution:
    """A solution whose fixed effects are measured from others, beta less than its own."""
    at = found.jet.profile
    return found._replace(jet=found.jet._replace(profile=at._replace(beta=at.beta + beta)))


def _nothing_found(search: _Search) -> Solution:
    """A solution that any other is better than."""
    xp, layout = namespace(search.layout), search.layout
    m, p, dtype = theta_size(layout.structures), layout.beta_origin.size, layout.S0.dtype
    return Solution(
        theta=xp.zeros(m, dtype),
        jet=empty_jet(xp, m, p, layout.sizes, dtype),
        status=xp.full((), NONFINITE, np.int32),
        n_iter=xp.zeros((), np.int32),
        decrement=xp.zeros((), dtype),
    )


def _run_all(starts: Starts, best: Solution, search: _Search) -> Solution:
    """The best of a solution and what is found from some starts; if new, challenged from inside."""
    xp, before = namespace(search.layout), best
    order = xp.argsort(~starts.wanted, stable=True)
    thetas, n = starts.thetas[order], xp.sum(starts.wanted)
    structures = search.layout.structures
    reached = [best]
    one_by_one = xp is NUMPY and search.watch is None
    after = ends_at_known(reached, structures) if one_by_one else None

    def run(i: Any, best: Solution) -> Solution:
        inner, cornered = off_boundary(best.theta, structures)
        lost = (best.status == NOISY) & search.centred
        inner = xp.where(lost, best.theta, inner)
        theta = xp.where(i < n, thetas[xp.minimum(i, len(thetas) - 1)], inner)
        new = xp.any(best.theta != before.theta) | (before.status == NONFINITE)
        again = (cornered | lost) & new
        go = (i < n) | ((i == n) & again)
        beta = xp.where(i < n, starts.beta, best.jet.profile.beta)

        def wins(best: Solution) -> Solution:
            new = _descend(theta, beta, search, after, go=go)
            if after is not None:
                reached.append(new)
            return better(best, new)

        return xp.cond(go, wins, lambda best: best, best)

    if search.side_by_side and starts.wanted.sum() > 1:
        return run(n, _run_side_by_side(starts, best, search))
    return xp.fori_loop(0, n + 1, run, best)


def _run_side_by_side(starts: Starts, best: Solution, search: _Search) -> Solution:
    """The best of a solution and what is found from some starts, all of them at once."""
    xp, structures = namespace(search.layout), search.layout.structures
    after = lambda s: without_followers(s, structures)  # noqa: E731
    descend = xp.side_by_side(lambda theta: _descend(theta, starts.beta, search, after))
    found = descend(starts.thetas[starts.wanted])
    for i in range(len(found.theta)):
        best = better(best, jax.tree.map(lambda leaf: leaf[i], found))  # noqa: B023
    return best


def _look_and_run(grids: _Grids, best: Solution, search: _Search) -> Solution:
    """Runs from the local minima of the first grid, and of the next while there is doubt."""
    xp = namespace(search.layout)

    def needed(state: tuple[Array, Solution]) -> Array:
        s, best = state
        return (s == 0) | ((s < len(grids.thetas)) & in_doubt(best, search.layout))

    def stage(state: tuple[Array, Solution]) -> tuple[Array, Solution]:
        s, best = state
        found = _found_in(grids, s, best.theta, best.jet.profile.beta, search)
        found = found._replace(wanted=found.wanted & needed(state))  # of lanes, not of all others
        return s + 1, _run_all(found, best, search)

    if search.side_by_side and _doubtful_anyway(grids, search.layout):
        return _all_stages_at_once(grids, best, search)
    start: Any = xp.zeros((), np.int32), best
    found: Solution = xp.while_loop(needed, stage, start)[1]
    return found


def _doubtful_anyway(grids: _Grids, layout: Layout) -> bool:
    """Whether there is a second stage, whatever the first one finds, of the same candidates."""
    alone = len(layout.structures) == 1  # nothing beside it that would be as in the best point
    return len(grids.thetas) > 1 and alone and bool(has_few_groups(layout))


def _all_stages_at_once(grids: _Grids, best: Solution, search: _Search) -> Solution:
    """Runs from the local minima of both grids side by side; extreme optima in their turn."""
    xp = namespace(search.layout)
    first = _found_in(grids, 0, best.theta, best.jet.profile.beta, search)
    if is_extreme(first.thetas[0]):
        best = _run_all(first, best, search)
    else:
        then = _found_in(grids, 1, first.thetas[0], first.beta, search)
        thetas = xp.concatenate([first.thetas, then.thetas])
        wanted = xp.concatenate([first.wanted, then.wanted])
        best = _run_all(Starts(thetas, wanted, first.beta), best, search)
        if not is_extreme(best.theta):
            return best
    return _run_all(_found_in(grids, 1, best.theta, best.jet.profile.beta, search), best, search)


def _found_in(grids: _Grids, s: Any, theta: Array, beta: Array, search: _Search) -> Starts:
    """Starts of stage s, with theta and beta of the best point so far."""
    xp = namespace(search.layout)
    layout, reml = search.layout, search.reml
    thetas, neighbours = grids.thetas[s], grids.neighbours[s]
    near = layout.measured_from(beta)
    if len(grids.thetas) == 1:
        found = look(thetas, neighbours, near, reml=reml)
        return found._replace(beta=beta + found.beta)
    thetas = xp.where(s == 0, thetas, with_submodels(thetas, theta, layout))
    batches = xp.where(s == 0, 1, parts_of(len(thetas), layout.structures))
    found = look(thetas, neighbours, near, reml=reml, batches=batches)
    found = found._replace(beta=beta + xp.where(s == 0, found.beta, 0.0))
    # valleys that a grid does not show: narrow ones, and those between singular covariances
    extreme = (s > 0) & is_extreme(theta)
    hidden = (s > 0) & has_few_groups(layout) & leaves_gaps(layout.structures)
    return with_far_starts(found, layout.structures, hidden | extreme, extreme)


class _Grids(NamedTuple):
    """Candidates of every stage, padded to one size; see :class:`Candidates`."""

    thetas: Array  # (S, N, m)
    neighbours: Array  # (S, N, K)


def _grids(layout: Layout, start: Array | None) -> _Grids:
    """What to look at, stage by stage."""
    xp = namespace(layout.S0)
    if start is not None:
        return _Grids(start[None, None], xp.full((1, 1, 1), -1))
    first, then = start_grid(layout.structures), second_grid(layout.structures)
    both = [first] if then is None else [first, then]
    rows = max(len(g.thetas) for g in both)
    width = max(g.neighbours.shape[1] for g in both)
    near = [
        np.pad(
            g.neighbours,
            ((0, rows - len(g.thetas)), (0, width - g.neighbours.shape[1])),
            constant_values=-1,
        )
        for g in both
    ]
    points = [np.pad(g.thetas, ((0, rows - len(g.thetas)), (0, 0))) for g in both]
    thetas = xp.asarray(np.stack(points), layout.S0.dtype)
    return _Grids(thetas, xp.asarray(np.stack(near)))


def in_doubt(best: Solution, layout: Layout) -> Array:
    """Whether an optimum is to be challenged by starts from singular covariances.

    Where the groups are few, or large random effects leave narrow valleys, others are not rare:
    1 in 50 data sets of eight groups or fewer has one. Of terms whose correlations are parameters
    of their own 1 in 20 data sets of 20 groups has one, and of three uncorrelated coefficients and
    more some (:func:`~lmm_jax.optimize.grids.is_crowded`). None of 30,000 singular optima had
    another in 12 groups for each coefficient and more.
    """
    bent = any(not structure.linear for structure in layout.structures)
    doubt = has_few_groups(layout) | is_extreme(best.theta) | bent
    return doubt | lacks_one(best.theta, layout.structures)


def lacks_one(theta: Any, structures: tuple[Structure, ...]) -> Any:
    """Whether a coefficient of one of three terms and more hardly varies, for every lane."""
    xp = namespace(theta)
    if len(structures) < 3 or not all(s.unrestricted for s in structures):
        return xp.zeros(theta.shape[1:], bool)
    pivots = [
        theta[at][s.pivots] for s, at in zip(structures, theta_slices(structures), strict=True)
    ]
    return xp.min(xp.abs(xp.concatenate(pivots)), axis=0) < _HARDLY


def has_few_groups(layout: Layout) -> Any:
    """Whether the groups are so few that a second optimum is not rare."""
    return layout.ranks() < FEW_GROUPS * sum(layout.sizes)


def is_extreme(theta: Any) -> Any:
    """Whether some random effects are very much larger than the residual, for every lane."""
    xp = namespace(theta)
    return xp.max(xp.abs(theta), axis=0) > _EXTREME


_jet = traced_once(profile_jet, static="reml")


def _newton_on(
    layout: Layout,
    theta: Array,
    *,
    reml: bool,
    maxiter: int,
    tol: float,
    watch: Recorder | None = None,
    after: After = None,
    go: Any = True,
) -> Solution:
    return newton(
        theta,
        lambda t: _jet(t, layout, reml=reml),
        layout.structures,
        maxiter=maxiter,
        tol=tol,
        watch=watch,
        after=after,
        go=go,
    )


def find_starts(layout: Layout, *, reml: bool, maxiter: int) -> tuple[Array, Array]:
    """Start values, best first, and which of them deserve a run; see :func:`minimize`."""
    xp = namespace(layout.S0)
    candidates = layout.start_candidates()
    chains = None if candidates is None else layout.start_chains(candidates)
    if candidates is not None and layout.size() > SMALL_PROBLEM and not _correlated(layout):
        points = xp.concatenate([candidates, *(chains or ())])
        found = look(points, xp.full((len(points), 1), -1), layout, reml=reml)
        return found.thetas[:1], xp.ones(1, bool)
    if candidates is not None and chains is not None:
        neighbours = xp.asarray(in_rows([len(row) for row in chains]))
        found = look(xp.concatenate(chains), neighbours, layout, reml=reml)
        wanted = xp.concatenate([xp.ones(len(candidates), bool), found.wanted])
        return xp.concatenate([candidates, found.thetas]), wanted
    if candidates is not None:
        return candidates, xp.ones(len(candidates), bool)
    few = layout.thinned()
    if few is None:
        return start_values(layout, reml=reml)
    moments = few.start_moments()
    sample = _newton_on(few, moments, reml=reml, maxiter=maxiter, tol=_SAMPLE_TOL)
    found = xp.where(sample.status == CONVERGED, sample.theta, moments)
    return found[None], xp.ones(1, bool)


def _correlated(layout: Layout) -> bool:
    """Whether residuals have correlations, which large random effects may stand for."""
    return any(residual.correlation.n_params for residual, _ in arms_of(layout.structures))


def off_boundary(theta: Any, structures: tuple[Structure, ...]) -> tuple[Any, Any]:
    """A start with every singular term reopened, and whether there was one.

    Parameters
    ----------
    theta : Array, shape (m,) or (m, R)
    structures : tuple of Structure
    """
    xp = namespace(theta)
    opened, cornered = [], []
    for structure, at in zip(structures, theta_slices(structures), strict=True):
        pivots = structure.pivots
        if not pivots.size:
            opened.append(theta[at])
            continue
        singular = xp.min(xp.abs(theta[at][pivots]), axis=0) < PIVOT_TOL
        inside = np.where(np.isin(np.arange(structure.n_params), pivots), 0.5, 0.0)
        half = xp.asarray(inside, theta.dtype).reshape(-1, *(1,) * (theta.ndim - 1))
        opened.append(xp.where(singular, half, theta[at]))
        cornered.append(singular)
    if not cornered:
        return theta, xp.zeros(theta.shape[1:], bool)
    return xp.concatenate(opened), xp.any(xp.stack(cornered), axis=0)
