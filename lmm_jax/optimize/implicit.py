"""The fit as a pure function of a layout, differentiable at its optimum.

The optimum ``Psi`` of the profiled criterion f is a function of the data D by ``f_x = 0``.
In coordinates ``Psi = V L(x) L(x)' V'``, with V the eigenvectors of ``Psi`` at the optimum,
largest eigenvalue first, and L lower triangular,

    dx = - f_xx^-1 f_xD dD          dPsi = V (dL L' + L dL') V'

Zero eigenvalues come last, so their columns of L are zero at a singular optimum. f is even in
such a column, hence ``f_xD`` is zero there: the rank stays, while the range may turn. Of a term
with a structure, and of a residual covariance, x is its stretch of theta.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..capabilities import require
from ..covariance.params import Params
from ..covariance.residuals import SIGMA, natural_values
from ..covariance.structures import Structure
from ..covariance.theta import factor_blocks, stack_theta, theta_size, theta_slices
from ..covariance.triangles import ZERO_PIVOT
from ..designs.checks import EXACT_TOL
from ..inputs.arguments import flag, hinted, iterations, number
from ..layouts.contract import Layout
from ..likelihood.coordinates import (
    check_layout,
    check_params,
    correlated_sizes,
    covariance_blocks,
    outer_beta,
    theta_of,
)
from ..likelihood.profile import profile_waist
from ..numerics.linalg import exact, psd_cholesky, symmetrize
from ..numerics.namespace import traced_once
from ..numerics.processes import check_process
from ..numerics.taylor import variables
from ..reprs import brief, public
from .flatness import FLAT_CURVATURE, looked_at, relative_curvature
from .minimize import minimize, off_boundary
from .newton import CONVERGED, DECREMENT_TOL, Solution, rounding

# Eigenvalues of the Hessian at unit diagonal below this many roots of eps: no information.
_FLAT = 1e-2


@public
class FittedParams(NamedTuple):
    """Estimates as arrays, differentiable in the layout they come from."""

    params: Params  # fixed effects; covariances relative to the residual variance
    scale: Array  # ()  residual variance
    llf: Array  # ()  log-likelihood (restricted, if asked for)
    converged: Array  # ()  bool
    theta: Array  # (m,)  of profile_loglike: terms, then parameters of a residual covariance
    cov_fe: Array  # (p, p)  covariance of the fixed effects, sigma^2 (X' V^-1 X)^-1
    residual: dict[str, Array]  # () each: what res.residual_params has, of a residual covariance

    def __repr__(self) -> str:
        return brief(self)


@hinted
@exact
def fit_params(
    layout: Layout,
    start: Params | None = None,
    *,
    reml: bool = True,
    maxiter: int = 200,
    tol: float = DECREMENT_TOL,
) -> FittedParams:
    """Fit a compressed model, as a pure function for ``jit``, ``vmap`` and ``grad``.

    Parameters
    ----------
    layout : Layout
        From :func:`lmm_jax.compress` or a design.
    start : Params, optional
        The only start, covariances relative to the residual variance; without
        it the data suggest several. Its fixed effects are not used.
    reml : bool
        Restricted likelihood or likelihood.
    maxiter : int
        Limit on the steps of one run.
    tol : float
        Newton decrement, in units of the deviance, at which a run ends.

    Returns
    -------
    FittedParams
        ``params`` as :func:`lmm_jax.loglike` takes them, ``theta`` as
        :func:`lmm_jax.profile_loglike` does; ``params.rescaled(scale)`` holds covariances in the
        units of the data, and standard errors are roots of the diagonal of ``cov_fe``.
        ``residual`` has what
        ``res.residual_params`` has, by name: standard deviations, correlations and ranges
        of a residual covariance; it is empty without one. In the dtype of the layout.

    Notes
    -----
    Derivatives follow from the implicit function theorem at the optimum: one
    linear solve, no derivative of an iteration. At a singular optimum they are
    those within the covariances of the same rank: a variance that is estimated
    as zero has derivative zero. They mean nothing where ``converged`` is false,
    and do not exist where an optimum is just about to leave the boundary.

    No warning is given; look at ``converged``, which is false as well where the rows
    do not tell the parameters (one group, one row a group) or leave no residual.
    Estimates are NaN where there is no likelihood: of X that is not of full rank, a
    constant y, values that are not finite, a negative weight. Where the fit runs on the host
    anyway, :func:`lmm_jax.fit` gives the same numbers and everything else.

    References
    ----------
    Blondel et al. (2022), Efficient and modular implicit differentiation, NeurIPS 35.

    Examples
    --------
    >>> import jax, lmm_jax as lmm
    >>> layout = lmm.design("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff")).layout
    >>> with jax.enable_x64(True):
    ...     out = jax.jit(lmm.fit_params)(layout)
    ...     print(f"{out.params.fe_params[0]:.1f} {out.scale:.2f} {bool(out.converged)}")
    1527.5 2451.25 True
    """
    check_process()
    asked = "fit_params" if start is None else "fit_params with start="
    layout = jax.tree.map(jnp.asarray, require(check_layout(layout), asked))
    reml, maxiter = flag(reml, "reml"), iterations(maxiter)
    tol = number(tol, "tol", least=0.0)
    theta = None if start is None else lax.stop_gradient(_start_theta(start, layout))
    return _fitted(layout, theta, reml=reml, maxiter=maxiter, tol=tol)


@partial(traced_once, static=("reml", "maxiter", "tol"))
@exact
def _fitted(
    layout: Layout, theta: Array | None, *, reml: bool, maxiter: int, tol: float
) -> FittedParams:
    factors, theta, converged = _optimum(layout, theta, reml, maxiter, tol)
    at = profile_waist(layout.waist_of(factors, theta), layout, reml=reml)
    exists = jnp.isfinite(at.deviance)
    user = [
        jnp.where(exists, A @ _square(L) @ A.T, jnp.nan)
        for A, L, s in zip(layout.whiteners, factors, layout.structures, strict=True)
        if s.k
    ]
    n_correlated = len(correlated_sizes(layout))
    scale = layout.y_scale**2 * at.scale
    none = jnp.zeros((0, 0), layout.S0.dtype)
    params = Params(
        fe_params=outer_beta(at.beta, layout),
        cov_re=jax.scipy.linalg.block_diag(*user[:n_correlated]) if n_correlated else none,
        vcomp=jnp.concatenate([none[0:0].ravel(), *(S[0] for S in user[n_correlated:])]),
    )
    return FittedParams(
        params=params,
        scale=scale,
        llf=-0.5 * at.deviance,
        converged=(converged > 0) & _has_residual(layout) & _has_levels(layout),
        theta=jnp.where(exists, _outer_theta(user, theta, layout), jnp.nan),
        cov_fe=scale * layout.beta_map @ at.cov_beta @ layout.beta_map.T,
        residual=_residual_params(theta, jnp.where(exists, scale, jnp.nan), layout.structures),
    )


def _outer_theta(user: list[Array], theta: Array, layout: Layout) -> Array:
    """Theta in the coordinates of the data, of the covariances of the terms there."""
    covariances, parts = iter(user), []
    for s, A, at in zip(
        layout.structures, layout.whiteners, theta_slices(layout.structures), strict=True
    ):
        S = next(covariances) if s.k else None
        own = theta[at] if S is None or not s.unrestricted else stack_theta([psd_cholesky(S)])
        parts.append(own if s.unrestricted else s.mapped(own, A))
    return jnp.concatenate(parts) if parts else theta


def _square(L: Array) -> Array:
    return L @ L.T


def _residual_params(
    theta: Array, scale: Array, structures: tuple[Structure, ...]
) -> dict[str, Array]:
    """Standard deviations, correlations and ranges of the residuals; none without a covariance."""
    if all(s.k for s in structures):
        return {}
    terms = theta_size([s for s in structures if s.k])
    x = variables(jnp.append(theta[terms:], jnp.log(scale)))
    found = natural_values(x, structures)
    exists = jnp.isfinite(scale)
    return {
        name: jnp.where(exists, of.value, jnp.nan) for name, of in found.items() if name != SIGMA
    }


def _has_levels(layout: Layout) -> Array:
    """Whether every term has two levels."""
    terms = np.array([k > 0 for k in layout.sizes], bool)
    return jnp.all(layout.level_counts()[terms] > 1)


def _has_residual(layout: Layout) -> Array:
    """Whether y is more than X explains, as far as floats can tell."""
    eps = 4.0 * jnp.finfo(layout.S0.dtype).eps
    explained = [
        jnp.linalg.norm(jnp.linalg.solve(layout.beta_map, part))
        for part in (layout.beta_origin, layout.beta_shift)
    ]
    return layout.y_scale > jnp.maximum(max(EXACT_TOL, eps) * explained[0], eps * explained[1])


def _start_theta(start: Params, layout: Layout) -> Array:
    """Start values in the layout's theta."""
    start = check_params(start, layout, with_fe=False, what="start")
    return theta_of(covariance_blocks(start, layout), layout)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
@exact
def _optimum(
    layout: Layout, theta: Array | None, reml: bool, maxiter: int, tol: float
) -> tuple[tuple[Array, ...], Array, Array]:
    """Factors of every term's Psi at the optimum, theta there, and 1.0 if that has converged.

    Theta has derivatives but in the stretches of unstructured terms, whose factors have them.
    """
    solution = minimize(layout, theta, reml=reml, maxiter=maxiter, tol=tol)
    blocks = factor_blocks(solution.theta, layout.structures)
    factors = tuple(
        psd_cholesky(_clean(_square(L))) if s.unrestricted else L
        for s, L in zip(layout.structures, blocks, strict=True)
    )
    found = (solution.status == CONVERGED) & _is_bent(solution, layout.structures)
    return factors, solution.theta, found.astype(layout.S0.dtype)


def _is_bent(solution: Solution, structures: tuple[Structure, ...]) -> Array:
    """Whether the criterion changes along every direction of theta that makes a difference."""
    theta, jet = solution.theta, solution.jet
    places = theta_slices(structures)
    singular = [off_boundary(theta[at], (s,))[1] for s, at in zip(structures, places, strict=True)]
    looked = looked_at(theta, jet.gradient, structures, singular)
    least = jnp.min(jnp.abs(jnp.linalg.eigvalsh(relative_curvature(theta, jet.hessian, looked))))
    return least > jnp.maximum(FLAT_CURVATURE, rounding(jet))


def _clean(Psi: Array) -> Array:
    """The covariance with exact zeros for negligible eigenvalues."""
    if Psi.shape[0] == 1:
        return jnp.where(Psi > ZERO_PIVOT**2, Psi, 0.0)
    e, V = jnp.linalg.eigh(Psi)
    small = jnp.min(e) <= ZERO_PIVOT**2
    return jnp.where(small, (V * jnp.where(e > ZERO_PIVOT**2, e, 0.0)[None, :]) @ V.T, Psi)


@_optimum.defjvp
@exact
def _optimum_jvp(
    reml: bool, maxiter: int, tol: float, primals: Any, tangents: Any
) -> tuple[Any, Any]:
    (layout, start), (dlayout, _) = primals, tangents
    factors, theta, converged = _optimum(layout, start, reml, maxiter, tol)
    structures, places = layout.structures, theta_slices(layout.structures)
    frames = tuple(
        _principal_axes(_square(L)) if s.unrestricted else None
        for s, L in zip(structures, factors, strict=True)
    )
    x = jnp.concatenate([
        theta[at] if V is None else stack_theta([psd_cholesky(V.T @ _square(L) @ V)])
        for at, V, L in zip(places, frames, factors, strict=True)
    ])  # fmt: skip

    def turned(x: Array) -> tuple[Array, ...]:
        blocks = factor_blocks(x, structures)
        return tuple(L if V is None else V @ L for V, L in zip(frames, blocks, strict=True))

    def slope(x: Array, layout: Layout) -> Array:
        def criterion(x: Array) -> Array:
            return profile_waist(layout.waist_of(turned(x), x), layout, reml=reml).deviance

        return jax.grad(criterion)(x)

    bend = jax.jacfwd(slope)(x, layout)
    _, moved = jax.jvp(lambda at: slope(x, at), (layout,), (dlayout,))
    dx = -_solve_curved(bend, moved)
    out, dfactors = jax.jvp(turned, (x,), (dx,))
    own = np.concatenate([np.full(s.n_params, not s.unrestricted) for s in structures])
    dtheta = jnp.where(own, dx, 0.0)  # a term's coordinates are others than x
    return (out, theta, converged), (dfactors, dtheta, jnp.zeros_like(converged))


def _principal_axes(Psi: Array) -> Array:
    """Eigenvectors, largest eigenvalue first; constant, since any basis will do."""
    return jnp.linalg.eigh(lax.stop_gradient(Psi))[1][:, ::-1]


def _solve_curved(H: Array, g: Array) -> Array:
    """``H^-1 g`` along the directions in which H bends, zero along the others."""
    H = symmetrize(H)
    eps = jnp.finfo(H.dtype).eps
    diagonal = lax.stop_gradient(jnp.diagonal(H))
    usable = diagonal > eps * jnp.max(diagonal)
    scale = jnp.where(usable, lax.rsqrt(jnp.where(usable, diagonal, 1.0)), 0.0)
    unit = H * scale[:, None] * scale[None, :]
    e, U = jnp.linalg.eigh(lax.stop_gradient(unit))
    flat = e < _FLAT * jnp.sqrt(eps)
    P = (U * jnp.where(flat, 1.0, 0.0)[None, :]) @ U.T
    right = scale * g
    return scale * jnp.linalg.solve(unit + P, right - P @ right)
