"""Related levels: R's dense code, dense twins of all layouts, equal models, pedigrees, refusals."""

import pickle
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest
import reference
import scipy.linalg
import scipy.sparse
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.api.simulate import draw_random_part
from lmm_jax.designs import pedigree as pedigree_module
from lmm_jax.designs import related as related_module
from lmm_jax.inference.effects.prediction import BlupErrors, conditional_variance
from lmm_jax.inference.effects.random_effects import TermRows, effect_slopes

RTOL = 1e-8  # two optimizers, one maximum: what is flat there agrees to the square of the step
POINT = 1e-6  # estimates move with the root of what the criterion leaves: decrement 1e-9
SAME = 1e-10  # two routes through float64 to one number
DERIVED = 1e-5  # degrees of freedom: ratios of second derivatives of two optima

KIN = reference.names(lambda c: c["kind"] == "known_relatedness", reference.INFERENCE)
FOLDER = reference.INFERENCE.parent / "data"


def matrix(file):
    found = pd.read_csv(FOLDER / file, index_col=0)
    found.index = found.index.astype(str)
    return found


def kin_formula(case):
    model = case["model"]
    return " + ".join([model["fixed"], "(1 | animal)", *(f"(1 | {t})" for t in model["iid_terms"])])


@cache
def kin_fit(name):
    case = reference.load(name)
    A = matrix(case["data"]["relationship"]["file"].split("/")[-1])
    return lmm.fit(kin_formula(case), reference.frame(case), reml=case["model"]["REML"],
                   relatedness={"animal": A})  # fmt: skip


# ------------------------------------------------------------ the reference


@pytest.mark.parametrize("name", KIN)
def test_criterion_at_the_stored_variances(name):
    case, res = reference.load(name), kin_fit(name)
    stored = dict(zip(case["variances"]["names"], case["variances"]["values"], strict=True))
    scale = stored["sigma2_residual"]
    order = [f"sigma2_{t.group}" + "_A" * (t.group == "animal") for t in res.term_labels]
    relative = np.array([stored[name] / scale for name in order])
    start = lmm.Params.from_components(fe_params=res.fe_params, cov_re=np.diag(relative))
    at = lmm.fit(res.design, start_params=start, maxiter=0, reml=res.reml)
    assert_close(-2.0 * at.llf, case["minus2logLik"], SAME)
    assert_close(at.scale, scale, POINT)


@pytest.mark.parametrize("name", KIN)
def test_estimates_of_the_reference(name):
    case, res = reference.load(name), kin_fit(name)
    assert res.converged and not res.singular
    assert_close(-2.0 * res.llf, case["minus2logLik"], RTOL)
    assert_close(res.fe_params, case["fixef"]["values"], POINT)
    assert_close(res.bse_fe, case["fixef"]["se"], POINT)
    assert_close(
        res.scale * res.estimates.cov_beta, case["vcov"], POINT, np.diagonal(case["vcov"]).max()
    )
    found = {f"sigma2_{t.group}" + "_A" * (t.group == "animal"): S[0, 0]
             for t, S in zip(res.term_labels, res.estimates.covariances, strict=True)}  # fmt: skip
    found["sigma2_residual"] = res.scale
    stored = dict(zip(case["variances"]["names"], case["variances"]["values"], strict=True))
    assert_close([found[n] for n in stored], list(stored.values()), POINT)
    if "satterthwaite" in case:
        assert_close(res.df, case["satterthwaite"]["df"], DERIVED)
        assert_close(res.pvalues, case["satterthwaite"]["p"], DERIVED)


@pytest.mark.parametrize("name", KIN)
def test_animals_of_the_reference_with_and_without_records(name):
    case, res = reference.load(name), kin_fit(name)
    effects, ids = res.random_effects["animal"], case["blup"]["ids"]
    assert sorted(effects.index) == sorted(ids) and len(ids) == case["data"]["relationship"]["size"]
    sd = np.sqrt(res.estimates.covariances[0][0, 0])
    assert_close(effects.loc[ids, "Intercept"], case["blup"]["values"], POINT, sd)
    errors = res.random_effects_cov["animal"].std_errors
    assert_close(errors.loc[ids, "Intercept"], case["blup"]["cond_sd"], POINT, sd)
    for other in case.get("iid_blups", []):
        found = res.random_effects[other["group"]].loc[other["levels"], "Intercept"]
        assert_close(found, other["values"], POINT, sd)
    # the same with the uncertainty of the fixed effects: a row of nothing but the animal
    design = res.design
    errors = BlupErrors(design, res._effects, effect_slopes(res.estimates, design))
    codes, one = np.arange(len(ids))[:, None], np.ones((len(ids), 1, 1))
    rows = [TermRows(codes, one) if term.relationship is not None else TermRows(0 * codes, 0 * one)
            for term in design.terms]  # fmt: skip
    no_x = np.zeros((len(ids), len(res.fe_params)))
    variance = conditional_variance(errors, no_x, rows, res.estimates.cov_beta)
    found = pd.Series(np.sqrt(res.scale * variance), effects.index).loc[ids]
    assert_close(found, case["blup"]["pred_sd"], POINT, sd)


@pytest.mark.parametrize("name", [n for n in KIN if n.endswith("reml")])
def test_heritability_of_the_reference(name):
    case, res = reference.load(name), kin_fit(name)
    found = lmm.heritability(res)
    assert_close(found.estimate, case["heritability"], POINT)
    # the delta method from the stored information: h = a / (a + b), a gradient of its own
    v = np.array(case["variances"]["values"])
    gradient = -v[0] / v.sum() ** 2 * np.ones(v.size)
    gradient[0] += 1.0 / v.sum()
    C = np.linalg.inv(case["information"]["observed"])
    error = np.sqrt(gradient @ C @ gradient)
    assert_close(found.std_error, error, DERIVED)
    h = case["heritability"]
    half = 1.959963984540054 * error
    if error > min(h, 1 - h):
        limits = np.clip([h - half, h + half], 0, 1)
    else:
        angle = np.arcsin(np.sqrt(h)) + np.array([-1, 1]) * half / (2 * np.sqrt(h * (1 - h)))
        limits = np.sin(np.clip(angle, 0, np.pi / 2)) ** 2
    assert_close([found.conf_low, found.conf_high], limits, DERIVED)


# ------------------------------------------------------------ dense twins


def pedigree(seed=1, families=1, size=18):
    """Random pedigrees of some families; ids in no order."""
    rng = np.random.default_rng(seed)
    rows = []
    for f in range(families):
        for i in range(size):
            parents = ["", ""] if i < 4 else [f"{f}-{j}" for j in rng.choice(i, 2, replace=False)]
            rows.append([f"{f}-{i}", *parents])
    return pd.DataFrame(rows, columns=["id", "sire", "dam"]).sample(frac=1, random_state=seed)


def records(A, seed=2, n=60):
    """Rows of two thirds of the ids."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(A.index, size=2 * len(A) // 3, replace=False)
    data = pd.DataFrame({"id": rng.choice(ids, n), "x": rng.normal(size=n)})
    data["copy"], data["h"] = data["id"], rng.choice(list("abc"), n)
    data["dam"] = rng.choice(A.index, n)
    data["w"] = rng.uniform(0.5, 2.0, n)
    L = np.linalg.cholesky(A.to_numpy() + 1e-9 * np.eye(len(A)))
    a, slope = (L @ rng.normal(size=(len(A), 2))).T
    at = A.index.get_indexer(data["id"])
    data["y"] = 1 + data["x"] + a[at] + 0.7 * slope[at] * data["x"] + rng.normal(size=n)
    data["y"] += data["h"].map({"a": 0.5, "b": -1.0, "c": 0.2})
    return data


PEDIGREES = {"one": pedigree(), "families": pedigree(families=4, size=8)}
MODELS = {  # formula, factors with A: the layouts are rotated, rotated before a core, a core
    "alone": ("y ~ x + (1 | id)", ["id"]),
    "slope alone": ("y ~ x + (0 + x | id)", ["id"]),
    "behind": ("y ~ x + (1 | id) + (1 | h)", ["id"]),
    "copy": ("y ~ x + (1 | id) + (1 | copy)", ["id"]),
    "slopes": ("y ~ x + (x | id)", ["id"]),
    "two": ("y ~ x + (1 | id) + (1 | dam) + (1 | h)", ["id", "dam"]),
}
CELLS = list(product(PEDIGREES, MODELS, [False, True]))


@cache
def model(family, name, weighted):
    A = lmm.relationship(PEDIGREES[family])
    data = records(A)
    formula, related = MODELS[name]
    weights = "w" if weighted else None
    design = lmm.design(formula, data, weights=weights, relatedness=dict.fromkeys(related, A))
    return design, data, A


def incidence(term, A, data):
    """Z of a term over all of its levels, (n, L k), and the relationship of these."""
    n, _, k = term.values.shape
    Z = np.zeros((n, term.n_levels, k))
    Z[np.arange(n), term.codes[:, 0]] = term.values[:, 0]
    known = np.eye(term.n_levels) if term.relationship is None else A.to_numpy()
    return Z.reshape(n, -1), known


class Dense:
    """The model at given covariances, in matrices of the rows."""

    def __init__(self, design, A, data, covariances, scale):
        self.X, self.y = design.exog, design.endog
        w = np.ones(design.nobs) if design.weights is None else design.weights
        self.Z, self.G, V = [], [], np.diag(scale / w)
        for term, S in zip(design.terms, covariances, strict=True):
            Z, known = incidence(term, A, data)
            self.Z.append(Z)
            self.G.append(np.kron(known, S))
            V = V + Z @ self.G[-1] @ Z.T
        self.V, self.Vi = V, np.linalg.inv(V)
        self.Phi = np.linalg.inv(self.X.T @ self.Vi @ self.X)
        self.beta = self.Phi @ self.X.T @ self.Vi @ self.y

    def criterion(self, reml):
        r, n = self.y - self.X @ self.beta, self.y.size
        out = np.linalg.slogdet(self.V)[1] + r @ self.Vi @ r
        if reml:
            out += np.linalg.slogdet(self.X.T @ self.Vi @ self.X)[1]
            n -= self.X.shape[1]
        return out + n * np.log(2 * np.pi)

    def effects(self, t, beta):
        """Means of all levels, (L k,), and their covariance given y and beta."""
        GZ = self.G[t] @ self.Z[t].T
        return GZ @ self.Vi @ (self.y - self.X @ beta), self.G[t] - GZ @ self.Vi @ GZ.T


@pytest.mark.parametrize(("family", "name", "weighted"), CELLS)
def test_a_fit_is_its_dense_twin(family, name, weighted):
    design, data, A = model(family, name, weighted)
    for reml in (True, False):
        res = lmm.fit(design, reml=reml)
        e = res.estimates
        dense = Dense(design, A, data, e.covariances, e.scale)
        assert_close(-2.0 * res.llf, dense.criterion(reml), SAME)
        assert_close(res.fe_params, dense.beta, RTOL, 1)
        assert_close(
            res.scale * res.estimates.cov_beta, dense.Phi, RTOL, np.diagonal(dense.Phi).max()
        )
        for t, term in enumerate(design.terms):
            mean, cov = dense.effects(t, e.beta)
            k, sd = len(term.names), np.sqrt(max(np.diagonal(cov).max(), e.scale))
            found = res.random_effects[term.group]
            assert list(found.index) == list(term.levels)
            assert_close(found.to_numpy().ravel(), mean, RTOL, sd)
            per_level = res.random_effects_cov[term.group].array
            blocks = cov.reshape(term.n_levels, k, term.n_levels, k)
            at = np.arange(term.n_levels)
            assert_close(per_level, blocks[at, :, at], RTOL, sd**2)


@pytest.mark.parametrize(("family", "name"), list(product(PEDIGREES, MODELS)))
def test_no_small_step_is_better(family, name):
    """The optimum and its curvature, by differences of the dense criterion."""
    design, data, A = model(family, name, True)
    res = lmm.fit(design, reml=True)
    covariances, scale = [S.copy() for S in res.estimates.covariances], res.scale
    best = Dense(design, A, data, covariances, scale).criterion(True)
    for t, S in enumerate(covariances):
        for factor in (0.97, 1.03):
            moved = [factor * S if i == t else other for i, other in enumerate(covariances)]
            assert Dense(design, A, data, moved, scale).criterion(True) > best - 1e-9
    lower = Dense(design, A, data, [0.97 * S for S in covariances], 0.97 * scale).criterion(True)
    assert lower > best


@pytest.mark.parametrize(("family", "name"), list(product(PEDIGREES, MODELS)))
def test_predictions_of_any_id_have_dense_errors(family, name):
    """``z' C z + w' Phi w`` with all effects of the row together; ids without rows too."""
    design, data, A = model(family, name, False)
    res = lmm.fit(design)
    dense = Dense(design, A, data, res.estimates.covariances, res.scale)
    Z, G = np.hstack(dense.Z), scipy.linalg.block_diag(*dense.G)
    GZ = G @ Z.T
    new = pd.DataFrame({"id": A.index, "x": np.linspace(-1, 1, len(A)), "h": "b",
                        "copy": data["copy"].iloc[0], "dam": A.index[::-1]})  # fmt: skip
    rows, X = [], np.column_stack([np.ones(len(new)), new["x"]])
    for term in design.terms:
        at = pd.Index(term.levels).get_indexer(new[term.group])
        values = {"Intercept": np.ones(len(new)), "x": new["x"].to_numpy()}
        block = np.zeros((len(new), term.n_levels, len(term.names)))
        block[np.arange(len(new)), at] = np.column_stack([values[n] for n in term.names])
        rows.append(block.reshape(len(new), -1))
    z = np.hstack(rows)
    mean = GZ @ dense.Vi @ (dense.y - dense.X @ res.fe_params.to_numpy())
    w = X - z @ GZ @ dense.Vi @ dense.X
    C = G - GZ @ dense.Vi @ GZ.T
    variance = np.einsum("ij,jk,ik->i", z, C, z) + np.einsum("ij,jk,ik->i", w, dense.Phi, w)
    found = res.predict(new, conditional=True, se=True)
    assert_close(found["fit"], X @ res.fe_params.to_numpy() + z @ mean, RTOL, 1)
    assert_close(found["std_error"], np.sqrt(variance), 1e-7)
    some = list(A.index[:3])
    joint = res.joint_effects_cov({"id": some})
    own = [t for t, term in enumerate(design.terms) if term.group == "id"]
    k = sum(len(design.terms[t].names) for t in own)
    places = (A.index.get_indexer(some)[:, None] * k + np.arange(k)).ravel()
    assert_close(joint, dense.effects(own[0], res.fe_params)[1][np.ix_(places, places)], RTOL,
                 np.trace(res.estimates.covariances[own[0]]) + res.scale)  # fmt: skip


@pytest.mark.parametrize("size", [0.0, 1e-9])
@pytest.mark.parametrize("rest", ["", " + (1 | h)"])
def test_an_id_that_its_own_rows_do_not_reach_keeps_the_variance_beyond_its_relatives(size, rest):
    """A covariate of nothing in all rows of an id: they say as little of it as no rows."""
    A = lmm.relationship(PEDIGREES["families"])
    data = records(A)
    own = data["id"] == data["id"].iloc[0]
    data["c"] = np.where(own, size * data["x"], 1 + data["x"])
    res = lmm.fit(f"y ~ x + (0 + c | id){rest}", data, relatedness={"id": A})
    assert res.layout_info.eliminated == ("0 + c | id",)  # rotated
    dense = Dense(res.design, A, data, res.estimates.covariances, res.scale)
    mean, cov = dense.effects(0, res.fe_params.to_numpy())
    assert_close(res.random_effects["id"]["c"], mean, RTOL, 1)
    found = res.random_effects_cov["id"].array[:, 0, 0]
    assert_close(found, np.diagonal(cov), RTOL, np.trace(cov))
    new = data[own].iloc[:1].assign(c=1.0)
    code = A.index.get_loc(new["id"].iloc[0])
    z = np.zeros(sum(Z.shape[1] for Z in dense.Z))
    z[code] = 1.0
    if rest:
        h = res.design.terms[1]
        z[len(A) + pd.Index(h.levels).get_loc(new["h"].iloc[0])] = 1.0
    Z, G = np.hstack(dense.Z), scipy.linalg.block_diag(*dense.G)
    GZ = G @ Z.T
    w = np.array([1.0, new["x"].iloc[0]]) - z @ GZ @ dense.Vi @ dense.X
    variance = z @ (G - GZ @ dense.Vi @ GZ.T) @ z + w @ dense.Phi @ w
    found = res.predict(new, conditional=True, se=True)["std_error"].iloc[0]
    assert_close(found, np.sqrt(variance), 1e-7)


def test_what_looks_at_rows_agrees_with_an_equal_model():
    """Influence, hat values and whitened residuals by way of independent effects."""
    design, data, A = model("one", "behind", True)
    res = lmm.fit(design)
    parts = {}
    for term in design.terms:
        Z, known = incidence(term, A, data)
        L = np.linalg.cholesky(known + 1e-12 * np.eye(len(known)))
        parts[term.group] = Z @ L
    columns = {f"{name}{j}": M[:, j] for name, M in parts.items() for j in range(M.shape[1])}
    wide = data.assign(one="g", **columns)
    vc = {name: "0 + " + " + ".join(f"{name}{j}" for j in range(M.shape[1]))
          for name, M in parts.items()}  # fmt: skip
    same = lmm.fit("y ~ x", wide, groups="one", re_formula="0", vc_formula=vc, weights="w")
    assert_close(res.llf, same.llf, 1e-7)
    assert_close(lmm.caic(res).df, lmm.caic(same).df, 1e-5)
    assert_close(lmm.r2(res).conditional, 1.0 - res.scale / lmm.variance_components(res)[
        "variance"].sum(), SAME)  # fmt: skip
    left, right = lmm.influence(res, "row"), lmm.influence(same, "row")
    assert_close(left.cooks_distance, right.cooks_distance, 1e-4, 1e-3)
    assert_close(res.resid("whitened"), same.resid("whitened"), 1e-5, 1)
    assert_close(res.with_df("kr").df, same.with_df("kr").df, 1e-5)


def test_families_are_clusters():
    """The families are independent, and a sandwich is made of their scores."""
    design, data, A = model("families", "alone", False)
    assert design.n_groups == 4
    res = lmm.fit(design)
    dense = Dense(design, A, data, res.estimates.covariances, res.scale)
    r = dense.y - dense.X @ res.fe_params.to_numpy()
    scores = np.array([dense.X[at].T @ np.linalg.inv(dense.V[np.ix_(at, at)]) @ r[at]
                       for at in (design.group_codes == g for g in range(4))])  # fmt: skip
    expected = dense.Phi @ scores.T @ scores @ dense.Phi
    assert_close(res.robust("CR0").bse_fe ** 2, np.diagonal(expected), RTOL)


def test_random_slopes_of_two_families_have_draws_of_their_covariance():
    design, data, A = model("families", "slopes", False)
    S = np.array([[1.0, 0.3], [0.3, 0.5]])
    draws = draw_random_part(design, [np.linalg.cholesky(S)], 4000, np.random.default_rng(1))
    Z, known = incidence(design.terms[0], A, data)
    V = Z @ np.kron(known, S) @ Z.T
    found = draws @ draws.T / 4000
    error = np.sqrt((V**2 + np.outer(np.diagonal(V), np.diagonal(V))) / 4000)
    assert (np.abs(found - V) < 5.5 * error).all()  # 3,600 entries


def test_draws_take_one_factorization_of_the_relationship(monkeypatch):
    design = model("one", "behind", False)[0]
    res = lmm.fit(pickle.loads(pickle.dumps(design)))
    calls = []
    plain = related_module.seen_root
    monkeypatch.setattr(related_module, "seen_root", lambda known: calls.append(1) or plain(known))
    first, other = lmm.simulate(res, seed=1), lmm.simulate(res, seed=1)
    assert len(calls) == 1 and (first == other).all(axis=None)
    assert "related_roots" not in pickle.loads(pickle.dumps(res.design)).__dict__


@pytest.mark.parametrize(
    "name",
    [pytest.param("alone", marks=pytest.mark.slow), pytest.param("behind", marks=pytest.mark.slow),
     "copy"],
)  # fmt: skip
def test_replicates_of_a_bootstrap_spread_as_the_standard_errors(name):
    res = lmm.fit(model("one", name, False)[0])
    boot = lmm.bootstrap(res, 80, seed=1)
    ratio = boot.params().std()[list(res.fixed_names)] / res.bse_fe
    assert (np.abs(np.log(ratio)) < np.log(1.4)).all()  # a standard deviation of 80: 8 %
    y = lmm.simulate(res, seed=1, n=300)
    V = Dense(*model("one", name, False)[::2], None, res.estimates.covariances, res.scale).V
    assert_close(y.to_numpy().std(axis=1).mean(), np.sqrt(np.diagonal(V)).mean(), 0.1)


@pytest.mark.parametrize("term", ["ar1(0 + h | id)", "cs(1 + x | id)", "diag(x | id, hom=True)"])
def test_structured_coefficients_of_related_levels(term):
    A = lmm.relationship(PEDIGREES["families"])
    data = records(A, n=150)
    res = lmm.fit(f"y ~ x + {term}", data, relatedness={"id": A})
    dense = Dense(res.design, A, data, res.estimates.covariances, res.scale)
    assert_close(-2.0 * res.llf, dense.criterion(True), SAME)
    mean, _ = dense.effects(0, res.fe_params.to_numpy())
    assert_close(res.random_effects["id"].to_numpy().ravel(), mean, RTOL, 1)


@pytest.mark.parametrize("name", ["ar1", "toep", "ad", "cs", "arma11"])
def test_correlated_coefficients_as_many_as_rows_are_told_by_their_covariance(name):
    """A row a coefficient: A tells the residual; unrelated ids are judged as ids without A."""
    A = lmm.relationship(PEDIGREES["families"])
    ids = np.repeat(A.index[:24], 4)
    data = pd.DataFrame({"id": ids, "f": np.tile(list("abcd"), 24)})
    data["y"] = np.random.default_rng(3).normal(size=len(data))
    formula = f"y ~ f + {name}(0 + f | id)"
    design = lmm.design(formula, data, relatedness={"id": A})
    alone = pd.DataFrame(np.eye(24), A.index[:24], A.index[:24])
    found = [is_identified(formula, data, given) for given in (None, {"id": alone})]
    assert found == [name != "arma11"] * 2  # ARMA(1, 1) and white noise are one again
    assert design.terms[0].text == f"{name}(0 + f | id)"


def is_identified(formula, data, relatedness):
    try:
        return lmm.design(formula, data, relatedness=relatedness) is not None
    except lmm.DataError as error:
        assert "told from" in str(error)
        return False


@pytest.mark.parametrize("reml", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_many_responses_with_one_rotation(reml):
    _, data, A = model("families", "alone", True)
    Y = np.column_stack([data["y"], data["y"][::-1], np.sin(7 * np.arange(60))])
    many = lmm.fit_many("~ x + (1 | id)", data, Y, weights="w", relatedness={"id": A}, reml=reml)
    for j, y in enumerate(Y.T):
        one = lmm.fit("y ~ x + (1 | id)", data.assign(y=y), weights="w", relatedness={"id": A},
                      reml=reml)  # fmt: skip
        assert_close(many.llf[j], one.llf, SAME)
        assert_close(many.fe_params[j], one.fe_params, POINT, 1)
        assert_close(many.bse_fe[j], one.bse_fe, POINT)
        assert_close(many.df[j], one.df, DERIVED)
        assert_close(many.select(j).llf, one.llf, SAME)


# ------------------------------------------------------------ invariances


def fits_alike(one, other, scale=1.0):
    assert_close(one.llf, other.llf, SAME)
    assert_close(one.fe_params, other.fe_params, POINT, 1)
    assert_close(one.scale, other.scale, POINT)
    assert_close(one.estimates.covariances[0], scale * other.estimates.covariances[0], 1e-5, 1)


def test_unrelated_levels_are_the_plain_model():
    data = records(lmm.relationship(PEDIGREES["one"]))
    ids = data["id"].unique()
    A = pd.DataFrame(np.eye(len(ids)), ids, ids)
    for formula in ("y ~ x + (1 | id)", "y ~ x + (x | id)", "y ~ x + (1 | id) + (1 | h)"):
        one, plain = lmm.fit(formula, data, relatedness={"id": A}), lmm.fit(formula, data)
        fits_alike(one, plain)
        got = one.random_effects["id"].loc[plain.random_effects["id"].index]
        assert_close(got, plain.random_effects["id"], 1e-5, 1)


@pytest.mark.parametrize("name", ["alone", "behind", "copy", "slopes"])
def test_order_scale_and_spelling_of_the_matrix(name):
    design, data, A = model("families", name, True)
    formula, res = MODELS[name][0], lmm.fit(design)
    shuffled = A.sample(frac=1, random_state=3).sample(frac=1, random_state=4, axis=1)
    codes = {label: 10 * i for i, label in enumerate(A.index)}
    renamed = data.assign(id=data["id"].map(codes), copy=data["copy"].map(codes))
    as_text = A.rename(index=codes, columns=lambda label: str(codes[label]))
    sparse = scipy.sparse.csr_array(A.to_numpy())
    frame = pd.DataFrame.sparse.from_spmatrix(scipy.sparse.csc_array(sparse), A.index, A.index)
    for rows, given, scale in [
        (data, shuffled, 1.0), (data, 1e6 * A, 1e-6), (data, (sparse, A.index), 1.0),
        (data, (A.to_numpy(), list(A.index)), 1.0), (data, frame, 1.0), (renamed, as_text, 1.0),
        (data, A + 1e-13 * np.triu(np.ones(A.shape), 1) * (A != 0), 1.0),
    ]:  # fmt: skip
        other = lmm.fit(formula, rows, weights="w", relatedness={"id": given})
        fits_alike(other, res, scale)
    assert list(lmm.fit(formula, data, weights="w", relatedness={"id": shuffled})
                .random_effects["id"].index) == list(shuffled.index)  # fmt: skip


def test_statsmodels_spelling_takes_relatedness_too():
    design, data, A = model("one", "slopes", False)
    other = lmm.fit("y ~ x", data, groups="id", re_formula="x", relatedness={"id": A})
    fits_alike(other, lmm.fit(design))


def test_runtimes_agree():
    design = model("one", "behind", True)[0]
    one, other = lmm.fit(design, runtime="numpy"), lmm.fit(design, runtime="jax")
    assert one.runtime == "numpy" and other.runtime == "jax"
    fits_alike(one, other)


def test_held_and_first_order_fits():
    design = model("one", "alone", False)[0]
    res = lmm.fit(design)
    ratio = res.estimates.covariances[0] / res.scale
    params = lmm.Params.from_components(fe_params=res.fe_params, cov_re=ratio)
    free = lmm.Params.from_components(fe_params=np.ones(2), cov_re=np.zeros((1, 1)))
    assert_close(lmm.fit(design, free=free, start_params=params).llf, res.llf, SAME)
    assert_close(lmm.fit(design, method="lbfgs").llf, res.llf, SAME)


def test_a_relationship_is_part_of_the_model():
    """Models with and without it do not contain each other; leaving the term out is a test."""
    design, data, A = model("one", "copy", False)
    res, plain = lmm.fit(design), lmm.fit("y ~ x + (1 | id)", data)
    table = lmm.ranova(res)
    assert_close(table.loc["(1 | id)", "llf"], plain.llf, RTOL)
    with pytest.raises(lmm.DataError):
        lmm.anova(plain, lmm.fit("y ~ x + (1 | id)", data, relatedness={"id": A}))
    assert (
        lmm.anova(lmm.fit("y ~ x + (1 | id)", data, relatedness={"id": A}), res)["llf"] < 0
    ).all()


# ------------------------------------------------------------ results that were saved


@pytest.mark.parametrize("name", ["alone", "behind", "copy"])
def test_saved_results_predict_all_ids(name, tmp_path):
    _, data, A = model("one", name, False)
    res = lmm.fit(MODELS[name][0], data, relatedness={"id": A})
    new = data.iloc[[0] * len(A)].assign(id=A.index)
    again = pickle.loads(pickle.dumps(res))
    expected = res.predict(new, conditional=True)
    assert_close(again.predict(new, conditional=True), expected, SAME, 1)
    assert_close(again.random_effects_cov["id"].array, res.random_effects_cov["id"].array, SAME)
    assert_close(lmm.heritability(again).std_error, lmm.heritability(res).std_error, SAME)
    assert len(pickle.dumps(res)) < 200_000
    res.save(tmp_path / "r.lmm", keep_data=True)
    kept = lmm.load(tmp_path / "r.lmm")
    found = kept.predict(new, conditional=True, se=True)
    assert_close(found, res.predict(new, conditional=True, se=True), SAME, 1)


def test_tables_name_every_id():
    design, data, A = model("one", "alone", False)
    res = lmm.fit(design)
    values = res.tidy("ran_vals")
    assert list(values["level"]) == list(A.index) and res.n_groups["id"] == len(A)
    assert "id 18 related" in str(res.summary())
    with pytest.raises(lmm.DataError, match="unrelated-1"):
        res.predict(data.iloc[:1].assign(id="unrelated-1"), conditional=True)


# ------------------------------------------------------------ heritability


def test_shares_of_the_phenotypic_variance():
    res = kin_fit("kin_animal_pe_reml")
    a, pe = (S[0, 0] for S in res.estimates.covariances)
    everything = lmm.heritability(res)
    assert_close(everything.estimate, a / (a + pe + res.scale), SAME)
    assert_close(everything.table["share"].sum(), 1.0, SAME)
    both = lmm.heritability(res, additive=["animal", "animal_id"])  # repeatability
    assert_close(float(both), (a + pe) / (a + pe + res.scale), SAME)
    without = lmm.heritability(res, leave_out="animal_id")
    assert_close(without.estimate, a / (a + res.scale), SAME)
    fixed = np.var(res.design.exog @ res.fe_params.to_numpy(), ddof=1)
    wider = lmm.heritability(res, fixed=True, level=0.5)
    assert_close(wider.estimate, a / (a + pe + res.scale + fixed), RTOL)
    assert wider.conf_low < wider.estimate < wider.conf_high and wider.level == 0.5
    assert "animal" in repr(everything)


# ------------------------------------------------------------ pedigrees


def test_relationships_of_the_reference():
    A = matrix("inf_ped_A.csv")
    P = pd.read_csv(FOLDER / "inf_ped_pedigree.csv", dtype=str)
    for rows in (P, P.sample(frac=1, random_state=2)):
        found = lmm.relationship(rows)
        assert list(found.index) == list(rows["animal"])
        assert_close(found.loc[A.index, A.index], A, 1e-12, 1)
    inverse = lmm.relationship(P, inverse=True)
    assert (inverse.sparse.density < 0.2) and list(inverse.columns) == list(P["animal"])
    assert_close(inverse.to_numpy() @ A.to_numpy(), np.eye(len(A)), 1e-12, 1)


def test_an_inverse_needs_no_dense_relationships(monkeypatch):
    """Those of 300 ids in many overlapping generations, against A by the tabular rules."""
    rng = np.random.default_rng(4)
    rows = [[i, *(rng.choice(np.arange(max(1, i - 25), i), 2) if i > 8 else ("", ""))]
            for i in range(1, 301)]  # fmt: skip
    P = pd.DataFrame(rows, columns=["id", "sire", "dam"]).sample(frac=1, random_state=1)
    P.loc[P["id"] % 7 == 0, "dam"] = ""
    A = lmm.relationship(P)
    assert np.diagonal(A).max() > 1.2  # inbred
    monkeypatch.setattr(pedigree_module, "_tabular", None)
    inverse = lmm.relationship(P, inverse=True)
    assert (inverse.index == A.index).all()
    assert_close(inverse.to_numpy() @ A.to_numpy(), np.eye(len(A)), 1e-11, 1)


def test_inbreeding_selfing_and_parents_without_rows():
    P = pd.DataFrame({"id": [3, 4, 5], "sire": [1, 3, 4], "dam": [np.nan, 3, 1]})
    A = lmm.relationship(P)
    assert list(A.index) == [3, 4, 5, 1]
    # 3 = (1, ?); 4 = 3 selfed; 5 = (4, 1): by hand
    expected = [[1, 1, 0.75, 0.5], [1, 1.5, 1.0, 0.5], [0.75, 1.0, 1.25, 0.75], [0.5, 0.5, 0.75, 1]]
    assert_close(A, expected, 1e-15, 1)
    renamed = P.rename(columns={"id": "calf", "sire": "bull", "dam": "cow"})[
        ["cow", "calf", "bull"]
    ]
    assert_close(lmm.relationship(renamed, id="calf", sire="bull", dam="cow"), A, 0)


PEDIGREE_GARBAGE = [
    (dict(id=["c", "b", "a"], sire=["b", "a", "b"], dam=["", "", "d"]), "loop: 'b', 'a' are among"),
    (dict(id=["a"], sire=["a"], dam=[""]), "loop: 'a' is its own parent"),
    (dict(id=["a", "a"], sire=["", ""], dam=["", ""]), "several rows for 'a'"),
    (dict(id=["a", None], sire=["", ""], dam=["", ""]), "row without an individual"),
    (dict(id=["a"], father=[""], dam=[""]), "no column 'sire'"),
    (dict(id=[], sire=[], dam=[]), "no rows"),
]


@pytest.mark.parametrize(("columns", "message"), PEDIGREE_GARBAGE)
def test_pedigrees_that_are_none(columns, message):
    with pytest.raises(lmm.DataError, match=message):
        lmm.relationship(pd.DataFrame(columns))


def test_completely_inbred_parents_have_no_inverse():
    rows = [["a0", "", ""], *([f"a{i + 1}", f"a{i}", f"a{i}"] for i in range(60))]
    P = pd.DataFrame(rows, columns=["id", "sire", "dam"])
    with pytest.raises(lmm.DataError, match="completely inbred"):
        lmm.relationship(P, inverse=True)
    assert_close(lmm.relationship(P).loc["a60", "a60"], 2.0, 1e-12)


# ------------------------------------------------------------ garbage


def set_entry(A, value, both=True):
    A = A.copy()
    A.iloc[0, 1] = value
    if both:
        A.iloc[1, 0] = value
    return A


GARBAGE = [
    (lambda A: {"who": A}, "'who', by which no random effect is grouped"),
    (lambda A: A, "a dictionary of names is needed"),
    (lambda A: {"id": A.to_numpy()}, "is a numpy.ndarray: which row is whose"),
    (lambda A: {"id": A.iloc[:, :-1]}, "square"),
    (lambda A: {"id": (A.to_numpy(), ["a"])}, "18 rows but 1 ids"),
    (lambda A: {"id": A.rename(columns={A.index[0]: "z"})}, "a row but no column for"),
    (lambda A: {"id": A.rename(index={A.index[0]: A.index[1]})}, "more than once"),
    (lambda A: {"id": A.iloc[:2, :2]}, "no row for .* of the .* labels of 'id'"),
    (lambda A: {"id": set_entry(A, np.nan)}, "NaN or infinite"),
    (lambda A: {"id": set_entry(A, 0.3, both=False)}, "not symmetric: .* have 0.3 in one"),
    (lambda A: {"id": set_entry(A, 5.0)}, "not positive semidefinite .smallest|eigenvalue is -"),
    (lambda A: {"id": A.astype(str)}, "numeric"),
    (lambda A: {"id": 0.0 * A}, "no variance on its diagonal"),
    (lambda A: {"id": A.astype(complex)}, "real numbers|numeric"),
]


def test_frames_whose_rows_nobody_named():
    """Lines 1 to 18 among pandas' 0 to 39 would each be in the row of their neighbour."""
    rng = np.random.default_rng(0)
    M = rng.normal(size=(40, 60))
    A, line = pd.DataFrame(M @ M.T / 60), np.repeat(np.arange(18), 3)
    data = pd.DataFrame({"y": rng.normal(size=54), "line": line + 1, "from_0": line})
    with pytest.raises(lmm.DataError, match="no label of 'line' is 0: which row is whose"):
        lmm.fit("y ~ 1 + (1 | line)", data, relatedness={"line": A})
    named = A.set_axis(np.arange(1, 41), axis=0).set_axis(np.arange(1, 41), axis=1)
    first = lmm.fit("y ~ 1 + (1 | line)", data, relatedness={"line": named})
    counted = lmm.fit("y ~ 1 + (1 | from_0)", data, relatedness={"from_0": A})
    assert_close(first.llf, counted.llf, SAME)


@pytest.mark.parametrize(("given", "message"), GARBAGE)
def test_matrices_that_are_none(given, message):
    A = lmm.relationship(PEDIGREES["one"])
    with pytest.raises(lmm.DataError, match=message):
        lmm.fit("y ~ x + (1 | id)", records(A), relatedness=given(A))


def test_unidentified_and_refused():
    A = lmm.relationship(PEDIGREES["one"])
    data = records(A).drop_duplicates("id")
    alone = pd.DataFrame(np.eye(len(data)), data["id"].to_numpy(), data["id"].to_numpy())
    with pytest.raises(lmm.DataError, match="cannot be told from these effects"):
        lmm.fit("y ~ x + (1 | id)", data, relatedness={"id": alone})
    with pytest.raises(lmm.DataError, match="'copy' has 12 levels for 12 rows"):
        lmm.fit("y ~ x + (1 | id) + (1 | copy)", data, relatedness={"id": A})
    lmm.fit("y ~ x + (1 | id)", data, relatedness={"id": A})  # one row an id, as in genomics
    res = lmm.fit(model("one", "alone", False)[0])
    slopes = model("one", "slopes", False)[0]
    many = lmm.fit_many(slopes, slopes.endog[:, None])  # in the core: one after another
    assert_close(many.llf[0], lmm.fit(slopes).llf, SAME)
    with pytest.raises(lmm.DataError, match="'y1' has missing or infinite values"):
        lmm.fit_many(res.design, np.where(np.eye(60)[:, :2] == 1, [1.0, np.nan], 0.5))
    with pytest.raises(lmm.DataError, match="'y0' has weights of its own"):
        lmm.fit_many("~ x + (1 | id)", records(A), np.ones((60, 1)), weights=np.ones((60, 1)),
                     relatedness={"id": A})  # fmt: skip
    with pytest.raises(lmm.DataError, match="'y1' has missing or infinite values"):
        Y = np.where(np.eye(60)[:, :2] == 1, [1.0, np.nan], 0.5)
        lmm.fit_many("~ x + (1 | id)", records(A), Y, weights=np.ones((60, 2)),
                     relatedness={"id": A})  # fmt: skip
    rows = records(A).assign(visit=lambda d: d.groupby("id").cumcount())
    for formula in ("y ~ x + (1 | id) + ar1(visit | id)", "y ~ x + ar1(visit | id)"):
        with pytest.raises(lmm.DataError, match=r"residual covariance|has none"):
            lmm.fit(formula, rows, relatedness={"id": A})
    with pytest.raises(lmm.DataError, match="these are related"):
        res.with_df("between-within").df  # noqa: B018
    with pytest.raises(lmm.DataError, match="no function of an index"):
        lmm.row_index(res.design)
    with pytest.raises(lmm.DataError, match="no levels of this fit are related"):
        lmm.heritability(lmm.fit("y ~ x + (1 | id)", records(A)))
    with pytest.raises(lmm.DataError, match="depends on the covariates"):
        lmm.heritability(lmm.fit(model("one", "slopes", False)[0]))
    with pytest.raises(lmm.DataError, match="both name"):
        lmm.heritability(res, leave_out="id")
