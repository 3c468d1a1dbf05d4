"""Which optimizer runs on which criterion, and the retries. Orchestration only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from .constrained import (
    ConstrainedSolution,
    Problem,
    evaluator,
    minimize_constrained,
    objective,
)
from .design import Design
from .errors import ConvergenceWarning, warn_user
from .layouts.compress import compress
from .layouts.grouped import GroupedLayout
from .layouts.index import GroupIndex
from .layouts.merged import WORTH_MERGING, trim
from .likelihood import profile_jet
from .newton import CONVERGED, Solution
from .optimize import Trace, find_starts, minimize, quasi_newton, trace_newton
from .params import Params
from .programs import compiled
from .settings import start_point, start_theta
from .staged import descend

_minimize_constrained = compiled(minimize_constrained, static="reml")

# Rows up to which a fit is one program.
_FEW_ROWS = 4096
# Newton steps that finish what a first-order method has begun.
_POLISH = 8


class Task(NamedTuple):
    """One fit as the user has asked for it."""

    design: Design
    problem: Problem | None  # None: nothing is held or penalized
    start: Params | None
    reml: bool
    maxiter: int
    gtol: float
    full_output: bool
    begun: Solution | None = None  # the plain fit, where it came with the compression


class Run(NamedTuple):
    """Solution, the method that gave it, and its history if that was asked for."""

    solution: Solution | ConstrainedSolution
    method: str
    hist: pd.DataFrame | None


def begin(task: Task, methods: tuple[str, ...]) -> Task:
    """Compress and fit in one program where the data are few: half the time goes to dispatch.

    The design keeps its layout, the task the solution; other tasks are left as they are.
    """
    design = task.design
    plain = methods[0] == "newton" and task.problem is None and task.start is None
    if not plain or design.is_compressed or design.nobs > _FEW_ROWS:
        return task
    index = design.plan.index
    if not isinstance(index, GroupIndex) or index.size(design.exog.shape[1]) >= WORTH_MERGING:
        return task
    layout, reach, solution = _compress_and_minimize(
        design.padded_rows(),
        groups=design.few_groups,
        reml=task.reml,
        maxiter=task.maxiter,
        tol=task.gtol,
    )
    design.keep(layout, reach)
    return task._replace(begun=solution)


@partial(compiled, static=("groups", "reml"))
def _compress_and_minimize(
    rows: tuple[Any, ...], *, groups: tuple[int, ...], reml: bool, maxiter: int, tol: float
) -> tuple[Any, tuple[Array, Array], Solution]:
    layout = compress(*rows)
    assert isinstance(layout, GroupedLayout)  # the caller has looked at the index
    few = trim(layout, groups)
    reach = layout.ranks(), layout.within_rss()
    return layout, reach, minimize(few, reml=reml, maxiter=maxiter, tol=tol)


def run_methods(task: Task, methods: tuple[str, ...]) -> Run:
    """Try methods in turn until one converges; warn at every retry."""
    for i, method in enumerate(methods):
        solution, traces = _run(task, method)
        done = int(solution.status) == CONVERGED
        if done or i + 1 == len(methods):
            break
        warn_user(
            f"method {method!r} did not converge, trying {methods[i + 1]!r}", ConvergenceWarning
        )
    hist = _history(traces) if task.full_output and traces else None
    return Run(jax.tree.map(np.asarray, solution), method, hist)


def _run(task: Task, name: str) -> tuple[Any, list[Trace]]:
    if name != "newton":
        return _run_quasi_newton(task, name)
    if task.problem is not None:
        return _run_constrained(task)
    start = None if task.start is None else start_theta(task.design, task.start)
    solution = task.begun
    if solution is None:
        solution = descend(
            task.design.merged, start, reml=task.reml, maxiter=task.maxiter, tol=task.gtol
        )
    traces = _trace_starts(task, start) if task.full_output else []
    return solution, traces


def _trace_starts(task: Task, start: Array | None) -> list[Trace]:
    """Histories of the runs from the start values, recorded on the host."""
    layout = task.design.merged
    if start is None:
        starts, wanted = find_starts(layout, reml=task.reml, maxiter=task.maxiter)
        chosen = [theta for theta, go in zip(starts, wanted, strict=True) if bool(go)]
    else:
        chosen = [start]

    def evaluate(theta: Array) -> Any:
        return profile_jet(theta, layout, reml=task.reml)

    return [
        trace_newton(theta, evaluate, layout.sizes, maxiter=task.maxiter, tol=task.gtol)[1]
        for theta in chosen
    ]


def _run_constrained(task: Task) -> tuple[ConstrainedSolution, list[Trace]]:
    assert task.problem is not None  # the caller has looked
    x = start_point(task.design, task.problem, task.start, reml=task.reml)
    solution = _minimize_constrained(
        x, task.problem, reml=task.reml, maxiter=task.maxiter, tol=task.gtol
    )
    if not task.full_output or x.size == 0:
        return solution, []
    evaluate = evaluator(task.problem, reml=task.reml)
    return solution, [trace_newton(x, evaluate, (), maxiter=task.maxiter, tol=task.gtol)[1]]


def _run_quasi_newton(task: Task, method: str) -> tuple[Any, list[Trace]]:
    """A first-order method, then a few Newton steps that also check the optimum."""
    design, problem = task.design, task.problem
    plain = problem is None
    if problem is None:
        problem = Problem(layout=design.merged, held=(), fe_pen=None, cov_pen=None, masks=None)
        start = (
            find_starts(design.merged, reml=task.reml, maxiter=task.maxiter)[0][0]
            if task.start is None
            else start_theta(design, task.start)
        )
    else:
        start = start_point(design, problem, task.start, reml=task.reml)
    fun: Callable[[Array], Array] = lambda x: objective(x, problem, reml=task.reml)[0]  # noqa: E731
    gtol = max(task.gtol, 1e-6) ** 0.5  # of a gradient, where task.gtol is of a decrement
    x, trace = quasi_newton(method, fun, start, maxiter=task.maxiter, gtol=gtol)
    steps = min(_POLISH, task.maxiter)
    if plain:
        solution = descend(design.merged, x, reml=task.reml, maxiter=steps, tol=task.gtol)
    else:
        solution = _minimize_constrained(x, problem, reml=task.reml, maxiter=steps, tol=task.gtol)
    n_iter = jnp.asarray(len(trace.objective) - 1, jnp.int32)
    return solution._replace(n_iter=solution.n_iter + n_iter), [trace]


def _history(traces: list[Trace]) -> pd.DataFrame:
    """One row an iteration: run, iteration, objective, gradient_norm, theta_0, ..."""
    frames = []
    for run, trace in enumerate(traces):
        frame = pd.DataFrame(
            {"run": run, "objective": trace.objective, "gradient_norm": trace.gradient_norm}
        )
        frame.insert(1, "iteration", np.arange(len(frame)))
        theta = np.array(trace.theta)
        frame[[f"theta_{j}" for j in range(theta.shape[1])]] = theta
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
