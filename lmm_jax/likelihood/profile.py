"""Profiled log-likelihood of a linear mixed model: functions of the waist alone.

    -2 log L = log|V| + [log|X' V^-1 X|] + nu (1 + log(2 pi r^2 / nu)) - sum log w

with the bracket and ``nu = n - p`` for REML, without it and ``nu = n`` for ML;
``r^2`` is the generalized residual sum of squares at the profiled beta.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from ..covariance.params import Params, real_array
from ..covariance.theta import factor_blocks
from ..inputs.arguments import flag, hinted
from ..layouts.contract import Curvature, Layout, Waist, WaistJet, halves_of, psi_curvatures
from ..numerics.linalg import exact, log_diagonal
from ..numerics.processes import check_process
from .coordinates import (
    as_params,
    check_layout,
    check_params,
    check_theta,
    inner_beta,
    outer_beta,
    relative_blocks,
    whiten_factors,
)


class Profile(NamedTuple):
    """beta and sigma profiled out of the gram matrix, in the layout's coordinates."""

    deviance: Array  # ()      -2 log-likelihood (REML criterion where asked)
    beta: Array  # (p,)
    rss: Array  # ()      r^2 in units of y_scale^2
    cov_beta: Array  # (p, p)  (X' V^-1 X)^-1 relative to sigma^2


class Jet(NamedTuple):
    """The criterion with two derivatives, and what standard errors are made of."""

    value: Array  # ()
    gradient: Array  # (m,)
    hessian: Array  # (m, m)
    psi_gradients: tuple[Array, ...]  # (k, k) a term: derivative of the criterion in Psi
    psi_halves: tuple[Array, ...]  # (k, k) a term: the same times Lambda
    noise: Array  # ()  rounding of the value where digits are lost
    profile: Profile
    dlog_rss: Array  # (m,)       d log r^2 / d theta
    dbeta: Array  # (m, p)     d beta / d theta
    dcov_beta: Array  # (m, p, p)  d (X' V^-1 X)^-1 / d theta


def residual_df(layout: Layout, *, reml: bool) -> Array:
    """``nu``: n - p for REML, n for ML."""
    return layout.n_obs - (layout.beta_origin.size if reml else 0)


@exact
def profile_waist(at: Waist, layout: Layout, *, reml: bool) -> Profile:
    """Profile beta and sigma^2 out by one Cholesky factorization of the gram matrix."""
    return _profile(at, layout, reml=reml)[0]


def _profile(at: Waist, layout: Layout, *, reml: bool) -> tuple[Profile, Array]:
    """The profile, and the inverse factor of ``X' V^-1 X``, lower triangular (p, p)."""
    p = layout.beta_origin.size
    L = jnp.linalg.cholesky(at.gram)
    Lx, z = L[:p, :p], L[p, :p]
    rss = L[p, p] ** 2
    inverse = solve_triangular(Lx, jnp.eye(p, dtype=L.dtype), lower=True)
    deviance = _deviance(at.logdet, 2.0 * log_diagonal(Lx), rss, layout, reml=reml)
    profile = Profile(deviance=deviance, beta=inverse.T @ z, rss=rss, cov_beta=inverse.T @ inverse)
    return profile, inverse


def _deviance(logdet: Array, logdet_x: Array, rss: Array, layout: Layout, *, reml: bool) -> Array:
    """-2 log-likelihood at the profiled scale, all constants included."""
    nu = residual_df(layout, reml=reml)
    # logarithms apart: the product would leave the range of floats for extreme units of y
    log_rss = jnp.log(rss) + 2.0 * jnp.log(layout.y_scale)
    value = logdet + nu * (1.0 + jnp.log(2.0 * jnp.pi / nu) + log_rss) - layout.log_weights
    if reml:
        value = value + logdet_x - 2.0 * layout.log_det_map
    return value


@exact
def profile_jet(theta: Array, layout: Layout, *, reml: bool, exact: bool = True) -> Jet:
    """Criterion, gradient and Hessian in the layout's theta, closed forms throughout.

    Parameters
    ----------
    theta : Array, shape (m,)
    layout : Layout
    reml : bool
    exact : bool
        The Hessian, or in its place the average information in Psi, which needs
        no traces of matrix products and tends to the Hessian at the optimum.

    Notes
    -----
    With the symmetric weights ``W = d criterion / d gram`` the gradient is
    ``logdet_k + <W, gram_k>``; the Hessian adds the derivative of W, which the
    last three terms of the code spell out. The average information is
    ``y' P_x V_k P_x V_l P_x y / sigma^2`` with ``P_x`` the projection that
    removes X, sigma^2 profiled out; what Psi bends in theta is added, so that
    it is right at a variance of zero as well.
    """
    jet = layout.jet(theta)
    at, inverse = _profile(jet.waist, layout, reml=reml)
    p, nu = at.beta.size, residual_df(layout, reml=reml)
    v = jnp.append(-at.beta, 1.0)  # residual = [X y] v
    dgram_v = jet.dgram @ v
    drss = dgram_v @ v
    rho = drss / at.rss
    A = jet.dgram[:, :p, :p]
    # C A C' with C the inverse factor: cov_beta itself would cost A its digits
    A = inverse @ A @ inverse.T
    B = dgram_v[:, :p]
    through_beta = B @ at.cov_beta @ B.T
    gradient = jet.dlogdet + nu * rho
    if reml:
        gradient = gradient + jnp.einsum("kaa->k", A)
    root = jnp.sqrt(nu / at.rss) * v[:, None]  # W = root root'
    if reml:
        root = jnp.concatenate([root, jnp.pad(inverse.T, ((0, 1), (0, 0)))], axis=1)
    if exact:
        bent: Curvature = layout.curvature(theta, root, jet)
        hessian = bent.hessian - (2.0 * nu / at.rss) * through_beta
        if reml:
            hessian = hessian - jnp.einsum("kab,lab->kl", A, A)
        psi_gradients, psi_halves = bent.psi_gradients, bent.psi_halves
    else:
        psi_gradients = layout.psi_slopes(theta, root @ root.T, jet)
        psi_halves = halves_of(psi_gradients, factor_blocks(theta, layout.structures))
        average = layout.average_information(theta, v, jet) - through_beta
        hessian = (nu / at.rss) * average + psi_curvatures(psi_gradients, layout.structures)
    return Jet(
        value=at.deviance,
        gradient=gradient,
        hessian=hessian - nu * rho[:, None] * rho[None, :],
        psi_gradients=psi_gradients,
        psi_halves=psi_halves,
        noise=_noise(jet, at, nu, reml=reml),
        profile=at,
        dlog_rss=rho,
        dbeta=B @ at.cov_beta,
        dcov_beta=-inverse.T @ A @ inverse,
    )


def _noise(jet: WaistJet, at: Profile, nu: Array, *, reml: bool) -> Array:
    """Rounding of the criterion, to first order: sums of magnitudes over what is left of them.

    A pivot of the gram matrix keeps the rounding of its diagonal entry, ``r^2`` among them.
    """
    p = at.beta.size
    gram = jnp.diagonal(jet.waist.gram)
    lost = jet.rounding[1:] + gram
    logs = jet.rounding[0] * (1 + p if reml else 1)
    noise = logs + nu * (lost[p] + jnp.sum(at.beta**2 * lost[:p])) / at.rss
    if reml:
        noise = noise + jnp.sum(lost[:p] * jnp.diagonal(at.cov_beta))
    return jnp.finfo(noise.dtype).eps * noise


@hinted
@exact
def profile_loglike(theta: Array, layout: Layout, *, reml: bool = True) -> Array:
    """Log-likelihood at lme4's theta, fixed effects and sigma profiled out.

    Parameters
    ----------
    theta : Array, shape (m,)
        Column-major lower triangles of the relative covariance factors
        ``Lambda`` of all terms (``cov = sigma^2 Lambda Lambda'``), terms in the
        order of the design; of a term ``cs(x | g)`` the roots of the two
        eigenvalues of ``Lambda Lambda'``. Signs are free; zeros are allowed.
    layout : Layout
    reml : bool
        Restricted likelihood or likelihood.

    Returns
    -------
    Array, shape ()
        ``-1/2`` of lme4's REML criterion or deviance, all constants included.

    References
    ----------
    Bates, Maechler, Bolker & Walker (2015), doi:10.18637/jss.v067.i01.

    Examples
    --------
    >>> import jax, lmm_jax as lmm
    >>> design = lmm.design("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> with jax.enable_x64(True):
    ...     value = lmm.profile_loglike(jax.numpy.array([1.0, 0.0, 1.0]), design.layout, reml=False)
    >>> print(f"{-2 * float(value):.6f}")
    1784.642296
    """
    check_process()
    theta, reml = check_theta(theta, layout), flag(reml, "reml")
    factors = whiten_factors(factor_blocks(theta, layout.structures), layout)
    at = layout.waist(tuple(L @ L.T for L in factors))
    return -0.5 * profile_waist(at, layout, reml=reml).deviance


@hinted
@exact
def loglike(
    params: Params | Array,
    layout: Layout,
    *,
    reml: bool = True,
    profile_fe: bool = True,
    sqrt: bool = False,
) -> Array:
    """Log-likelihood at given covariance parameters, sigma^2 profiled out.

    Parameters
    ----------
    params : Params or Array
        Covariances relative to the residual variance, as a pytree or packed:
        fixed effects first unless ``profile_fe``, then the lower triangle of
        ``cov_re`` row by row, then the components.
    layout : Layout
    reml : bool
        Restricted likelihood or likelihood.
    profile_fe : bool
        Put the GLS estimate in the place of the fixed effects, whatever
        ``params`` holds there; otherwise use them as given.
    sqrt : bool
        A packed vector is in the square-root parameterization.

    Returns
    -------
    Array, shape ()
        Finite and differentiable at a singular covariance.

    Examples
    --------
    >>> import jax, numpy as np, lmm_jax as lmm
    >>> layout = lmm.design("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff")).layout
    >>> with jax.enable_x64(True):
    ...     print(f"{float(lmm.loglike(np.array([0.72]), layout)):.4f}")
    -159.8271
    """
    check_process()
    reml, profile_fe = flag(reml, "reml"), flag(profile_fe, "profile_fe")
    params = as_params(params, layout, with_fe=not profile_fe, sqrt=sqrt)
    at = layout.waist(relative_blocks(params, layout))
    if profile_fe:
        return -0.5 * profile_waist(at, layout, reml=reml).deviance
    return -0.5 * deviance_at(at, inner_beta(params.fe_params, layout), layout, reml=reml)


@exact
def deviance_at(at: Waist, beta: Array, layout: Layout, *, reml: bool) -> Array:
    """-2 log-likelihood at given fixed effects (in the layout's coordinates)."""
    p = layout.beta_origin.size
    v = jnp.append(-beta, 1.0)
    log_x = 2.0 * log_diagonal(jnp.linalg.cholesky(at.gram[:p, :p]))
    return _deviance(at.logdet, log_x, v @ at.gram @ v, layout, reml=reml)


@hinted
@exact
def get_fe_params(cov_re: Array, vcomp: Array, layout: Layout) -> Array:
    """Generalized least squares estimate of the fixed effects, (p,).

    Parameters
    ----------
    cov_re : Array, shape (k_re, k_re)
        Relative to the residual variance, as ``vcomp``.
    vcomp : Array, shape (k_vc,)
    layout : Layout
    """
    check_process()
    origin = check_layout(layout).beta_origin
    params = Params(fe_params=origin, cov_re=cov_re, vcomp=vcomp)
    params = check_params(params, layout, with_fe=True)
    at = layout.waist(relative_blocks(params, layout))
    return outer_beta(profile_waist(at, layout, reml=False).beta, layout)


@hinted
@exact
def get_scale(
    fe_params: Array, cov_re: Array, vcomp: Array, layout: Layout, *, reml: bool = True
) -> Array:
    """Residual variance that maximizes the likelihood at given other parameters.

    ``r' V^-1 r / nu`` with ``r = y - X beta`` and V relative to the residual variance.

    Parameters
    ----------
    fe_params : Array, shape (p,)
    cov_re : Array, shape (k_re, k_re)
        Relative to the residual variance, as ``vcomp``.
    vcomp : Array, shape (k_vc,)
    layout : Layout
    reml : bool
        ``nu = n - p`` or ``nu = n``.
    """
    check_process()
    reml = flag(reml, "reml")
    params = Params(fe_params=fe_params, cov_re=cov_re, vcomp=vcomp)
    params = check_params(params, layout, with_fe=True)
    at = layout.waist(relative_blocks(params, layout))
    v = jnp.append(-inner_beta(params.fe_params, layout), 1.0)
    return layout.y_scale**2 * (v @ at.gram @ v) / residual_df(layout, reml=reml)


@hinted
@exact
def score(
    params: Params | Array,
    layout: Layout,
    *,
    reml: bool = True,
    profile_fe: bool = True,
    sqrt: bool = False,
) -> Params | Array:
    """Gradient of :func:`loglike`, in the shape of ``params``."""
    check_process()
    params = _differentiable(params)
    return jax.grad(loglike)(params, layout, reml=reml, profile_fe=profile_fe, sqrt=sqrt)


@hinted
@exact
def hessian(
    params: Params | Array,
    layout: Layout,
    *,
    reml: bool = True,
    profile_fe: bool = True,
    sqrt: bool = False,
) -> Params | Array:
    """Second derivatives of :func:`loglike`; a matrix if ``params`` is packed."""
    check_process()
    params = _differentiable(params)
    return jax.hessian(loglike)(params, layout, reml=reml, profile_fe=profile_fe, sqrt=sqrt)


def _differentiable(params: Params | Array) -> Params | Array:
    """Arrays of floats in the place of lists and whole numbers."""
    if isinstance(params, Params):
        return jax.tree.map(lambda leaf: jnp.asarray(real_array(leaf, "params")), params)
    return jnp.asarray(real_array(params, "params"))
