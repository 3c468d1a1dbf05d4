"""Examples as doctests: those of a module's docstrings, and those of a page."""

import doctest
import importlib
import re
from collections.abc import Collection
from pathlib import Path

import lmm_jax

ROOT = Path(__file__).parents[1]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def check_module(name: str) -> None:
    for public in lmm_jax.__all__:  # imported when asked for; examples of classes see them all
        getattr(lmm_jax, public)
    result = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert result.failed == 0


def check_page(name: str, without: Collection[str] = ()) -> None:
    """Run the code of a page but for that of some sections."""
    text = (ROOT / name).read_text(encoding="utf-8")
    first, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    kept = [section for section in sections if section.partition("\n")[0] not in without]
    assert len(kept) + len(without) == len(sections)
    text = "## ".join([first, *kept])
    bare = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)  # a fence would be taken for output
    test = doctest.DocTestParser().get_doctest(bare, {}, name, name, 0)
    assert test.examples
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed == 0
