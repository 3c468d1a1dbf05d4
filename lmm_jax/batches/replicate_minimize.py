"""Minimization for drawn responses: layouts of any kind with a response in each lane.

The layouts' own criterion runs under ``vmap`` in programs and on ``Stacked`` arrays in NumPy, so
that whatever can be fitted can be replicated. All lanes start from one point and are few numbers
each, which stay on the host.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, cast

import jax
import numpy as np
from jax import Array

from ..covariance.theta import theta_size
from ..layouts.contract import Layout, origin_apart
from ..layouts.residual.alike import merge_alike
from ..layouts.response import Response, attach, first_groups
from ..likelihood.profile import profile_jet
from ..numerics.devices import on_processor
from ..numerics.namespace import JAX, namespace
from ..numerics.programs import compiled
from ..numerics.shapes import round_up
from ..numerics.stacked import stacked
from ..numerics.tiers import Tier, compiling, running_on
from ..optimize.minimize import moved, off_boundary
from ..optimize.newton import DECREMENT_TOL, Solution, tick
from ..optimize.point import State
from ..optimize.shared_columns import narrowed, outline, widened, widened_response
from ..optimize.staged import descend
from .driver import LaneProblem, minimize_all
from .ticks import tick_lanes

# Sizes to which the lanes that go on are packed: few, since each is a program of its own.
_PACKED = (512, 64)
# Numbers in a batch up to which compiling well costs more than it saves.
_QUICK = 1 << 17
# Limit on the steps of one optimum.
_MAXITER = 200
# Seconds that NumPy takes for each number of a layout and each lane, about.
_TIER = Tier(1.5e-6)


def fit_lanes(
    layout: Layout,
    responses: Response,
    start: Array | np.ndarray,
    wanted: np.ndarray | None = None,
    *,
    reml: bool,
    maxiter: int = _MAXITER,
    tol: float = DECREMENT_TOL,
) -> Solution:
    """Optimum for every response.

    Parameters
    ----------
    layout : Layout
        The design; its own response is not looked at.
    responses : Response
        Arrays with a leading axis of R lanes.
    start : Array, shape (m,) or (K, m, R)
        In the layout's coordinates: one for all, reopened where it is near the boundary; or
        K of each response.
    wanted : ndarray of bool, shape (K, R), optional
        Which of these deserve a run; by default all.
    reml : bool
    maxiter : int
        Limit on the steps of one run.
    tol : float
        See :func:`lmm_jax.optimize.newton.newton`.

    Returns
    -------
    Solution
        NumPy arrays with a leading axis of R.
    """
    responses = jax.device_get(responses)  # rows are taken on the host: no program for each shape
    R, p = len(responses.S0), layout.beta_origin.shape[0]
    starts = np.asarray(start)
    if starts.ndim == 1:
        inner, _ = off_boundary(starts, layout.structures)
        starts = np.broadcast_to(inner[:, None], (1, inner.size, R))
    wanted = np.ones((len(starts), R), bool) if wanted is None else wanted
    with one_runtime(layout, R, reml=reml) as compiled:
        if compiled:
            wide = jax.device_put(widened(layout, reml=reml))
            responses = widened_response(responses, layout)
        else:
            wide = layout.without_padding().with_sums()
            responses = first_groups(responses, wide)
        problem = _Replicates(
            data=responses,
            usable=np.ones(R, bool),
            axis=0,
            structures=layout.structures,
            shapes=_shapes(starts[0, :, 0], wide, responses, reml=reml),
            any_size=not compiled,
            layout=wide,
            options={"reml": reml, "maxiter": maxiter, "tol": tol},
        )
        found = minimize_all(problem, starts, wanted, reopen=True)
        return narrowed(found, p, lanes_first=True) if compiled else found


def one_runtime(layout: Layout, n: int, *, reml: bool) -> AbstractContextManager[bool]:
    """Context in which n lanes of a layout stay in NumPy or with compiled programs.

    Its value is whether they are compiled.
    """
    leaves, tree = jax.tree.flatten(outline(layout, reml=reml))
    key = tree, tuple(leaf.shape for leaf in leaves), round_up(n), reml
    m, crossed = theta_size(layout.structures), layout._is_kind("crossed")
    # there programs of crossed factors take from half of NumPy's time, after half a minute of
    # compilation, to seven times as much
    gains = not crossed or not on_processor()
    price = compiling(m, crossed=crossed) if gains else inf
    return _TIER.one_runtime(key, n * layout.size(), price)


def _shapes(theta: np.ndarray, layout: Layout, responses: Response, *, reml: bool) -> Any:
    """Of the criterion at one theta, by its value there in NumPy: JAX would compile every step."""
    first = jax.device_get(attach(layout, jax.tree.map(lambda rows: rows[0], responses)))
    at = cast(Array, theta)
    with np.errstate(all="ignore"):
        return jax.tree.map(np.asarray, profile_jet(at, first, reml=reml))


def fit_each(
    layout: Layout,
    responses: Response,
    start: np.ndarray,
    *,
    reml: bool,
) -> Solution:
    """The same one after another in NumPy.

    For layouts whose groups merge with their response (subjects of one pattern are few rows then,
    which saves more than lanes side by side would), and for those that are large by themselves.
    """
    layout, responses = jax.device_get((layout, responses))
    inner, _ = off_boundary(np.asarray(start), layout.structures)
    found = []
    with running_on("numpy"):
        for i in range(len(responses.S0)):
            mine = attach(layout, jax.tree.map(lambda a, i=i: a[i], responses))
            merged = merge_alike(mine)
            at = descend(merged, inner, reml=reml, maxiter=_MAXITER, tol=DECREMENT_TOL)
            found.append(jax.tree.map(np.asarray, moved(at, origin_apart(merged, mine))))
    out: Solution = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class _Replicates(LaneProblem):
    """Lanes of few numbers each, on the host."""

    layout: Layout
    options: dict[str, Any]

    def advance(self, state: State, data: Response, least: int) -> State:
        return _run(state, data, least, layout=self.layout, **self.options)

    def smaller(self, size: int) -> int:
        return next((s for s in _PACKED if 4 * s <= size), 0)

    def holding(self, count: int, size: int) -> int:
        del size  # few batches have others
        return next((s for s in reversed(_PACKED) if s >= count), round_up(count))


_jet = jax.jit(profile_jet, static_argnames="reml")  # traced once for all of its uses


def _advance(
    states: State, responses: Response, least: int, *, layout: Layout, reml: bool,
    maxiter: int, tol: float,
) -> State:  # fmt: skip
    """Tick until at most ``least`` lanes are running."""

    def one(s: State, response: Response, jet: Any) -> State:
        mine = attach(layout, response)
        evaluate = lambda t: jet(t, mine, reml=reml)  # noqa: E731
        return tick(s, evaluate, layout.structures, maxiter=maxiter, tol=tol)

    if namespace(states.theta) is JAX:
        ticked = lambda s: jax.vmap(partial(one, jet=_jet))(s, responses)  # noqa: E731
    else:
        ticked = partial(one, response=stacked(responses), jet=profile_jet)
    return tick_lanes(states, ticked, least, axis=0)


_run = compiled(_advance, static="reml", small=_QUICK, host=_TIER.seconds)
