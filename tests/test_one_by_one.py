"""Few replicates, fitted one after another: what lanes side by side give."""

import numpy as np
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.batches import replicate_minimize
from lmm_jax.numerics.tiers import Tier

DATA = samples.frame()


def test_few_replicates_of_crossed_factors(monkeypatch):
    """The same draws, and the same optimum of each."""
    calls, tier = [], Tier(2e-7)
    add = tier.add
    monkeypatch.setattr(replicate_minimize, "_ONE_BY_ONE", tier)
    monkeypatch.setattr(tier, "add", lambda key, s: (calls.append(s), add(key, s)))
    fit = lmm.fit("y ~ x + (1 | g) + (1 | s)", DATA)
    few = lmm.bootstrap(fit, 20, seed=1)
    assert len(calls) == 1
    tier.seconds = np.inf
    lanes = lmm.bootstrap(fit, 20, seed=1)
    assert len(calls) == 1
    # variances on the boundary are flat there: the square root of the criterion's tolerance
    assert_close(few.params(), lanes.params(), 1e-4, 1)
