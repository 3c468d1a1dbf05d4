"""Fixed factors nested in others: groups in which they have few levels, weights of cells."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm

DATA = Path(__file__).parent / "data"

pytestmark = pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")


def unbalanced(levels, formula, seed=0):
    """Fit of a table with so many levels of b, and rows of each, in every cell (a, c)."""
    rng = np.random.default_rng(seed)
    rows = [
        (a, c, f"{a}{c}{k}")
        for (a, c), counts in levels.items()
        for k, count in enumerate(counts)
        for _ in range(count)
    ]
    data = pd.DataFrame(rows, columns=["a", "c", "b"])
    data["g"] = rng.integers(0, 8, len(data))
    data["y"] = rng.normal(size=len(data)) + rng.normal(size=8)[data["g"]] + data["b"].map(len)
    return lmm.fit(f"y ~ {formula} + (1 | g)", data), data


def test_a_group_with_one_nested_level_a_cell_tests_what_it_is_nested_in():
    """emmeans gives the test of c there: the square of its only contrast."""
    cells = {("p", "u"): [6, 6], ("p", "v"): [6, 6], ("q", "u"): [6], ("q", "v"): [6]}
    res, _ = unbalanced(cells, "(a * c) / b")
    pairs = lmm.emmeans(res, "c", by="a").pairs().to_frame().set_index("a")["statistic"]
    for tests in (
        lmm.joint_tests(res, by="a"),
        lmm.emmeans(res, ["c", "b"], by="a").joint_tests(),
    ):
        assert tests["term"].tolist() == ["c", "c", "c:b"]
        assert_close(tests["f"][:2], pairs**2, 1e-8)
    alone = lmm.joint_tests(res, at={"a": ["q"]})
    assert alone["term"].tolist() == ["c"]
    assert_close(alone["f"][0], pairs["q"] ** 2, 1e-8)


@pytest.fixture(scope="module")
def uneven():
    cells = {
        ("p", "u"): [3, 5], ("p", "v"): [2, 2, 6], ("q", "u"): [4], ("q", "v"): [3, 7],
    }  # fmt: skip
    return unbalanced(cells, "a * c + a:c:b")


@pytest.mark.parametrize("weights", ["proportional", "outer"])
def test_nested_factors_go_first_by_their_shares_in_a_cell(uneven, weights):
    """What of the factors that b is nested in is averaged has the weights of all rows."""
    res, data = uneven
    cells = lmm.emmeans(res, ["a", "c", "b"]).to_frame().set_index(["a", "c", "b"])["estimate"]
    counts = data.groupby(["a", "c", "b"]).size()
    within = counts / counts.groupby(["a", "c"]).transform("sum")
    means = (cells * within).groupby(["a", "c"]).sum().unstack()
    expected = means @ (data["c"].value_counts() / len(data))
    found = lmm.emmeans(res, "a", weights=weights).to_frame()["estimate"]
    assert_close(found, expected[["p", "q"]], 1e-8)


def without_a_cell(c):
    """Fit of b nested in a, beside a factor c with these levels in turn; v and m do not meet."""
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"b": np.repeat(list("stuvwx"), 12), "c": list(c) * (72 // len(c))})
    data["a"] = data["b"].map(dict(zip("stuvwx", "pppqqr", strict=True)))
    data["g"] = np.tile(np.arange(8), 9)
    data["y"] = rng.normal(size=72) + rng.normal(size=8)[data["g"]]
    data = data[~((data["b"] == "v") & (data["c"] == "m"))]
    return lmm.fit("y ~ a / b + c + (1 | g)", data), data


@pytest.mark.parametrize("weights", ["proportional", "flat", "cells", "outer"])
def test_a_nested_factor_is_kept_with_what_it_is_nested_in(weights):
    """As emmeans 1.8.4 has it; of a cell without rows, beside which nothing is averaged, too."""
    res, data = without_a_cell("klmm")
    for keep in (["b"], ["b", "c"]):
        alone, beside = (
            lmm.emmeans(res, own, weights=weights).to_frame().set_index(keep)["estimate"]
            for own in (keep, [*keep, "a"])
        )
        assert_close(alone.sort_index(), beside.sort_index(), 1e-10)
        assert alone.notna().all()
    shares = data["c"].value_counts() / len(data)
    if weights in ("proportional", "outer"):
        means = lmm.emmeans(res, ["b", "c"]).to_frame().pivot(index="b", columns="c")["estimate"]
        own = lmm.emmeans(res, "b", weights=weights).to_frame().set_index("b")["estimate"]
        assert_close(own, (means @ shares)[own.index], 1e-8)
    with pytest.raises(lmm.DataError, match="add up to nothing"):
        lmm.emmeans(res, "b", weights=[0.0] * 9)


def test_flat_weights_are_those_of_the_cells_with_rows():
    """emmeans 1.8.4: nested levels first, those that have rows beside the level of c."""
    res, _ = without_a_cell("klm")
    means = lmm.emmeans(res, ["a", "b", "c"]).to_frame()
    own = means[(means["c"] == "m") & (means["b"] != "v")]
    expected = own.groupby("a")["estimate"].mean().mean()
    found = lmm.emmeans(res, "c", weights="flat").to_frame().set_index("c")["estimate"]["m"]
    assert_close(found, expected, 1e-8)


def test_weights_that_add_up_to_nothing_give_no_mean():
    """emmeans 1.8.4: nonEst, zeros and weights that cancel alike; an error where none is left."""
    res, _ = without_a_cell("klm")
    levels = list(lmm.emmeans(res, "b").to_frame()["b"])  # beside each level of c
    of_p = np.array([level in "stu" for level in levels] * 3, dtype=float)
    signs = np.repeat([1.0, -1.0, 0.0], 6)
    for weights in (1.0 - of_p, np.where(of_p == 1.0, 0.1 * signs, 1.0)):
        found = lmm.emmeans(res, "a", weights=weights).to_frame().set_index("a")["estimate"]
        assert found.isna().tolist() == [True, False, False]
    some = lmm.emmeans(res, "a", weights=of_p)
    assert some.to_frame()["estimate"].notna().tolist() == [True, False, False]
    assert "its weights add up to" in str(some)
    for nothing in (signs, np.where(signs == 0.0, 1e-17, signs)):
        with pytest.raises(lmm.DataError, match=r"weights=.*: they add up to nothing"):
            lmm.emmeans(res, "a", weights=nothing)


def test_levels_outside_of_what_they_are_nested_in_are_named():
    res, data = without_a_cell("klm")
    message = r"at has 'v' for 'b', which is a level of 'a' 'q': the grid has 'p', 'r'$"
    for own in (["v"], ["s", "v"]):
        for ask in (
            lambda **at: lmm.emmeans(res, "c", **at),
            lambda **at: lmm.joint_tests(res, **at),
        ):
            with pytest.raises(lmm.DataError, match=message):
                ask(at={"a": ["p", "r"], "b": own})
    inside = lmm.emmeans(res, ["a", "b"], at={"b": ["s", "v"]}).to_frame()
    assert inside[["a", "b"]].to_numpy().tolist() == [["p", "s"], ["q", "v"]]
    data = data.assign(d=data["c"].map({"k": "m", "l": "n", "m": "n"}))
    crossed = data[(data["a"] != "r") | (data["d"] == "n")].assign(b=data["a"] + data["d"] + "1")
    more = crossed.assign(b=crossed["b"].str[:2] + "2", y=crossed["y"] + 1.0)
    both = lmm.fit("y ~ a + d + b + (1 | g)", pd.concat([crossed, more], ignore_index=True))
    with pytest.raises(lmm.DataError, match="at leaves no combination of levels"):
        lmm.emmeans(both, "b", at={"a": ["r"], "d": ["m"]})


NESTED = json.loads((DATA / "nesting_by_formula.json").read_text(encoding="utf-8"))["models"]


@pytest.mark.parametrize("formula", NESTED)
def test_what_the_formula_nests_is_nested_as_in_emmeans(formula):
    """``B / A`` with levels of A that all B share: A within B, one test of it."""
    data = pd.read_csv(DATA / "nesting_by_formula.csv").assign(z=lambda d: 1.0 * (d["K"] == "l"))
    res, expected = lmm.fit(f"y ~ {formula} + (1 | g)", data), NESTED[formula]
    tests = lmm.joint_tests(res)
    names = [frozenset(term.split(":")) for term in tests["term"]]
    assert names == [frozenset(term.split(":")) for term in expected["tests"]["term"]]
    for column, name, places in (("df_num", "df1", 0), ("df_denom", "df2", 2), ("f", "f", 3)):
        rounded = np.array(expected["tests"][name], float)
        if column == "df_denom":  # the least of the rows', which depend on the contrasts' basis
            assert_close(tests[column], rounded, 0.01)
        else:
            assert np.abs(tests[column] - rounded).max() <= 0.51 * 10.0**-places
    for name, own in expected["means"].items():
        found = lmm.emmeans(res, name).to_frame()
        assert list(found.columns[: len(own["labels"])]) == list(own["labels"])
        for column, name in (("estimate", "emmean"), ("std_error", "SE"), ("df", "df")):
            assert_close(found[column], own[name], 1e-5)  # two optimizers


@pytest.mark.parametrize("formula", ["B/A", "B/A + x", "A*B - A"])
def test_shares_of_what_the_formula_nests_are_those_within(formula):
    """Rows of A in every level of B weigh, as emmeans has it, not those of A in all."""
    data = pd.read_csv(DATA / "nesting_by_formula.csv")
    res = lmm.fit(f"y ~ {formula} + (1 | g)", data)
    cells = lmm.emmeans(res, "A").to_frame().set_index(["B", "A"])["estimate"]
    counts = data.groupby(["B", "A"]).size()
    expected = (cells * counts).groupby("B").sum() / counts.groupby("B").sum()
    for weights in ("proportional", "outer", "cells"):
        found = lmm.emmeans(res, "B", weights=weights).to_frame()["estimate"]
        assert_close(found, expected, 1e-10)
