"""Lines that R's users write: the columns of R's model.matrix, for these rows and for new ones."""

import pickle

import numpy as np
import pandas as pd
import pytest
from formulaic.transforms.contrasts import PolyContrasts, SumContrasts, TreatmentContrasts

import lmm_jax as lmm
from lmm_jax.designs.fixed_terms import fixed_terms, full_matrix
from lmm_jax.errors import DataError, FormulaError, UnknownLabel
from lmm_jax.formulas import matrices
from lmm_jax.formulas import parse as formula

PRINTED = 1e-11  # R's numbers are typed with twelve digits

DATA = pd.DataFrame(
    {
        "x": [0.5, 1.5, 2.5, 4.0, 6.0, 7.0],
        "z": [2.0, 1.0, 5.0, 3.0, 4.0, 0.0],
        "f": list("abcabc"),
        "h": list("uvuvuv"),
        "k": [4, 7, 9, 4, 7, 9],
        "on": [True, False, False, True, True, False],
    }
)
A, B, C = ([float(level == label) for label in DATA.f] for level in "abc")
LINEAR = [-0.707106781187, 0.0, 0.707106781187] * 2
QUADRATIC = [0.408248290464, -0.816496580928, 0.408248290464] * 2

SCALED = [
    -1.205525143034, -0.814544015564, -0.423562888093, 0.162908803113, 0.944871058054,
    1.335852185525,
]  # fmt: skip
POLY_1 = [
    -0.539127233682, -0.364275157893, -0.189423082105, 0.072855031579, 0.422559183156,
    0.597411258945,
]  # fmt: skip
POLY_2 = [
    0.551957343360, -0.019469394828, -0.387116467153, -0.556500202153, -0.069116351638,
    0.480245072412,
]  # fmt: skip

# A term, and the columns of model.matrix(~ term) beside the intercept: R 4.2.2.
COLUMNS = [
    ("C(f, contr.treatment(3, base=2))", [A, C]),
    ("C(f, contr.treatment(3, 2))", [A, C]),
    ("C(k, contr.treatment(3, base=2))", [A, C]),
    ("C(f, contr.treatment(c('a', 'b', 'c'), base=3))", [A, B]),
    ("C(f, contr.treatment(3))", [B, C]),
    ("C(f, contr.sum(3))", [[1, 0, -1] * 2, [0, 1, -1] * 2]),
    ("C(f, contr.helmert(3))", [[-1, 1, 0] * 2, [-1, -1, 2] * 2]),
    ("C(f, contr.poly(3))", [LINEAR, QUADRATIC]),
    ("C(f, sum)", [[1, 0, -1] * 2, [0, 1, -1] * 2]),
    ("C(f, helmert)", [[-1, 1, 0] * 2, [-1, -1, 2] * 2]),
    ("C(f, poly)", [LINEAR, QUADRATIC]),
    ("C(f, treatment)", [B, C]),
    ("C(f, SAS)", [A, B]),
    ("factor(h, labels=c('b', 'a'))", [[0, 1] * 3]),
    ("factor(h, labels='L')", [[0, 1] * 3]),
    ("C(factor(f, labels=c('z', 'm', 'a')), contr.sum)", [[1, 0, -1] * 2, [0, 1, -1] * 2]),
    ("relevel(factor(f, labels=c('z', 'm', 'a')), ref='m')", [A, C]),
    ("relevel(factor(k), ref='7')", [A, C]),
    ("C(k, Treatment('7'))", [A, C]),
    ("C(factor(f, levels=c('c', 'b', 'a')), contr.sum)", [[-1, 0, 1] * 2, [-1, 1, 0] * 2]),
    ("C(f, contrasts=sum)", [[1, 0, -1] * 2, [0, 1, -1] * 2]),
    ("C(factor(f, ordered=TRUE))", [LINEAR, QUADRATIC]),
    ("factor(factor(f, ordered=TRUE), ordered=FALSE)", [B, C]),
    ("cut(x, c(0, 2, 5, 8), labels=c('u', 'v', 'u'))", [[0, 0, 1, 1, 0, 0]]),
    ("factor(k, labels=c('lo', 'mid', 'hi'))", [B, C]),
    ("factor(f, levels=c('c', 'b', 'a'), labels=c('s', 't', 's'))", [B]),
    ("factor(f, ordered=TRUE)", [LINEAR, QUADRATIC]),
    ("factor(f, levels=c('b', 'a', 'c'), ordered=TRUE)",
     [[0.0, -0.707106781187, 0.707106781187] * 2,
      [-0.816496580928, 0.408248290464, 0.408248290464] * 2]),
    ("cut(x, 3, labels=FALSE)", [[1, 1, 1, 2, 3, 3]]),
    ("cut(x, quantile(x, c(0, 1, 2, 3) / 3), include.lowest=TRUE)",
     [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]),
    ("cut(x, quantile(x), include.lowest=TRUE, labels=FALSE)", [[1, 1, 2, 3, 4, 4]]),
    ("scale(x)[,1]", [SCALED]),
    ("I(2 * scale(x)[, 1])", [[2 * value for value in SCALED]]),
    ("c(scale(x))", [SCALED]),
    ("as.vector(scale(x))", [SCALED]),
    ("poly(x, 2)[,2]", [POLY_2]),
    ("I(x %% 3)", [[0.5, 1.5, 2.5, 1.0, 0.0, 1.0]]),
    ("(!on)", [[0, 1, 1, 0, 0, 1]]),
    ("poly(x, z, degree=2)",
     [POLY_1, POLY_2,
      [-0.119522860933, -0.358568582800, 0.597614304667, 0.119522860933, 0.358568582800,
       -0.597614304667],
      [0.064438029377, 0.130617627115, -0.113201943500, 0.008707841808, 0.151516447454,
       -0.357021514115],
      [-0.436435780472, -0.109108945118, 0.545544725590] * 2]),
    ("poly(x, z, degree=2, raw=TRUE)",
     [DATA.x, DATA.x**2, DATA.z, [1.0, 1.5, 12.5, 12.0, 24.0, 0.0], DATA.z**2]),
    ("bs(x, df=5, Boundary.knots=c(0, 10))",
     [[0.479013009391, 0.528871118315, 0.186819727891, 0.005442176871, 0.0, 0.0],
      [0.064584591233, 0.408619128125, 0.659520191055, 0.506817194963, 0.153191489362,
       0.064627659574],
      [0.001236263736, 0.033379120879, 0.153418644506, 0.447571622583, 0.512947034857,
       0.377968679267],
      [0.0, 0.0, 0.000241436547, 0.040169005583, 0.318236475781, 0.473663426784],
      [0.0, 0.0, 0.0, 0.0, 0.015625, 0.083740234375]]),
    ("bs(x, knots=c(2, 3), Boundary.knots=c(0, 10))[,2]",
     [[0.105555555556, 0.6, 0.733506944444, 0.385714285714, 0.114285714286, 0.048214285714]]),
]  # fmt: skip


def built(rhs, data=DATA):
    return matrices.build(formula.parse_rhs(rhs), data)


@pytest.mark.parametrize(("term", "expected"), COLUMNS)
def test_columns_are_those_of_r(term, expected):
    found = built(term)
    np.testing.assert_allclose(found.values[:, 1:].T, expected, atol=PRINTED)
    spec = pickle.loads(pickle.dumps(found.spec))
    for row in range(len(DATA)):  # one row of new data gets what it had among all
        alone = matrices.replay(spec, DATA.iloc[[row]].set_axis([9]))
        np.testing.assert_allclose(alone, found.values[[row]], atol=PRINTED)


def test_names_of_new_labels_and_reordered_levels():
    assert built("factor(h, labels=c('b', 'a'))").names[1] == "C(h, labels=c('b', 'a'))[T.a]"
    numbered = built("factor(h, labels='L')").names
    assert numbered[1] == "C(h, labels='L')[T.L2]"
    assert built("C(f, contr.treatment(3, base=2))").names[1:] == (
        "C(f, contr.treatment(3, base=2))[T.a]", "C(f, contr.treatment(3, base=2))[T.c]",
    )  # fmt: skip


def test_labels_are_printed_as_in_r():
    """R 4.2.2: levels(factor(c(1.5, 2, 3))) and levels(factor(as.Date(...)))."""
    rng = np.random.default_rng(3)
    data = pd.concat([DATA] * 10, ignore_index=True)
    days = pd.to_datetime(["2024-01-01", "2024-02-01", "2024-03-01"] * 20)
    data = data.assign(d=days, dose=[1.5, 2.0, 3.0] * 20, g=np.repeat(np.arange(12), 5))
    data = data.assign(y=rng.normal(size=60))
    assert built("C(dose, sum)", data).names[1:] == ("C(dose, sum)[S.1.5]", "C(dose, sum)[S.2]")
    plain = lmm.fit("y ~ f * h + (1 | g)", data)
    expected = full_matrix(plain.design, fixed_terms(plain.design), plain.design.exog)
    for name, labels in (("d", ["2024-02-01", "2024-03-01"]), ("dose", ["2", "3"])):
        res = lmm.fit(f"y ~ factor({name}) * h + (1 | g)", data)
        assert list(res.fe_params.index[1:3]) == [f"C({name})[T.{label}]" for label in labels]
        found = full_matrix(res.design, fixed_terms(res.design), res.design.exog)
        np.testing.assert_array_equal(found.n_first, expected.n_first)  # it knows their names
        first = lmm.emmeans(res, name).pairs().to_frame()["contrast"][0]
        assert first in ("(2024-01-01) - (2024-02-01)", "1.5 - 2")


def test_a_level_without_a_label_is_named():
    spec = built("factor(h, labels=c('b', 'a'))").spec
    with pytest.raises(UnknownLabel, match=r"has the level 'w', which is none of levels=\['u'"):
        matrices.replay(spec, DATA.assign(h="w"))


def test_factors_of_r_in_a_model():
    """Another coding of the same space has the same likelihood, means and predictions."""
    rng = np.random.default_rng(3)
    data = pd.concat([DATA] * 10, ignore_index=True)
    data = data.assign(g=np.repeat(np.arange(12), 5), y=rng.normal(size=60))
    plain = lmm.fit("y ~ f + (1 | g)", data, reml=False)
    for term in ("C(f, contr.treatment(3, base=2))", "factor(f, labels=c('p', 'q', 'r'))"):
        res = lmm.fit(f"y ~ {term} + (1 | g)", data, reml=False)
        np.testing.assert_allclose(res.llf, plain.llf, rtol=1e-10)
        np.testing.assert_allclose(res.predict(data[1:2]), plain.predict(data[1:2]), rtol=1e-7)
        means = [lmm.emmeans(r, "f").to_frame()["estimate"] for r in (res, plain)]
        np.testing.assert_allclose(*means, rtol=1e-7)


# What is refused, and what to write.
INSTEAD = [
    ("contr.sum(f)", r"beside the factor: write `C\(f, contr.sum\)`"),
    ("C(f, contr.sum(2))", r"contr.sum\(2\) is of 2 levels, and there are 3, 'a', 'b', 'c'"),
    ("C(f, contr.treatment(3, base=4))", "base=4: the place of a level, 1 to 3"),
    ("C(f, contr.treatment(base=2))",
     r"reference 2 is none of.*`Treatment\('a'\)`.*`contr.treatment\(3, base=2\)`"),
    ("C(f, Treatment('d'))", r"reference 'd' is none of the levels 'a', 'b', 'c': write `Tr"),
    ("C(f, contr.treatment(3, contrasts=FALSE))", "has no `contrasts`: it has n, .* base$"),
    ("C(f, contr.sum('a'))", r"contr.sum\('a'\): the number of levels"),
    ("contr.sum(3)", r"gives one value, contr.sum\(3\): a term needs"),
    ("C(f, contr.poly(c(1, 2, 4)))", "scores have a name"),
    ("factor(f, ordered='yes')", "ordered='yes': pass True or False"),
    ("C(f, contr.sum(3, 2))", "takes the number of levels, and others by their names"),
    ("factor(f, labels=c('p', 'q'))", "labels has 2 names, 3 are needed"),
    ("factor(f, exclude='a')", "unexpected keyword argument 'exclude'; it is `C\\(x, contrasts"),
    ("cut(x, 3, labels=c('p', 'q'))", "labels has 2 names, 3 are needed"),
    ("x %% 3", r"`%%` is arithmetic: put it in a call, `I\(x %% 3\)`"),
    ("z + x%/%3", r"`%/%` is arithmetic: put it in a call, `I\(x %/% 3\)`"),
    ("!on", r"`!` negates a logical: put it in parentheses, `\(!flag\)`"),
    ("cut(x, quantile(x, 0:3/3))", r"the values of `0:3` are written `c\(0, 1, 2, 3\)`"),
    ("ns(x, knots=1:40)", r"`c\(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …\)`"),
    ("scale(x)[,2]", r"`\[, 2\]` of 1 columns"),
    ("bs(x, df=5, Boundary.knots=10)", "Boundary.knots has 1 numbers: the two ends"),
    ("poly(x, z, 2, degree=2)", "a degree and raw= follow the columns, each of them once"),
    ("C(f, sum(4))", r"`sum\(4\)` gives no contrasts: write `contr.sum\(4\)`"),
    ("C(f, poly(3, c(1, 2, 4)))", r"no contrasts: write `contr.poly\(3, c\(1, 2, 4\)\)`"),
    ("C(f, contrasts=helmert(3))", r"no contrasts: write `contr.helmert\(3\)`"),
    ("C(f, 4)", r"^4 beside a factor: contrasts are needed, `C\(f, Sum\)`"),
    ("relevel(factor(k), ref='5')", r"'5' is none of the levels 4, 7, 9: a label .*`ref='4'`"),
    ("relevel(f, ref=3)", r"3 is none of the levels 'a', 'b', 'c': a label is needed, `ref='c'`"),
    ("poly(f, 2)", r"`poly\(f, 2\)` computes with what is text.*`C\(f, poly\)`"),
    ("ns(x, df=3) + bs(f, df=4)", r"`bs\(f, df=4\)` computes with what is text"),
    ("x[,0]", r"columns are counted from 1, one at a time: `poly\(x, 2\)\[, 1\]`"),
    ("poly(x, 3)[, 1:2]", "columns are counted from 1, one at a time"),
    ("factor(h, labels=c(None, 'b'))", "labels holds None: each of them needs a name"),
    ("factor(h, labels=c('a', NA))", "labels holds nan: each of them needs a name"),
    ("C(f, c(-1, 0, 1))", r"levels have a name.*contrasts are written row by row"),
    ("I(x - ave(x, f, FUN=mean))", r"no function `ave`; write `x.groupby\(g\).transform"),
    ("findInterval(x, c(1, 2))", r"write `cut\(x, c\(1, 2\)\)`"),
    ("rowMeans(cbind(x, z))", r"write it out, `\(x \+ z\) / 2`"),
]  # fmt: skip


def test_splines_with_a_constant_among_them():
    """R's bs(x, df = 5, intercept = TRUE) without another intercept, rows 1, 3 and 5."""
    expected = [
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.020285499624, 0.539986396312, 0.370873881363, 0.068854222700, 0.0],
        [0.0, 0.006311637081, 0.099513477975, 0.499804514574, 0.394370370370],
    ]
    for name in ("intercept", "include_intercept"):
        found = built(f"0 + bs(x, df=5, {name}=TRUE)").values
        np.testing.assert_allclose(found[::2], expected, atol=PRINTED)


def test_degrees_of_several_columns_are_their_names():
    assert built("poly(x, z, degree=2)").names[1:] == tuple(
        f"poly(x, z, degree=2)[{name}]" for name in ("1.0", "2.0", "0.1", "1.1", "0.2")
    )


@pytest.mark.parametrize(("term", "message"), INSTEAD)
def test_what_to_write_instead(term, message):
    with pytest.raises((DataError, FormulaError), match=message):
        built(term)


def test_contrasts_are_no_sums_of_columns():
    """`contr.sum(3)` is not `x.sum()`, which is kept of the first data; nor is a reference."""
    assert list(built("C(f, contr.sum(3))").spec.transform_state) == ["C(f, contr.sum(3))"]
    assert not any(built("C(f, Treatment('b')) + C(f, sum):x").spec.transform_state.values())


def test_contrasts_of_the_context_go_before_those_of_a_name():
    given = {"treatment": TreatmentContrasts("c"), "helmert": SumContrasts()}
    for name, own in (("treatment", "[T.b]"), ("helmert", "[S.b]")):
        made = matrices.build(formula.parse_rhs(f"~ C(f, {name})"), DATA, context=given)
        assert made.names[-1].endswith(own)
    data = DATA.assign(y=[1.0, 3.0, 2.0, 5.0, 4.0, 7.0], g=[1, 1, 2, 2, 3, 3])
    context = {"poly": PolyContrasts(scores=[1, 2, 9]), "sum": np.sum}
    res = lmm.fit("y ~ C(f, poly) + (1 | g)", data, context=context)
    again = pickle.loads(pickle.dumps(res)).predict(data)
    np.testing.assert_array_equal(again, res.predict(data))
    res = lmm.fit("y ~ C(f, sum) + I(x / sum(x)) + (1 | g)", data, context=context)
    assert res.fe_params.index[1] == "C(f, sum)[S.a]"  # a function is no contrasts


def test_knots_in_any_order():
    one, two = (
        matrices.build(formula.parse_rhs(f"~ bs(x, knots=c({knots}))"), DATA).values
        for knots in ("4, 2", "2, 4")
    )
    np.testing.assert_array_equal(one, two)


def test_contrasts_as_a_frame_have_its_names():
    """Rows by their labels, whatever their order; without labels in the order of the levels."""
    cake = lmm.load_dataset("cake")
    M = pd.DataFrame({"a_c": [0.0, 1.0, 0.0], "b_c": [1.0, 0.0, -1.0]}, ["B", "A", "C"])
    array = M.loc[["A", "B", "C"]].to_numpy()  # noqa: F841  formulas find what they name
    named = lmm.fit("angle ~ C(recipe, M) + (1 | replicate)", cake)
    plain = lmm.fit("angle ~ C(recipe, array) + (1 | replicate)", cake)
    assert list(named.fe_params.index) == ["Intercept", "C(recipe, M)[a_c]", "C(recipe, M)[b_c]"]
    np.testing.assert_array_equal(named.fe_params, plain.fe_params)
    unnamed = M.loc[["A", "B", "C"]].reset_index(drop=True)  # noqa: F841
    same = lmm.fit("angle ~ C(recipe, unnamed) + (1 | replicate)", cake)
    np.testing.assert_array_equal(named.fe_params, same.fe_params)
    before = named.predict(cake)
    M.iloc[:] = 0.0  # the model has what they were
    np.testing.assert_array_equal(named.predict(cake), before)
    lost = pd.DataFrame({"x": [0.0, 1.0, 2.0]}, ["A", "B", "D"])  # noqa: F841
    with pytest.raises(lmm.DataError, match="one for each of the levels 'A', 'B', 'C'"):
        lmm.fit("angle ~ C(recipe, lost) + (1 | replicate)", cake)


def test_sdif_are_differences_of_neighbours():
    cake = lmm.load_dataset("cake")
    res = lmm.fit("angle ~ C(recipe, contr.sdif) + (1 | replicate)", cake)
    means = cake.groupby("recipe")["angle"].mean()  # of a balanced design
    np.testing.assert_allclose(res.fe_params.iloc[1:], np.diff(means), rtol=1e-10)


def test_frames_of_contrasts_go_by_their_labels():
    """Numbers from 0 that nobody has set go by place, all others are labels of levels."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"f": np.tile([1, 2, 3, 4], 10), "g": np.repeat(np.arange(8), 5)})
    data["y"] = data["f"] ** 2 + rng.normal(size=40)
    M = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]])
    back, listed = (pd.DataFrame(M[::-1], index=index)
                    for index in (pd.RangeIndex(4, 0, -1), [4, 3, 2, 1]))  # fmt: skip
    plain = lmm.fit("y ~ C(f, M) + (1 | g)", data).fe_params
    for frame in (back, listed):
        found = lmm.fit("y ~ C(f, frame) + (1 | g)", data, context={"frame": frame}).fe_params
        np.testing.assert_array_equal(found, plain)
    for bad, message in ((pd.DataFrame(M, columns=["p", "p", "r"]), "name each"),
                         (pd.DataFrame(index=[1, 2, 3, 4]), "no columns"),
                         (np.zeros((4, 0)), "no columns"),
                         (pd.DataFrame(M, index=pd.RangeIndex(2, 6)), "one for each")):  # fmt: skip
        with pytest.raises(lmm.DataError, match=message):
            lmm.fit("y ~ C(f, bad) + (1 | g)", data, context={"bad": bad})
