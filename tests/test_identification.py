"""Models are refused where the residual cannot be told from the random effects, and only there."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import Term, assert_close, dense_deviance

import lmm_jax as lmm
from lmm_jax.covariance.structures import CompoundSymmetry, Unstructured
from lmm_jax.designs import checks
from lmm_jax.designs.identification import confounded_terms, row_moments, summed_moments
from lmm_jax.designs.terms import RandomTerm

# Below this share of the residual's matrix the random effects explain it all, to rounding.
APART = 1e-8


def random_term(values, codes, *, is_component=False, structure=None):
    n_levels = codes.max() + 1
    return RandomTerm(
        label="t",
        group="g",
        names=tuple(f"c{i}" for i in range(values.shape[-1])),
        levels=pd.RangeIndex(n_levels),
        codes=codes,
        values=values,
        is_component=is_component,
        source=None,
        structure=structure or Unstructured(values.shape[-1]),
    )


def a_term(rng, n):
    """A term of a random kind: a row a level, the same columns in all groups, slopes, members."""
    kind, k = rng.integers(5), rng.integers(1, 4)
    n_levels = rng.integers(2, n + 1)
    codes = np.r_[np.arange(n_levels), rng.integers(0, n_levels, n - n_levels)]
    if kind == 0:
        codes, values = np.arange(n), np.ones((n, 1))
    elif kind == 1:
        m = rng.integers(2, 4)
        codes, values = np.arange(n) // m, rng.normal(size=(m, m))[np.arange(n) % m]
    elif kind == 2:
        values = np.c_[np.ones(n), rng.normal(size=(n, k - 1))]
    elif kind == 3:
        values = np.c_[np.ones(n), 2000.0 + rng.integers(0, 4, n)]
    else:
        members = np.c_[codes, rng.integers(0, n_levels, n)]
        return random_term(rng.normal(size=(n, 2, 1)), members, is_component=True)
    return random_term(values[:, None, :], codes[:, None])


def share_left(terms, X, weights):
    """Share of the identity, among error contrasts, that no derivative of V explains: dense."""
    n = len(X)
    root = np.ones(n) if weights is None else np.sqrt(weights)
    U, s, _ = np.linalg.svd(root[:, None] * X, full_matrices=False)
    P = np.eye(n) - U[:, s > 1e-9 * s[0]] @ U[:, s > 1e-9 * s[0]].T
    columns = []
    for term in terms:
        Z = np.zeros((n, term.n_levels, len(term.names)))
        for s in range(term.codes.shape[1]):
            np.add.at(Z, (np.arange(n), term.codes[:, s]), term.values[:, s])
        Z = Z * root[:, None, None]
        Z = np.tensordot(Z, np.linalg.inv(np.linalg.qr(Z.sum(axis=1)).R), 1)  # years near 2000
        for i in range(Z.shape[2]):
            for j in range(i + 1):
                D = Z[:, :, i] @ Z[:, :, j].T
                D = P @ (D + D.T) @ P
                columns.append(
                    D.ravel() / np.linalg.norm(D) if np.linalg.norm(D) > 1e-9 else 0 * D.ravel()
                )
    return unexplained(columns, P)


def unexplained(columns, P):
    """Share of P that no combination of the columns, flattened matrices, leaves out."""
    A, b = np.array(columns).T, P.ravel()
    rest = b - A @ np.linalg.lstsq(A, b, rcond=1e-9)[0]
    return rest @ rest / (b @ b)


def test_the_rank_of_dense_derivatives_on_random_structures():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        n = int(rng.integers(8, 30))
        terms = [a_term(rng, n) for _ in range(rng.integers(1, 4))]
        X = np.c_[np.ones(n), rng.normal(size=(n, rng.integers(0, 4)))]
        weights = rng.choice([0.5, 1.0, 2.0], n) if rng.random() < 0.5 else None
        confounded = bool(confounded_terms(row_moments(terms, X, weights)))
        assert confounded == (share_left(terms, X, weights) < APART)
        found.append(confounded)
    assert 40 < sum(found) < 160  # both answers are common


def test_the_rank_with_compound_symmetry():
    """Derivatives in ``s^2 (1 - rho)`` and ``s^2 (1 + (k - 1) rho)``, as dense matrices."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(60):
        m, k = int(rng.integers(2, 5)), int(rng.integers(2, 4))
        n = 6 * m
        pattern = rng.normal(size=(m, k)) if rng.random() < 0.5 else np.eye(max(m, k))[:m, :k]
        term = random_term(
            np.tile(pattern, (6, 1))[:, None],
            np.repeat(np.arange(6), m)[:, None],
            structure=CompoundSymmetry(k),
        )
        X, weights = np.ones((n, 1)), rng.choice([0.5, 2.0], n) if rng.random() < 0.3 else None
        root = np.ones(n) if weights is None else np.sqrt(weights)
        Q = np.linalg.qr(root[:, None] * X).Q
        P = np.eye(n) - Q @ Q.T
        Z = root[:, None] * np.kron(np.eye(6), pattern)
        mean = np.full((k, k), 1 / k)
        columns = []
        for S in (np.eye(k) - mean, mean):
            D = P @ Z @ np.kron(np.eye(6), S) @ Z.T @ P
            columns.append(D.ravel() / max(np.linalg.norm(D), 1e-9))
        confounded = bool(confounded_terms(row_moments([term], X, weights)))
        assert confounded == (unexplained(columns, P) < APART)
        assert not confounded or confounded_terms(
            row_moments([random_term(term.values, term.codes)], X, weights)
        )
        found.append(confounded)
    assert 5 < sum(found) < 55


def test_two_parameters_are_identified_where_three_are_not():
    """Two rows a group with the same columns: V has three entries."""
    data = pd.DataFrame({"g": np.repeat(np.arange(30), 2), "t": np.tile([0.0, 1.0], 30)})
    data["y"] = np.random.default_rng(4).normal(size=60)
    with pytest.raises(lmm.DataError, match="cannot be told"):
        lmm.design("y ~ t + (1 + t | g)", data)
    with pytest.warns(lmm.IdentificationWarning, match=r"cs\(1 \+ t \| g, hom=True\) has 60"):
        whole = lmm.design("y ~ t + cs(1 + t | g, hom=True)", data)
    parts = [data[:20], data[20:]]
    with pytest.warns(lmm.IdentificationWarning):
        streamed = lmm.design_from_batches("y ~ t + cs(1 + t | g, hom=True)", parts)
    assert streamed.structures == whole.structures
    with pytest.raises(lmm.DataError, match="cannot be told"):
        lmm.design("y ~ t + cs(0 + factor(t) | g, hom=True)", data)


N = 60
RNG = np.random.default_rng(1)
DATA = pd.DataFrame(
    {
        "row": np.arange(N),
        "h": np.repeat(np.arange(20), 3),
        "pair": np.arange(N) // 2,
        "next": (np.arange(N) + 1) // 2,
        "f": np.array(list("abc"))[np.arange(N) % 3],
        "x": RNG.normal(size=N),
        "z": RNG.normal(size=N),
        "w": RNG.uniform(0.2, 5.0, N),
        "same": 2.0,
    }
)
DATA["y"] = DATA.x + RNG.normal(size=N) + RNG.normal(size=N) / np.sqrt(DATA.w)
DATA["y"] += RNG.normal(size=20)[DATA.h] * DATA.z + RNG.normal(size=N) * DATA.z
for _level in "abc":
    DATA[_level] = (DATA.f == _level) * 1.0

REFUSED = [
    ("an intercept a row", "y ~ x + (1 | row)", {}, "'row' has 60 levels for 60 rows"),
    ("equal weights say nothing", "y ~ x + (1 | row)", {"weights": "same"}, "one row per level"),
    ("beside a slope", "y ~ x + (1 | row) + (0 + z | h)", {}, "'row' has 60 levels for 60 rows"),
    ("the same columns in all groups", "y ~ x + (f | h)", {}, r"\(f \| h\) has 60 random"),
    ("the same columns, other names", "y ~ x + (0 + f | h)", {}, "use fewer columns|Use fewer"),
    ("three terms of a third each", "y ~ (0 + a | h) + (0 + b | h) + (0 + c | h)", {}, "together"),
    ("wide and narrow", "y ~ x + (0 + a + b | h) + (0 + c | h)", {}, "drop one of them"),
    ("a component", "y ~ x", {"groups": "h", "vc_formula": {"o": "0 + C(row)"}}, "'o' has 60"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("formula", "options", "message"), [pytest.param(*r[1:], id=r[0]) for r in REFUSED]
)
def test_a_residual_that_cannot_be_told_apart_is_refused(formula, options, message):
    with pytest.raises(lmm.DataError, match=message):
        lmm.design(formula, DATA, **options)


def slopes(name, *columns):
    return DATA[list(columns)].to_numpy(), DATA[name].to_numpy().astype(str)


ONE = DATA.assign(i=1.0)
IDENTIFIED = [
    ("a slope a row", "y ~ x + (0 + z | row)", None, [("row", "z")], True),
    ("rows of unequal weights", "y ~ x + (0 + z | row)", "w", [("row", "z")], True),
    ("a slope too many", "y ~ x + (z + x | h)", None, [("h", "i", "z", "x")], True),
    ("a term twice", "y ~ x + (1 | h) + (1 | h)", None, [("h", "i"), ("h", "i")],
     "overlap"),
    ("two crossed factors", "y ~ x + (1 | pair) + (1 | next)", None, [("next", "i"), ("pair", "i")],
     False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("formula", "weights", "terms", "warns"), [pytest.param(*r[1:], id=r[0]) for r in IDENTIFIED]
)
def test_an_identified_model_is_fitted(formula, weights, terms, warns):
    """The criterion is that of dense matrices; lme4's rule is a warning."""
    if warns:
        said = "lme4 would refuse" if warns is True else warns
        with pytest.warns(lmm.IdentificationWarning, match=said):
            design = lmm.design(formula, DATA, weights=weights)
    else:
        design = lmm.design(formula, DATA, weights=weights)
    res = lmm.fit(design)
    assert res.converged
    theta = res.estimates.theta
    dense = dense_deviance(
        np.c_[np.ones(N), DATA.x],
        DATA.y.to_numpy(),
        [Term(ONE[list(c)].to_numpy(), DATA[g].to_numpy().astype(str)) for g, *c in terms],
        theta,
        reml=True,
        weights=None if weights is None else DATA[weights],
    )
    assert_close(-2 * res.llf, dense.criterion, 1e-10)
    assert_close(res.scale, dense.sigma**2, 1e-8)


def two_rows_a_group(n_groups=400):
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(n_groups), 2)
    z, x = rng.normal(size=2 * n_groups), rng.normal(size=2 * n_groups)
    b = rng.multivariate_normal([0, 0], [[1, 0.3], [0.3, 2]], size=n_groups)
    y = 1 + 0.5 * x + b[g, 0] + b[g, 1] * z + 0.7 * rng.normal(size=2 * n_groups)
    return pd.DataFrame({"y": y, "x": x, "z": z, "g": g})


def test_two_rows_a_group_and_two_coefficients():
    """statsmodels 0.14 and dense algebra give these figures."""
    data = two_rows_a_group()
    with pytest.warns(lmm.IdentificationWarning, match="800 random coefficients for 800 rows"):
        res = lmm.fit("y ~ x + (z | g)", data)
    assert res.converged
    assert not res.singular
    assert_close(res.llf, -1462.9910, 1e-7)
    assert_close(res.scale, 0.51022, 1e-4)
    assert_close(res.cov_re.to_numpy(), [[0.9461, 0.2746], [0.2746, 2.1550]], 2e-4)
    batches = (data[i : i + 100] for i in range(0, 800, 100))
    with pytest.warns(lmm.IdentificationWarning, match="800 random coefficients for 800 rows"):
        streamed = lmm.design_from_batches("y ~ x + (z | g)", batches)
    assert_close(lmm.fit(streamed).llf, res.llf, 1e-10)
    one = np.ones(len(data))
    with pytest.warns(lmm.IdentificationWarning, match="800 random coefficients for 800 rows"):
        arrays = lmm.design_from_arrays(
            data.y, np.c_[one, data.x], data.g, exog_re=np.c_[one, data.z]
        )
    assert_close(lmm.fit(arrays).llf, res.llf, 1e-10)


STREAMS = [
    ("an intercept a row", "y ~ x + (1 | row)", None, True),
    ("rows of unequal weights", "y ~ x + (1 | row)", "w", False),
    ("the same columns in all groups", "y ~ x + (f | h)", None, True),
    ("nested, a level a row", "y ~ x + (1 | h/row)", None, True),
    ("nested, a slope a row", "y ~ x + (1 | h) + (0 + z | h:row)", None, False),
    ("a wide one and a narrow one", "y ~ x + (0 + a + b | h) + (0 + c | h)", None, True),
]


@pytest.mark.parametrize(
    ("formula", "weights", "refused"), [pytest.param(*r[1:], id=r[0]) for r in STREAMS]
)
@pytest.mark.filterwarnings("ignore::lmm_jax.IdentificationWarning")
def test_rows_in_batches_are_judged_alike(formula, weights, refused):
    def batched():
        data = DATA.assign(f=pd.Categorical(DATA.f))
        return lmm.design_from_batches(
            formula, (data[i : i + 20] for i in range(0, N, 20)), weights=weights
        )

    for made in (batched, lambda: lmm.design(formula, DATA, weights=weights)):
        if refused:
            with pytest.raises(lmm.DataError, match=r"told from"):
                made()
        else:
            assert made().nobs == N


def test_sums_say_what_rows_say():
    """Moments of sums are those of the rows, in another basis of the same columns."""
    rng = np.random.default_rng(3)
    codes = np.repeat(np.arange(12), 2)
    X = np.c_[np.ones(24), rng.normal(size=24)]
    for values in (np.c_[np.ones(24), rng.normal(size=24)], np.tile(np.eye(2), (12, 1))):
        ZX = np.c_[values, X]
        products = np.einsum("ri,rj->rij", values, ZX)
        levels = products.reshape(12, 2, 2, 4).sum(axis=1)
        for structure in (Unstructured(2), CompoundSymmetry(2)):
            summed = summed_moments([levels], X.T @ X, {}, [structure], 24)
            term = random_term(values[:, None], codes[:, None], structure=structure)
            rows = row_moments([term], X, None)
            assert confounded_terms(summed) == confounded_terms(rows)


def test_fit_many_leaves_a_response_only_where_its_rows_cannot_tell():
    data = DATA.sort_values("h", kind="stable")
    data["a_third"] = np.where(np.arange(N) % 3 == 2, np.nan, data.y)  # two rows a group
    data["a_row"] = np.where(np.arange(N) % 3 > 0, np.nan, data.y)  # one
    data["whole"] = data.y
    names = ["whole", "a_third", "a_row"]
    with pytest.warns(lmm.ConvergenceWarning, match="1 of them because they cannot be fitted"):
        found = lmm.fit_many("~ x + (z | h)", data, names)
    assert found.converged.tolist() == [True, True, False]
    assert np.isnan(found.llf[2])
    with pytest.warns(lmm.IdentificationWarning):
        alone = lmm.fit("a_third ~ x + (z | h)", data)
    assert_close(found.llf[1], alone.llf, 1e-8)


@pytest.mark.filterwarnings("ignore:.* overlap:lmm_jax.IdentificationWarning")
def test_the_question_is_asked_only_where_counting_does_not_answer(monkeypatch):
    def never(*_):
        raise AssertionError("the moments were computed")

    monkeypatch.setattr(checks, "confounded_terms", never)
    lmm.design("y ~ x + (z | h)", DATA)
    with pytest.raises(AssertionError, match="moments"):
        lmm.design("y ~ x + (1 | h) + (z | h)", DATA)


# ------------------------------------------------------------ terms that overlap


def _vectors(terms, n):
    """Derivatives of the covariance of the rows in those of every term, (d, n n), and whose."""
    found, owner = [], []
    for t, term in enumerate(terms):
        Z = np.zeros((n, term.n_levels, len(term.names)))
        Z[np.arange(n), term.codes[:, 0]] = term.values[:, 0]
        for D in term.structure.span:
            found.append(np.einsum("nla,ab,mlb->nm", Z, D, Z).ravel())
            owner.append(t)
    return np.array(found), np.array(owner)


TEETH = lmm.load_dataset("orthodont").assign(
    z=lambda d: 1e3 * d["age"], s=lambda d: np.where(d["Sex"] == "Male", 1.0, -1.0)
)
MACHINES = lmm.load_dataset("machines")


@pytest.mark.parametrize(
    ("formula", "data"),
    [
        ("distance ~ age + (1 | Subject) + (1 | Subject)", TEETH),
        ("distance ~ age + (1 | Subject) + (age | Subject)", TEETH),
        ("distance ~ age + (age | Subject) + (0 + z | Subject)", TEETH),
        ("distance ~ age + (age || Subject)", TEETH),
        ("distance ~ age + (1 | Subject) + (0 + age | Subject) + (0 + I(age^2) | Subject)", TEETH),
        ("distance ~ age + (1 | Subject) + (0 + s | Subject)", TEETH),
        ("score ~ Machine + (1 | Worker) + cs(0 + Machine | Worker, hom=True)", MACHINES),
        ("score ~ Machine + (1 | Worker) + diag(0 + Machine | Worker, hom=True)", MACHINES),
        ("score ~ Machine + (1 | Worker) + (0 + Machine || Worker)", MACHINES),
        ("score ~ Machine + (1 | Worker) + (0 + Machine | Worker)", MACHINES),
        ("score ~ Machine + (1 | Worker) + ar1(0 + Machine | Worker)", MACHINES),
    ],
)
def test_terms_that_overlap_are_named(formula, data):
    """Where the derivatives of V, made as matrices of all rows, depend on each other."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        design = lmm.design(formula, data)
    told = [str(w.message) for w in told if w.category is lmm.IdentificationWarning]
    V, _ = _vectors(design.terms, len(data))
    V = V / np.linalg.norm(V, axis=1, keepdims=True)
    dependent = np.linalg.matrix_rank(V, 1e-7) < len(V)
    assert len(told) == dependent
    if dependent:
        assert "overlap: the rows tell the sum of their covariances alone" in told[0]
        assert all(term.text in told[0] for term in design.terms)


def test_a_factor_that_is_fixed_and_random_is_named():
    for formula in ("distance ~ factor(Subject) + (1 | Subject)", "distance ~ Sex + (1 | Sex)"):
        with pytest.warns(lmm.IdentificationWarning, match="fixed effects have a column for every"):
            lmm.design(formula, TEETH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lmm.design("distance ~ age + factor(Subject) + (age | Subject)", TEETH)


ABSORBED = [
    ("age * Sex", "(1 | Sex)", " + (1 | Subject)"),
    ("age * Sex", "(age | Sex)", " + (age | Subject)"),
    ("age * Sex", "(age || Sex)", " + (1 | Subject)"),
    ("age * Sex", "(1 | Sex)", " + ar1(age | Subject)"),
    ("factor(age) * Sex", "cs(0 + factor(age) | Sex)", " + (1 | Subject)"),
    ("factor(age) + Sex", "(1 | age)", " + (1 | Subject)"),
    ("factor(Subject)", "(1 | Subject)", " + (1 | visit)"),
]


def absorbed_fit(fixed, absorbed, others, **options):
    """The fit with a term that the fixed effects absorb, and that without it."""
    options["data"] = TEETH.assign(visit=TEETH["age"].astype(str))
    alone = lmm.fit(f"distance ~ {fixed}{others}", **options)
    with pytest.warns(lmm.IdentificationWarning, match="not identified, and the term is left out"):
        both = lmm.fit(f"distance ~ {fixed} + {absorbed}{others}", **options)
    return both, alone


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("fixed", "absorbed", "others"), ABSORBED)
def test_a_term_that_the_fixed_effects_absorb_is_left_out(fixed, absorbed, others, reml):
    """REML does not see it, ML pays for it with nothing: the model is that of the others."""
    both, alone = absorbed_fit(fixed, absorbed, others, reml=reml)
    assert both.llf == alone.llf and both.converged
    pd.testing.assert_series_equal(both.params, alone.params)
    pd.testing.assert_series_equal(both.bse_fe, alone.bse_fe)
    facts = both.summary().tables[0]["value"]
    assert facts["Dropped"].startswith(both.design.absorbed[0])


def test_what_is_left_out_is_nowhere_later():
    both, alone = absorbed_fit(*ABSORBED[0], df_method="kenward-roger")
    pd.testing.assert_series_equal(both.df, alone.df)
    one, other = lmm.drop1(both, test="chisq"), lmm.drop1(alone, test="chisq")
    np.testing.assert_array_equal(one.to_numpy(float), other.to_numpy(float))
    again = pickle.loads(pickle.dumps(both))
    assert str(again.summary()) == str(both.summary())
    with pytest.warns(lmm.IdentificationWarning):
        many = lmm.fit_many("~ age * Sex + (1 | Sex) + (1 | Subject)", TEETH, TEETH[["distance"]])
    np.testing.assert_allclose(many.bse_fe[0], alone.with_df("normal").bse_fe, rtol=1e-6)


def test_a_flat_direction_is_blamed_on_its_term():
    """A slope of what is constant within groups is free beside the intercept, whatever else."""
    rng = np.random.default_rng(3)
    school = np.repeat(np.arange(12), 12)
    data = pd.DataFrame({"school": school, "class": np.repeat(np.arange(36), 4)})
    data["prog"] = school % 2
    effects = rng.normal(size=12)[school] + rng.normal(size=36)[data["class"]]
    data["y"] = 5.0 + data["prog"] + effects + rng.normal(size=144)
    with pytest.warns(lmm.ConvergenceWarning, match=r"flattest in the term \(prog \| school\)"):
        lmm.fit("y ~ prog + (prog | school) + (1 | class)", data)
