"""Columns of X that are not there: the same numbers, and one program for several models."""

import jax
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.covariance.theta import theta_size
from lmm_jax.layouts.moments import MomentLayout, merge_classes
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.numerics.shapes import round_up_columns
from lmm_jax.numerics.tiers import running_on
from lmm_jax.optimize import newton
from lmm_jax.optimize.shared_columns import narrowed, outline, widened

RTOL = 1e-12  # of one formula, with zeros between its numbers

DATA = samples.frame(groups=12).assign(t=np.tile(np.arange(6), 12))
BALANCED = lmm.load_dataset("sleepstudy").rename(
    columns={"Reaction": "y", "Days": "x", "Subject": "g"}
)
FORMULAS = {
    "slope": "y ~ x + z + (x | g)",
    "no fixed effects": "y ~ 0 + (1 | g)",
    "nested": "y ~ x * z + v + (1 | g / s)",
    "crossed": "y ~ x + z + (x | g) + (1 | f)",
    "residual": "y ~ x + z + us(t | g)",
    "markov": "y ~ x + z + (1 | g) + ar1(t | g)",
    "classes": "y ~ I(x**2) + x + (x | g)",
}


def layout_of(name):
    frame = BALANCED if name == "classes" else DATA
    design = lmm.design(FORMULAS[name], frame, weights=None)
    layout = jax.tree.map(np.asarray, design.compressed.layout)
    if name != "classes":
        return layout
    merged = merge_classes(layout)
    assert isinstance(merged, MomentLayout)
    return merged


@pytest.mark.filterwarnings("ignore::lmm_jax.OrderWarning")
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", FORMULAS)
def test_nothing_depends_on_them(name, reml):
    layout = layout_of(name)
    p = layout.beta_origin.size
    wide = widened(layout, reml=reml)
    assert wide.beta_origin.size == round_up_columns(p) > p
    theta = np.linspace(0.4, 0.6, theta_size(layout.structures))
    want, jet = (profile_jet(theta, at, reml=reml) for at in (layout, wide))
    found = narrowed(newton.Solution(theta, jet, 0, 0, 0.0), p).jet
    assert np.array_equal(jet.profile.beta[p:], np.zeros(wide.beta_origin.size - p))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want._replace(noise=found.noise)),
                    strict=True):  # fmt: skip
        assert np.shape(a) == np.shape(b)
        assert_close(a, b, RTOL, scale=max(np.abs(b).max(initial=0.0), 1e-3))


@pytest.mark.parametrize("name", FORMULAS)
def test_an_outline_has_the_shapes_and_no_memory(name):
    layout = layout_of(name)
    leaves, tree = jax.tree.flatten(widened(layout, reml=True))
    shown, like = jax.tree.flatten(outline(layout, reml=True))
    assert like == tree
    assert [(a.shape, a.dtype) for a in shown] == [(a.shape, a.dtype) for a in leaves]
    largest = max(shown, key=np.size)
    assert largest.base is not None and not any(largest.strides)


def test_sizes():
    sizes = {1: 2, 2: 2, 3: 4, 5: 6, 7: 8, 9: 12, 13: 16, 16: 16, 17: 17, 33: 33, 200: 200}
    assert {p: round_up_columns(p) for p in sizes} == sizes


def test_as_many_columns_as_a_program_has_stay_alone():
    layout = jax.tree.map(np.asarray, lmm.design("y ~ x + (1 | g)", DATA).compressed.layout)
    assert widened(layout, reml=True) is layout
    assert outline(layout, reml=True) is layout


def rows(n=6000):
    """More rows than are compressed and fitted in one program."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("xzvu")).assign(g=np.arange(n) % 300)
    return frame.assign(y=frame["x"] + rng.normal(size=300)[frame["g"]] + rng.normal(size=n))


LARGE = rows()
MODELS = ("x + z", "x + z + v")  # three and four fixed effects


@pytest.fixture(autouse=True)
def room_for_programs():
    """JAX keeps so many programs and forgets the oldest: those of other tests are given up."""
    jax.clear_caches()


def programs_of(model, compiled):
    """What a model compiles, and what it gives, beside NumPy's numbers."""
    before = len(compiled())
    got = model("jax")
    made = compiled()[before:]
    return made, got, model("numpy")


def test_one_covariate_more_compiles_no_minimization(compiled):
    made = []
    for terms in MODELS:
        names, got, want = programs_of(
            lambda runtime, terms=terms: lmm.fit(f"y ~ {terms} + (z | g)", LARGE, runtime=runtime),
            compiled,
        )
        made.append("jit(minimize)" in names)
        assert_close(got.llf, want.llf, 1e-11)
        assert_close(got.bse, want.bse, 1e-11)
        assert_close(got.fe_params, want.fe_params, 1e-11, got.bse_fe)
    assert made == [True, False]


def test_one_covariate_more_compiles_no_steps_of_lanes(compiled):
    rng = np.random.default_rng(6)
    Y, made = LARGE["y"].to_numpy()[:300, None] + rng.normal(size=(300, 40)), []
    frame = LARGE[:300].assign(g=np.arange(300) % 30)
    for terms in MODELS:
        names, got, want = programs_of(
            lambda runtime, terms=terms: lmm.fit_many(
                f"~ {terms} + (1 | g)", frame, Y, runtime=runtime
            ),
            compiled,
        )
        made.append({"jit(_advance)", "jit(lane_jet)", "jit(_find_starts)"} & {*names})
        assert_close(got.llf, want.llf, 1e-11)
        assert_close(got.bse_fe, want.bse_fe, 1e-11)
    assert len(made[0]) == 3 and not made[1]


@pytest.mark.parametrize("design", ["balanced", "uneven", "crossed"])
def test_replicates_share_their_steps(design, compiled):
    frame, made = LARGE[:240].assign(g=np.arange(240) % 24, h=np.arange(240) // 24), []
    terms_of = "(1 | g) + (1 | h)" if design == "crossed" else "(1 | g)"
    if design == "uneven":
        frame = frame[10:]
    for terms in MODELS:
        res = lmm.fit(f"y ~ {terms} + {terms_of}", frame)

        def drawn(runtime, res=res):
            with running_on(runtime):
                return lmm.bootstrap(res, 20, seed=3).replicates

        names, got, want = programs_of(drawn, compiled)
        made.append("jit(_advance)" in names)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert_close(a, b, 1e-8, scale=1.0)  # single runs, each to its own optimum
    assert made == [True, False]
