"""What is no part of formulas: code that does not run, and what R and Python read differently."""

import contextlib

import numpy as np
import pandas as pd
import pytest
from formula_samples import DATA, columns

import lmm_jax as lmm
from lmm_jax.designs.data_frames import callables
from lmm_jax.errors import DataError, FormulaError
from lmm_jax.formulas import matrices

TIGHT = 1e-12  # a few roundings of float64


def own(v):
    """A function beside the call."""
    return v


class Tools:
    @staticmethod
    def half(v):
        return v / 2


CODE = """
open('P', 'w')                    | no function `open`: Python's own functions
I(open('P', 'w').close())         | no method of columns|no function `open`
exec('1')                         | no function `exec`
eval('1')                         | no function `eval`
I(__import__('os').mkdir('P'))    | no method of columns|__import__
getattr(x, 'to_csv')              | no function `getattr`
I(getattr(x, 'to_csv')('P'))      | only a function by its name
print(x)                          | no function `print`
breakpoint()                      | no function `breakpoint`
`open`('P', 'w')                  | no function `open`
C(x, __import__('os'))            | no function `__import__`
{open('P', 'w')}                  | no function `open`
I(x.to_csv('P'))                  | `.to_csv` is no method
{x.to_pickle('P')}                | `.to_pickle` is no method
I(x.values.tofile('P'))           | `.tofile` is no method
I(x.to_numpy().dump('P'))         | `.dump` is no method
I(x.index.to_frame().to_csv('P')) | `.to_csv` is no method
Q('x').to_csv('P')                | cannot be read|is no method
I(Q('x').to_csv('P'))             | `.to_csv` is no method
I(x.apply('to_csv'))              | `.apply` is no method
I(x.agg('to_csv'))                | `.agg` is no method
I(x.pipe(own))                    | `.pipe` is no method|no column `own`
I(x.eval('1'))                    | `.eval` is no method
I(x.plot())                       | `.plot` is no method
I(x.transform('to_csv'))          | takes the name of a summary
I(x.groupby(g).transform('to_csv')) | takes the name of a summary
I(x.groupby(g).transform(f))      | takes the name of a summary
I(x.map('to_csv'))                | takes a dictionary
I('{}'.format(x))                 | `.format` is no method
I(str.format('{}', x))            | `.format` is no method
np.load('P')                      | `np.load` is not among
np.save('P', x)                   | `np.save` is not among
np.fromfile('P')                  | `np.fromfile` is not among
np.loadtxt('P')                   | `np.loadtxt` is not among
np.memmap('P')                    | `np.memmap` is not among
np.lib.format.open_memmap('P')    | is not among
np.ctypeslib.load_library('c', '.') | is not among
np.vectorize(own)                 | `np.vectorize` is not among|no column `own`
np.random.normal(x)               | is not among
np.log(x, out=z)                  | `out` cannot be given
np.log(x, z)                      | takes 1 arguments
np.cumsum(x, 0, None, z)          | takes 1 arguments
np.clip(x, 0, 1, z)               | takes 3 arguments
I(x.fillna(0, inplace=True))      | `inplace` cannot be given
I(x.update(z))                    | `.update` is no method
I(x.str.__class__)                | `.__class__` is not for formulas
I(().__class__.__bases__)         | is not for formulas
I(np.array.__self__)              | is not for formulas
I(contr.sum.__globals__)          | is not for formulas
I(contr.treatment.apply)          | `contr.treatment.apply` is not among
I(x.loc.__setitem__(0, 1))        | is not for formulas
x.__class__                       | no column `x.__class__`
own.__globals__                   | no column `own.__globals__`
I(own(x).__globals__)             | is not for formulas
I(own(x).to_csv('P'))             | `.to_csv` is no method
I([v for v in x])                 | no ListComp
I({v: 1 for v in x})              | no DictComp
I((w := x))                       | no NamedExpr
I(f'{x}')                         | without `f`
I(*x)                             | no Starred
I(**x)                            | cannot be given
I(x.map(lambda v: v))             | cannot be read
I((lambda: open('P', 'w'))().x(x)) | cannot be read|no Lambda|name
own(x)(open('P', 'w'))            | only a function by its name
I(b'x')                           | without `b`
I(x @ z)                          | not for columns
I(x is z)                         | `is` is written `==`
I(on and on)                      | `and` is written `&`
I(not on)                         | `not` is written `~`
I(9**9**9**9 * x)                 | OverflowError
I('a' * 10**10)                   | sequence
"""
ROWS = [tuple(part.strip() for part in line.split(" | ", 1)) for line in CODE.strip().splitlines()]


@pytest.mark.parametrize(
    "place", ["y ~ x + {t} + (1 | g)", "y ~ (1 + {t} | g)", "{t} ~ x + (1 | g)"]
)
@pytest.mark.parametrize(("code", "message"), ROWS)
def test_code_does_not_run(code, message, place, tmp_path):
    before = DATA.copy(deep=True)
    code = code.replace("'P'", repr(str(tmp_path / "written")))
    with pytest.raises((FormulaError, DataError)) as caught:
        lmm.design(place.format(t=code), DATA)
    if place.startswith("y ~ x"):
        assert any(part in str(caught.value) for part in message.split("|"))
    assert not list(tmp_path.iterdir())
    pd.testing.assert_frame_equal(DATA, before)


def test_the_callers_functions_run():
    want = columns("0 + x").values
    np.testing.assert_array_equal(lmm.design("y ~ 0 + own(x) + (1 | g)", DATA).exog, want)
    np.testing.assert_array_equal(
        lmm.design("y ~ 0 + Tools.half(x) + (1 | g)", DATA).exog, want / 2
    )
    with pytest.raises(FormulaError, match="no function `own`"):
        lmm.design("y ~ own(x) + (1 | g)", DATA, context={})


def test_context_is_the_callers_to_give():
    shelf = {"lib": np, "order": 2, "open": lambda v: v + 1}
    got = columns("0 + lib.cbrt(x) + I(x * order) + poly(z, order) + open(x)", DATA, shelf).values
    np.testing.assert_allclose(got[:, 0], np.cbrt(DATA.x), rtol=TIGHT)
    np.testing.assert_allclose(got[:, 1], 2 * DATA.x, rtol=TIGHT)
    np.testing.assert_allclose(got[:, 4], DATA.x + 1, rtol=TIGHT)


def test_scope_leaves_out_pythons_own_and_scalar_functions():
    from math import log

    open = print  # as IPython puts its own `open` beside the call
    assert callables("open(x) + log(x) + own(x) + Tools.half(x)") == {"own": own, "Tools": Tools}
    assert log(1.0) == 0 and open is print
    matrices.evaluate("log(z)", DATA, context=callables("log(z)"))


def test_a_module_named_like_the_package_is_the_callers():
    space = {"__name__": "lmm_jax_study", "callables": callables, "mine": own}
    exec("found = callables('mine(x)')", space)
    assert space["found"] == {"mine": own}


def test_summaries_of_groups():
    got = columns("0 + I(x - x.groupby(g).transform('mean'))").values[:, 0]
    np.testing.assert_allclose(got, DATA.x - DATA.groupby("g").x.transform("mean"), atol=TIGHT)


REMAINDERS = pd.DataFrame(
    {"g": np.repeat(np.arange(6), 5), "x": np.linspace(0.3, 7.1, 30), "z": np.linspace(1, 5, 30)}
).assign(k=[10, 20, 50] * 10, y=np.sin(np.arange(30.0)))
REMAINDERS["t"] = REMAINDERS["k"].astype(str)


@pytest.mark.parametrize(
    ("term", "want"),
    [
        ("I((2 * x) %% 2)", lambda d: (2 * d["x"]) % 2),
        ("I(2 * (x %% 2))", lambda d: 2 * (d["x"] % 2)),
        ("I(x %% 2 * 3)", lambda d: d["x"] % 2 * 3),
        ("I((x * z) %/% 2)", lambda d: (d["x"] * d["z"]) // 2),
        ("as.numeric(factor(k))", lambda d: d["k"].map({10: 1.0, 20: 2.0, 50: 3.0})),
        ("as.integer(C(t))", lambda d: d["t"].map({"10": 1.0, "20": 2.0, "50": 3.0})),
        ("I(0 + (t == '10'))", lambda d: (d["k"] == 10) * 1.0),
        ("I(0 + (t %in% c('10', '20')))", lambda d: (d["k"] < 30) * 1.0),
    ],
)
def test_what_r_reads_in_an_expression(term, want):
    design = lmm.design(f"y ~ 0 + {term} + (1 | g)", REMAINDERS)
    assert design.exog[:, 0].tolist() == want(REMAINDERS).tolist()


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("I(2 * x %% 2)", "read differently by R and Python"),
        ("I(x * z %/% 2)", "read differently by R and Python"),
        ("I(x / z % 2)", "read differently by R and Python"),
        ("I(t == 10)", "text with numbers"),
        ("I(k != '10')", "text with numbers"),
        ("I(x + (t == 10))", "text with numbers"),
        ("I(t %in% c(10, 20))", "text with numbers"),
        ("as.numeric(factor(k, levels=[50, 10, 20]))", "make the column a categorical"),
    ],
)
def test_what_r_and_python_read_differently_is_refused(term, message):
    with pytest.raises((lmm.DataError, lmm.FormulaError), match=message):
        lmm.design(f"y ~ {term} + (1 | g)", REMAINDERS)


@pytest.mark.parametrize(
    "term",
    [
        "I(np.median(Q('z'), overwrite_input=True) * x)",
        "np.nan_to_num(z, copy=False)",
        "I(z.to_numpy().cumsum(0, None, x.to_numpy()))",
        "I(z.to_numpy().round(0, x.to_numpy()))",
        "I(x + quantile(z, 0.5, None, None, True))",
    ],
)
def test_no_expression_writes_into_the_data(term):
    data = REMAINDERS.copy(deep=True)
    data["z"] = data["z"].to_numpy()[::-1].copy()  # a median that sorts in place would show
    before = data.copy(deep=True)
    with contextlib.suppress(lmm.DataError, lmm.FormulaError):
        lmm.design(f"y ~ {term} + (1 | g)", data)
    pd.testing.assert_frame_equal(data, before)


def test_a_function_of_the_caller_is_called_by_its_name_alone():
    """`factor()` is C() here, `as.numeric()` as_numeric(): nobody's own functions of that name."""
    data = pd.DataFrame({"g": list("aabbccdd"), "v": [1, 2, 1, 3, 2, 3, 1, 3],
                         "y": [1.0, 3, 2, 5, 3, 6, 2, 4.5]})  # fmt: skip

    def C(x):
        return x * 1.0

    def as_numeric(x):
        raise AssertionError("as.numeric() is not as_numeric()")

    levels = ("Intercept", "C(v)[T.2]", "C(v)[T.3]")
    assert lmm.fit("y ~ factor(v) + (1 | g)", data).fixed_names == levels
    assert lmm.fit("y ~ as.factor(v) + (1 | g)", data, context={"C": C}).fixed_names == levels
    assert lmm.fit("y ~ as.numeric(v) + (1 | g)", data).fixed_names[1] == "as_numeric(v)"
    assert lmm.fit("y ~ C(v) + (1 | g)", data).fixed_names == ("Intercept", "C(v)")
    with pytest.raises(FormulaError, match=r"factor\(\)` is called C\(\) here"):
        lmm.fit("y ~ factor(v) + C(v) + (1 | g)", data)
