"""Crossed random effects in fit_many: lanes of the layout's own criterion are single fits."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.api import fit_many as api
from lmm_jax.batches import lane_rows, layout_lanes
from lmm_jax.batches.layout_lanes import LayoutLanes, minimize_layouts
from lmm_jax.designs.responses import read_model
from lmm_jax.layouts.compress import layout_of_rows
from lmm_jax.numerics.stacked import Stacked

RTOL = 1e-10  # two runs to an optimum, each from its own rounding
NUMBERS = ("llf", "fe_params", "bse_fe", "df", "scale", "theta", "cov_re")

_RNG = np.random.default_rng(20)
N = 160
FRAME = pd.DataFrame({"subject": np.arange(N) % 16, "item": np.arange(N) // 16}).assign(
    x=_RNG.normal(size=N), w=_RNG.uniform(0.5, 2.0, N), o=_RNG.normal(size=N)
)
FRAME["half"] = 2 * FRAME["subject"] + (FRAME["item"] > 4)
FRAME["school"] = FRAME["subject"] // 4
FRAME["list"] = (FRAME["subject"] + FRAME["item"]) % 7


def responses(count=4, seed=1):
    rng = np.random.default_rng(seed)
    b = rng.normal(size=(2, 16, count))
    c = rng.normal(size=(10, count))
    x = FRAME["x"].to_numpy()[:, None]
    mean = 1.0 + 0.5 * x + b[0][FRAME["subject"]] + 0.7 * b[1][FRAME["subject"]] * x
    return mean + c[FRAME["item"]] + rng.normal(size=(N, count))


def single(formula, y, w=None, **options):
    """The fit of one response by itself, rows that are missing left out."""
    frame = FRAME.assign(y=y)
    if w is not None:
        frame, options = frame.assign(own=w), {**options, "weights": "own"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return lmm.fit("y " + formula, frame[np.isfinite(y)], **options)


def assert_lane(many, i, one):
    for name in NUMBERS:
        got = np.asarray(getattr(many, name), float)[i]
        if name == "cov_re":
            got, want = np.ravel(got), np.ravel(one.cov_re)
        else:
            want = np.asarray(getattr(one, name), float)
        assert_close(got, want, RTOL, scale=np.abs(want).max(initial=1e-3))
    assert many.nobs[i] == one.nobs
    assert many.converged[i] == one.converged


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "intercepts": ("~ x + (1 | subject) + (1 | item)", {}),
    "slope": ("~ x + (x | subject) + (1 | item)", {"weights": "w", "offset": "o"}),
    "independent": ("~ x + (x || subject) + (1 | item)", {"reml": False}),
    "three factors": ("~ x + (1 | subject) + (1 | item) + (1 | list)", {}),
    "nested as well": ("~ x + (1 | subject / half) + (1 | item)", {}),
    "wide groups": ("~ x + (1 | school) + (1 | subject) + (1 | item)", {}),
    "four slopes": ("~ x + (x + w + o || subject) + (1 | item)", {}),
    "no fixed effects": ("~ 0 + (1 | subject) + (1 | item)", {}),
}


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_lanes_are_single_fits(case, gaps, compiled, monkeypatch):
    formula, options = CASES[case]
    Y = responses(3)
    if gaps:
        Y[::19, 0], Y[40:47, 1] = np.nan, np.nan
    monkeypatch.setattr(api, "fit_one_by_one", None)  # nothing goes one after another
    many = lmm.fit_many(formula, FRAME, Y, **options)
    assert not compiled()
    for i, y in enumerate(Y.T):
        assert_lane(many, i, single(formula, y, **options))


@pytest.mark.parametrize("moments", [False, True])
def test_many_lanes_and_starts_from_moments(moments, monkeypatch):
    """A candidate of the grid for all lanes at once, as where they are many; no grid at all."""
    monkeypatch.setattr(layout_lanes, "_TOGETHER", 1)
    if moments:
        monkeypatch.setattr(lane_rows, "SMALL_PROBLEM", 0)
    Y, formula = responses(4), "~ x + (x | subject) + (1 | item)"
    many = lmm.fit_many(formula, FRAME, Y)
    for i, y in enumerate(Y.T):
        assert_lane(many, i, single(formula, y))


def test_few_groups_are_a_matter_of_the_response():
    """Lanes beside it do not say whether an optimum is in doubt."""
    Y, formula = responses(3), "~ x + (x | subject) + (1 | item)"
    Y[FRAME["subject"] > 3, 0] = np.nan
    many = lmm.fit_many(formula, FRAME, Y)
    alone = lmm.fit_many(formula, FRAME, Y, chunk_size=1)
    assert_close(many.llf, alone.llf, RTOL)
    assert (many.n_iter == alone.n_iter).all()


def test_weights_of_every_observation():
    Y, W = responses(2), np.random.default_rng(3).uniform(0.3, 3.0, (N, 2))
    formula = "~ x + (1 | subject) + (1 | item)"
    many = lmm.fit_many(formula, FRAME, Y, weights=W)
    for i in range(2):
        assert_lane(many, i, single(formula, Y[:, i], W[:, i]))


def test_responses_without_a_model():
    """Constant, missing, infinite, explained exactly, one level of a factor: NaN, the rest is."""
    Y = responses(8)
    Y[:, 1], Y[:, 2], Y[5, 3] = 3.0, np.nan, np.inf
    Y[:, 4] = 2.0 * FRAME["x"] + 1.0
    Y[FRAME["item"] != 3, 5] = np.nan
    Y[FRAME["item"] == 3, 6] = np.nan  # a level less is no obstacle
    formula = "~ x + (1 | subject) + (1 | item)"
    with pytest.warns(lmm.ConvergenceWarning, match="5 of 8 responses"):
        many = lmm.fit_many(formula, FRAME, Y)
    there = np.isfinite(many.llf)
    assert there.tolist() == [True, False, False, False, False, False, True, True]
    assert (many.converged == there).all()
    for i in (0, 6, 7):
        assert_lane(many, i, single(formula, Y[:, i]))


def test_singular_and_very_large_random_effects():
    rng = np.random.default_rng(5)
    b, noise = rng.normal(size=(16, 4)), rng.normal(size=(N, 4))
    Y = noise + np.array([0.0, 0.01, 1e4, 1e6]) * b[FRAME["subject"]]
    formula = "~ x + (x || subject) + (1 | item)"
    many = lmm.fit_many(formula, FRAME, Y)
    assert many.converged.all() and many.singular[:2].all()
    for i, y in enumerate(Y.T):
        res = single(formula, y)
        # ratios of 1e12 between variances leave that many digits of the log-likelihood
        assert_close(many.llf[i], res.llf, 1e-9)
        assert_close(many.bse_fe[i], res.bse_fe, 1e-5)


def test_chunks_and_the_order_of_responses_do_not_matter():
    Y, formula = responses(9), "~ x + (x | subject) + (1 | item)"
    Y[3, 4] = np.nan
    whole = lmm.fit_many(formula, FRAME, Y)
    turned = lmm.fit_many(formula, FRAME, Y[:, ::-1], chunk_size=2)
    for name in NUMBERS:
        a, b = (np.asarray(getattr(many, name), float) for many in (whole, turned))
        assert_close(a, b[::-1], RTOL, scale=np.abs(a).max())
    assert_close(whole.llf[:1], lmm.fit_many(formula, FRAME, Y[:, :1]).llf, RTOL)


def test_what_goes_one_after_another():
    """By programs, a structure, many levels that meet: the same numbers, by lmm.fit."""
    Y, formula = responses(2), "~ x + (1 | subject) + (1 | item)"
    sideways = lmm.fit_many(formula, FRAME, Y)
    by_jax = lmm.fit_many(formula, FRAME, Y, runtime="jax")
    assert_close(sideways.llf, by_jax.llf, RTOL)
    structure = "~ x + cs(1 + x | subject, hom=True) + (1 | item)"
    many = lmm.fit_many(structure, FRAME, Y)
    assert_lane(many, 0, single(structure, Y[:, 0]))
    full = pd.DataFrame({"a": np.arange(8000) % 100, "b": np.arange(8000) // 100})
    for frame, model, runtime, gaps, lanes in (
        (FRAME, formula, "auto", False, True),
        (FRAME, formula, "jax", False, False),
        (FRAME, structure, "auto", False, False),
        (full[:5000], "~ (1 | a) + (1 | b)", "auto", False, True),  # 100 by 50
        (full[:5000], "~ (1 | a) + (1 | b)", "auto", True, False),
        (full, "~ (1 | a) + (1 | b)", "auto", False, False),  # 100 by 80
    ):
        Y = np.random.default_rng(0).normal(size=(len(frame), 2))
        Y[0, 0] = np.nan if gaps else 0.0
        design, columns = read_model(model, frame, Y, weights=None)
        assert api._has_lanes(design, columns, runtime) == lanes


def test_minimization_of_a_batch():
    """maxiter=0 stays at the start; lanes that are no models end as such."""
    Y = responses(3)
    design = lmm.design("x ~ x + (1 | subject) + (1 | item)", FRAME)
    padded = design.padded_rows()
    rows = np.zeros((padded[0].size, 3))
    rows[:N] = Y
    with np.errstate(all="ignore"):  # of the lane that has no model
        layout = layout_of_rows(Stacked(rows), *padded[1:])
    lanes = LayoutLanes(layout=layout, usable=np.array([True, False, True]))
    found = minimize_layouts(lanes, reml=True, maxiter=0, tol=1e-9, grid=True)
    assert (found.n_iter == 0).all()
    assert not (found.status == 1).any()
    done = minimize_layouts(lanes, reml=True, maxiter=100, tol=1e-9, grid=False)
    assert (done.status == 1).tolist() == [True, False, True]
