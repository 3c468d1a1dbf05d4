"""Copies, pickles and files of results: what each of them keeps, here and in another process."""

import copy
import json
import pickle
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm

EXACT = 1e-14  # the same program on the same numbers

DATA = samples.frame()
NEW = DATA.iloc[[3, 40, 17]].assign(x=[0.5, -1.0, 2.0])


def double(x):
    return 2 * x


MODELS = {
    "slopes": dict(formula="y ~ x * f + (x | g)"),
    "crossed": dict(formula="y ~ x + (1 | g) + (1 | f)", weights="w"),
    "nested, independent": dict(formula="y ~ x + (x || g/s)", reml=False, df_method="normal"),
    "components": dict(formula="y ~ x", groups="g", re_formula="x", vc_formula={"s": "0 + C(s)"}),
    "components alone": dict(formula="y ~ x", groups="g", vc_formula={"s": "0 + C(s)"}),
    "transforms": dict(formula="y ~ scale(x) + poly(z, 2) + offset(o) + (scale(x) | g)"),
    "no fixed effects": dict(formula="y ~ 0 + (x | g)"),
    "a function": dict(formula="y ~ double(x) + (double(x) | g)"),
}


@cache
def fit(name: str) -> lmm.LMMResults:
    options = dict(MODELS[name])
    formula = options.pop("formula")
    return lmm.fit(formula, DATA, context={"double": double, "np": np}, **options)


def round_trip(result):
    return pickle.loads(pickle.dumps(result))


def by_file(result, folder: Path, **options):
    result.save(folder / "result.lmm", **options)
    return lmm.load(folder / "result.lmm")


def same_tables(ours, theirs) -> None:
    """Everything that a result without rows still says."""
    assert str(ours.summary()) == str(theirs.summary()) and repr(ours) == repr(theirs)
    assert_close(ours.params, theirs.params, EXACT)
    assert_close(ours.fittedvalues, theirs.fittedvalues, EXACT, 1)
    pd.testing.assert_index_equal(ours.fittedvalues.index, theirs.fittedvalues.index)
    for conditional in (False, True):
        new = theirs.predict(NEW, conditional=conditional)
        pd.testing.assert_series_equal(ours.predict(NEW, conditional=conditional), new)
    assert list(ours.random_effects) == list(theirs.random_effects)
    for factor, frame in theirs.random_effects.items():
        pd.testing.assert_frame_equal(ours.random_effects[factor], frame)
    for factor, table in theirs.random_effects_cov.items():
        assert_close(ours.random_effects_cov[factor].array, table.array, EXACT, 1e-12)
        for level in table:
            pd.testing.assert_frame_equal(ours.random_effects_cov[factor][level], table[level])


@pytest.mark.parametrize("name", MODELS)
def test_a_pickle_goes_on_without_the_rows(name):
    result = fit(name)
    again = round_trip(result)
    assert again.design is None
    same_tables(again, result)
    pd.testing.assert_frame_equal(again.wald_test_terms(), result.wald_test_terms())
    pd.testing.assert_frame_equal(again.tidy(), result.tidy())
    assert again.layout_info == result.layout_info
    # a copy of a copy is as good
    same_tables(round_trip(again), result)
    same_tables(copy.deepcopy(again), result)


@pytest.mark.parametrize("new_levels", ["population", "nan", "error"])
def test_new_levels_are_what_they_were(new_levels):
    result, new = fit("slopes"), NEW.assign(g=["g3", "nobody", "g7"])
    if new_levels == "error":
        with pytest.raises(lmm.DataError, match="new level 'nobody'"):
            round_trip(result).predict(new, conditional=True)
        return
    options = dict(conditional=True, new_levels=new_levels)
    ours, theirs = round_trip(result).predict(new, **options), result.predict(new, **options)
    pd.testing.assert_series_equal(ours, theirs)


NEED_ROWS = {
    "resid": lambda r: r.resid,
    "predict": lambda r: r.predict(),
    "augment": lambda r: r.augment(),
    "profile_re": lambda r: r.profile_re(0, "re", 1, 0.01, 1, 0.01),
    "influence": lambda r: lmm.influence(r).params,
    "simulate": lambda r: lmm.simulate(r, seed=1),
    "bootstrap": lambda r: lmm.bootstrap(r, 5, seed=1).params(),
}


@pytest.mark.parametrize("what", NEED_ROWS)
def test_what_needs_rows_says_so(what):
    with pytest.raises(lmm.DataError, match="data"):
        NEED_ROWS[what](round_trip(fit("slopes")))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("what", NEED_ROWS)
def test_copies_have_the_rows(copied, what):
    result = fit("slopes")
    ours, theirs = NEED_ROWS[what](copied(result)), NEED_ROWS[what](result)
    assert_close(ours, theirs, EXACT, 1)


@pytest.mark.parametrize("what", NEED_ROWS)
def test_a_file_can_keep_the_rows(what, tmp_path):
    result = fit("slopes")
    again = by_file(result, tmp_path, keep_data=True)
    assert_close(NEED_ROWS[what](again), NEED_ROWS[what](result), EXACT, 1)
    same_tables(again, result)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, round_trip])
@pytest.mark.parametrize("name", ["slopes", "crossed", "components", "a function"])
def test_designs_are_copied_whole(copied, name):
    design = fit(name).design
    again = copied(design)
    assert_close(again.exog, design.exog, 0)
    assert_close(lmm.fit(again).params, lmm.fit(design).params, EXACT, 1)
    assert (
        lmm.fit(again, runtime="numpy")
        .predict(NEW)
        .equals(
            lmm.fit(design, runtime="numpy").predict(NEW)  # bit by bit in one runtime
        )
    )


def test_a_pickled_layout_keeps_its_precision():
    for name in ("slopes", "crossed"):
        layout = fit(name).design.layout
        again = pickle.loads(pickle.dumps(layout))
        assert type(again) is type(layout)
        for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(layout), strict=True):
            assert ours.dtype == theirs.dtype and isinstance(ours, jax.Array)
            np.testing.assert_array_equal(ours, theirs)
    design = lmm.design_from_batches("y ~ x + (x | g)", [DATA[:30], DATA[30:]])
    for again in (pickle.loads(pickle.dumps(design)), copy.deepcopy(design), copy.copy(design)):
        assert lmm.fit(again).llf == lmm.fit(design).llf


def test_a_deep_copy_shares_no_array():
    design = fit("slopes").design
    again = copy.deepcopy(design)
    again.endog[0] += 1
    assert again.endog[0] != design.endog[0]


def test_rows_in_batches_are_gone_in_any_case():
    design = lmm.design_from_batches("y ~ x + (x | g)", [DATA[:30], DATA[30:]])
    result = lmm.fit(design)
    again = round_trip(result)
    assert again.predict(NEW, conditional=True).equals(result.predict(NEW, conditional=True))
    for ask in (lambda r: r.fittedvalues, lambda r: r.resid):
        with pytest.raises(lmm.DataError, match=r"came in batches|without its data"):
            ask(again)


def test_results_of_arrays():
    model = lmm.design_from_arrays(DATA["y"], DATA[["x"]], DATA["g"])
    result = lmm.fit(model)
    again = round_trip(result)
    assert again.random_effects["groups"].equals(result.random_effects["groups"])
    assert again.wald_test_terms().equals(result.wald_test_terms())
    with pytest.raises(lmm.DataError, match="made from arrays"):
        again.predict(NEW)


def test_without_data_is_the_parameters_alone():
    for result in (fit("slopes"), round_trip(fit("slopes"))):
        bare = round_trip(result.without_data())
        assert str(bare.summary()) == str(result.summary())
        with pytest.raises(lmm.DataError, match="without its data"):
            _ = bare.random_effects


# ------------------------------------------------------------ results of other kinds


def test_regularized_results_are_restored_at_their_own_coefficients():
    alpha = [[0.0], [5.0], [50.0]]
    path = lmm.fit_regularized("y ~ x + z + v + (x | g)", DATA, alpha=alpha)
    again = round_trip(path)
    assert len(again) == 3
    for ours, theirs in zip(again, path, strict=True):
        same_tables(ours, theirs)
        same_tables(round_trip(ours), theirs)
        same_tables(copy.deepcopy(ours), theirs)
        assert_close(copy.deepcopy(theirs).resid, theirs.resid, EXACT, 1)
    assert not np.allclose(again[0].random_effects["g"], again[2].random_effects["g"])


def test_regularized_results_keep_their_rows_if_asked(tmp_path):
    result = lmm.fit_regularized("y ~ x + z + (x | g)", DATA, alpha=5.0)
    again = by_file(result, tmp_path, keep_data=True)
    assert_close(again.resid, result.resid, EXACT, 1)
    same_tables(again, result)


def test_many_results(tmp_path):
    many = lmm.fit_many("~ x + (x | g)", DATA, ["y", "z"])
    again = by_file(many, tmp_path)
    assert again.tidy().equals(many.tidy())
    with pytest.raises(lmm.DataError, match=r"without their data.*keep_data=True"):
        again.select("y")
    whole = by_file(many, tmp_path, keep_data=True)
    assert_close(whole.select("y").params, many.select("y").params, EXACT, 1)
    assert_close(copy.deepcopy(many).select(1).params, many.select(1).params, EXACT, 1)


def test_bootstrap_results(tmp_path):
    boot = lmm.bootstrap(fit("slopes"), 5, seed=1)
    for again in (by_file(boot, tmp_path), copy.copy(boot), copy.deepcopy(boot)):
        assert again.params().equals(boot.params()) and repr(again) == repr(boot)


# ------------------------------------------------------------ functions of the formula


@pytest.mark.parametrize("lost", [lambda x: 2 * x, type("Odd", (), {"__call__": double})])
def test_a_function_that_cannot_be_pickled_is_missed_when_it_is_needed(lost, tmp_path):
    result = lmm.fit("y ~ lost(x) + z + (1 | g)", DATA, context={"lost": lambda x: 2 * x})
    again = round_trip(result)
    assert_close(again.fittedvalues, result.fittedvalues, EXACT, 1)
    assert again.random_effects["g"].equals(result.random_effects["g"])
    with pytest.raises(lmm.DataError, match=r"uses `lost`, .*context=\{'lost'"):
        again.predict(NEW)
    result.save(tmp_path / "r")
    with_it = lmm.load(tmp_path / "r", context={"lost": double})
    assert with_it.predict(NEW).equals(result.predict(NEW))
    # the copy of a copy knows what is lost, and can be given it
    again.save(tmp_path / "r")
    assert (
        lmm.load(tmp_path / "r", context={"lost": double}).predict(NEW).equals(result.predict(NEW))
    )


def test_a_function_of_the_random_part_is_missed_by_conditional_predictions_only():
    result = lmm.fit("y ~ x + (h(x) | g)", DATA, context={"h": lambda x: 2 * x})
    again = round_trip(result)
    assert again.predict(NEW).equals(result.predict(NEW))
    with pytest.raises(lmm.DataError, match="uses `h`"):
        again.predict(NEW, conditional=True)


def test_of_a_context_only_what_the_formula_names_is_kept():
    context = {"double": double, "rows": np.zeros(100_000), "frame": DATA}
    result = lmm.fit("y ~ double(x) + (1 | g)", DATA, context=context)
    assert len(pickle.dumps(result)) < 20_000
    assert round_trip(result).predict(NEW).equals(result.predict(NEW))


def test_a_pickled_design_loses_functions_by_name():
    design = lmm.design("y ~ h(x) + (1 | g)", DATA, context={"h": lambda x: 2 * x})
    again = lmm.fit(round_trip(design))
    assert_close(again.params, lmm.fit(design).params, EXACT, 1)
    with pytest.raises(lmm.DataError, match="uses `h`"):
        again.predict(NEW)


# ------------------------------------------------------------ files


def written(folder: Path) -> Path:
    path = folder / "result.lmm"
    fit("slopes").save(path)
    return path


def header_with(path: Path, **changes) -> None:
    magic, header, body = path.read_bytes().split(b"\n", 2)
    line = json.dumps({**json.loads(header), **changes}).encode()
    path.write_bytes(b"\n".join([magic, line, body]))


BAD_FILES = {
    "cut off": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "cut off or damaged: it holds"),
    "cut off early": (lambda p: p.write_bytes(p.read_bytes()[:40]), "cut off or damaged in its"),
    "the first line alone": (lambda p: p.write_bytes(p.read_bytes()[:15]), "cut off or damaged"),
    "empty": (lambda p: p.write_bytes(b""), "no result that was saved"),
    "a flipped byte": (
        lambda p: p.write_bytes(p.read_bytes()[:-9] + b"?" + p.read_bytes()[-8:]),
        "cut off or damaged",
    ),
    "text": (lambda p: p.write_text("x,y\n1,2\n"), "no result that was saved by lmm_jax$"),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps([1])), "which pickle.load reads"),
    "a later format": (lambda p: header_with(p, format=9, lmm_jax="9"), r"\(9\).* the format 9"),
    "no format": (lambda p: header_with(p, format=None), "another version of lmm_jax"),
    "a header that is no mapping": (
        lambda p: p.write_bytes(b"lmm_jax result\n[1]\n"), "cut off or damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(kind, tmp_path):
    path = written(tmp_path)
    spoil, message = BAD_FILES[kind]
    spoil(path)
    with pytest.raises(lmm.DataError, match=message):
        lmm.load(path)


def test_a_file_of_something_else(tmp_path):
    import zlib

    path = written(tmp_path)
    magic, header, _ = path.read_bytes().split(b"\n", 2)
    for thing, message in (([1, 2], "holds a list"), (None, "holds a NoneType")):
        body = pickle.dumps(thing)
        changed = {**json.loads(header), "bytes": len(body), "crc32": zlib.crc32(body)}
        path.write_bytes(b"\n".join([magic, json.dumps(changed).encode(), body]))
        with pytest.raises(lmm.DataError, match=message):
            lmm.load(path)
    body = b"cno_such_module\nthing\n."
    changed = {**json.loads(header), "bytes": len(body), "crc32": zlib.crc32(body)}
    path.write_bytes(b"\n".join([magic, json.dumps(changed).encode(), body]))
    with pytest.raises(lmm.DataError, match=r"cannot be restored \(ModuleNotFound.*written with"):
        lmm.load(path)


def test_a_pickle_of_another_version():
    state = {**fit("slopes").__getstate__(), "format": 0}
    with pytest.raises(lmm.DataError, match="the pickle was written by another version"):
        fit("slopes").without_data().__setstate__(state)


@pytest.mark.parametrize("path", [None, 3, b"x", ["a"]])
def test_paths(path):
    for ask in (lambda: lmm.load(path), lambda: fit("slopes").save(path)):
        with pytest.raises(lmm.DataError, match="the name of a file is needed"):
            ask()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        lmm.load(tmp_path / "nothing")


def test_another_process_loads_the_file(tmp_path):
    """A script with a function of its own; another one that has no such function."""
    script = """
        import sys, numpy as np, lmm_jax as lmm
        def twice(x):
            return 2 * x
        data = lmm.load_dataset("sleepstudy")
        res = lmm.fit("Reaction ~ Days + (Days | Subject)", data)
        res.save(sys.argv[1] + "/plain")
        lmm.fit("Reaction ~ twice(Days) + (1 | Subject)", data).save(sys.argv[1] + "/own")
        new = {"Days": [3.0], "Subject": ["308"]}
        print(repr(float(res.predict(new, conditional=True).iloc[0])), repr(res.llf))
    """
    reader = """
        import sys, lmm_jax as lmm
        res = lmm.load(sys.argv[1] + "/plain")
        new = {"Days": [3.0], "Subject": ["308"]}
        print(repr(float(res.predict(new, conditional=True).iloc[0])), repr(res.llf))
        own = lmm.load(sys.argv[1] + "/own")
        print(own.random_effects["Subject"].shape)
        try:
            own.predict(new)
        except lmm.DataError as error:
            print("twice" in str(error))
        again = lmm.load(sys.argv[1] + "/own", context={"twice": lambda x: 2 * x})
        print(again.predict(new).shape)
    """
    out = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(text), str(tmp_path)],
            capture_output=True, text=True, check=True,
        ).stdout.split("\n")
        for text in (script, reader)
    ]  # fmt: skip
    assert out[1][0] == out[0][0]
    assert out[1][1:4] == ["(18, 1)", "True", "(1,)"]


def test_a_method_is_no_function_that_is_lost():
    """A lambda in the context counts as needed where the formula mentions it, and only there."""
    context = {"mean": lambda x: x, "unused": lambda x: x}
    kept = round_trip(lmm.fit("y ~ I(x - x.mean()) + (1 | g)", DATA, context=context))
    assert np.isfinite(kept.predict(NEW)).all()
    lost = round_trip(lmm.fit("y ~ mean(x) + (1 | g)", DATA, context=context))
    with pytest.raises(lmm.DataError, match="uses `mean`"):
        lost.predict(NEW)
