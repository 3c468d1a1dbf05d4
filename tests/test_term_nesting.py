"""Which random-effects terms are special cases of others: by their covariances, and by R."""

import itertools

import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax import DataError

# A term of g, and its special cases among the others: those whose covariance it reaches.
TERMS = {
    "1": "(1 | g)",
    "1 + f": "(1 | g) + (1 | g:f)",
    "f": "(1 | g:f)",
    "diag hom": "diag(0 + f | g, hom=True)",
    "diag": "diag(0 + f | g)",
    "cs hom": "cs(0 + f | g, hom=True)",
    "cs": "cs(0 + f | g)",
    "ar1": "ar1(0 + f | g)",
    "ar1 het": "ar1(0 + f | g, hom=False)",
    "toep": "toep(0 + f | g)",
    "ad": "ad(0 + f | g)",
    "us": "(f | g)",
}
CASES = {
    "1": "",
    "f": "",
    "1 + f": "1|f|diag hom",
    "diag hom": "",
    "diag": "f|diag hom",
    "cs hom": "1|f|diag hom",
    "cs": "1|f|1 + f|diag hom|diag|cs hom",
    "ar1": "1|f|diag hom",
    "ar1 het": "1|f|diag hom|diag|ar1",
    "toep": "1|f|1 + f|diag hom|diag|cs hom|cs|ar1|ar1 het",
    "ad": "1|f|diag hom|diag|ar1|ar1 het",
    "us": "1|f|1 + f|diag hom|diag|cs hom|cs|ar1|ar1 het|toep|ad",
}
# Of a likelihood ratio of those: a variance of zero, or a correlation of one, lies at the end of
# its range; what is said of several such is not known here.
ONE_END = {("1", "1 + f"), ("f", "1 + f"), ("diag hom", "1 + f"), ("1", "cs hom"), ("1", "cs"),
           ("1", "ar1"), ("1", "ar1 het")}  # fmt: skip
SEVERAL_ENDS = {("1", "toep"), ("1", "ad"), ("1", "us")}


@pytest.fixture(scope="module")
def fits():
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": np.repeat(np.arange(25), 8), "f": np.tile(list("abcd"), 50)})
    effects = rng.normal(size=(25, 1)) + 0.6 * rng.normal(size=(25, 4))
    data["y"] = np.repeat(effects, 2, axis=0).reshape(-1) + 0.7 * rng.normal(size=200)
    return {name: lmm.fit(f"y ~ f + {term}", data) for name, term in TERMS.items()}


@pytest.mark.parametrize("pair", list(itertools.combinations(TERMS, 2)), ids="-".join)
def test_special_cases(fits, pair):
    small, large = sorted(pair, key=lambda name: fits[name].n_params)
    one, two = fits[small], fits[large]
    if small not in CASES[large].split("|"):
        with pytest.raises(DataError, match=r"no special case|same number of parameters"):
            lmm.anova(one, two, refit=False)
        return
    table = lmm.anova(one, two, refit=False)
    assert table["chisq"].iloc[1] > -1e-6  # no special case fits better
    at_ends = ONE_END | SEVERAL_ENDS
    assert ("p_boundary" in table) == ((small, large) in at_ends)
    if (small, large) in ONE_END:
        assert 0 < table["p_boundary"].iloc[1] < table["p_value"].iloc[1]


def test_machines_of_r():
    """``nlme::anova.lme`` of ``~ 1 | Worker/Machine`` and ``~ Machine - 1 | Worker``."""
    data = lmm.load_dataset("machines")
    small = lmm.fit("score ~ Machine + (1 | Worker/Machine)", data)
    large = lmm.fit("score ~ Machine + (0 + Machine | Worker)", data)
    row = lmm.anova(small, large, refit=False).iloc[1]
    assert abs(row["chisq"] - 7.37635) < 1e-5
    assert abs(row["p_value"] - 0.1173) < 5e-5


def test_coefficients_one_by_one():
    """Two of three coefficients, in the structure of all of them."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 6), "x": rng.normal(size=120)})
    data["w"] = rng.normal(size=120)
    data["y"] = rng.normal(size=20)[data["g"]] * (1 + data["x"]) + rng.normal(size=120)
    large = lmm.fit("y ~ cs(1 + x + w | g)", data)
    table = lmm.anova(lmm.fit("y ~ (1 | g) + (0 + x | g)", data), large, refit=False)
    assert table["chisq"].iloc[1] > -1e-6
    assert table["p_boundary"].notna().iloc[1]
    with pytest.raises(DataError, match="no special case"):  # x and w alike are no one of them
        lmm.anova(lmm.fit("y ~ (0 + I(x + w) | g)", data), large, refit=False)
