"""What layouts of a residual covariance are held to: dense matrices, and those of the groups."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from dense_residual import DenseResidual
from helpers import Array, Term, assert_close, dense_gls, differences, random_root

import lmm_jax as lmm
from lmm_jax.batches.replicate_minimize import fit_each
from lmm_jax.batches.row_draws import _rows, row_roots
from lmm_jax.covariance.theta import factor_blocks
from lmm_jax.inference.residuals.parameters import natural_parameters
from lmm_jax.layouts import plan
from lmm_jax.layouts.residual.chain_bucket import ChainBucket
from lmm_jax.layouts.response import Response
from lmm_jax.likelihood.profile import profile_jet, profile_waist

EXACT = 1e-12  # a few roundings of float64
DENSE_RTOL = 1e-11  # a dense V of 50 to 150 rows
LAYOUT_RTOL = 1e-11  # two layouts at one optimum
OPTIMUM_RTOL = 1e-7  # two optima, each to a Newton decrement of 1e-9 and better
# `differences` of dense criteria: rounding over the step; of sums in another order under JAX
DIFF_RTOL, JAX_RTOL = 1e-8, 1e-10
# Functions of the curvature at two optima: variances and degrees of freedom, and BLUPs
CURVED_RTOL, EFFECTS_TOL = 1e-5, 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A model and what its rows are in dense matrices."""

    formula: str
    data: pd.DataFrame
    X: Array  # (n, p)
    y: Array  # (n,)  less the offset
    covariance: Callable[[Any, Array], Array]  # V relative to sigma^2: of a layout at its theta
    near: Callable[[Any, int], Array]  # theta where nothing is special: of a layout and a seed
    options: dict[str, Any] = field(default_factory=dict)

    def fitted(self) -> lmm.LMMResults:
        return lmm.fit(self.formula, self.data, runtime="numpy", **self.options)

    @cached_property
    def design(self) -> lmm.Design:
        return lmm.design(self.formula, self.data, **self.options)

    @cached_property
    def layouts(self) -> tuple[Any, Any]:
        """As it is, and that of a fit, whose rows are merged."""
        found = self.design.compressed
        return on_host(found.layout), on_host(found.merged)

    def criterion(self, layout: Any, theta: Array, *, reml: bool) -> float:
        return dense_gls(self.X, self.y, self.covariance(layout, theta), reml=reml).criterion


def on_host(layout: Any) -> Any:
    return jax.tree.map(np.asarray, layout)


def near_start(spread: float, layout: Any, seed: int) -> Array:
    """So far from the start in all parameters, about."""
    start = np.asarray(layout.start_moments())
    return start + spread * np.random.default_rng(seed).normal(size=start.size)


def dense_covariance(
    residual: DenseResidual,
    terms: Sequence[Term],
    weights: Array | None,
    layout: Any,
    theta: Array,
) -> Array:
    """V of the rows, relative to sigma^2, at the layout's theta."""
    found = natural_parameters(theta, 1.0, layout.structures)
    V = residual.matrix(dict(zip(found.names, np.asarray(found.values.value), strict=True)))
    if weights is not None:
        V = V / np.sqrt(np.outer(weights, weights))
    if not terms:
        return V
    blocks = factor_blocks(theta, layout.structures)
    own = [A @ L for A, L in zip(layout.whiteners, blocks, strict=True)][: len(terms)]
    Z, Lambda = random_root(terms, np.concatenate([L.T[np.triu_indices(len(L))] for L in own]))
    return V + (Z @ Lambda) @ (Z @ Lambda).T


def model_of(
    formula: str,
    data: pd.DataFrame,
    X: Array,
    twin: tuple[DenseResidual, Sequence[Term]],
    spread: float,
    **options: Any,
) -> Model:
    """A model whose residuals, and random effects in the layout's order, have a dense twin."""
    weights, offset = (options.get(name) for name in ("weights", "offset"))
    w = None if weights is None else data[weights].to_numpy()
    y = data["y"].to_numpy() - (0.0 if offset is None else data[offset].to_numpy())
    V = partial(dense_covariance, *twin, w)
    near = partial(near_start, spread)
    return Model(formula=formula, data=data, X=X, y=y, covariance=V, near=near, options=options)


@contextmanager
def dense_groups() -> Iterator[None]:
    """Every residual covariance by dense matrices of the groups."""
    with pytest.MonkeyPatch.context() as patch:
        for other in ("takes_chains", "takes_fields", "takes_subjects"):
            patch.setattr(plan, other, lambda *args, **options: False)
        yield


# ------------------------------------------------------------------------------ dense matrices


def check_criterion(model: Model, *, reml: bool) -> None:
    """By a jet, by a waist, and by the waists of two thetas in one call."""
    thetas = np.stack([model.near(model.layouts[0], seed) for seed in range(2)])
    dense = [model.criterion(model.layouts[0], theta, reml=reml) for theta in thetas]
    for layout in model.layouts:
        many = profile_waist(layout.waists_at(thetas), layout, reml=reml).deviance
        assert_close(many, dense, DENSE_RTOL)
        for theta, expected in zip(thetas, dense, strict=True):
            assert_close(profile_jet(theta, layout, reml=reml).value, expected, DENSE_RTOL)
            value = profile_waist(layout.waist_at(theta), layout, reml=reml).deviance
            assert_close(value, expected, DENSE_RTOL)


def check_derivatives(model: Model, *, reml: bool) -> None:
    """The gradient is that of the dense criterion, the Hessian that of the gradient."""
    theta = model.near(model.layouts[0], 3)
    slope = differences(lambda at: model.criterion(model.layouts[0], at, reml=reml), theta)
    for layout in model.layouts:
        jet = profile_jet(theta, layout, reml=reml)
        assert_close(jet.gradient, slope, DIFF_RTOL, np.abs(jet.gradient).max())
        bend = differences(lambda at: profile_jet(at, layout, reml=reml).gradient, theta)  # noqa: B023
        assert_close(jet.hessian, bend, DIFF_RTOL, np.abs(bend).max())


def check_drawn_rows(model: Model) -> None:
    """Rows are linear in independent variates: by all unit vectors."""
    layout = model.layouts[0]
    theta = model.near(layout, 2)
    got = np.zeros(0)
    for root in row_roots(layout, theta):
        size = root.present.size + root.ZL.shape[0] * root.ZL.shape[1]
        made = _rows(root, np.eye(size)).reshape(size, -1)
        made = made[:, made.any(axis=0)]
        got = np.append(got, np.linalg.eigvalsh(made.T @ made))
    w = np.ones(len(model.y)) if model.design.weights is None else np.sqrt(model.design.weights)
    expected = np.linalg.eigvalsh(model.covariance(layout, theta) * np.outer(w, w))
    assert_close(np.sort(got), expected, DENSE_RTOL, expected.max())


# ------------------------------------------------------------------------------ other routes


def check_under_jax(model: Model, layout: Any) -> None:
    """Closed forms in one program, and what JAX differentiates itself."""
    theta = model.near(layout, 5)
    expected, waist = profile_jet(theta, layout, reml=True), layout.jet(theta)
    device, at = jax.tree.map(jnp.asarray, layout), jnp.asarray(theta)
    found = jax.jit(profile_jet, static_argnames="reml")(at, device, reml=True)
    assert_close(found.value, expected.value, 10 * EXACT)

    def values(at):
        waist = device.waist_at(at)
        return jnp.stack([waist.logdet, profile_waist(waist, device, reml=True).deviance])

    def slopes(at):
        first = jax.jacrev(values)(at)
        return first, first

    bend, slope = jax.jit(jax.jacfwd(slopes, has_aux=True))(at)
    for other, value in (
        (found.gradient, expected.gradient),
        (found.hessian, expected.hessian),
        (slope[0], waist.dlogdet),
        (slope[1], expected.gradient),
        (bend[1], expected.hessian),
    ):
        assert_close(other, value, JAX_RTOL, np.abs(value).max())


def check_moments(model: Model, layouts: Sequence[Any]) -> None:
    """What Kenward and Roger's adjustment is made of, beside the layout of dense matrices."""
    with dense_groups():
        dense = on_host(lmm.design(model.formula, model.data, **model.options).compressed.layout)
    assert isinstance(dense, lmm.ResidualLayout)
    theta, rng = model.near(dense, 4), np.random.default_rng(6)
    root, z = rng.normal(size=(theta.size + 1, theta.size + 1)), rng.normal(size=theta.size + 1)
    W, beta = root @ root.T, rng.normal(size=model.X.shape[1])

    def numbers(layout):
        yield from layout.psi_moments(theta)
        yield from layout.weighted_moments(theta, W[1:, 1:])
        yield layout.measured_from(beta).jet(theta).waist.gram

    bend = dense.bend_form(theta, W, z)
    for layout in layouts:
        assert not isinstance(layout, lmm.ResidualLayout)
        for found, expected in zip(numbers(layout), numbers(dense), strict=True):
            assert_close(found, expected, DENSE_RTOL, np.abs(expected).max())
        assert_close(layout.bend_form(theta, W, z), bend, JAX_RTOL, np.abs(bend).max())
        assert_close(layout.start_candidates(), dense.start_candidates(), EXACT, 1)
        assert layout.level_counts().tolist() == dense.level_counts().tolist()


def check_same_fit(model: Model, kind: type, new: pd.DataFrame) -> lmm.LMMResults:
    """A fit does not show its layout, nor do predictions of its rows and of new ones."""
    found = model.fitted()
    with dense_groups():
        expected = model.fitted()
    assert isinstance(found.design.compressed.layout, kind)
    assert isinstance(expected.design.compressed.layout, lmm.ResidualLayout)
    assert found.converged == expected.converged
    assert found.layout_info.kind == expected.layout_info.kind
    assert_close(found.llf, expected.llf, LAYOUT_RTOL)
    assert_close(found.fe_params, expected.fe_params, OPTIMUM_RTOL, expected.bse_fe)
    assert_close(found.bse_fe, expected.bse_fe, OPTIMUM_RTOL)
    errors = expected.residual_params_se
    assert_close(found.residual_params, expected.residual_params, EFFECTS_TOL, errors.fillna(1))
    assert_close(found.residual_params_se, errors, CURVED_RTOL)
    for name in ("satterthwaite", "kenward-roger", "kenward-roger-linear",
                 "kenward-roger-expected"):  # fmt: skip
        left, right = found.with_df(name), expected.with_df(name)
        assert_close(left.df, right.df, CURVED_RTOL)
        assert_close(left.bse_fe, right.bse_fe, OPTIMUM_RTOL)
    assert_close(found.fittedvalues, expected.fittedvalues, EFFECTS_TOL, 1)
    assert_close(found.resid(), expected.resid(), EFFECTS_TOL, 1)
    for known in (model.data, new):
        for conditional in (False, True):
            left, right = (one.predict(known, conditional=conditional) for one in (found, expected))
            assert_close(left, right, EFFECTS_TOL, 1)
    left, right = found.random_effects, expected.random_effects
    assert left.keys() == right.keys()
    for group in right:
        assert_close(left[group], right[group], CURVED_RTOL, 1)
    return found


def check_replicate(model: Model) -> None:
    """The response of the data in the place of a drawn one."""
    fit = model.fitted()
    layout, theta = on_host(fit.design.compressed.layout), fit.estimates.theta_layout
    rows = tuple(_response(bucket)[None] for bucket in layout.buckets)
    found = fit_each(layout, Response(y=rows, S0=layout.S0[None, -1]), theta + 0.05, reml=True)
    assert_close(found.jet.value[0], fit.estimates.deviance, LAYOUT_RTOL)


def _response(bucket: Any) -> Array:
    """The last column, where chains have all columns as steps from the row before."""
    if isinstance(bucket, ChainBucket):
        return bucket.step[:, -1] + bucket.before[:, -1]
    return bucket.c[:, -1]
