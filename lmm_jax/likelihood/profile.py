"""Profiled log-likelihood of a linear mixed model: functions of the waist alone.

The formulas stand in :mod:`lmm_jax.likelihood.criterion`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from ..covariance.params import Params, real_array
from ..covariance.theta import factor_blocks, stack_theta
from ..errors import DataError
from ..inputs.arguments import flag, hinted
from ..layouts.contract import Curvature, Layout, Waist
from ..layouts.group_algebra import halves_of, psi_curvatures
from ..numerics.linalg import exact, log_diagonal, psd_cholesky
from ..numerics.namespace import namespace, traced_once
from ..numerics.processes import check_process
from .coordinates import (
    as_params,
    as_wide_as_jax,
    check_layout,
    check_params,
    check_theta,
    covariance_blocks,
    inner_beta,
    outer_beta,
    relative_blocks,
    whiten_factors,
)
from .criterion import (
    Jet,
    Lost,
    Profile,
    Slopes,
    deviance,
    factor_gram,
    finish_jet,
    finish_profile,
    free_df,
    scale_of,
)


@exact
def profile_waist(at: Waist, layout: Layout, *, reml: bool) -> Profile:
    """Profile beta and sigma^2 out by one Cholesky factorization of the gram matrix."""
    return finish_profile(at.logdet, factor_gram(at.gram), layout, reml=reml)


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
    ``logdet_k + <W, gram_k>``; the Hessian adds the derivative of W
    (:func:`lmm_jax.likelihood.criterion.finish_jet`). The average information is
    ``y' P_x V_k P_x V_l P_x y / sigma^2`` with ``P_x`` the projection that
    removes X, sigma^2 profiled out; what Psi bends in theta is added, so that
    it is right at a variance of zero as well.
    """
    xp = namespace(theta, layout.S0)
    jet = layout.jet(theta)
    gram = factor_gram(jet.waist.gram)
    at = finish_profile(jet.waist.logdet, gram, layout, reml=reml)
    p, nu = at.beta.size, free_df(layout, reml=reml)
    v = xp.append(-at.beta, 1.0)  # residual = [X y] v
    dgram_v = jet.dgram @ v
    first = Slopes(jet.dlogdet, dgram_v @ v, dgram_v[:, :p], jet.dgram[:, :p, :p])
    root = xp.sqrt(1.0 / at.scale) * v[:, None]  # W = root root'
    if reml:
        root = xp.concatenate([root, xp.pad(gram.inverse.T, ((0, 1), (0, 0)))], axis=1)
    if exact:
        bent: Curvature = layout.curvature(theta, root, jet)
    else:
        slopes = layout.psi_slopes(theta, root @ root.T, jet)
        average = (1.0 / at.scale) * layout.average_information(theta, v, jet)
        halves = halves_of(slopes, factor_blocks(theta, layout.structures))
        average = average + psi_curvatures(theta, slopes, halves, layout.structures)
        bent = Curvature(average, slopes, halves)
    rounding = jet.rounding[1:] + xp.diagonal(jet.waist.gram)
    lost = Lost(jet.rounding[0], rounding[:p], rounding[p])
    return finish_jet(at, gram.inverse, first, bent, lost, nu, reml=reml, exact=exact)


@hinted
@exact
def profile_loglike(theta: Array, layout: Layout, *, reml: bool = True) -> Array:
    """Log-likelihood at lme4's theta, fixed effects and sigma profiled out.

    A sigma that the layout knows (``compress(sigma=)``) is taken as it is.

    Parameters
    ----------
    theta : Array, shape (m,)
        Column-major lower triangles of the relative covariance factors
        ``Lambda`` of all terms (``cov = sigma^2 Lambda Lambda'``), terms in the
        order of the design; of a term ``cs(1 + x | g, hom=True)`` the roots of the two
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
    layout = check_layout(layout)
    theta, reml = check_theta(theta, layout), flag(reml, "reml")
    return loglike_of_theta(theta, layout, reml=reml)


@partial(traced_once, static="reml")
@exact
def loglike_of_theta(theta: Array, layout: Layout, *, reml: bool) -> Array:
    """See :func:`profile_loglike`; in NumPy too."""
    factors = whiten_factors(factor_blocks(theta, layout.structures), layout)
    at = layout.waist_of(factors, theta)
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

    A sigma that the layout knows (``compress(sigma=)``) is taken as it is.

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
    layout = check_layout(layout)
    reml, profile_fe = flag(reml, "reml"), flag(profile_fe, "profile_fe")
    params = as_params(params, layout, with_fe=not profile_fe, sqrt=sqrt)
    return _loglike_of_params(params, layout, reml=reml, profile_fe=profile_fe)


@partial(traced_once, static=("reml", "profile_fe"))
@exact
def _loglike_of_params(params: Params, layout: Layout, *, reml: bool, profile_fe: bool) -> Array:
    at = layout.waist(relative_blocks(params, layout))
    if profile_fe:
        return -0.5 * profile_waist(at, layout, reml=reml).deviance
    return -0.5 * deviance_at(at, inner_beta(params.fe_params, layout), layout, reml=reml)


@exact
def deviance_at(at: Waist, beta: Array, layout: Layout, *, reml: bool) -> Array:
    """-2 log-likelihood at given fixed effects (in the layout's coordinates)."""
    xp = namespace(beta, layout.S0)
    p = layout.beta_origin.size
    v = xp.append(-beta, 1.0)
    log_x = 2.0 * log_diagonal(xp.linalg.cholesky(at.gram[:p, :p]))
    return deviance(at.logdet, log_x, v @ at.gram @ v, layout, reml=reml)


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
    layout = check_layout(layout)
    params = Params(fe_params=layout.beta_origin, cov_re=cov_re, vcomp=vcomp)
    return _fe_params(check_params(params, layout, with_fe=True), layout)


@traced_once
@exact
def _fe_params(params: Params, layout: Layout) -> Array:
    at = layout.waist(relative_blocks(params, layout))
    return outer_beta(profile_waist(at, layout, reml=False).beta, layout)


@hinted
@exact
def get_theta(params: Params | Array, layout: Layout, *, sqrt: bool = False) -> Array:
    """Theta of :func:`profile_loglike`, (m,), of covariances relative to the residual variance.

    Column-major lower triangles of the Cholesky factors of the covariances, term after term;
    :func:`lmm_jax.pack` with ``sqrt=True`` has the entries row by row.

    Parameters
    ----------
    params : Params or Array
        As in :func:`loglike`, the fixed effects left out of a packed vector.
    layout : Layout
    sqrt : bool
        A packed vector is in the square-root parameterization.

    Raises
    ------
    DataError
        A term with a covariance structure, whose theta are parameters of its own.

    Examples
    --------
    >>> import jax, lmm_jax as lmm
    >>> layout = lmm.design("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff")).layout
    >>> params = lmm.Params.from_components(cov_re=[[0.25]])
    >>> print(lmm.get_theta(params, layout))
    [0.5]
    """
    check_process()
    layout, sqrt = check_layout(layout), flag(sqrt, "sqrt")
    if not all(s.unrestricted for s in layout.structures):
        raise DataError(
            "a term of this model has a covariance structure, whose theta is its own: fit_params "
            "gives it, lmm.fit_params(layout).theta"
        )
    read = as_params(params, layout, with_fe=False, sqrt=sqrt)
    factors = [psd_cholesky(block) for block in covariance_blocks(read, layout)]
    return stack_theta(factors)


@hinted
@exact
def get_scale(
    fe_params: Array, cov_re: Array, vcomp: Array, layout: Layout, *, reml: bool = True
) -> Array:
    """Residual variance that maximizes the likelihood at given other parameters.

    A sigma that the layout knows (``compress(sigma=)``) is taken as it is.

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
    layout, reml = check_layout(layout), flag(reml, "reml")
    params = Params(fe_params=fe_params, cov_re=cov_re, vcomp=vcomp)
    return _scale(check_params(params, layout, with_fe=True), layout, reml=reml)


@partial(traced_once, static="reml")
@exact
def _scale(params: Params, layout: Layout, *, reml: bool) -> Array:
    xp = namespace(params.fe_params, layout.S0)
    at = layout.waist(relative_blocks(params, layout))
    v = xp.append(-inner_beta(params.fe_params, layout), 1.0)
    return layout.y_scale**2 * scale_of(v @ at.gram @ v, layout, reml=reml)


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
    options = _flags(reml=reml, profile_fe=profile_fe, sqrt=sqrt)
    return _score(_differentiable(params), check_layout(layout), **options)


@partial(traced_once, static=("reml", "profile_fe", "sqrt"))
@exact
def _score(params: Params | Array, layout: Layout, **options: bool) -> Params | Array:
    return jax.grad(loglike)(params, layout, **options)


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
    options = _flags(reml=reml, profile_fe=profile_fe, sqrt=sqrt)
    return _hessian(_differentiable(params), check_layout(layout), **options)


@partial(traced_once, static=("reml", "profile_fe", "sqrt"))
@exact
def _hessian(params: Params | Array, layout: Layout, **options: bool) -> Params | Array:
    return jax.hessian(loglike)(params, layout, **options)


def _flags(**options: bool) -> dict[str, bool]:
    return {name: flag(value, name) for name, value in options.items()}


def _differentiable(params: Params | Array) -> Params | Array:
    """Arrays of floats in the place of lists and whole numbers."""
    if isinstance(params, Params):
        return jax.tree.map(_differentiable, params)
    return jnp.asarray(as_wide_as_jax(real_array(params, "params")))
