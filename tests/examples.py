"""Examples as doctests: those of a module's docstrings, and those of a page."""

import doctest
import importlib
import re
from pathlib import Path

import lmm_jax

ROOT = Path(__file__).parents[1]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def check_module(name: str) -> None:
    for public in lmm_jax.__all__:  # imported when asked for; examples of classes see them all
        getattr(lmm_jax, public)
    result = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert result.failed == 0


def check_page(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    bare = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)  # a fence would be taken for output
    test = doctest.DocTestParser().get_doctest(bare, {}, name, name, 0)
    assert test.examples
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed == 0
