"""Which random-effects terms are special cases of others: by their covariances, and by R."""

import itertools

import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax import DataError
from lmm_jax.designs.term_nesting import added

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


ROWS = 240
CODES = {name: np.random.default_rng(5).permutation(np.arange(ROWS) % 8) for name in "ab"}
OTHER = np.random.default_rng(6).permutation(np.arange(ROWS) % 8)
RESPONSE = np.random.default_rng(7).normal(size=8)[CODES["a"]] + np.random.default_rng(8).normal(
    size=ROWS
)


def with_components(**columns):
    design = lmm.design_from_arrays(
        RESPONSE, np.ones((ROWS, 1)), np.zeros(ROWS, int), exog_vc=columns
    )
    return lmm.fit(design)


def test_components_of_several_memberships_are_the_same_only_with_all_of_them():
    one = np.eye(8)
    both = np.hstack([one[CODES["a"]], one[CODES["b"]]])
    mixed = np.hstack([one[CODES["a"]], one[OTHER]])
    small = with_components(m=both)
    assert lmm.anova(small, with_components(m=both, h=one[OTHER]))["chisq"].iloc[1] > -1e-6
    with pytest.raises(DataError, match="no special case"):
        lmm.anova(small, with_components(m=mixed, h=one[OTHER]))


def test_a_component_is_no_special_case_of_related_levels():
    kinship = pd.DataFrame(0.9 * np.eye(8) + 0.1)
    data = pd.DataFrame({"y": RESPONSE, "a": CODES["a"], "h": OTHER, "one": 1})
    small = lmm.fit("y ~ 1", data, groups="one", vc_formula={"a": "0 + C(a)"})
    large = lmm.fit("y ~ 1 + (1 | a) + (1 | h)", data, relatedness={"a": kinship})
    with pytest.raises(DataError, match="no special case"):
        lmm.anova(small, large)


@pytest.mark.parametrize(
    ("small", "large", "ends"),
    [
        ("(1 | Subject)", "diag(0 + Sex | Subject)", 0),  # every subject has one sex
        ("(0 + age | Subject)", "diag(0 + age:Sex | Subject)", 0),
        ("(1 | Subject)", "(1 | Subject) + diag(0 + Half | Subject)", 2),
        ("(1 | Subject) + (1 | Subject:Half)", "(1 | Subject) + diag(0 + Half | Subject)", 0),
        ("(1 | Subject:Half)", "(1 | Subject) + diag(0 + Half | Subject)", 1),
        ("(1 | Subject)", "(1 | Subject) + diag(0 + Half | Subject, hom=True)", 1),
        ("diag(0 + Half | Subject, hom=True)", "(1 | Subject) + (1 | Subject:Half)", 1),
    ],
)
def test_lone_coefficients(small, large, ends):
    data = lmm.load_dataset("orthodont")
    data = data.assign(Age=data["age"].astype(str), Half=np.where(data["age"] > 11, "old", "new"))
    one, two = (
        lmm.fit(f"distance ~ age * Sex + {term}", data, reml=False) for term in (small, large)
    )
    assert two.llf > one.llf - 1e-6
    found = added(one.design.terms, two.design.terms)
    assert found is not None and sum(count for count, _ in found) == ends


def test_the_order_of_terms_does_not_matter():
    """Factors of as many levels change places where a larger one comes to them."""
    rng = np.random.default_rng(0)
    a, b, c = np.repeat(np.arange(12), 12), np.tile(np.arange(12), 12), np.arange(144) % 36
    data = pd.DataFrame({"a": a, "b": b, "c": c, "x": rng.normal(size=144)})
    data["z"] = rng.normal(size=144)
    data["y"] = rng.normal(size=12)[a] * (1 + data["x"]) + rng.normal(size=36)[c]
    data["y"] += rng.normal(size=12)[b] + rng.normal(size=144)
    small = lmm.fit("y ~ x + z + (x | a) + (1 | b)", data)
    found = [
        lmm.anova(small, lmm.fit(f"y ~ x + z + {terms}", data))["p_boundary"].iloc[1]
        for terms in ("(x | a) + (1 | b) + (z | c)", "(z | c) + (x | a) + (1 | b)")
    ]
    assert 0 < found[0] < 1
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_a_fit_below_its_special_case_is_said():
    """Of a larger model that was stopped before its optimum."""
    data = lmm.load_dataset("sleepstudy")
    small = lmm.fit("Reaction ~ Days + (1 | Subject)", data)
    large = lmm.fit("Reaction ~ Days + (Days | Subject)", data, maxiter=0, start_params=np.zeros(3))
    with pytest.warns(lmm.ConvergenceWarning, match="fits worse than its special case"):
        lmm.anova(small, large, refit=False)
