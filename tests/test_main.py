"""The command line: what it prints, its exit status, one line for every error."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax.__main__ import main

# The same fit twice, once through a CSV file with 17 digits: rounding only.
SAME = 1e-9

SLEEP = "Reaction ~ Days + (Days | Subject)"
KEYS = ["formula", "criterion", "converged", "singular", "nobs", "llf", "aic", "bic", "sigma"]


@pytest.fixture(scope="module")
def frame():
    return lmm.load_dataset("sleepstudy").assign(w=np.tile([1.0, 2.0], 90))


@pytest.fixture(scope="module")
def csv(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("main") / "sleep.csv"
    frame.to_csv(path, index=False)
    return str(path)


def run_json(capsys, *argv):
    assert main([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_without_arguments_it_fits_the_bundled_data(capsys, frame):
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert out == f"{lmm.fit(SLEEP, frame).summary()}\n"
    assert err == ""


def test_json_of_the_bundled_data(capsys, frame):
    out = run_json(capsys)
    res = lmm.fit(SLEEP, frame)
    assert list(out) == [*KEYS, "fixed", "varcorr"]
    assert out["formula"] == SLEEP
    assert out["criterion"] == "REML"
    assert out["converged"] is True
    assert out["singular"] is False
    assert out["nobs"] == 180
    for name in ("llf", "aic", "bic", "sigma"):
        assert out[name] == pytest.approx(getattr(res, name), rel=SAME)
    assert [row["term"] for row in out["fixed"]] == list(res.fe_params.index)
    estimates = [row["estimate"] for row in out["fixed"]]
    np.testing.assert_allclose(estimates, res.fe_params, rtol=SAME)
    assert [row["grp"] for row in out["varcorr"]] == list(res.varcorr["grp"])
    np.testing.assert_allclose([row["vcov"] for row in out["varcorr"]], res.varcorr["vcov"])


# arguments after the formula and the file, and the same in Python
SPELLINGS = {
    "reml": (SLEEP, [], {}),
    "ml": (SLEEP, ["--ml"], {"reml": False}),
    "weights": (SLEEP, ["--weights", "w"], {"weights": "w"}),
    "groups": ("Reaction ~ Days", ["--groups", "Subject"], {"groups": "Subject"}),
    "re_formula": (
        "Reaction ~ Days",
        ["--groups", "Subject", "--re-formula", "~ Days"],
        {"groups": "Subject", "re_formula": "~ Days"},
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_options_are_those_of_fit(capsys, csv, frame, name):
    formula, argv, arguments = SPELLINGS[name]
    out = run_json(capsys, formula, csv, *argv)
    assert out["llf"] == pytest.approx(lmm.fit(formula, frame, **arguments).llf, rel=SAME)
    assert out["criterion"] == ("ML" if "--ml" in argv else "REML")


def test_a_dash_reads_standard_input(capsys, csv, frame, monkeypatch):
    with open(csv, encoding="utf-8") as source:
        monkeypatch.setattr(sys, "stdin", io.StringIO(source.read()))
    out = run_json(capsys, SLEEP, "-")
    assert out["llf"] == pytest.approx(lmm.fit(SLEEP, frame).llf, rel=SAME)


def test_no_number_that_json_does_not_have(capsys, tmp_path):
    path = tmp_path / "dyestuff2.csv"
    lmm.load_dataset("dyestuff2").to_csv(path, index=False)  # variance zero
    assert main(["Yield ~ 1 + (1 | Batch)", str(path), "--json"]) == 0

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    out = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert out["singular"] is True


ERRORS = [
    (["y ~ x + (1 | g)", "no_such_file.csv"], "no_such_file.csv: No such file"),
    (["Reaction ~ Days +", "CSV"], "nothing follows `+` (at character 17 of"),
    (["Reaction ~ Dais + (1 | Subject)", "CSV"], "Dais"),
    (["Reaction ~ Days", "CSV"], "no random effects"),
    (["Reaction ~ Days + (1 | Subject)", "CSV", "--groups", "Subject"], "bars in the formula"),
    ([SLEEP, "CSV", "--weights", "nothing"], "nothing"),
    ([SLEEP, "EMPTY"], "not a CSV table"),
    ([SLEEP, "BINARY"], "not a CSV table"),
]


@pytest.mark.parametrize(("argv", "fragment"), ERRORS)
def test_bad_input_is_one_line_and_status_2(capsys, csv, tmp_path, argv, fragment):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00a,b\n\xff\n")
    files = {"CSV": csv, "EMPTY": tmp_path / "empty.csv", "BINARY": tmp_path / "binary.csv"}
    assert main([str(files.get(a, a)) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m lmm_jax: error: ")
    assert fragment in err
    assert err.count("\n") == 1


def test_a_formula_needs_a_file(capsys):
    with pytest.raises(SystemExit) as stop:
        main([SLEEP])
    assert stop.value.code == 2
    assert "CSV file" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_warnings_are_lines_on_standard_error(capsys, frame, tmp_path):
    path = tmp_path / "twice.csv"
    frame.assign(again=frame["Days"]).to_csv(path, index=False)
    assert main(["Reaction ~ Days + again + (1 | Subject)", str(path)]) == 0
    err = capsys.readouterr().err
    assert err.startswith("warning: ")
    assert "again" in err
    assert err.count("\n") == 1


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("lmm_jax ")


def test_as_a_process(frame):
    """``python -m lmm_jax -`` with the data on its standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "lmm_jax", SLEEP, "-", "--json"],
        input=pd.DataFrame(frame).to_csv(index=False),
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=os.path.dirname(os.path.dirname(__file__)),
        check=True,
    )
    assert json.loads(done.stdout)["nobs"] == 180
