"""Adjusted p values and critical values against R, published tables and exact identities."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import timings
from helpers import assert_close
from scipy import special
from scipy.integrate import trapezoid

from lmm_jax.errors import DataError
from lmm_jax.inference.contrasts.multiplicity import (
    ADJUSTMENTS,
    Family,
    adjusted_p_values,
    critical_values,
    effective,
)
from lmm_jax.inference.tails.multivariate_t import joint_estimator, joint_tail
from lmm_jax.inference.tails.normal import product_loadings, product_tail, range_tail, tabulated
from lmm_jax.inference.tails.student import (
    log_student_tail,
    over_scale,
    student_quantile,
    student_tail,
)

FAMILIES = json.loads((Path(__file__).parent / "data" / "multiplicity.json").read_text())[
    "families"
]

CLOSED = 1e-9  # closed forms; R's own sidak loses what is below 1e-15 to 1 - (1 - p)^m
# R's ptukey is off by up to 2.2e-5 at 90 to 100 df (SciPy's integral agrees with ours to 1e-13)
# and its values below 1e-10 are rounding.
TUKEY, TUKEY_CRITICAL = 2.5e-5, 1e-6
# dunnettx rests on ptukey; its limits come from a search of tolerance 5e-4
DUNNETTX, DUNNETTX_CRITICAL = 1e-6, 1e-3
QUADRATURE = 1e-10  # two quadratures of one integral
NET = 2e-4  # the Sobol' net: a few of its standard errors
TABLE = 0.0051  # tables with two decimals


def pairwise(k, variances=None):
    """Correlation of all differences of independent means."""
    sd = np.sqrt(np.ones(k) if variances is None else variances)
    rows = [(i, j) for i in range(k) for j in range(i + 1, k)]
    A = np.zeros((len(rows), k))
    for row, (i, j) in enumerate(rows):
        A[row, i], A[row, j] = sd[i], -sd[j]
    A /= np.linalg.norm(A, axis=1, keepdims=True)
    return A @ A.T


def product(loadings):
    R = np.outer(loadings, loadings)
    np.fill_diagonal(R, 1.0)
    return R


def one(t, df, how, family, side=0):
    return float(adjusted_p_values(np.array([t]), df, how, family=family, side=side)[0])


# ------------------------------------------------------------ R


@pytest.mark.parametrize("how", ["none", "tukey", "sidak", "bonferroni", "holm", "dunnettx"])
def test_emmeans(how):
    cases = [case for case in FAMILIES if case["adjust"] == how]
    assert cases
    for case in cases:
        t = np.array(case["stat"])
        df = np.array(case["df"]) if case["df"] else np.full(t.shape, np.inf)
        pairs = case["method"] == ["pairwise"]
        family = Family(contrasts=case["contrasts"], means=case["means"], pairwise=pairs)
        p = adjusted_p_values(t, df, how, family=family)
        critical = critical_values(df, how, case["level"], family)
        loose, wide = CLOSED, CLOSED
        if how == "tukey" and case["contrasts"] > 1:
            loose, wide = TUKEY, TUKEY_CRITICAL
        if how == "dunnettx":
            loose, wide = DUNNETTX, DUNNETTX_CRITICAL
        relative = CLOSED if loose == CLOSED else 0.0
        absolute = 1e-15 if loose == CLOSED else loose
        np.testing.assert_allclose(p, case["p"], rtol=relative, atol=absolute)
        np.testing.assert_allclose(critical, case["critical"], rtol=0, atol=wide)


def test_scheffe_of_the_documentation():
    # the help page of summary.emmGrid: consecutive differences of four means, 23 df
    t = np.array([3.202, 0.650, 1.194])
    for rank, p in ((3, [0.0343, 0.9344, 0.7027]), (5, [0.1090, 0.9940, 0.9165])):
        found = adjusted_p_values(t, 23.0, "scheffe", family=Family(3, rank=rank))
        np.testing.assert_allclose(found, p, atol=2e-4)  # t is printed with three decimals


def test_stepwise_by_hand():
    p = np.array([0.01, 0.04, 0.03, 0.5])
    z = -special.ndtri(p / 2)
    expected = {
        "holm": [0.04, 0.09, 0.09, 0.5],
        "hochberg": [0.04, 0.08, 0.08, 0.5],
        "hommel": [0.04, 0.08, 0.06, 0.5],  # R's p.adjust
        "fdr": [0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5],
    }
    for how, values in expected.items():
        found = adjusted_p_values(z, np.inf, how, family=Family(4))
        np.testing.assert_allclose(found, values, rtol=CLOSED)


# R 4.2.2: p.adjust(p, "hommel"), and p.adjust(p[1:5], "hommel", n = 9)
HOMMEL = (
    [0.018717, 0.05153, 0.187988, 0.749127, 0.008204, 0.725094,
     0.843039, 0.28854, 0.248994, 0.000236, 0.008739, 0.005504],
    [0.149736, 0.36071, 0.751952, 0.843039, 0.073836, 0.843039,
     0.843039, 0.843039, 0.843039, 0.002832, 0.078651, 0.049536],
    [0.149736, 0.36071, 1.0, 1.0, 0.073836],
)  # fmt: skip


def test_hommel_of_r():
    p, all_rows, five_of_nine = map(np.array, HOMMEL)
    z = -special.ndtri(p / 2)
    found = adjusted_p_values(z, np.inf, "hommel", family=Family(12))
    np.testing.assert_allclose(found, all_rows, rtol=CLOSED)
    found = adjusted_p_values(z[:5], np.inf, "hommel", family=Family(9))
    np.testing.assert_allclose(found, five_of_nine, rtol=CLOSED)


@pytest.mark.parametrize("seed", range(5))
def test_hommel_is_the_closed_test_of_simes(seed):
    """Hommel (1988): over every set that contains a hypothesis, ties among them."""
    p = np.random.default_rng(seed).uniform(size=7).round(1 + seed % 2) ** 2
    closed = np.zeros(7)
    for inside in itertools.product([False, True], repeat=7):
        rows = np.flatnonzero(inside)
        if rows.size:
            simes = np.min(rows.size * np.sort(p[rows]) / np.arange(1, rows.size + 1))
            closed[rows] = np.maximum(closed[rows], simes)
    with np.errstate(divide="ignore"):
        z = -special.ndtri(p / 2)
    found = adjusted_p_values(z, np.inf, "hommel", family=Family(7))
    np.testing.assert_allclose(found, np.minimum(closed, 1.0), rtol=CLOSED, atol=1e-15)


# ------------------------------------------------------------ tukey


@pytest.mark.parametrize(("k", "df", "q"), [(3, 2.5, 3.0), (4, 17.3, 4.1), (10, 60.0, 5.0)])
def test_range_against_scipy(k, df, q):
    from scipy.stats import studentized_range

    found = over_scale(range_tail(k), q / np.sqrt(2), df)
    assert abs(found - studentized_range.sf(q, k, df)) < QUADRATURE


@pytest.mark.parametrize(
    ("k", "df", "q"),  # Harter's table of upper 5 % points
    [(3, 5, 4.602), (3, 20, 3.578), (5, 10, 4.654), (10, 20, 5.008), (4, np.inf, 3.633)],
)
def test_range_against_the_table(k, df, q):
    family = Family(contrasts=k * (k - 1) // 2, means=k, pairwise=True)
    found = critical_values(np.array([float(df)]), "tukey", 0.95, family)[0] * np.sqrt(2)
    assert abs(found - q) < 0.00051


def test_two_means_are_one_t_test():
    for df in (0.3, 1.0, 7.3, 200.0, 1e6, np.inf):
        for t in (0.0, 0.01, 2.0, 9.0, 30.0, 1e4):
            single = float(student_tail(t, df, two_sided=True))
            found = over_scale(range_tail(2), t, df)
            np.testing.assert_allclose(found, single, rtol=QUADRATURE, atol=1e-300)


@pytest.mark.parametrize("k", [2, 3, 10, 60, 180])
def test_a_table_of_a_tail_is_the_tail(k):
    rng = np.random.default_rng(k)
    x = np.r_[0.0, 1e-9, rng.uniform(0, 6, 500), rng.uniform(6, 37, 500), 39.5]
    for means, smooth in ((k, True), (k + 0.5, False)):
        exact = range_tail(means)(x)
        found = tabulated(range_tail(means), smooth=smooth)(x)
        # exp of some hundreds: their rounding
        np.testing.assert_allclose(found, np.minimum(exact, 1.0), rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("how", ["tukey", "dunnettx"])
def test_many_statistics_are_as_each_alone(how):
    rng = np.random.default_rng(5)
    family = Family(contrasts=1225, means=50, pairwise=True)
    t, df = rng.uniform(0, 9, 40), np.r_[rng.uniform(0.7, 9, 20), rng.uniform(20, 4000, 19), np.inf]
    together = adjusted_p_values(t, df, how, family=family)
    limits = critical_values(df, how, 0.95, family)
    for i in range(40):
        own = t[[i]], df[[i]]
        alone = adjusted_p_values(*own, how, family=family)[0]
        np.testing.assert_allclose(together[i], alone, rtol=1e-11)
        np.testing.assert_allclose(
            limits[i], critical_values(own[1], how, 0.95, family), rtol=1e-11
        )


def test_far_tail_tends_to_bonferroni():
    family = Family(contrasts=6, means=4, pairwise=True)
    for df, t in ((np.inf, 30.0), (200.0, 60.0)):
        p = one(t, df, "tukey", family)
        assert 0 < p < 1e-90
        bound = one(t, df, "bonferroni", family)
        assert 0.95 < p / bound <= 1


def test_forty_five_pairs_are_quick():
    family = Family(contrasts=45, means=10, pairwise=True)
    df, t = np.linspace(5, 90, 45), np.linspace(0, 8, 45)

    def adjusted(pairs):
        adjusted_p_values(t[:pairs], df[:pairs], "tukey", family=family)
        critical_values(df[:pairs], "tukey", 0.95, family)

    assert timings.ratio(lambda: adjusted(45), lambda: adjusted(1)) < 25  # 7; one by one 45


# ------------------------------------------------------------ dunnett


@pytest.mark.parametrize(
    ("k", "df", "value"),  # Dunnett (1964), two sided, 5 %
    [(2, 10, 2.57), (2, 20, 2.38), (3, 20, 2.54), (4, 20, 2.65), (2, np.inf, 2.21)],
)
def test_dunnett_two_sided_table(k, df, value):
    family = Family(contrasts=k, correlation=product(np.sqrt(np.full(k, 0.5))))
    found = critical_values(np.array([float(df)]), "dunnett", 0.95, family)[0]
    assert abs(found - value) < TABLE


@pytest.mark.parametrize(
    ("k", "df", "value"),  # Dunnett (1955), one sided, 5 %
    [(2, 6, 2.34), (3, 10, 2.34), (4, 20, 2.30), (2, 20, 2.03)],
)
def test_dunnett_one_sided_table(k, df, value):
    family = Family(contrasts=k, correlation=product(np.sqrt(np.full(k, 0.5))))
    found = critical_values(np.array([float(df)]), "dunnett", 0.95, family, side=1)[0]
    assert abs(found - value) < TABLE


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("loadings", [[0.7, 0.5, 0.8], [0.9, -0.4, 0.6, 0.2], [0.97, 0.99, 0.5]])
def test_dunnett_against_a_dense_integral(loadings, side):
    # 1 - cdf on a grid over the common part w and the scale s
    lam, df = np.array(loadings), 12.5
    w = np.linspace(-9, 9, 801)[:, None]
    s = np.linspace(1e-3, 4, 801)
    density = s ** (df - 1) * np.exp(-df * s**2 / 2)
    for t in (0.8, 2.5):
        inside = np.exp(-(w**2) / 2) / np.sqrt(2 * np.pi)
        for part in lam:
            tau = np.sqrt(1 - part**2)
            step = special.ndtr((t * s - part * w) / tau)
            if side == 0:
                step = step - special.ndtr((-t * s - part * w) / tau)
            inside = inside * step
        expected = 1 - density @ inside.sum(axis=0) * (w[1, 0] - w[0, 0]) / density.sum()
        found = one(t, df, "dunnett", Family(len(lam), correlation=product(lam)), side)
        assert abs(found - expected) < 1e-9


def test_loadings_are_found():
    for lam in ([0.7, 0.5, 0.8], [0.9, -0.4, 0.6], [0.5, 0.0, 0.6], [0.3, 0.3], [0.0, 0.0]):
        found = product_loadings(product(np.array(lam)))
        np.testing.assert_allclose(product(found), product(np.array(lam)), atol=1e-12)
    assert product_loadings(pairwise(3)) is None
    assert product_loadings(np.array([[1.0, 0.9999], [0.9999, 1.0]])) is None


# ------------------------------------------------------------ multivariate t


@pytest.mark.parametrize("k", [3, 4, 6])
def test_balanced_differences_are_the_range(k):
    p = joint_tail(pairwise(k), two_sided=True)
    exact = range_tail(k)
    for t, df in ((0.8, 8.0), (2.0, np.inf), (2.5, 20.0), (2.8, 17.0), (4.0, 3.5), (9.0, 40.0)):
        expected = over_scale(exact, t, df)
        assert abs(p(t, df) - expected) < (1e-8 if k == 3 else NET)
        assert abs(p(t, df) / expected - 1) < 5e-3


def test_rank_deficient_values():
    for k, t, df, p in ((3, 2.5, 20.0, 0.0531), (4, 2.8, 17.0, 0.0543)):
        m = k * (k - 1) // 2
        family = Family(m, means=k, pairwise=True, correlation=pairwise(k))
        assert abs(one(t, df, "mvt", family) - p) < 1e-4
        assert abs(one(t, df, "tukey", family) - p) < 5.1e-5


@pytest.mark.parametrize("two_sided", [True, False])
def test_net_against_the_quadrature(two_sided):
    lam = np.sqrt([0.5, 0.3, 0.6, 0.7])
    exact = product_tail(lam, two_sided=two_sided)
    for t, df in ((-0.5, 9.0), (0.0, 9.0), (0.7, 20.0), (2.5, 20.0), (5.0, np.inf), (12.0, 20.0)):
        if two_sided and t < 0:
            continue
        found = joint_estimator(product(lam), two_sided=two_sided)(t, df)
        expected = over_scale(exact, t, df)
        assert found.error < NET
        assert abs(found.p - expected) < NET
        assert abs(found.p / expected - 1) < 2e-3


def test_net_against_simulation():
    # unbalanced means with a correlation of full rank and no special form
    rng = np.random.default_rng(7)
    A = rng.standard_normal((4, 5))
    A /= np.linalg.norm(A, axis=1, keepdims=True)
    R, df, n = A @ A.T, 6.5, 400_000
    T = rng.standard_normal((n, 5)) @ A.T / np.sqrt(rng.chisquare(df, (n, 1)) / df)
    for t in (1.5, 3.0):
        for side, largest in ((0, np.abs(T).max(axis=1)), (1, T.max(axis=1)), (-1, -T.min(axis=1))):
            found = one(-t if side < 0 else t, df, "mvt", Family(4, correlation=R), side)
            expected = np.mean(largest > t)
            assert abs(found - expected) < 4 * np.sqrt(expected / n) + NET


def test_independent_and_identical_contrasts():
    p = one(2.2, np.inf, "mvt", Family(4, correlation=np.eye(4)))
    assert abs(p / one(2.2, np.inf, "sidak", Family(4)) - 1) < QUADRATURE
    same = np.outer([1, -1, 1], [1.0, -1.0, 1.0])
    assert (
        abs(one(2.2, 7.0, "mvt", Family(3, correlation=same)) - one(2.2, 7.0, "none", Family(3)))
        < 1e-12
    )
    # max(T, -T) = |T|
    found = one(2.2, 7.0, "mvt", Family(3, correlation=same), side=1)
    assert abs(found - one(2.2, 7.0, "none", Family(3))) < 1e-7
    R = pairwise(3)
    doubled = R[np.ix_([0, 1, 2, 1], [0, 1, 2, 1])]
    assert one(2.2, 7.0, "mvt", Family(4, correlation=doubled)) == joint_tail(R, two_sided=True)(
        2.2, 7.0
    )


# ------------------------------------------------------------ all of them

T = np.array([2.4, -0.7, 3.3, 1.9, -2.8, 0.2])
DF = np.array([9.0, 14.5, 30.0, 9.0, 55.0, 7.7])
UNBALANCED = pairwise(4, np.array([1.0, 0.5, 2.0, 1.5]))
WHOLE = Family(6, means=4, rank=3, pairwise=True, correlation=UNBALANCED)


@pytest.mark.parametrize("how", ADJUSTMENTS)
def test_rows_may_be_permuted(how):
    order = np.random.default_rng(0).permutation(6)
    other = WHOLE._replace(correlation=UNBALANCED[np.ix_(order, order)])
    here = adjusted_p_values(T, DF, how, family=WHOLE)[order]
    there = adjusted_p_values(T[order], DF[order], how, family=other)
    # the net turns with the eigenvectors of the correlation
    tolerance = NET if how in ("mvt", "dunnett") else 1e-14
    np.testing.assert_allclose(there, here, rtol=0, atol=tolerance)
    assert (here >= student_tail(T, DF, two_sided=True)[order] * (1 - 1e-12)).all()


@pytest.mark.parametrize("side", [0, 1, -1])
@pytest.mark.parametrize("how", ADJUSTMENTS)
def test_critical_values_invert_p_values(how, side):
    df = np.array([0.6, 4.0, 33.3, np.inf])
    for level in (0.9, 0.999):
        c = critical_values(df, how, level, WHOLE, side)
        rule = "bonferroni" if how in ("holm", "hochberg", "hommel", "fdr") else how
        sign = -1 if side < 0 else 1
        p = [one(sign * t, nu, rule, WHOLE, side) for t, nu in zip(c, df, strict=True)]
        np.testing.assert_allclose(p, 1 - level, rtol=1e-9)


@pytest.mark.parametrize("how", ADJUSTMENTS)
def test_critical_values_beyond_the_range_of_floats(how):
    c = critical_values(np.array([0.004, 0.006, 0.1]), how, 0.95, WHOLE)
    assert c[0] > 1e99 and c[1] > 1e99  # t^2 overflows: no more is known
    assert 1e10 < c[2] < 1e40


@pytest.mark.parametrize("how", ADJUSTMENTS)
def test_large_df_are_infinite(how):
    near = adjusted_p_values(T, 1e9, how, family=WHOLE)
    np.testing.assert_allclose(near, adjusted_p_values(T, np.inf, how, family=WHOLE), rtol=1e-6)


@pytest.mark.parametrize("how", ADJUSTMENTS)
def test_edges(how):
    t = np.array([0.0, np.inf, -np.inf, 1e200, 1e-300, 35.0])
    for df in (1e-5, 0.02, 0.7, 5.0, np.inf):
        p = adjusted_p_values(t, df, how, family=WHOLE)
        assert ((p >= 0) & (p <= 1)).all()
        np.testing.assert_allclose(p[[0, 4]], 1.0, atol=1e-12)
        assert (p[[1, 2]] == 0).all()
        assert p[5] > 0
        for side in (1, -1):
            p = adjusted_p_values(side * t, df, how, family=WHOLE, side=side)
            assert ((p >= 0) & (p <= 1)).all()
            assert p[1] == 0 and p[5] > 0
            np.testing.assert_allclose(p[2], 1.0, rtol=1e-12)
    assert np.isnan(adjusted_p_values(t, -1.0, how, family=WHOLE)).all()


@pytest.mark.parametrize("how", ADJUSTMENTS)
def test_more_contrasts_cost(how):
    if how in ("none", "holm", "hochberg", "hommel", "fdr"):
        return  # the step-wise ones depend on the other p values
    R3, R6 = pairwise(3), pairwise(4)
    few = Family(3, means=3, rank=2, pairwise=True, correlation=R3)
    many = Family(6, means=4, rank=3, pairwise=True, correlation=R6)
    for t in (0.5, 2.0, 4.0):
        assert one(t, 12.0, how, few) < one(t, 12.0, how, many) or one(t, 12.0, how, few) == 1


@pytest.mark.parametrize("how", ADJUSTMENTS)
def test_rows_that_cannot_be_estimated_do_not_count(how):
    # the third of three means cannot be estimated in a family of four means
    gone = np.array([False, True, False, True, False, True])  # pairs with the third
    keep = np.ix_(~gone, ~gone)
    less = Family(3, means=3, rank=3, pairwise=True, correlation=UNBALANCED[keep])
    t, df = np.where(gone, np.nan, T), np.where(gone, np.nan, DF)
    found = adjusted_p_values(t, df, how, family=WHOLE)
    assert np.isnan(found[gone]).all()
    np.testing.assert_allclose(
        found[~gone], adjusted_p_values(T[~gone], DF[~gone], how, family=less), rtol=1e-12
    )
    limits = critical_values(df, how, 0.95, WHOLE)
    np.testing.assert_allclose(
        limits[~gone], critical_values(DF[~gone], how, 0.95, less), rtol=1e-12
    )
    assert np.isnan(adjusted_p_values(np.full(6, np.nan), 5.0, how, family=WHOLE)).all()


@pytest.mark.parametrize("how", ADJUSTMENTS)
def test_one_contrast_is_not_adjusted(how):
    family = Family(1, means=2, pairwise=True)
    p, critical = student_tail(2.1, 8.0, two_sided=True), student_quantile(0.025, 8.0)
    assert one(2.1, 8.0, how, family) == pytest.approx(float(p), rel=1e-14)
    assert critical_values(8.0, how, 0.95, family)[0] == pytest.approx(float(critical), rel=1e-14)


@pytest.mark.parametrize(
    ("how", "family", "side", "is_done"),
    [
        ("tukey", Family(3, means=3, pairwise=True), 0, "tukey"),
        ("tukey", Family(3, means=3, pairwise=True), 1, "sidak"),
        ("tukey", Family(3, means=3), 0, "sidak"),
        ("scheffe", Family(3, rank=2), -1, "sidak"),
        ("dunnettx", Family(3), 1, "sidak"),
        ("dunnett", Family(3), 1, "dunnett"),
        ("scheffe", Family(1, rank=5), 0, "scheffe"),
        ("scheffe", Family(1), 0, "none"),
    ],
)
def test_effective(how, family, side, is_done):
    assert effective(how, family, side) == is_done


@pytest.mark.parametrize(
    ("how", "family", "side", "message"),
    [
        ("tuckey", WHOLE, 0, "did you mean 'tukey'"),
        ("mvt", Family(6), 0, "correlation of the 6 contrasts is needed, got none"),
        ("dunnett", Family(6, correlation=np.eye(2)), 0, "got one of shape"),
        ("scheffe", Family(6), 0, "correlation of the 6 contrasts"),
        ("tukey", Family(6, pairwise=True), 0, "number of means is needed"),
        ("sidak", WHOLE, 2, "choose from -1"),
    ],
)
def test_refusals(how, family, side, message):
    with pytest.raises(DataError, match=message):
        adjusted_p_values(T, DF, how, family=family, side=side)


@pytest.mark.parametrize(
    ("t", "df"), [(3.0, 8.0), (1e5, 90.0), (60.0, 900.0), (1e8, 53.5), (30.0, 1e5)]
)
def test_log_tails_of_large_statistics(t, df):
    """By the integral of the density over log t, in units of its integrand at t."""
    step = 1e-4 / max(1.0, np.sqrt(df))
    s = np.arange(0.0, 60.0 / min(df, 1 + t * t), step)
    log = 0.5 * (df + 1) * (np.log1p(t * t / df) - np.log1p(t * t * np.exp(2 * s) / df)) + s
    area = trapezoid(np.exp(log), dx=step) * t
    norm = special.gammaln(0.5 * df + 0.5) - special.gammaln(0.5 * df) - 0.5 * np.log(df * np.pi)
    expected = np.log(2 * area) + norm - 0.5 * (df + 1) * np.log1p(t * t / df)
    assert_close(log_student_tail(np.array([t]), np.array([df])), [expected], 1e-7)


@pytest.mark.parametrize(("low", "high"), [(3.0, 50.0), (30.0, 60.0)])
def test_critical_values_of_many_degrees_of_freedom(low, high):
    """Read between a few where each is a root by itself; the net has six digits."""
    A = np.random.default_rng(0).normal(size=(8, 5))
    d = np.sqrt(np.sum(A * A, axis=1))
    family = Family(contrasts=8, correlation=(A / d[:, None]) @ (A / d[:, None]).T)
    df = np.linspace(low, high, 30)
    found = critical_values(df, "mvt", 0.95, family)
    some = [0, 7, 19, 29]
    np.testing.assert_allclose(
        found[some], critical_values(df[some], "mvt", 0.95, family), rtol=3e-6
    )
    p = adjusted_p_values(found[some], df[some], "mvt", family=family)
    np.testing.assert_allclose(p, 0.05, atol=1e-5)


@pytest.mark.parametrize("means", [6, 60, 400])
def test_critical_values_of_very_many_degrees_of_freedom(means):
    """By a polynomial where they are alike: each is that at which its p value is alpha."""
    df = np.random.default_rng(1).uniform(21.0, 40.0, 300)
    family = Family(contrasts=means * (means - 1) // 2, means=means)
    found = critical_values(df, "tukey", 0.95, family)
    again = np.array([critical_values(df[i : i + 1], "tukey", 0.95, family)[0] for i in (0, 7, 50)])
    np.testing.assert_allclose(found[[0, 7, 50]], again, rtol=1e-9)
