"""Conditional covariances of random effects, within and across terms, against dense algebra."""

import copy
import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import samples
import timings
from helpers import assert_close
from scipy.linalg import block_diag

import lmm_jax as lmm

TOL = 1e-8  # the same matrices by a Cholesky factor of the size of all effects


def sample(seed: int, groups: int, rows: int, **factors: int) -> pd.DataFrame:
    """A group, covariates, and factors with so many levels, each with effects on y."""
    rng = np.random.default_rng(seed)
    n = groups * rows
    data = pd.DataFrame({"g": np.repeat(np.arange(groups), rows), "x": rng.normal(size=n)})
    data["w"] = rng.uniform(0.5, 2, n)
    y = rng.normal(size=n) + rng.normal(size=groups)[data["g"]] * (1 + data["x"])
    for name, levels in factors.items():
        data[name] = rng.integers(levels, size=n)
        y += rng.normal(size=(groups, levels))[data["g"], data[name]]
    return data.assign(y=y)


SMALL = sample(1, 8, 9, a=3, b=4)
WIDE = sample(2, 4, 90, a=40, b=3)
NESTED = sample(4, 12, 60, a=40)
ONE = sample(3, 1, 60, a=6, b=5).assign(g="all")
MODELS = {
    "a component": (SMALL, dict(re_formula="1", vc_formula={"a": "0 + C(a)"})),
    "two components, a slope, weights": (
        SMALL,
        dict(re_formula="x", vc_formula={"b": "0 + C(b)", "a": "0 + C(a)"}, weights="w"),
    ),
    "components alone": (SMALL, dict(vc_formula={"a": "0 + C(a)", "x": "0 + x"})),
    "a component of covariates": (
        SMALL,
        dict(re_formula="1", vc_formula={"g": "0 + x + w", "a": "0 + C(a)"}),
    ),
    "wide groups": (WIDE, dict(re_formula="x", vc_formula={"a": "0 + C(a)", "b": "0 + C(b)"})),
    "wide groups, one component": (NESTED, dict(re_formula="1", vc_formula={"a": "0 + C(a)"})),
    "one group": (ONE, dict(re_formula="0", vc_formula={"a": "0 + C(a)", "b": "0 + C(b)"})),
}
# Layouts with a core, through which the effects of a group depend on each other.
CROSSED = {"wide groups", "wide groups, one component", "one group"}


@cache
def fit(name: str) -> lmm.LMMResults:
    data, options = MODELS[name]
    return lmm.fit("y ~ x", data, groups="g", **options)


@cache
def slopes() -> lmm.LMMResults:
    return lmm.fit("y ~ x + (x | g)", samples.frame())


def dense(result: lmm.LMMResults) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """``sigma^2 Lambda (I + Lambda' Z'W Z Lambda)^-1 Lambda'``, and what its rows are."""
    design = result.design
    Z = np.hstack([term.columns().toarray() for term in design.terms])
    w = np.ones(design.nobs) if design.weights is None else design.weights
    Psi = block_diag(
        *[
            np.kron(np.eye(term.n_levels), S / result.scale)
            for term, S in zip(design.terms, result.estimates.covariances, strict=True)
        ]
    )
    vectors = np.linalg.eigh(Psi)
    root = vectors[1] * np.sqrt(np.maximum(vectors[0], 0))
    M = np.eye(len(Psi)) + root.T @ (Z.T * w) @ Z @ root
    rows = [
        (t, level, j)
        for t, term in enumerate(design.terms)
        for level in range(term.n_levels)
        for j in range(len(term.names))
    ]
    return result.scale * root @ np.linalg.solve(M, root.T), rows


@pytest.mark.parametrize("name", MODELS)
def test_all_effects_of_a_group_together(name):
    result = fit(name)
    expected, rows = dense(result)
    assert result.layout_info.kind == ("crossed" if name in CROSSED else "grouped")
    tables, effects = result.random_effects_cov, result.random_effects
    groups = tables["g"]
    terms = result.design.terms
    assert list(groups) == sorted(set(MODELS[name][0]["g"]))
    for group in list(groups)[:5]:
        frame = groups[group]
        at = [
            i
            for i, (t, level, _) in enumerate(rows)
            if (terms[t].levels[level][0] if terms[t].is_component else terms[t].levels[level])
            == group
        ]
        assert_close(frame, expected[np.ix_(at, at)], TOL, result.scale)
        assert list(frame.index) == list(frame.columns) and frame.index.is_unique
        labels = [
            f"{label.group}[{column}]"
            for label in result.term_labels
            if label.is_component
            for column in effects[label.factor].loc[group].index
        ]
        k = len(frame) - len(labels)
        assert list(frame.index[k:]) == labels
        assert_close(groups.array[list(groups).index(group)], frame.iloc[:k, :k], TOL, 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_levels_of_every_term(name):
    result = fit(name)
    expected, rows = dense(result)
    variances = {row: expected[i, i] for i, row in enumerate(rows)}
    for t, label in enumerate(result.term_labels):
        table = result.random_effects_cov[label.factor]
        want = [
            [variances[t, level, j] for j in range(len(label.names))]
            for level in range(label.n_levels)
        ]
        assert_close(table.std_errors, np.sqrt(want), TOL, result.sigma)
        assert list(table.std_errors.index) == list(result.random_effects[label.factor].index)


def test_pastes():
    """Dense algebra by another hand."""
    result = lmm.fit(
        "strength ~ 1",
        lmm.load_dataset("pastes"),
        groups="batch",
        re_formula="1",
        vc_formula={"cask": "0 + cask"},
    )
    cov = result.random_effects_cov["batch"]["A"]
    assert list(cov.index) == ["Intercept", "cask[cask[a]]", "cask[cask[b]]", "cask[cask[c]]"]
    assert_close(cov.iloc[0, :2], [1.0578, -1.0169], 1e-4)
    assert_close(cov.iloc[1, 1:3], [1.3035, 0.9776], 1e-4)


def test_arrays_have_joint_covariances_too():
    """As the formula, whose groups are the levels of the component."""
    casks = np.eye(3)[SMALL["a"]]
    X = np.column_stack([np.ones(len(SMALL)), SMALL["x"]])
    model = lmm.design_from_arrays(SMALL["y"], X, SMALL["g"], X[:, :1], {"a": casks})
    ours, same = lmm.fit(model).random_effects_cov["groups"], fit("a component").random_effects_cov
    for group in same["g"]:
        assert_close(ours[group], same["g"][group], 1e-6, 1)


def test_terms_of_one_factor_without_components_are_joint():
    result = lmm.fit("y ~ x + (1 | g) + (0 + x | g)", SMALL)
    expected, rows = dense(result)
    at = [i for i, row in enumerate(rows) if row[1] == 2]
    assert_close(result.random_effects_cov["g"][2], expected[np.ix_(at, at)], TOL, result.scale)


SETS = {
    "two terms of a factor and another": (
        dict(formula="y ~ x + (1 | g) + (0 + x | g) + (1 | g:a)"), {"g": [2, 5], "g:a": "2:1"},
    ),
    "crossed": (dict(formula="y ~ x + (x | g) + (1 | a)"), {"a": [0, 2], "g": 3}),
    "all of a factor": (dict(formula="y ~ x + (x | g) + (1 | b)"), {"g": list(range(8))}),
    "groups and a component": (
        dict(formula="y ~ x", groups="g", re_formula="x", vc_formula={"a": "0 + C(a)"}),
        {"g": [1, 2], "a": [(1, "C(a)[1]"), (4, "C(a)[0]")]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_any_set_of_levels(name):
    options, levels = SETS[name]
    result = lmm.fit(data=SMALL, **options)
    expected, rows = dense(result)
    cov = result.joint_effects_cov(levels)
    names = [label.factor for label in result.term_labels]
    wanted = {key: v if isinstance(v, list) else [v] for key, v in levels.items()}
    terms = result.design.terms
    place = {}  # of a term among the columns of its factor
    at = {}
    for i, (t, level, j) in enumerate(rows):
        start = place.setdefault(
            t, sum(len(terms[s].names) for s in range(t) if names[s] == names[t])
        )
        if terms[t].levels[level] in wanted.get(names[t], []):
            coefficient = result.random_effects[names[t]].columns[start + j]
            at[names[t], terms[t].levels[level], coefficient] = i
    assert set(cov.index) == set(at) and cov.index.is_unique
    order = [at[row] for row in cov.index]
    assert_close(cov, expected[np.ix_(order, order)], TOL, result.scale)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"h": 1}, "no 'h': it has 'g'"),
        ({"g": 99}, "the factor 'g' has no 99"),
        ({"g": [1, "x"]}, "has no 'x'"),
        ({"g": {"x": 1}}, "the factor 'g' has no {'x': 1}"),
        ({}, "levels={}: pass a mapping"),
        ("g", "levels='g': pass a mapping"),
    ],
)
def test_levels_that_are_not_there(levels, message):
    with pytest.raises(lmm.DataError, match=message):
        lmm.fit("y ~ x + (1 | g)", SMALL).joint_effects_cov(levels)


# ------------------------------------------------------------ a table of all levels


def test_one_call_labels_all_levels():
    result = slopes()
    table = result.random_effects_cov["g"]
    frame = table.to_frame()
    assert frame.shape == (20, 2) and len(table) == 10
    for level in table:
        assert_close(frame.loc[level], table[level], 0)
        assert_close(table.std_errors.loc[level] ** 2, np.diag(table[level]), 1e-14)
    nested = lmm.fit("y ~ x", samples.frame(), groups="g", vc_formula={"s": "0 + C(s)"})
    pairs = nested.random_effects_cov["s"].to_frame()
    assert pairs.index.nlevels == 3 and pairs.shape == (30, 1)


def test_tables_are_read_only_and_copy():
    table = slopes().random_effects_cov["g"]
    with pytest.raises(ValueError, match="read-only"):
        table.array[0] = 0
    for other in (pickle.loads(pickle.dumps(table)), copy.deepcopy(table), copy.copy(table)):
        assert_close(other.array, table.array, 0)
        assert_close(other["g3"], table["g3"], 0)
    joint = fit("a component").random_effects_cov["g"]
    stored = pickle.loads(pickle.dumps(joint))
    assert all(joint[group].equals(stored[group]) for group in joint)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.random_effects["G"], "no 'G': it has 'g'; did you mean 'g'"),
        (lambda r: r.random_effects["subject"], "no 'subject': it has 'g'$"),
        (lambda r: r.random_effects_cov["h"], "no 'h': it has 'g'"),
        (lambda r: r.random_effects_cov["g"]["g33"], "no 'g33': it has 'g0', .*did you mean 'g3'"),
        (lambda r: r.random_effects_cov["g"][3], "no 3: it has 'g0'"),
        (lambda r: r.random_effects_cov["g"][["g3"]], "it has 'g0'"),
        (lambda r: r.random_effects[np.int64(3)], "no 3: it has 'g'"),
    ],
)
def test_a_wrong_key_names_the_keys(ask, message):
    result = slopes()
    for kind in (KeyError, lmm.DataError):
        with pytest.raises(kind, match=message):
            ask(result)


def test_membership_and_get_work_as_in_any_mapping():
    result = slopes()
    assert "g" in result.random_effects and "h" not in result.random_effects
    assert result.random_effects.get("h") is None
    table = result.random_effects_cov["g"]
    assert "g3" in table and "h" not in table and table.get("h") is None


@pytest.mark.slow
def test_very_many_levels_take_less_than_their_fit():
    g = np.repeat(np.arange(120_000), 3)
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": g, "y": rng.normal(size=120_000)[g] + rng.normal(size=g.size)})

    def fitted():
        return lmm.fit("y ~ 1 + (1 | g)", data)

    def shown(result):
        table = result.random_effects_cov["g"]
        assert table.array.shape == (120_000, 1, 1) and table[119_999].shape == (1, 1)

    results = [fitted() for _ in range(3)]
    assert len(results[0].random_effects["g"]) == 120_000
    each = iter(results)
    assert timings.ratio(lambda: shown(next(each)), fitted, turns=3) < 2  # 0.2; level by level 50


MIXED_MODELS = {
    "slopes": "y ~ x + (x | g)",
    "two terms of a factor": "y ~ x + (1 | g) + (0 + x | g)",
    "crossed": "y ~ x + (1 | g) + (1 | h)",
}


@pytest.mark.parametrize("name", MIXED_MODELS)
@pytest.mark.parametrize("df_method", ["satterthwaite", "kenward-roger"])
def test_errors_of_prediction_are_those_of_the_mixed_model_equations(name, df_method):
    """The block of the effects in the inverse of Henderson's matrix, written out."""
    rng = np.random.default_rng(2)
    g, h, x = rng.integers(0, 9, 120), rng.integers(0, 7, 120), rng.normal(size=120)
    y = x + rng.normal(size=9)[g] + rng.normal(size=9)[g] * x + rng.normal(size=7)[h]
    y = y + rng.normal(size=120)
    data = pd.DataFrame({"y": y, "x": x, "g": g, "h": h})
    res = lmm.fit(MIXED_MODELS[name], data, df_method=df_method)
    X, terms = np.asarray(res.model_matrix()), res.design.terms
    blocks, inverse, keys = [], [], []
    for term, S in zip(terms, res.estimates.covariances, strict=True):
        columns = np.column_stack([np.ones(120) if n == "Intercept" else x
                                   for n in term.names])  # fmt: skip
        code = {"g": g, "h": h}[term.group]
        for level in term.levels:
            blocks.append(columns * (code == int(level))[:, None])
            inverse.append(np.linalg.inv(S))
            keys += [(term.group, n, level) for n in term.names]
    Z = np.column_stack(blocks)
    V = res.scale * np.eye(120) + Z @ block_diag(*map(np.linalg.inv, inverse)) @ Z.T
    C = np.linalg.inv(Z.T @ Z / res.scale + block_diag(*inverse))
    slopes = -block_diag(*map(np.linalg.inv, inverse)) @ Z.T @ np.linalg.solve(V, X)
    error = C + slopes @ res.cov_params().to_numpy()[:2, :2] @ slopes.T
    frame = res.random_effects_frame(given_beta=False)
    found = frame.set_index(["factor", "term", "level"])["std_error"]
    np.testing.assert_allclose(found[keys], np.sqrt(np.diag(error)), rtol=1e-9)
    two = {"g": [terms[-1].levels[0], terms[-1].levels[3]]} if name != "crossed" else {"g": 0}
    joint = res.joint_effects_cov(two, given_beta=False)
    at = [keys.index((f, n, level)) for f, level, n in joint.index]
    np.testing.assert_allclose(joint, error[np.ix_(at, at)], rtol=1e-8, atol=1e-12)
