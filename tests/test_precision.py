"""float32 products are exact to float32: nothing is left to a GPU that would multiply in TF32."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

import lmm_jax as lmm
from lmm_jax.likelihood.profile import profile_jet

DATA = samples.frame(groups=12).assign(item=lambda d: np.arange(len(d)) % 5)
FORMULAS = {
    "grouped": "y ~ x + (x | g)",
    "four coefficients": "y ~ x + (x + z + v | g)",
    "crossed": "y ~ x + (x | g) + (1 | item)",
}


def narrow(tree):
    """float64 arrays as float32; indices stay."""

    def leaf(a):
        a = np.asarray(a)
        return jnp.asarray(a.astype(np.float32) if a.dtype == np.float64 else a)

    return jax.tree.map(leaf, tree)


def products(fun, *arguments):
    """Products of matrices in the lowered program, as text."""
    text = jax.jit(fun).lower(*arguments).as_text()
    found = re.findall(r"stablehlo\.dot_general.*", text)
    assert found
    return found


def assert_exact(fun, *arguments):
    for product in products(fun, *arguments):
        assert "precision = [HIGHEST, HIGHEST]" in product, product


@pytest.fixture(scope="module", params=FORMULAS)
def layout(request):
    design = lmm.design(FORMULAS[request.param], DATA)
    return narrow(design.layout)


def start(layout):
    return jnp.concatenate(
        [0.5 * jnp.eye(k, dtype=jnp.float32)[np.tril_indices(k)] + 0.1 for k in layout.sizes]
    )


def test_criterion_and_what_jax_makes_of_it(layout):
    """Under the caller's jit, and where a rule is traced after the call: grad of jit of it."""
    theta, inner = start(layout), jax.jit(lambda t, at: lmm.profile_loglike(t, at))
    assert_exact(inner, theta, layout)
    assert_exact(jax.grad(inner), theta, layout)
    assert_exact(jax.jacfwd(inner), theta, layout)
    assert_exact(jax.hessian(inner), theta, layout)
    assert_exact(jax.vmap(jax.grad(inner), in_axes=(0, None)), jnp.stack([theta, theta]), layout)
    in_S0 = lambda S0, t, at: inner(t, replace(at, S0=S0))  # noqa: E731
    assert_exact(jax.grad(in_S0), layout.S0, theta, layout)
    assert_exact(lambda t, at: profile_jet(t, at, reml=True), theta, layout)
    assert_exact(lambda t, at: at.blups(t, at.beta_origin), theta, layout)


@pytest.mark.device
def test_functions_of_parameters(layout):
    k = sum(layout.sizes)
    params = lmm.Params.from_components(
        fe_params=jnp.ones(2, jnp.float32), cov_re=jnp.eye(k, dtype=jnp.float32)
    )
    for fun in (lmm.loglike, lmm.score, lmm.hessian):
        assert_exact(lambda p, at, fun=fun: fun(p, at), params, layout)
    assert_exact(lambda p, at: lmm.get_fe_params(p.cov_re, p.vcomp, at), params, layout)
    assert_exact(
        lambda p, at: lmm.get_scale(p.fe_params, p.cov_re, p.vcomp, at, reml=True), params, layout
    )


@pytest.mark.device
@pytest.mark.parametrize("formula", [FORMULAS["grouped"], FORMULAS["crossed"]])
def test_from_rows(formula):
    """Compression and the fit, and the gradient of the optimum in the response."""
    design = lmm.design(formula, DATA)
    y, X, Z, weights, index = design.padded_rows()
    y, X, Z, weights = narrow((y, X, Z, weights))
    assert_exact(lambda y: lmm.compress(y, X, Z, weights, index), y)

    def scale(y):
        return lmm.fit_params(lmm.compress(y, X, Z, weights, index)).scale

    assert_exact(jax.grad(scale), y)


def test_woodbury():
    A, Q, d = narrow((np.ones((5, 3)), np.eye(2), np.ones(1)))
    assert_exact(lambda A, Q, d: lmm.woodbury_logdet(1.0, A, Q, d), A, Q, d)
    assert_exact(lambda A, Q, d: lmm.woodbury_solver(1.0, A, Q, d)(A[:, 0]), A, Q, d)


def test_the_test_sees_products_of_default_precision():
    plain = products(lambda a: a @ a, jnp.eye(3, dtype=jnp.float32))
    assert not any("HIGHEST" in product for product in plain)
