"""Numbers that come with labels go by these: weights, hypotheses, penalties, tested values."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax import penalties

CAKE = lmm.load_dataset("cake")
FORMULA = "angle ~ recipe + temp + (1 | recipe:replicate)"
NAMES = ["Intercept", "recipe[T.B]", "recipe[T.C]", "temp"]
SAME = 1e-12  # the same numbers in another order


@cache
def fitted() -> lmm.LMMResults:
    return lmm.fit(FORMULA, CAKE)


@cache
def means():
    return lmm.emmeans(fitted(), "recipe")


def frame_of(kind: str, columns: dict):
    """A frame of a kind."""
    if kind == "pandas":
        return pd.DataFrame(columns)
    return pytest.importorskip(kind).__dict__["DataFrame" if kind == "polars" else "table"](columns)


@pytest.mark.parametrize(
    "method",
    [
        {"c1": pd.Series([-1, 1, 0], index=list("BAC"))},
        {"c1": {"B": -1, "A": 1}},
        pd.Series([-1, 1], index=list("BA")),
        pd.DataFrame([[-1, 1, 0]], columns=list("BAC"), index=["c1"]),
        pd.DataFrame([[1, -1, 0]]),
        pd.Series([1, -1, 0]),
    ],
)
def test_weights_of_contrasts_go_by_their_labels(method):
    found = means().contrast(method).to_frame()
    expected = means().contrast({"c1": [1, -1, 0]}).to_frame()
    assert_close(found["estimate"], expected["estimate"], SAME)
    assert found["contrast"].tolist() == ["c1"]


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_columns_of_every_kind_of_frame_are_labels(kind):
    weights = frame_of(kind, {"B": [-1], "A": [1], "C": [0]})
    found = means().contrast(weights).to_frame()["estimate"]
    assert_close(found, means().contrast([1, -1, 0]).to_frame()["estimate"], SAME)
    rows = frame_of(kind, {"temp": [1.0], "Intercept": [0.0]})
    assert fitted().t_test(rows).c_names == ("temp",)
    assert fitted().wald_test(rows).c_names == ("temp",)


def test_levels_may_be_called_by_their_values():
    res = lmm.fit("angle ~ factor(temp) + (1 | recipe:replicate)", CAKE)
    temps = lmm.emmeans(res, "temp")
    found = temps.contrast({"q": pd.Series({185: -1, 175: 1})}).to_frame()["estimate"]
    assert_close(found, temps.contrast([1, -1, 0, 0, 0, 0]).to_frame()["estimate"], SAME)
    products = temps.contrast(interaction={"q": {"185": -1, "175": 1}})
    assert_close(products.to_frame()["estimate"], found, SAME)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (pd.Series([1, 2, 10], index=list("CBA")), [10, 2, 1]),
        ({"B": 2, "C": 1, "A": 10}, [10, 2, 1]),
        (pd.Series([10, 2, 1]), [10, 2, 1]),
    ],
)
def test_weights_of_means_go_by_their_labels(weights, expected):
    found, same = (lmm.emmeans(fitted(), "1", weights=w).to_frame() for w in (weights, expected))
    assert_close(found["estimate"], same["estimate"], SAME)


def test_weights_of_combinations_go_by_both_labels():
    res = lmm.fit("angle ~ recipe * factor(temp) + (1 | recipe:replicate)", CAKE)
    own = pd.MultiIndex.from_product(
        [sorted(CAKE["temp"].unique()), list("ABC")], names=["temp", "recipe"]
    )
    weights = pd.Series(np.arange(18.0) ** 2, index=own)  # the recipe fastest
    turned = weights.sample(frac=1, random_state=1).swaplevel()
    expected, *found = (
        lmm.emmeans(res, "1", weights=w).to_frame()["estimate"]
        for w in (weights.to_numpy(), weights, turned)
    )
    for each in found:
        assert_close(each, expected, SAME)


@pytest.mark.parametrize("kind", ["series", "pandas", "polars"])
def test_penalties_go_by_their_labels(kind):
    weights = {"temp": 1e4, "recipe[T.C]": 0.0, "recipe[T.B]": 0.0, "Intercept": 0.0}
    one = {name: [value] for name, value in weights.items()}
    alpha = pd.Series(weights) if kind == "series" else frame_of(kind, one)
    found = lmm.fit_regularized(FORMULA, CAKE, alpha=alpha)
    beta = found.fe_params if kind == "series" else found.fe_params.iloc[0]
    assert beta["temp"] == 0 and beta["Intercept"] > 30


def test_tested_values_go_by_their_labels():
    rows = pd.DataFrame(np.eye(4)[1:3], columns=NAMES, index=["b", "c"])
    q = pd.Series([2.0, 1.0], index=["c", "b"])
    assert fitted().t_test((rows, q)).null_value.tolist() == [1, 2]
    q = pd.Series({"recipe[T.B]": 2.0, "temp": 1.0})
    assert fitted().t_test(("temp, recipe[T.B]", q)).null_value.tolist() == [1, 2]
    null = pd.Series([2.0, 1.0, 3.0], index=list("BAC"))
    assert means().test(null=null)["null"].tolist() == [1, 2, 3]


REFUSED = {
    "contrast": (lambda: means().contrast(pd.DataFrame([[-1, 1]], columns=list("xy"))), "'x'"),
    "twice": (lambda: means().contrast({"q": pd.Series([1, -1], index=list("AA"))}), "'A' twice"),
    "turned": (lambda: means().contrast(pd.Series([0, -1, 1])[::-1]), "label 2"),
    "weights": (lambda: lmm.emmeans(fitted(), "1", weights={"A": 1, "B": 2}), "no 'C'"),
    "alpha": (lambda: lmm.fit_regularized(FORMULA, CAKE, alpha={"temp": 1.0}), "no 'Intercept'"),
    "hypothesis": (lambda: fitted().t_test(frame_of("polars", {"x": [1.0]})), "label 'x'"),
    "q": (lambda: fitted().t_test((np.eye(4)[:1], pd.Series({"x": 1.0}))), "q has the label 'x'"),
    "null": (lambda: means().test(null=pd.Series({"A": 1.0})), "null has no 'B'"),
    "penalty": (
        lambda: lmm.fit(FORMULA, CAKE, fe_pen=penalties.L2(weights=pd.Series(0.0, index=NAMES))),
        "without labels",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_are_unknown_or_left_out_are_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(lmm.DataError, match=message):
        call()
