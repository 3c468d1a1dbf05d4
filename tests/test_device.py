"""The device that JAX computes on, an accelerator where there is one, beside NumPy on the host."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.layouts.crossed import dense_entries
from lmm_jax.layouts.stream_pass import MANY_ROWS
from lmm_jax.numerics import programs, tiers

pytestmark = pytest.mark.device

# One formula in two float64 libraries; a GPU adds the rows of a group up in any order.
RTOL = 1e-10
# Two optima of a decrement below 1e-9, which the last step squares; what is flat there moves with
# the root of what the criterion rounds.
OPTIMUM_TOL = 1e-8
# By the inverse of second derivatives.
CURVED_TOL = 1e-6

DATA = samples.frame(3, groups=24).assign(
    time=lambda d: np.arange(len(d)) % 6, item=lambda d: np.arange(len(d)) % 5
)
IDS = np.unique(DATA["g"])
KIN = 0.5 * np.eye(len(IDS)) + 0.5 * (np.arange(24) // 4 == np.arange(24)[:, None] // 4)
RELATED = {"relatedness": {"g": pd.DataFrame(KIN, index=IDS, columns=IDS)}}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "groups": ("y ~ x + (x | g)", {"weights": "w", "offset": "o"}),
    "four coefficients": ("y ~ x + (x + z + v | g)", {"reml": False}),
    "nested": ("y ~ x + (x | g) + (1 | g:s)", {}),
    "structure": ("y ~ x + cs(1 + x + z | g, hom=True)", {}),
    "components": ("y ~ x", {"groups": "g", "re_formula": "1", "vc_formula": {"s": "0 + C(s)"}}),
    "crossed": ("y ~ x + (x | g) + (1 | item)", {}),
    "residual matrices": ("y ~ x + us(time | g)", {}),
    "residual chains": ("y ~ x + ar1(time | g) + (1 | g)", {"reml": False}),
    "related, rotated": ("y ~ x + (1 | g)", RELATED),
    "related, in a core": ("y ~ x + (x | g)", RELATED),
}


@cache
def fit(name: str, runtime: str) -> lmm.LMMResults:
    formula, options = MODELS[name]
    return lmm.fit(formula, DATA, runtime=runtime, **options)


def agree(a: lmm.LMMResults, b: lmm.LMMResults) -> None:
    """What is reported, relative to its natural scale."""
    assert (a.runtime, b.runtime) == ("numpy", "jax")
    assert a.converged and b.converged
    assert_close(b.llf, a.llf, RTOL)
    assert_close(b.fe_params, a.fe_params, OPTIMUM_TOL, a.bse_fe)
    assert_close(b.bse_fe, a.bse_fe, OPTIMUM_TOL)
    assert_close(b.scale, a.scale, OPTIMUM_TOL)
    known = np.isfinite(a.bse)
    assert_close(b.bse[known], a.bse[known], CURVED_TOL)
    with tiers.running_on("jax"):
        found = b.random_effects
    for group, effects in a.random_effects.items():
        expected = effects.to_numpy()
        # effects of a variance of zero are rounding
        assert_close(found[group], expected, OPTIMUM_TOL, np.abs(expected).max() + 1e-6)


def test_arrays_lie_on_the_device():
    layout = fit("groups", "jax").design.layout
    home = {device.platform for leaf in jax.tree.leaves(layout) for device in leaf.devices()}
    assert home == {jax.local_devices()[0].platform}
    with jax.enable_x64(True):
        value = jax.jit(lmm.profile_loglike)(jnp.array([1.0, 0.2, 0.7]), layout)
    assert value.devices() == {jax.local_devices()[0]}


@pytest.mark.parametrize("name", MODELS)
def test_fits_are_those_of_the_host(name):
    agree(fit(name, "numpy"), fit(name, "jax"))


def many_rows(groups: int, rows: int) -> pd.DataFrame:
    """Enough rows for the pass in batches."""
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(groups), rows)
    x = rng.normal(size=g.size)
    b = rng.normal(size=(groups, 2)) * [1.0, 0.5]
    y = 2 + x + b[g, 0] + b[g, 1] * x + rng.normal(size=g.size)
    return pd.DataFrame({"y": y, "x": x, "g": g})


@pytest.mark.parametrize(("groups", "rows"), [(60, 200), (9000, 3)])
def test_many_rows_and_many_groups(groups, rows):
    """By sums over batches; and more groups than NumPy and a CPU take at once."""
    data = many_rows(groups, rows)
    assert len(data) > MANY_ROWS
    agree(*(lmm.fit("y ~ x + (x | g)", data, runtime=on) for on in ("numpy", "jax")))


def ratings() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    user, film = rng.integers(0, 400, 9000), rng.choice(60, 9000, p=np.arange(60, 0, -1) / 1830)
    y = rng.normal(size=400)[user] + rng.normal(size=60)[film] + rng.normal(size=9000)
    return pd.DataFrame({"y": y, "user": user, "film": film}).drop_duplicates(["user", "film"])


@pytest.mark.parametrize("few_pairs", [0, 1 << 22])
def test_ratings_by_dense_products_and_by_lists(few_pairs, monkeypatch):
    monkeypatch.setattr(dense_entries, "_FEW_PAIRS", few_pairs)
    design = lmm.design("y ~ 1 + (1 | user) + (1 | film)", ratings())
    assert (design.compressed.layout.links[0].head is None) == (few_pairs > 0)
    agree(*(lmm.fit(design, runtime=on) for on in ("numpy", "jax")))


def test_profiles_tests_and_deletions():
    """What comes after a fit, by programs."""
    host, device = fit("groups", "numpy"), fit("groups", "jax")

    def numbers(res: lmm.LMMResults) -> list[np.ndarray]:
        limits, influence = res.conf_int(method="profile"), lmm.influence(res)
        tests = lmm.anova(res, df_method="kenward-roger").to_numpy(float)
        return [limits.to_numpy(), influence.params.to_numpy(), tests]

    with tiers.running_on("numpy"):
        want = numbers(host)
    with tiers.running_on("jax"):
        got = numbers(device)
    for ours, theirs in zip(got, want, strict=True):
        known = np.isfinite(theirs)
        assert_close(ours[known], theirs[known], CURVED_TOL, np.abs(theirs[known]).max())


def test_replicates_do_not_depend_on_the_device():
    """Drawn by the same generator and fitted side by side, or one after another on the host."""
    res = fit("groups", "numpy")
    with tiers.running_on("numpy"):
        want = lmm.bootstrap(res, 8, seed=3, progress=False).params().to_numpy()
    with tiers.running_on("jax"):
        got = lmm.bootstrap(res, 8, seed=3, progress=False).params().to_numpy()
    assert_close(got, want, CURVED_TOL, np.abs(want).max())


def test_gradients_through_the_rows():
    """Of the log-likelihood in the response: ``-V^-1 (y - X beta) / sigma^2``, by the host."""
    design = lmm.design("y ~ x + (1 | g)", DATA)
    y, X, Z, weights, index = design.padded_rows()
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(lambda y: lmm.profile_loglike(
            jnp.array([0.9]), lmm.compress(y, jnp.asarray(X), tuple(map(jnp.asarray, Z)),
                                           jnp.asarray(weights), index), reml=False)
        ))(jnp.asarray(y))  # fmt: skip
    n = len(DATA)
    same = (DATA["g"].to_numpy()[:, None] == DATA["g"].to_numpy()).astype(float)
    V = np.eye(n) + 0.81 * same
    Xn = X[:n]
    VX = np.linalg.solve(V, Xn)
    r = y[:n] - Xn @ np.linalg.solve(Xn.T @ VX, VX.T @ y[:n])
    Vr = np.linalg.solve(V, r)
    assert_close(slope[:n], -Vr * n / (r @ Vr), RTOL, np.abs(Vr).max())


# ------------------------------------------------------------ without one


WORK = {
    **{name: lambda name=name: fit(name, "numpy") for name in MODELS},
    "first order": lambda: lmm.fit("y ~ x + (x | g)", DATA, method="lbfgs"),
    "responses": lambda: responses("~ x + (x | g)"),
    "replicates": lambda: lmm.bootstrap(fit("groups", "numpy"), 20, seed=1, progress=False),
    "crossed replicates": lambda: lmm.bootstrap(fit("crossed", "numpy"), 5, seed=1, progress=False),
    "profile": lambda: lmm.profile(fit("nested", "numpy"), "beta"),
}


def responses(formula: str) -> lmm.ManyResults:
    Y = DATA[["y"]].to_numpy() + np.random.default_rng(1).normal(size=(len(DATA), 30))
    return lmm.fit_many(formula, DATA, Y, runtime="numpy", progress=False)


@pytest.mark.parametrize("name", WORK)
def test_what_numpy_does_is_a_program_that_a_gpu_knows(name, monkeypatch):
    """Programs are lowered for CUDA, which needs no GPU; NumPy gives their values."""
    lowered = []

    def seen(method):
        def call(self, *args, **kwargs):
            name = self.fun.__name__
            if lowered.count(name) < 2:  # it is called again and again
                jitted = jax.jit(self.fun, static_argnames=self.static)
                program = jitted.trace(*args, **kwargs).lower(lowering_platforms=("cuda",))
                assert "lapack" not in program.as_text()  # the libraries of a host
                lowered.append(name)
            return method(self, *args, **kwargs)

        return call

    for name_of in ("__call__", "takes_numpy"):
        monkeypatch.setattr(programs.Program, name_of, seen(getattr(programs.Program, name_of)))
    fit.cache_clear()
    WORK[name]()
    assert lowered
