"""Which optimizer runs on which criterion, and the retries. Orchestration only."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax import Array

from ..covariance.params import Params
from ..designs.design import Design
from ..errors import ConvergenceWarning, warn_user
from ..inference.estimates import Found, find
from ..layouts.compress import layout_of_rows
from ..layouts.crossed.index import CrossedIndex, is_dear
from ..layouts.group_index import GroupIndex
from ..layouts.grouped import GroupedLayout
from ..layouts.merged import WORTH_MERGING, trim
from ..numerics.programs import compiled
from ..optimize.constrained import ConstrainedSolution, Problem, lowest, minimize_constrained
from ..optimize.first_order import first_order
from ..optimize.history import Recorder, Row
from ..optimize.minimize import find_starts, minimize
from ..optimize.newton import CONVERGED, Solution
from ..optimize.staged import descend
from .options import start_points, start_theta

_minimize_held = compiled(minimize_constrained, static="reml", host=3e-6)
_minimize_penalized = compiled(minimize_constrained, static="reml")  # JAX differentiates penalties
_lowest = compiled(lowest, static="reml")
_find_starts = compiled(find_starts, static="reml", host=1e-6)

# Rows up to which a fit is one program.
_FEW_ROWS = 4096


class Begun(NamedTuple):
    """A plain fit that came with the compression."""

    solution: Solution
    found: Found | None = None  # what it says of the data, if the same program told that


class Task(NamedTuple):
    """One fit as the user has asked for it."""

    design: Design
    reml: bool
    maxiter: int
    gtol: float
    problem: Problem | None = None  # None: nothing is held or penalized
    start: Params | None = None
    watch: Recorder | None = None  # notes the steps
    theta: np.ndarray | None = None  # where a plain fit begins, in the layout's coordinates
    begun: Begun | None = None


class Run(NamedTuple):
    """Solution, the method that gave it, and its history if that was asked for."""

    solution: Solution | ConstrainedSolution
    method: str
    hist: pd.DataFrame | None
    found: Found | None = None  # what the solution says of the data, where that is known


def begin(task: Task, methods: tuple[str, ...]) -> Task:
    """Compress and fit in one program where the data are few: half the time goes to dispatch.

    The design keeps its layout, the task the solution; other tasks are left as they are.
    """
    design = task.design
    start = task.start if task.theta is None else task.theta
    plain = methods[0] == "newton" and task.problem is None and start is None
    if (
        task.begun is not None
        or not plain
        or design.is_compressed
        or design.is_related
        or design.nobs > _FEW_ROWS
    ):
        return task
    if not _is_one_program(design.plan.index, design.exog.shape[1]):
        return task
    program = partial(_compress_and_minimize, **_options(task, task.maxiter))
    return task._replace(begun=Begun(*design.compressed_by(program)))


def _is_one_program(index: Any, p: int) -> bool:
    """Whether a layout of p fixed effects is minimized as compression makes it.

    Neither with groups merged, nor in steps that the host directs.
    """
    if isinstance(index, CrossedIndex):
        return not is_dear(index.size(p))
    return isinstance(index, GroupIndex) and index.size(p) < WORTH_MERGING


@partial(compiled, static=("groups", "reml"), host=3e-6)
def _compress_and_minimize(
    rows: tuple[Any, ...], sigma2: Any, *, groups: tuple[int, ...], reml: bool, **options: Any
) -> tuple[Any, tuple[Array, Array], tuple[Solution, Found]]:
    layout = layout_of_rows(*rows)
    if sigma2 is not None:
        layout = replace(layout, sigma2=sigma2)
    few = trim(layout, groups) if isinstance(layout, GroupedLayout) else layout
    reach = layout.ranks(), layout.within_rss()
    solution = minimize(few, reml=reml, **options)
    return layout, reach, (solution, find(solution, layout, reml=reml))


def run_methods(task: Task, methods: tuple[str, ...]) -> Run:
    """Try methods in turn until one converges; warn at every retry."""
    for i, method in enumerate(methods):
        solution = _run(task, method)
        rows = task.watch.rows() if task.watch is not None else []
        done = int(solution.status) == CONVERGED
        if done or i + 1 == len(methods):
            break
        warn_user(
            f"method {method!r} did not converge, trying {methods[i + 1]!r}", ConvergenceWarning
        )
    hist = _history(rows) if rows else None
    begun = task.begun
    found = begun.found if begun is not None and solution is begun.solution else None
    solution, found = jax.tree.map(np.asarray, (solution, found))
    return Run(solution, method, hist, found)


def _run(task: Task, name: str) -> Any:
    if name != "newton":
        return _run_first_order(task, name)
    options = _options(task, task.maxiter)
    if task.problem is not None:
        starts = start_points(task.design, task.problem, task.start)
        return _constrained(task.problem)(starts, task.problem, **options)
    if task.begun is not None:
        return task.begun.solution
    start: Any = task.theta
    if task.start is not None:
        start = start_theta(task.design, task.start)
    return descend(task.design.compressed.merged, start, **options)


def _constrained(problem: Problem) -> Any:
    """The program that minimizes a criterion with parameters held or penalized."""
    return _minimize_penalized if problem.is_penalized else _minimize_held


def _options(task: Task, maxiter: int) -> dict[str, Any]:
    return dict(reml=task.reml, maxiter=maxiter, tol=task.gtol, watch=task.watch)


def _run_first_order(task: Task, method: str) -> Any:
    """A first-order method, then Newton steps, a few mostly, that also check the optimum."""
    design, problem = task.design, task.problem
    if problem is not None:
        start = _lowest(start_points(design, problem, task.start), problem, reml=task.reml)
    elif task.start is not None:
        start = start_theta(design, task.start)
    else:
        start = _find_starts(design.compressed.merged, reml=task.reml, maxiter=task.maxiter)[0][0]
    plain = Problem(layout=design.compressed.merged, held=(), fe_pen=None, cov_pen=None, masks=None)
    x, n_iter = first_order(
        method,
        start,
        plain if problem is None else problem,
        reml=task.reml,
        maxiter=task.maxiter,
        gtol=max(task.gtol, 1e-6) ** 0.5,  # of a gradient, where task.gtol is of a decrement
        watch=task.watch,
    )
    options = _options(task, task.maxiter)
    if problem is None:
        solution = descend(design.compressed.merged, x, **options)
    else:
        solution = _constrained(problem)(x[None], problem, **options)
    return solution._replace(n_iter=solution.n_iter + np.int32(n_iter))


def _history(rows: list[Row]) -> pd.DataFrame:
    """One row a step: run, iteration, objective, gradient_norm, theta_0, ...

    A step that was not taken repeats the point before it.
    """
    tick = np.array([row.tick for row in rows])
    theta = np.array([row.theta for row in rows])
    frame = pd.DataFrame(
        {
            "run": np.cumsum(tick == 1) - 1,
            "iteration": tick - 1,
            "objective": [row.objective for row in rows],
            "gradient_norm": [row.gradient_norm for row in rows],
        }
    )
    frame[[f"theta_{j}" for j in range(theta.shape[1])]] = theta
    return frame
