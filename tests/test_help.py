"""Completion offers public names alone; ``help`` reads as a table of contents."""

import inspect
import re
import subprocess
import sys
import textwrap
from functools import cache

import numpy as np
import pytest
from examples import ROOT
from fits import sleep

import lmm_jax as lmm

REFERENCE = ROOT / "docs" / "reference"


# ------------------------------------------------------------ help(lmm)


def first_line(name):
    """Of the docstring, without its markup."""
    line = inspect.getdoc(getattr(lmm, name)).splitlines()[0]
    line = re.sub(r":\w+:`(?:lmm_jax\.)?([\w.]+)`", r"\1", line)
    return line.replace("`", "")


def contents():
    """Public names by the pages of the reference, with the first line of each docstring."""
    overview = (REFERENCE / "index.md").read_text(encoding="utf-8")
    parts = []
    for title, row in re.findall(r"^\| \[(.+?)\]\(\w+\.md\) \| (.+) \|$", overview, re.MULTILINE):
        lines = [
            textwrap.fill(
                f"{name:20} {first_line(name)}", 100,
                initial_indent=" " * 4, subsequent_indent=" " * 25, break_on_hyphens=False,
            )
            for name in re.findall(r"\[`(\w+)`\]", row)
        ]  # fmt: skip
        parts.append("\n".join([title, *lines]))
    return "\n\n".join(parts)


def test_help_lists_every_public_name_with_a_line():
    expected = contents()
    named = re.findall(r"^ {4}(\w+) ", expected, flags=re.MULTILINE)
    assert sorted(named) == lmm.__all__
    assert expected in lmm.__doc__, f"the table of contents in lmm_jax/__init__.py:\n\n{expected}"


# ------------------------------------------------------------ help(lmm.LMMResults)


def test_members_of_a_result_are_grouped_as_in_the_reference():
    page = (REFERENCE / "results.md").read_text(encoding="utf-8")
    groups = []
    for part in re.split(r"^## (?!:)", page, flags=re.MULTILINE)[1:]:
        title, _, rest = part.partition("\n")
        names = re.findall(r"^### ::: lmm_jax\.LMMResults\.(\w+)$", rest, flags=re.MULTILINE)
        item = f"- {title}: {', '.join(names)}"
        groups.append(textwrap.fill(item, 96, subsequent_indent="  "))
    expected = "\n".join(groups)
    assert expected in inspect.getdoc(lmm.LMMResults), f"the list in results/lmm.py:\n\n{expected}"


# ------------------------------------------------------------ completion


def offered(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


@cache
def many():
    data = lmm.load_dataset("sleepstudy")
    return lmm.fit_many("~ Days + (1 | Subject)", data, data[["Reaction"]].to_numpy())


def listed(name):
    """Members that the docstring of a class lists."""
    items = re.findall(r"^- .*(?:\n  \S.*)*", inspect.getdoc(getattr(lmm, name)), re.MULTILINE)
    return {n.strip() for item in items for n in item.partition(":")[2].split(",")}


def test_completion_of_the_package():
    assert offered(lmm) == set(lmm.__all__)
    assert offered(lmm.plots) == set(lmm.plots.__all__)
    assert offered(lmm.penalties) == set(lmm.penalties.__all__)


SHOWN = {
    "LMMResults": sleep,
    "MarginalMeans": lambda: lmm.emmeans(sleep(), "Days"),
    "ManyResults": many,
}


@pytest.mark.parametrize("name", SHOWN)
def test_completion_offers_what_the_docstring_lists(name):
    assert offered(SHOWN[name]()) == listed(name)


def test_completion_of_a_design_offers_what_the_reference_has():
    page = (REFERENCE / "fit.md").read_text(encoding="utf-8")
    members = re.search(r"lmm_jax\.Design\n    options:\n      members: \[(.*)\]", page)[1]
    assert offered(sleep().design) == set(members.split(", "))


def test_what_is_not_offered_is_there():
    res = sleep()
    np.testing.assert_array_equal(res.estimates.beta, res.fe_params)
    assert "__class__" in dir(res) and "_repr_html_" in dir(res)


def test_completion_of_the_package_imports_nothing():
    program = (
        "import sys, lmm_jax as lmm\n"
        "assert 'fit' in dir(lmm) and not {'jax', 'pandas', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
