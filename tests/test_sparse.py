"""Crossed factors kept sparse: elimination, the layout against dense matrices, R and the core."""

import pickle
import warnings
from functools import cache

import jax
import numpy as np
import pandas as pd
import pytest
import reference
from crossed_designs import DESIGNS, WEIGHTED, jet_of_dense_terms
from helpers import assert_close, dense_deviance
from sparse_plan import make_sparse

import lmm_jax as lmm
from lmm_jax.layouts.sparse.layout import SparseLayout
from lmm_jax.likelihood.profile import loglike_of_theta, profile_jet
from lmm_jax.numerics.elimination import eliminate_sparse
from lmm_jax.numerics.sparse_factor import factor_sparse, inverse_entries

CRITERION_RTOL = 1e-11  # the same number from n x n matrices and from the factor
DERIVATIVE_RTOL = 1e-8  # closed forms against automatic differentiation of n x n matrices
NAMES = sorted(DESIGNS)


@pytest.fixture
def sparse(monkeypatch):
    make_sparse(monkeypatch)


# ------------------------------------------------------------ elimination


def matrix(n, links, seed=0):
    """A positive definite matrix with few entries, and where they are."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(0, n, (2, links))
    row, column = row[row != column], column[row != column]
    A = np.zeros((n, n))
    A[row, column] = rng.normal(size=row.size)
    A = A + A.T
    A[np.diag_indices(n)] = 1.0 + np.abs(A).sum(axis=0)
    return A, *np.nonzero(np.tril(A, -1))


def stored(order, A, row, column):
    every = np.arange(len(A))
    values = np.zeros(order.size, A.dtype)
    values[order.places(every, every)] = np.diagonal(A)
    values[order.places(row, column)] = A[row, column]
    return values


@pytest.mark.parametrize("n, links, tail", [(1, 0, False), (60, 80, False), (60, 400, True)])
def test_factor_inverse_and_solution(n, links, tail):
    """Against LAPACK, with a dense end and without."""
    A, row, column = matrix(n, links)
    order = eliminate_sparse(row, column, n, most_pairs=1e6, most_tail=n if tail else 0)
    assert (order.n_tail > 0) == tail
    at = factor_sparse(stored(order, A, row, column), order)
    inverse = np.linalg.inv(A)
    assert_close(at.logdet, np.linalg.slogdet(A).logabsdet, 1e-13, 1)
    right = np.random.default_rng(1).normal(size=(n, 3))
    assert_close(at.solve(right), inverse @ right, 1e-13, 1)
    z, every = inverse_entries(at), np.arange(n)
    assert_close(z[order.places(every, every)], np.diagonal(inverse), 1e-13, 1)
    assert_close(z[order.places(row, column)], inverse[row, column], 1e-13, 1)
    assert_close(z[order.places(column, row)], inverse[row, column], 1e-13, 1)


@pytest.mark.parametrize("tail", [True, False])
def test_an_imaginary_step_is_a_derivative(tail):
    A, row, column = matrix(60, 200)
    order = eliminate_sparse(row, column, 60, most_pairs=1e6, most_tail=60 if tail else 0)
    dA = np.where(A != 0, np.cos(np.arange(60)[:, None] * np.arange(60)), 0.0)
    values = stored(order, A + 1e-100j * (dA + dA.T), row, column)
    z, inverse = inverse_entries(factor_sparse(values, order)), np.linalg.inv(A)
    expected = -inverse @ (dA + dA.T) @ inverse
    assert_close(z[order.places(row, column)].imag * 1e100, expected[row, column], 1e-12, 1)


def test_what_fills_up_is_given_up():
    _, row, column = matrix(200, 4000)
    assert eliminate_sparse(row, column, 200, most_pairs=1e4, most_tail=0) is None


def test_columns_of_a_round_do_not_meet():
    _, row, column = matrix(300, 500)
    order = eliminate_sparse(row, column, 300, most_pairs=1e6, most_tail=0)
    assert sorted(order.position) == list(range(300))
    assert len(order.rounds) < 100
    for r in order.rounds:
        assert (order.rows[r.entries] >= r.columns.stop).all()


# ------------------------------------------------------------ the layout


def model(name):
    make, bars, dense = DESIGNS[name]
    data = make()
    weights = "w" if name in WEIGHTED else None
    return lmm.design(f"y ~ x + {bars}", data, weights=weights), data, dense(data)


def thetas(sizes):
    """An interior point, zeros, and a singular block with a zero pivot first."""
    m = sum(k * (k + 1) // 2 for k in sizes)
    interior = np.random.default_rng(7).uniform(0.2, 1.3, m)
    singular = interior.copy()
    singular[[0, m - 1]] = 0.0
    return [interior, singular, np.zeros(m)]


@pytest.mark.parametrize("name", NAMES)
def test_criterion_against_dense_matrices(name, sparse):
    design, data, terms = model(name)
    layout = design.compressed.layout
    assert isinstance(layout, SparseLayout)
    X = np.column_stack([np.ones(len(data)), data["x"]])
    w = data["w"].to_numpy() if name in WEIGHTED else None
    for theta in thetas(design.sizes):
        for reml in (True, False):
            value = loglike_of_theta(theta, layout, reml=reml)
            expected = dense_deviance(X, data["y"].to_numpy(), terms, theta, reml=reml, weights=w)
            assert_close(-2 * float(value), expected.criterion, CRITERION_RTOL)


@pytest.mark.parametrize("name", NAMES)
def test_jet_and_average_information_against_dense_matrices(name, sparse):
    """Closed forms of value, gradient and Hessian at interior and singular theta."""
    design, data, terms = model(name)
    layout = design.compressed.layout
    for theta in thetas(design.sizes):
        at = profile_jet(theta, layout, reml=True)
        with jax.enable_x64(True):
            want = jet_of_dense_terms(name, theta, layout, data, terms)
        scale = np.abs(want.hessian).max()
        assert_close(at.value, want.value, CRITERION_RTOL)
        assert_close(at.gradient, want.gradient, DERIVATIVE_RTOL, scale)
        assert_close(at.hessian, want.hessian, DERIVATIVE_RTOL, scale)
        if (theta != 0).all():
            average = profile_jet(theta, layout, reml=True, exact=False).hessian
            assert_close(average, want.average, DERIVATIVE_RTOL, np.abs(want.average).max())


@pytest.mark.parametrize("name", NAMES)
def test_what_layouts_give_is_what_the_crossed_one_gives(name, monkeypatch, request):
    """Start values and moments of Psi, which do not depend on where y is measured from."""
    crossed = model(name)[0].compressed.layout
    request.getfixturevalue("sparse")
    design = model(name)[0]
    own = design.compressed.layout
    crossed = jax.tree.map(np.asarray, crossed)
    assert_close(own.start_moments(), crossed.start_moments(), 1e-9, 1)
    for theta in thetas(design.sizes)[:2]:
        # at a singular factor moments are extrapolated from two others
        tol = 1e-8 if (theta != 0).all() else 1e-7
        moments = [layout.psi_moments(theta) for layout in (own, crossed)]
        for a, b in zip(*moments, strict=True):
            assert_close(a, b, tol, max(1.0, np.abs(b).max()))


# ------------------------------------------------------------ the fit and what follows from it

CROSSED = reference.names(lambda case: case["n"] < 3000)
CROSSED = [name for name in CROSSED if reference.supported(name) == "crossed"]


@pytest.mark.parametrize("name", CROSSED)
def test_fits_of_r(name, sparse):
    """Criterion, estimates and random effects of lme4, at the tolerances of the case."""
    case = reference.load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        res = lmm.fit(
            reference.formula(case),
            reference.frame(case),
            weights=case["model"]["weights"],
            reml=case["model"]["REML"],
        )
    assert res.layout_info.kind == "sparse"
    assert_close(res.llf, case["logLik"], case["tol"]["logLik"])
    tol, fixef = case["tol"]["params"], case["fixef"]
    assert_close(res.fe_params, fixef["values"], tol, 10 * np.array(fixef["se"]))
    # R's own optimum is within its tolerance: standard errors move ten times as fast
    assert_close(res.bse_fe, fixef["se"], 10 * max(tol, 3e-7))
    assert_close(res.sigma, case["sigma"], 10 * tol)


@cache
def ratings(seed=0, n=400):
    """Pupils who move between neighbouring schools."""
    rng = np.random.default_rng(seed)
    pupil = np.repeat(np.arange(n // 4), 4)
    school = np.clip(pupil // 3 + rng.integers(-1, 2, n), 0, None)
    x = rng.normal(size=n)
    y = 1 + x / 2 + rng.normal(size=n // 4)[pupil] + rng.normal(size=n)
    y = y + (0.7 + 0.3 * x) * rng.normal(size=school.max() + 1)[school]
    return pd.DataFrame({"y": y, "x": x, "pupil": pupil, "school": school})


FORMULA = "y ~ x + (1 | pupil) + (1 + x | school)"


@cache
def both():
    """The crossed fit and the sparse one."""
    out = [lmm.fit(FORMULA, ratings())]
    with pytest.MonkeyPatch.context() as patch:
        make_sparse(patch)
        out.append(lmm.fit(FORMULA, ratings()))
        assert out[1].layout_info.kind == "sparse"
    return out


def new_rows():
    """Pairs that have met, pairs that have not, and levels that the fit has not seen."""
    data = ratings().iloc[:40].copy()
    data.loc[data.index[10:20], "school"] = 30
    data.loc[data.index[20:25], "pupil"] = 12345
    return data


STATISTICS = {
    "standard errors": lambda res: res.bse,
    "tests": lambda res: res.tidy()[["std_error", "df"]],
    "random effects": lambda res: res.random_effects["school"],
    "their covariances": lambda res: np.array(list(res.random_effects_cov["pupil"].values())),
    "joint covariances": lambda res: res.joint_effects_cov(
        {"pupil": [0, 99], "school": [0, 1, 30]}
    ),
    "conditional predictions": lambda res: res.predict(
        new_rows(), conditional=True, new_levels="population", se=True
    ),
    "prediction intervals": lambda res: res.predict(
        new_rows(), conditional=True, new_levels="population", interval="prediction"
    ),
    "profile": lambda res: pd.DataFrame(res.conf_int(method="profile"))[["lower", "upper"]],
    "kenward-roger": lambda res: res.tidy(df_method="kenward-roger")[["std_error", "df"]],
    "influence": lambda res: lmm.influence(res, "school").cooks_distance,
    "conditional AIC": lambda res: lmm.caic(res).caic,
    "restored": lambda res: pickle.loads(pickle.dumps(res)).predict(new_rows().iloc[:10]),
}


@pytest.mark.parametrize("what", sorted(STATISTICS))
def test_statistics_are_those_of_the_crossed_layout(what):
    """To what two optima are apart: 1e-5 of standard errors."""
    crossed, sparse = both()
    want, got = (STATISTICS[what](res) for res in (crossed, sparse))
    want, got = (np.asarray(a, dtype=float) for a in (want, got))
    assert_close(got, want, 1e-4, np.nanmax(np.abs(want)))


def test_what_runs_in_jax_is_refused_in_words(sparse):
    for options in ({"runtime": "jax"}, {"method": "lbfgs"}, {"cov_pen": lambda params: 0.0}):
        with pytest.raises(lmm.DataError, match="kept sparse"):
            lmm.fit(FORMULA, ratings(), **options)
    layout = lmm.design(FORMULA, ratings()).layout
    theta = np.array([1.0, 0.5, 0.0, 0.5])
    assert np.isfinite(lmm.profile_loglike(theta, layout))
    with pytest.raises(lmm.DataError, match="kept sparse"):
        jax.jit(lambda t: lmm.profile_loglike(t, layout))(theta)
    with pytest.raises(lmm.DataError, match="kept sparse"):
        lmm.row_index(lmm.design(FORMULA, ratings()))


@pytest.mark.parametrize("ratio", [1e2, 1e3, 1e4])
def test_large_variances_keep_the_digits(ratio, monkeypatch, request):
    """The intercept, which the effects explain, too: REML and its standard error."""
    rng = np.random.default_rng(0)
    data = ratings().assign(y=0.0)
    effects = rng.normal(size=100)[data["pupil"]] + 0.1 * rng.normal(size=60)[data["school"]]
    data["y"] = 2 + ratio * effects + rng.normal(size=len(data))
    formula = "y ~ x + (1 | pupil) + (1 | school)"
    crossed = lmm.fit(formula, data)
    request.getfixturevalue("sparse")
    res = lmm.fit(formula, data)
    assert res.layout_info.kind == "sparse" and res.converged
    # criterion and curvature of 1e8 and less in units of the residual keep eight digits
    assert_close(res.llf, crossed.llf, 1e-9)
    assert_close(res.bse_fe, crossed.bse_fe, 1e-5)


@pytest.mark.filterwarnings("ignore:.* overlap:lmm_jax.IdentificationWarning")
def test_a_factor_in_the_model_twice_is_not_identified():
    """By the layout of large data, whose steps are few: the criterion is flat in a direction."""
    rng = np.random.default_rng(0)
    data = chain(rng, 4000, 3000)
    with pytest.warns(lmm.ConvergenceWarning, match="flat in a direction"):
        res = lmm.fit("y ~ 1 + (1 | worker) + (1 | firm) + (1 | firm)", data)
    assert res.layout_info.kind == "sparse" and not res.converged


def test_data_that_are_explained_exactly(sparse):
    data = ratings().assign(y=lambda d: 1.0 * d["pupil"] + 0.5 * d["school"])
    with pytest.raises(lmm.DataError, match="exactly"):
        lmm.fit("y ~ 1 + (1 | pupil) + (1 | school)", data)


@pytest.mark.parametrize(
    "formula", [FORMULA, "y ~ 1 + (1 | pupil) + (1 | school) + (0 + x | school)"]
)
def test_sums_of_rows(formula, sparse):
    """Sums of parts in which pupils are split are the rows."""
    data = ratings()
    schema = lmm.schema(formula, data)
    parts = [lmm.summarize(formula, data[i::3], schema=schema) for i in range(3)]
    res, whole = lmm.fit(sum(parts)), lmm.fit(formula, data)
    assert res.layout_info.kind == "sparse"
    assert_close(res.llf, whole.llf, 1e-10)
    assert_close(res.theta, whole.theta, 1e-7, 1)
    assert_close(res.fe_params, whole.fe_params, 1e-9, 1)
    assert_close(res.random_effects["school"], whole.random_effects["school"], 1e-7, 1)


def chain(rng, workers, firms):
    """Workers, three rows each, at firms near each other."""
    worker = np.repeat(np.arange(workers), 3)
    place = np.round(worker * firms / workers + 3 * rng.normal(size=worker.size))
    firm = np.clip(place, 0, firms - 1).astype(int)
    y = rng.normal(size=workers)[worker] + 0.5 * rng.normal(size=firms)[firm]
    return pd.DataFrame({"y": y + rng.normal(size=y.size), "worker": worker, "firm": firm})


def test_large_weak_crossings_are_sparse_by_themselves():
    """8,000 by 3,000 levels: a dense core would take a minute."""
    data = chain(np.random.default_rng(0), 8000, 3000)
    res = lmm.fit("y ~ 1 + (1 | worker) + (1 | firm)", data)
    assert res.layout_info.kind == "sparse" and res.converged
    truth = np.array([1.0, 0.25])
    found = res.tidy(effects="ran_pars")
    sd = found["estimate"].to_numpy(float)[:2]
    assert np.abs(np.sort(sd**2) - np.sort(truth)).max() < 0.06  # three standard errors
