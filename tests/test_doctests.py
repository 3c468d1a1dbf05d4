"""The examples in docstrings and in README.md run and print what they say."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import lmm_jax

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(lmm_jax.__path__, "lmm_jax.")
    if not module.name.endswith("__main__")
)
README = Path(__file__).parents[1] / "README.md"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", ["lmm_jax", *MODULES])
def test_docstrings(name):
    for public in lmm_jax.__all__:  # imported when asked for; examples of classes see them all
        getattr(lmm_jax, public)
    result = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert result.failed == 0


def test_readme():
    text = README.read_text(encoding="utf-8")
    bare = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)  # a fence would be taken for output
    test = doctest.DocTestParser().get_doctest(bare, {}, "README.md", str(README), 0)
    assert test.examples
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed == 0


@pytest.mark.parametrize(
    "name", ["fit_many.md", "inference.md", "mmrm.md", "relatedness.md", "residual-structures.md"]
)
def test_examples_of_a_page(name):
    page = Path(__file__).parents[1] / "docs" / name
    bare = re.sub(r"^```.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(bare, {}, page.name, str(page), 0)
    assert test.examples
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed == 0


def test_the_summary_in_the_readme_is_what_is_printed():
    result = lmm_jax.fit("Reaction ~ Days + (Days | Subject)", lmm_jax.load_dataset("sleepstudy"))
    assert f"```text\n{result.summary()}\n```" in README.read_text(encoding="utf-8")
