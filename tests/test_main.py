"""The command line: what it prints, its exit status, one line for every error."""

import bz2
import gzip
import http.server
import importlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax.api.command import main
from lmm_jax.inputs import files as tables
from lmm_jax.inputs.paths import read_file

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


def test_words_for_nothing_are_labels_among_labels(tmp_path):
    """As in R; among numbers they are missing."""
    path = tmp_path / "cuts.csv"
    rows = [f"{y},{date},{x}" for y, date, x in zip(
        [1.0, 2.5, 2.0, 3.5, 1.5, 2.2, 3.1, 2.8, 1.9, 3.3, 2.1, 2.9],
        ["None", "S1", "N/A", "", "NA", "S1"] * 2, ["0.5", "None", "1", "2", "N/A", "3"] * 2,
        strict=True,
    )]  # fmt: skip
    path.write_text("\n".join(["y,date,x", *rows]), encoding="utf-8")
    read = read_file(str(path), lambda name: True)
    assert read["date"].isna().tolist() == [False, False, False, True, True, False] * 2
    assert read["date"].dropna().unique().tolist() == ["None", "S1", "N/A"]
    assert read["x"].dtype == float and read["x"].isna().tolist() == [False, True, False] * 4


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
    (["", "CSV"], "empty formula: write"),
    ([" ", "CSV"], "empty formula: write"),
    (["\n\t", "CSV"], "empty formula: write"),
    (["", "-"], "empty formula: write"),
    (["Reaction ~ Dais + (1 | Subject)", "CSV"], "no column `Dais`; did you mean `Days`?"),
    (["Reactoin ~ Days + (1 | Subject)", "CSV"], "did you mean `Reaction`?"),
    (["Reaction ~ Days + (1 | Subjekt)", "CSV"], "did you mean `Subject`?"),
    (["Reaction ~ Days", "CSV", "--groups", "subject"], "did you mean `Subject`?"),
    ([SLEEP, "CSV", "--weights", "W"], "no column `W`"),
    (["Reaction ~ shout(Days) + (1 | Subject)", "CSV"], "shout"),
    (["Reaction ~ Days", "CSV"], "no random effects"),
    (["Reaction ~ Days + (1 | Subject)", "CSV", "--groups", "Subject"], "bars in the formula"),
    ([SLEEP, "CSV", "--weights", "nothing"], "nothing"),
    ([SLEEP, "EMPTY"], "not a CSV table"),
    ([SLEEP, "BINARY"], "not a CSV table"),
]


def refused(capsys, argv):
    """The one line on standard error of a call that ends in status 2."""
    try:
        status = main(argv)
    except SystemExit as stop:  # argparse's way
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.startswith("python -m lmm_jax: error: ")
    assert err.count("\n") == 1
    return err


def shout(x):
    return x


@pytest.mark.parametrize(("argv", "fragment"), ERRORS)
def test_bad_input_is_one_line_and_status_2(capsys, csv, tmp_path, argv, fragment):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00a,b\n\xff\n")
    files = {"CSV": csv, "EMPTY": tmp_path / "empty.csv", "BINARY": tmp_path / "binary.csv"}
    assert fragment in refused(capsys, [str(files.get(a, a)) for a in argv])


# arguments that argparse refuses
USAGE = [
    ([SLEEP], "give a CSV file after the formula"),
    ([SLEEP, "a.csv", "b.csv"], "unrecognized arguments: b.csv"),
    ([SLEEP, "a.csv", "--jsn"], "did you mean --json?"),
    ([SLEEP, "a.csv", "--wieghts", "w"], "did you mean --weights?"),
    ([SLEEP, "a.csv", "--gruops=g"], "did you mean --groups?"),
    ([SLEEP, "a.csv", "--groups"], "expected one argument"),
    (["a.csv", SLEEP], "the formula comes first"),
]


@pytest.mark.parametrize(("argv", "fragment"), USAGE)
def test_a_wrong_option_is_one_line_too(capsys, argv, fragment):
    assert fragment in refused(capsys, argv)


TABLE = b"".join(
    (b"y,x,g\n", *(b"%d.5,%d,%s\n" % (i * i % 7, i, b"abc"[i % 3 : i % 3 + 1]) for i in range(12)))
)
MODEL = "y ~ x + (1 | g)"


def zipped(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, TABLE)
    return out.getvalue()


def tarred(*names, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(TABLE)
            archive.addfile(member, io.BytesIO(TABLE))
    return out.getvalue()


def stata(version):
    out = io.BytesIO()
    pd.DataFrame({"y": [1.0], "x": [2.0]}).to_stata(out, version=version)
    return out.getvalue()


def parquet():
    out = io.BytesIO()
    pd.DataFrame({"y": [1.0]}).to_parquet(out)
    return out.getvalue()


def respelled(sep, decimal="."):
    return TABLE.replace(b",", sep.encode()).replace(b".", decimal.encode())


# content of a file, options
READABLE = {
    "gzip": (gzip.compress(TABLE), []),
    "bzip2": (bz2.compress(TABLE), []),
    "xz": (lzma.compress(TABLE), []),
    "zip": (zipped("a.csv"), []),
    "zip of a Mac": (zipped("a.csv", "__MACOSX/._a.csv"), []),
    "tar": (tarred("a.csv"), []),
    "tar.gz": (tarred("a.csv", mode="w:gz"), []),
    "UTF-8 with a mark": (b"\xef\xbb\xbf" + TABLE, []),
    "UTF-16": (TABLE.decode().encode("utf-16"), []),
    "UTF-16, the other end first": (b"\xfe\xff" + TABLE.decode().encode("utf-16-be"), []),
    "UTF-16 without a mark": (TABLE.decode().encode("utf-16-le"), ["--encoding", "utf-16-le"]),
    "semicolons": (respelled(";"), ["--sep", ";"]),
    "decimal commas": (respelled(";", ","), ["--sep", ";", "--decimal", ","]),
    "tabs": (respelled("\t"), ["--sep", "tab"]),
    "bars": (respelled("|"), ["--sep", "|"]),
    "blanks": (respelled("  "), ["--sep", "space"]),
    "Windows": (TABLE.replace(b"\n", b"\r\n"), []),
    "old Mac": (TABLE.replace(b"\n", b"\r"), []),
    "empty lines": (b"\n  \n" + TABLE.replace(b"\n", b"\n\n"), []),
    "no last line end": (TABLE[:-1], []),
}


@pytest.mark.parametrize("name", READABLE)
def test_every_spelling_of_a_table_is_the_same_table(tmp_path, name):
    content, options = READABLE[name]
    path = tmp_path / "table"
    path.write_bytes(content)
    given = dict(zip(options[::2], options[1::2], strict=True))
    words = {"tab": "\t", "space": " "}
    frame = tables.read_table(
        str(path),
        sep=words.get(given.get("--sep"), given.get("--sep", ",")),
        decimal=given.get("--decimal"),
        encoding=given.get("--encoding"),
    )
    pd.testing.assert_frame_equal(frame, pd.read_csv(io.BytesIO(TABLE)))


def test_options_of_a_table_reach_it(capsys, tmp_path):
    path = tmp_path / "table"
    path.write_bytes(respelled("\t", ",").decode().encode("utf-16-le"))
    options = ["--sep", "tab", "--decimal", ",", "--encoding", "utf-16-le"]
    out = run_json(capsys, MODEL, str(path), *options)
    res = lmm.fit(MODEL, pd.read_csv(io.BytesIO(TABLE)))
    assert out["llf"] == pytest.approx(res.llf, rel=SAME)


UNREADABLE = [
    ("nothing", b"", "it is empty"),
    ("blank lines", b"\n  \n", "it is empty"),
    ("a mark only", b"\xef\xbb\xbf", "it has no header"),
    ("a header only", b"y,x,g\n", "has a header only"),
    ("cut gzip", gzip.compress(TABLE)[:-30], "cannot be unpacked"),
    ("broken gzip", b"\x1f\x8b\x08" + bytes(range(64, 164)), "cannot be unpacked"),
    ("gzip of nothing", gzip.compress(b""), "it is empty"),
    ("cut bzip2", bz2.compress(TABLE)[:-30], "cannot be unpacked"),
    ("broken bzip2", b"BZh9" + bytes(range(100)), "cannot be unpacked"),
    ("cut xz", lzma.compress(TABLE)[:-30], "cannot be unpacked"),
    ("broken xz", b"\xfd7zXZ\x00" + bytes(range(100)), "cannot be unpacked"),
    ("cut zip", zipped("a.csv")[:-30], "cannot be unpacked"),
    ("broken zip", b"PK\x03\x04" + bytes(range(100)), "cannot be unpacked"),
    ("empty zip", zipped(), "an archive of 0 files"),
    ("zip of two", zipped("a.csv", "b.csv"), "an archive of 2 files"),
    ("tar of two", tarred("a.csv", "b.csv"), "an archive of 2 files"),
    ("cut tar", tarred("a.csv")[:600], "cannot be unpacked"),
    ("zst", b"\x28\xb5\x2f\xfd\x04\x00", "is a file of Zstandard"),
    ("xlsx", zipped("[Content_Types].xml", "xl/workbook.xml"), "is a file of Excel"),
    ("xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a file of Excel"),
    ("parquet", parquet(), "is a file of Parquet"),
    ("dta of today", stata(118), "is a file of Stata"),
    ("dta of pandas", stata(114), "is a file of Stata"),
    ("a page", b"\n<!DOCTYPE html>\n<html></html>", "is an HTML page"),
    ("a byte of zero", TABLE[:20] + b"\0" + TABLE[20:], "bytes of zero"),
    ("UTF-16 without a mark", TABLE.decode().encode("utf-16-le"), "--encoding utf-16-le"),
    ("cut UTF-16", TABLE.decode().encode("utf-16")[:-1], "not a CSV table in UTF-16"),
    ("latin-1", TABLE.replace(b"a\n", b"\xe4\n"), "--encoding latin-1"),
    ("semicolons", respelled(";"), "separated by semicolons: pass --sep ';'"),
    ("decimal commas", respelled(";", ","), "separated by semicolons: pass --sep ';'"),
    ("tabs", respelled("\t"), "separated by tabs: pass --sep tab"),
    ("bars", respelled("|"), "separated by bars"),
    ("blanks", respelled(" "), "separated by blanks: pass --sep space"),
    ("a row too long", TABLE + b"1,2,a,4\n", "line 14"),
    ("a row too short", TABLE + b"1,2\n", "row 13 has 2 of 3 fields"),
    ("an open quote", TABLE + b'1,2,"a\n', "EOF inside string"),
    ("rows that end in commas", TABLE.replace(b"\n", b",\n").replace(b"g,", b"g", 1), "3 names"),
    ("names of rows", TABLE.replace(b"\n", b"\n1,")[:-2], "the first row has 4 fields"),
    ("y twice", TABLE.replace(b"x", b"y", 1), "several columns named `y`"),
]


@pytest.mark.parametrize(
    ("content", "fragment"), [u[1:] for u in UNREADABLE], ids=[u[0] for u in UNREADABLE]
)
def test_an_unreadable_file_is_one_line(capsys, tmp_path, content, fragment):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    err = refused(capsys, [MODEL, str(path)])
    assert fragment in err
    assert (str(path) in err) != ("several columns" in err)  # the data's own error names a column


# path, options
PATHS = [
    (" ", [], "name of the file is empty"),
    ("a\0b.csv", [], "null byte"),
    ("FOLDER", [], "Is a directory"),
    ("FOLDER/none.csv", [], "No such file"),
    ("x" * 300, [], "File name too long"),
    ("s3://bucket/a.csv", [], "cannot read s3:// addresses"),
    ("gs://bucket/a.csv", [], "cannot read gs:// addresses"),
    ("http:///a.csv", [], "no host given"),
    ("http://host:port/a.csv", [], "nonnumeric port"),
    ("file:///no/such/file.csv", [], "cannot be read"),
    ("CSV", ["--sep", ";"], "separated by commas"),
    ("CSV", ["--sep", ";;"], "no single character"),
    ("CSV", ["--sep", ""], "no single character"),
    ("CSV", ["--decimal", ","], "both ','"),
    ("CSV", ["--encoding", "klingon"], "no encoding 'klingon'"),
    ("CSV", ["--encoding", "hex"], "no encoding 'hex'"),
    ("CSV", ["--encoding", "utf-16"], "not a CSV table in UTF-16"),
    ("COMMAS", ["--sep", ";"], "of `y` have a decimal comma, such as 0,5: pass --decimal ,"),
]


@pytest.mark.parametrize(("path", "options", "fragment"), PATHS)
def test_an_unreadable_path_is_one_line(capsys, csv, tmp_path, path, options, fragment):
    (tmp_path / "commas").write_bytes(respelled(";", ","))
    path = {"CSV": csv, "COMMAS": str(tmp_path / "commas")}.get(path, path)
    assert fragment in refused(capsys, [MODEL, path.replace("FOLDER", str(tmp_path)), *options])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(capsys, tmp_path):
    path = tmp_path / "table.csv"
    path.touch(mode=0)
    assert "Permission denied" in refused(capsys, [MODEL, str(path)])


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/silence":
            time.sleep(3)
        elif self.path == "/table.csv.gz":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(gzip.compress(TABLE))
        else:
            self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("page", "fragment"), [("/none.csv", "Not Found"), ("/silence", "cannot be read: timed out")]
)
def test_a_server_that_does_not_answer(capsys, address, monkeypatch, page, fragment):
    monkeypatch.setattr(tables, "_SECONDS", 0.5)
    assert fragment in refused(capsys, [MODEL, address + page])


def test_an_address_is_a_file(address):
    frame = tables.read_table(f"{address}/table.csv.gz")
    pd.testing.assert_frame_equal(frame, pd.read_csv(io.BytesIO(TABLE)))


def test_nobody_listens(capsys, address, unused_port):
    err = refused(capsys, [MODEL, f"http://127.0.0.1:{unused_port}/a.csv"])
    assert "cannot be read" in err


@pytest.fixture
def unused_port():
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        port = server.server_port
    return port


def test_names_that_come_twice_do_no_harm_elsewhere(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"y,x,g,n,n,\n" + b"".join(r + b",1,2,3\n" for r in TABLE.split(b"\n")[1:-1]))
    frame = tables.read_table(str(path))
    assert list(frame.columns) == ["y", "x", "g", "n", "n", "Unnamed: 5"]
    lmm.fit(MODEL, frame)


def test_a_missing_last_field_is_a_missing_value(capsys, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(TABLE + b"1,2,\n")
    assert run_json(capsys, MODEL, str(path))["nobs"] == 12


def test_names_with_letters_of_other_programs(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"PAR1,RDX,qs\n1,2,3\n")
    assert list(tables.read_table(str(path))) == ["PAR1", "RDX", "qs"]


def test_no_standard_input(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert "no standard input" in refused(capsys, [MODEL, "-"])


def test_interrupted(capsys, csv, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmm_jax.api.command.fit", interrupt)
    assert main([SLEEP, csv]) == 130
    assert capsys.readouterr().err == ""


def test_a_table_too_large_for_the_memory(capsys, csv, monkeypatch):
    def exhaust(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("lmm_jax.api.command.fit", exhaust)
    assert "memory" in refused(capsys, [SLEEP, csv])


def test_a_formula_from_outside_calls_no_function_of_the_caller(capsys, csv):
    """``shout`` is defined above, in the module of the caller."""
    assert "shout" in refused(capsys, ["Reaction ~ shout(Days) + (1 | Subject)", csv])
    res = lmm.fit("Reaction ~ shout(Days) + (1 | Subject)", lmm.load_dataset("sleepstudy"))
    assert res.nobs == 180


def test_a_terminal_without_the_letters_of_a_name(csv, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    table = lmm.load_dataset("sleepstudy").rename(columns={"Days": "été"})
    monkeypatch.setattr(sys, "stdin", io.StringIO(table.to_csv(index=False)))
    assert main(["Reaction ~ été + (1 | Subject)", "-"]) == 0
    assert b"\\xe9t\\xe9" in out.buffer.getvalue()


def test_the_console_script_is_this_main(monkeypatch, capsys):
    project = Path(__file__).parents[1] / "pyproject.toml"
    scripts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, name = scripts["lmm"].partition(":")
    script = getattr(importlib.import_module(module), name)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/lmm", "y ~ x", "none.csv"])
    for arguments in [(), (["y ~ x", "none.csv"],)]:
        assert script(*arguments) == main(*arguments) == 2
        assert capsys.readouterr().err.startswith("lmm: error: ")


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


ROOT = Path(__file__).parents[1]
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def test_as_a_process(frame):
    """``python -m lmm_jax -`` with the data on its standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "lmm_jax", SLEEP, "-", "--json"],
        input=pd.DataFrame(frame).to_csv(index=False),
        capture_output=True,
        text=True,
        env=QUIET,
        cwd=ROOT,
        check=True,
    )
    assert json.loads(done.stdout)["nobs"] == 180


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")
@pytest.mark.parametrize(("reader", "status", "lines"), [("gone", 141, 0), ("full", 2, 1)])
def test_nobody_reads_what_is_printed(csv, reader, status, lines):
    """A pipe whose reader has gone, and a disk that is full: no traceback, also none at exit."""
    if reader == "full":
        if not os.path.exists("/dev/full"):
            pytest.skip("no /dev/full")
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        source, out = os.pipe()
        os.close(source)
    done = subprocess.run(
        [sys.executable, "-m", "lmm_jax", "Reaction ~ 1 + (1 | Subject)", csv],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        env=QUIET,
        cwd=ROOT,
    )
    os.close(out)
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == lines


def test_logical_columns_of_files_stay_logical_where_some_are_missing(tmp_path):
    path = tmp_path / "flag.csv"
    lines = [f"{i % 7},{i // 4},{['True', 'False', ''][i % 3]}" for i in range(24)]
    path.write_text("\n".join(["y,g,flag", *lines]))
    assert lmm.fit("y ~ 1 + (1 | g)", path, subset="flag == True").nobs == 8
