"""Minimizers that use gradients only."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..numerics.namespace import NUMPY, namespace
from ..numerics.programs import Program, compiled
from ..numerics.tiers import staying_on
from .constrained import Problem, evaluate, objective
from .history import Recorder


def first_order(
    method: str,
    x: Array,
    problem: Problem,
    *,
    reml: bool,
    maxiter: int,
    gtol: float,
    watch: Recorder | None = None,
) -> tuple[Array, int]:
    """Minimize the objective of a problem by a method that needs no second derivatives.

    Parameters
    ----------
    method : {"lbfgs", "bfgs"}
        SciPy's BFGS, or L-BFGS: SciPy's where NumPy has the criterion, optax's in a program.
    x : Array, shape (m,)
        Start.
    problem : Problem
    reml : bool
    maxiter : int
    gtol : float
        The largest entry of the gradient at which to stop.
    watch : Recorder, optional

    Returns
    -------
    x : Array, shape (m,)
    n_iter : int
    """
    options: dict[str, Any] = dict(reml=reml, maxiter=maxiter, gtol=gtol, watch=watch)
    program = _penalized if problem.is_penalized else _plain
    on_host = program.takes_numpy(x, problem, reml=reml)
    if method == "bfgs" or on_host:
        with staying_on("numpy" if on_host else "jax"):
            return _by_scipy(_OF_SCIPY[method], program, x, problem, **options)
    import optax  # noqa: F401  # while nothing is traced: it makes arrays as it loads

    with jax.numpy_dtype_promotion("standard"):  # optax mixes integer types under x64
        found, n_iter = _lbfgs(x, problem, **options)
    program.add_compiled(x, problem, reml=reml)
    return found, int(n_iter)


def _value_and_grad(x: Array, problem: Problem, *, reml: bool) -> tuple[Array, Array]:
    if namespace(x, problem.layout) is NUMPY:
        jet = evaluate(x, problem, reml=reml)
        return jet.value, jet.gradient
    return jax.value_and_grad(lambda x: objective(x, problem, reml=reml)[0])(x)


_plain = compiled(_value_and_grad, static="reml", host=1e-6)
_penalized = compiled(_value_and_grad, static="reml")  # JAX differentiates penalties

# Names of the methods in SciPy, and what turns off their other rules for when to stop.
_OF_SCIPY: dict[str, tuple[str, dict[str, float]]] = {
    "bfgs": ("BFGS", {}),
    "lbfgs": ("L-BFGS-B", {"ftol": 0.0}),
}


def _by_scipy(
    method: tuple[str, dict[str, float]],
    program: Program,
    x: Array,
    problem: Problem,
    *,
    reml: bool,
    maxiter: int,
    gtol: float,
    watch: Recorder | None,
) -> tuple[Array, int]:
    """SciPy's minimizers, which run on the host."""
    import scipy.optimize  # late, as optax: Newton's users need not wait for them

    def value_and_grad(x: Any) -> tuple[float, np.ndarray]:
        value, gradient = program(x, problem, reml=reml)
        return float(value), np.asarray(gradient)

    steps = 0

    def note(x: Any) -> None:
        nonlocal steps
        steps += 1
        if watch is not None:
            watch(steps, x, *program(x, problem, reml=reml))

    note(x)
    if not maxiter:  # L-BFGS-B looks at the limit after a step
        return x, 0
    found = scipy.optimize.minimize(  # type: ignore[call-overload]
        value_and_grad,
        np.asarray(x),
        jac=True,
        method=method[0],
        callback=note,
        options={"maxiter": maxiter, "gtol": gtol, **method[1]},
    )
    return namespace(x).asarray(found.x), steps - 1


def _minimize_lbfgs(
    x: Array, problem: Problem, *, reml: bool, maxiter: int, gtol: float, watch: Recorder | None
) -> tuple[Array, Array]:
    """Optax's L-BFGS with its zoom line search."""
    import optax

    def fun(x: Array) -> Array:
        return objective(x, problem, reml=reml)[0]

    solver = optax.lbfgs()
    known = optax.value_and_grad_from_state(fun)  # the line search has both

    def go_on(at: Any) -> Array:
        i, _, _, gradient, _, sound = at
        return sound & (i < maxiter) & (jnp.max(jnp.abs(gradient)) >= gtol)

    def step(at: Any) -> Any:
        i, x, value, gradient, state, _ = at
        update, state = solver.update(gradient, state, x, value=value, grad=gradient, value_fn=fun)
        new = optax.apply_updates(x, update)
        sound = jnp.all(jnp.isfinite(new))
        new = jnp.where(sound, new, x)
        value, gradient = known(new, state=state)
        i = i + jnp.where(sound, 1, 0).astype(i.dtype)
        if watch is not None:
            lax.cond(sound, lambda: watch(i + 1, new, value, gradient), lambda: None)
        return i, new, value, gradient, state, sound

    value, gradient = jax.value_and_grad(fun)(x)
    zero = jnp.zeros((), jnp.int32)
    if watch is not None:
        watch(zero + 1, x, value, gradient)
    start = zero, x, value, gradient, solver.init(x), jnp.ones((), bool)
    n_iter, x, *_ = lax.while_loop(go_on, step, start)
    return x, n_iter


_lbfgs = compiled(_minimize_lbfgs, static="reml")
