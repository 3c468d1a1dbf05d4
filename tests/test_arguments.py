"""Wrong arguments of public functions: what is refused, in which words.

Tables, a line each: call, fragment of the message. Everything here is a DataError.
"""
# ruff: noqa: E501

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm

P = lmm.Params.from_components
DATA = samples.frame()
FORMULA = "y ~ x + (1 + x | g)"
RTOL = 1e-12  # the same program on the same numbers


@cache
def design(formula=FORMULA, **options):
    return lmm.design(formula, DATA, **options)


@cache
def fitted(formula=FORMULA, **options):
    return lmm.fit(formula, DATA, **options)


def components():
    """One component beside a random intercept: theta of two numbers, cov_re of one, vcomp of one."""
    return lmm.design(
        "y ~ x", DATA, groups="g", re_formula="1", vc_formula={"s": "0 + C(s)"}
    ).layout


# ------------------------------------------------------------ shapes of parameters

LAYOUT = cache(lambda: design().layout)
COMPONENTS = cache(components)
GOOD = P(fe_params=np.ones(2), cov_re=np.eye(2))
# fmt: off
SHAPES = {
    "theta long": (lambda: lmm.profile_loglike(jnp.ones(7), LAYOUT()), r"theta has the shape \(7,\): \(3,\) is needed"),
    "theta short": (lambda: lmm.profile_loglike(jnp.ones(2), LAYOUT()), r"theta has the shape \(2,\)"),
    "theta a number": (lambda: lmm.profile_loglike(1.0, LAYOUT()), r"theta has the shape \(\)"),
    "theta a matrix": (lambda: lmm.profile_loglike(jnp.ones((3, 1)), LAYOUT()), r"theta has the shape \(3, 1\)"),
    "theta of a component": (lambda: lmm.profile_loglike(jnp.ones(3), COMPONENTS()), r"\(2,\) is needed.*terms with 1, 1 coeff"),
    "theta a word": (lambda: lmm.profile_loglike("one", LAYOUT()), "theta='one': numbers are needed"),
    "theta complex": (lambda: lmm.profile_loglike(jnp.ones(3, complex), LAYOUT()), "theta is an array of complex"),
    "theta ragged": (lambda: lmm.profile_loglike([[1], [1, 2]], LAYOUT()), "theta="),
    "a design for a layout": (lambda: lmm.profile_loglike(jnp.ones(3), design()), r"layout is a Design: pass design\.layout"),
    "a number for a layout": (lambda: lmm.loglike(GOOD, 5), "layout is a int"),
    "cov_re large": (lambda: lmm.get_fe_params(jnp.eye(3), jnp.ones(0), LAYOUT()), r"cov_re of shape \(3, 3\): cov_re of shape \(2, 2\) is needed"),
    "cov_re small": (lambda: lmm.get_fe_params(jnp.eye(1), jnp.ones(0), LAYOUT()), r"cov_re of shape \(1, 1\)"),
    "cov_re a vector": (lambda: lmm.get_fe_params(jnp.ones(2), jnp.ones(0), LAYOUT()), r"cov_re of shape \(2,\)"),
    "vcomp where there is none": (lambda: lmm.get_fe_params(jnp.eye(2), jnp.ones(1), LAYOUT()), r"vcomp of shape \(1,\): vcomp of shape \(0,\)"),
    "vcomp missing": (lambda: lmm.get_fe_params(jnp.eye(1), jnp.ones(0), COMPONENTS()), r"vcomp of shape \(0,\): vcomp of shape \(1,\)"),
    "beta long": (lambda: lmm.get_scale(jnp.ones(3), jnp.eye(2), jnp.ones(0), LAYOUT()), r"fe_params of shape \(3,\): fe_params of shape \(2,\)"),
    "beta short": (lambda: lmm.get_scale(jnp.ones(1), jnp.eye(2), jnp.ones(0), LAYOUT()), r"fe_params of shape \(1,\)"),
    "two of them": (lambda: lmm.get_scale(jnp.ones(1), jnp.eye(3), jnp.ones(0), LAYOUT()), r"fe_params of shape \(1,\), cov_re of shape \(3, 3\): fe"),
    "packed": (lambda: lmm.loglike(jnp.ones(7), LAYOUT()), r"0 fixed effects, 3 covariances and 0 comp.*\(7,\)"),
    "packed with beta": (lambda: lmm.loglike(jnp.ones(3), LAYOUT(), profile_fe=False), "2 fixed effects, 3 cov"),
    "Params of another model": (lambda: lmm.loglike(P(cov_re=np.eye(3)), LAYOUT()), r"cov_re of shape \(3, 3\)"),
    "Params without beta": (lambda: lmm.loglike(P(cov_re=np.eye(2)), LAYOUT(), profile_fe=False), r"fe_params of shape \(0,\)"),
    "score": (lambda: lmm.score(jnp.ones(4), LAYOUT()), r"\(4,\)"),
    "hessian": (lambda: lmm.hessian(P(cov_re=np.eye(1)), LAYOUT()), r"\(1, 1\)"),
    "start of fit_params": (lambda: lmm.fit_params(LAYOUT(), P(cov_re=np.eye(1))), r"start has cov_re of shape \(1, 1\)"),
    "start a vector": (lambda: lmm.fit_params(LAYOUT(), jnp.ones(3)), "start is a .*: a Params is needed"),
    "start_params of fit": (lambda: lmm.fit(design(), start_params=P(cov_re=np.eye(3))), r"start_params has cov_re of shape \(3, 3\)"),
    "free of fit": (lambda: lmm.fit(design(), free=P(fe_params=np.ones(1), cov_re=np.eye(2))), r"free has fe_params of shape \(1,\)"),
    "truth of simulate": (lambda: lmm.simulate(P(np.ones(2), np.eye(1)), design(), seed=1, scale=1.0), r"model has cov_re of shape \(1, 1\)"),
    "truth of simulate, beta": (lambda: lmm.simulate(P(np.ones(3), np.eye(2)), design(), seed=1, scale=1.0), r"model has fe_params of shape \(3,\)"),
    "truth of power": (lambda: lmm.power(design(), P(np.ones(2), np.eye(3)), 10, test="x", seed=1, scale=1.0), r"params has cov_re of shape \(3, 3\)"),
}
# fmt: on


@pytest.mark.parametrize(("call", "message"), SHAPES.values(), ids=SHAPES)
def test_shapes_of_parameters(call, message, x64):
    with pytest.raises(lmm.DataError, match=message):
        call()


PURE = [
    lambda n, layout: lmm.profile_loglike(jnp.ones(n), layout),
    lambda n, layout: lmm.loglike(jnp.ones(n), layout),
    lambda n, layout: lmm.get_fe_params(jnp.eye(n), jnp.ones(0), layout),
    lambda n, layout: lmm.get_scale(jnp.ones(n), jnp.eye(2), jnp.ones(0), layout),
]


@pytest.mark.parametrize("call", PURE)
def test_shapes_are_known_while_a_program_is_traced(call, x64):
    with pytest.raises(lmm.DataError, match="shape"):
        jax.jit(partial(call, 7))(LAYOUT())


def test_lists_and_whole_numbers_are_parameters(x64):
    layout = LAYOUT()
    expected = lmm.profile_loglike(jnp.array([1.0, 0.0, 2.0]), layout)
    assert_close(lmm.profile_loglike([1, 0, 2], layout), expected, RTOL)
    assert_close(lmm.profile_loglike(jnp.array([1, 0, 2]), layout), expected, RTOL)
    params = jnp.array([1.0, 0.0, 4.0])  # variances of the factor above
    assert_close(lmm.loglike([1, 0, 4], layout), expected, RTOL)
    assert_close(lmm.score([1, 0, 4], layout), lmm.score(params, layout), RTOL)
    vcomp = pd.Series([4.0])
    at = COMPONENTS()
    assert_close(
        lmm.get_fe_params([[1.0]], vcomp, at),
        lmm.get_fe_params(jnp.eye(1), jnp.array([4.0]), at),
        RTOL,
    )
