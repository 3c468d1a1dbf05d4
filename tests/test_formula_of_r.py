"""Lines that R's users write: the columns of R's model.matrix, for these rows and for new ones."""

import pickle

import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
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
    ("factor(k, labels=c('lo', 'mid', 'hi'))", [B, C]),
    ("factor(f, levels=c('c', 'b', 'a'), labels=c('s', 't', 's'))", [B]),
    ("factor(f, ordered=TRUE)", [LINEAR, QUADRATIC]),
    ("factor(f, levels=c('b', 'a', 'c'), ordered=TRUE)",
     [[0.0, -0.707106781187, 0.707106781187] * 2,
      [-0.816496580928, 0.408248290464, 0.408248290464] * 2]),
    ("cut(x, 3, labels=FALSE)", [[1, 1, 1, 2, 3, 3]]),
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
    ("C(f, contr.sum(3, 2))", "takes the number of levels, and others by their names"),
    ("factor(f, labels=c('p', 'q'))", "labels has 2 names, 3 are needed"),
    ("factor(f, exclude='a')", "unexpected keyword argument 'exclude'; it is `C\\(x, contrasts"),
    ("cut(x, 3, labels=c('p', 'q'))", "labels has 2 names, 3 are needed"),
]  # fmt: skip


@pytest.mark.parametrize(("term", "message"), INSTEAD)
def test_what_to_write_instead(term, message):
    with pytest.raises((DataError, FormulaError), match=message):
        built(term)
