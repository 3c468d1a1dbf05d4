"""NumPy and compiled programs: one source, the same numbers, and the rule for which runs."""

import subprocess
import sys
import warnings
from functools import cache
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import reference
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.numerics import tiers
from lmm_jax.numerics.namespace import JAX, NUMPY, namespace
from lmm_jax.numerics.programs import compiled as program

RTOL = 1e-11  # of one formula in two float64 libraries, and of their optima

DATA = samples.frame(3, groups=24)
# from one to eight levels of s in a group of g: groups of several widths
_RNG = np.random.default_rng(8)
UNEVEN = pd.DataFrame({"g": np.repeat(np.arange(30), np.repeat([2, 5, 16], 10))})
UNEVEN = UNEVEN.assign(
    s=_RNG.integers(0, 8, len(UNEVEN)),
    item=_RNG.integers(0, 9, len(UNEVEN)),
    x=_RNG.normal(size=len(UNEVEN)),
    y=_RNG.normal(size=30)[UNEVEN["g"]] + _RNG.normal(size=len(UNEVEN)),
    w=_RNG.uniform(0.5, 2.0, len(UNEVEN)),
    o=_RNG.normal(size=len(UNEVEN)),
)
MODELS = {
    "intercept": "y ~ x + (1 | g)",
    "slope": "y ~ x + (x | g)",
    "independent": "y ~ x + (x || g)",
    "four coefficients": "y ~ x + (x + z + v | g)",
    "structure": "y ~ x + cs(1 + x + z | g, hom=True)",
    "nested": "y ~ x + (x | g) + (1 | g:s)",
    "crossed": "y ~ x + (x | g) + (1 | f)",
    "uneven and crossed": "y ~ x + (1 | g / s) + (1 | item)",
    "no fixed effects": "y ~ 0 + (1 | g)",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "weighted": {"weights": "w", "offset": "o"},
    "ML": {"reml": False},
}


@cache
def fit(name: str, kind: str, runtime: str) -> lmm.LMMResults:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        data = UNEVEN if name.startswith("uneven") else DATA
        return lmm.fit(MODELS[name], data, runtime=runtime, **OPTIONS[kind])


def agree(a: lmm.LMMResults, b: lmm.LMMResults) -> None:
    """Everything that is reported, relative to its natural scale."""
    assert (a.runtime, b.runtime) == ("numpy", "jax")
    assert (a.converged, a.estimates.singular) == (b.converged, b.estimates.singular)
    assert_close(a.llf, b.llf, RTOL)
    assert_close(a.fe_params, b.fe_params, RTOL, b.bse_fe)
    assert_close(a.bse_fe, b.bse_fe, RTOL)
    assert_close(a.scale, b.scale, RTOL)
    assert_close(a.cov_re, b.cov_re, RTOL, b.scale)
    known = np.isfinite(b.bse)
    assert_close(a.bse[known], b.bse[known], RTOL)
    assert_close(a.df, b.df, RTOL)
    for group, effects in a.random_effects.items():
        expected = b.random_effects[group].to_numpy()
        assert_close(effects, expected, RTOL, np.abs(expected).max() + 0.01 * b.scale**0.5)


# One of each kind of program; the rest of the grid is slow.
FITS = [("slope", "weighted"), ("four coefficients", ""), ("structure", ""), ("nested", ""),
        ("crossed", "ML"), ("no fixed effects", "")]  # fmt: skip
MORE_FITS = [(name, kind) for name in MODELS for kind in OPTIONS if (name, kind) not in FITS]


@pytest.mark.parametrize(
    ("name", "kind"), [*FITS, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in MORE_FITS)]
)
def test_fits_agree(name, kind):
    agree(fit(name, kind, "numpy"), fit(name, kind, "jax"))


HELD = {  # free entries of the covariances, and the values of the others
    "a correlation of zero": ("slope", [[1, 0], [0, 1]], [[1.0, 0.0], [0.0, 0.1]]),
    "a variance and a covariance": ("slope", [[0, 0], [0, 1]], [[0.5, 0.2], [0.2, 0.3]]),
    "a variance of zero": ("slope", [[1, 0], [0, 0]], [[1.0, 0.0], [0.0, 0.0]]),
    "everything": ("slope", [[0, 0], [0, 0]], [[0.5, 0.2], [0.2, 0.3]]),
    "crossed": ("crossed", np.diag([1, 1, 0]), np.diag([1.0, 0.1, 0.4])),
}


@pytest.mark.parametrize("kind", HELD)
def test_fits_with_something_held_agree(kind):
    name, free, held = HELD[kind]
    options = {
        "free": lmm.Params(fe_params=np.ones(2), cov_re=np.array(free), vcomp=np.zeros(0)),
        "start_params": lmm.Params(fe_params=np.zeros(2), cov_re=np.array(held), vcomp=np.zeros(0)),
    }
    agree(*(lmm.fit(MODELS[name], DATA, runtime=on, **options) for on in ("numpy", "jax")))


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.names(lambda case: case["n"] < 5000))
def test_reference_cases_agree(name):
    case = reference.load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        a, b = (
            lmm.fit(
                reference.formula(case),
                reference.frame(case),
                weights=case["model"]["weights"],
                reml=case["model"]["REML"],
                runtime=runtime,
            )
            for runtime in ("numpy", "jax")
        )
    agree(a, b)


jet_at = jax.jit(profile_jet, static_argnames="reml")


@pytest.mark.parametrize(("name", "reml"), [*((name, True) for name in MODELS), ("slope", False)])
def test_criterion_and_derivatives_agree(name, reml):
    """At one theta, interior and singular, on one layout."""
    layout = fit(name, "", "numpy").design.compressed.layout
    inside = np.linspace(0.4, 1.2, fit(name, "", "numpy").theta.size)
    for theta in (inside, np.append(inside[:-1], 0.0)):
        with np.errstate(all="ignore"):
            got = profile_jet(theta, layout, reml=reml)
        assert all(not isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))
        with jax.enable_x64(True):
            expected = jet_at(*jax.tree.map(jax.numpy.asarray, (theta, layout)), reml=reml)
        assert_close(got.value, expected.value, RTOL)
        for part in ("gradient", "hessian", "dbeta", "dcov_beta"):
            want = np.asarray(getattr(expected, part))
            assert_close(getattr(got, part), want, RTOL, np.abs(want).max(initial=1e-3))


def test_nothing_is_compiled_for_a_small_fit(compiled):
    jax.clear_caches()
    with tiers.running_on("numpy"):
        res = lmm.fit("y ~ x + z + (x | g)", DATA, runtime="numpy")
        str(res.summary())
        assert res.random_effects["g"].shape == (24, 2) and res.runtime == "numpy"
        assert 0 < lmm.r2(res).marginal < lmm.r2(res).conditional < 1 and lmm.icc(res).adjusted < 1
        assert_close(lmm.influence(res, "row").hat_values.sum(), lmm.caic(res).trace, RTOL)
        assert len(lmm.influence(res).params) == 24 and res.glance()["icc"][0] > 0
        assert res.t_test("x = 0").pvalue[0] < 1 and len(res.random_effects_cov["g"]) == 24
        again = lmm.fit(
            "y ~ x + z + (x | g)", DATA, start_params=np.array([1.0, 0.2, 0.5]), runtime="numpy"
        )
        assert_close(again.llf, res.llf, RTOL)
        free = lmm.Params(fe_params=np.ones(3), cov_re=np.eye(2), vcomp=np.zeros(0))
        apart = lmm.fit("y ~ x + z + (x || g)", DATA, runtime="numpy")
        assert_close(lmm.fit("y ~ x + z + (x | g)", DATA, free=free).llf, apart.llf, RTOL)
    assert compiled() == []


FRESH = """
import warnings
warnings.simplefilter("error")
import lmm_jax as lmm
for formula in ("Reaction ~ Days + (Days | Subject)", "Reaction ~ Days + (1 | Subject)"):
    res = lmm.fit(formula, lmm.load_dataset("sleepstudy"))
    str(res.summary()), res.random_effects
    print(res.runtime)
"""


def test_a_fresh_process_begins_in_numpy():
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert done.stdout.split() == ["numpy", "numpy"], done.stderr


def test_layouts_are_arrays_of_jax_for_the_user():
    layout = fit("slope", "", "numpy").design.layout
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(layout))
    assert layout.S0.dtype == np.float64


def test_steps_are_recorded_in_numpy_as_in_programs():
    a, b = (
        lmm.fit(MODELS["slope"], DATA, full_output=True, runtime=runtime).hist
        for runtime in ("numpy", "jax")
    )
    assert a.shape == b.shape
    assert_close(a["objective"], b["objective"], 1e-9)


# ------------------------------------------------------------ the rule


def test_what_runs_where():
    tier = tiers.Tier(seconds=1e-6)
    large = int(2e6 * tiers.compiling())
    assert tier.takes_numpy("a", 1000) and not tier.takes_numpy("a", large)
    assert tier.takes_numpy("a", large, price=tiers.compiling(6))
    with tiers.running_on("numpy"):
        assert tier.takes_numpy("a", large)
    with tiers.running_on("jax") as log:
        assert not tier.takes_numpy("a", 1000)
        with tiers.staying_on("numpy"):  # a computation that has begun there
            assert tier.takes_numpy("a", large)
            tiers.note("numpy")
        assert log.used == {"numpy"}
    tier.add("a", 0.6 * tiers.compiling())
    assert tier.takes_numpy("a", 1000)
    tier.add("a", 0.6 * tiers.compiling())  # as long as compiling it would have taken
    assert not tier.takes_numpy("a", 1000) and tier.takes_numpy("b", 1000)
    assert tier.takes_numpy("a", 1000, price=tiers.compiling(6))
    tier.add_compiled("b")
    assert not tier.takes_numpy("b", 1000)


def test_the_price_of_a_compilation():
    """More parameters, and factors that cross, are dearer by far."""
    grouped = [tiers.compiling(m) for m in (0, 1, 3, 6, 10)]
    crossed = [tiers.compiling(m, crossed=True) for m in (0, 1, 3, 6, 10)]
    assert grouped == sorted(grouped) and crossed == sorted(crossed)
    assert all(a < b for a, b in zip(grouped, crossed, strict=True))
    assert tiers.compiling(72, crossed=True) > 240  # the maximal model of a 2 x 2 x 2 experiment


def test_a_program_goes_up_a_tier():
    """NumPy until it has spent what a compilation costs, then the compiled program."""
    calls = []

    def total(x):
        calls.append(namespace(x))
        return namespace(x).sum(x)

    run = program(total, host=1e-9)
    x = np.arange(4.0)
    assert run(x) == 6.0 and calls == [NUMPY]
    with tiers.running_on("jax") as log:
        assert run(x) == 6.0
    assert calls == [NUMPY, JAX] and log.runtime == "jax"
    run(x)  # there is a program for this shape now
    assert calls == [NUMPY, JAX]
    assert run(np.arange(5.0)) == 10.0 and calls[-1] is NUMPY
    assert run.takes_numpy(np.arange(6.0)) and len(calls) == 3
    run.spend(2.0 * tiers.compiling(), np.arange(6.0))  # on arguments made of these
    assert not run.takes_numpy(np.arange(6.0)) and run.takes_numpy(np.arange(7.0))


def test_static_arguments_are_part_of_a_shape():
    formula = "y ~ x + z + v + (x | g)"  # of this test alone
    lmm.fit(formula, DATA, runtime="jax")
    assert lmm.fit(formula, DATA).runtime == "jax"
    assert lmm.fit(formula, DATA, reml=False).runtime == "numpy"


def test_what_jax_alone_computes_is_said():
    penalized = lmm.fit(MODELS["intercept"], DATA, cov_pen=lambda S: 0.0 * S.sum())
    assert penalized.runtime == "jax"


def test_books_of_a_long_process_stay_short():
    tier = tiers.Tier(seconds=1e-6)
    for key in range(5000):
        tier.add(key, 1e-3)
        tier.add_compiled(key)
    assert len(tier.spent) <= 1000 and len(tier.compiled) <= 1000


def test_one_runtime_by_name():
    with pytest.raises(lmm.DataError, match="runtime='cuda': choose from auto, numpy, jax"):
        lmm.fit(MODELS["slope"], DATA, runtime="cuda")
