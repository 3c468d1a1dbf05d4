"""docs/formulas.md: its code runs, and its tables are the functions and methods that there are."""

import doctest
import re
from pathlib import Path

import pytest

from lmm_jax.formulas.functions import CONSTANTS, LIBRARY, NUMPY
from lmm_jax.formulas.grammar import METHODS

PAGE = Path(__file__).parents[1] / "docs" / "formulas.md"
TEXT = PAGE.read_text(encoding="utf-8")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_examples_on_the_page():
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    assert len(blocks) == 5 and test.examples
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed == 0


def listed(start):
    """Names between backticks in the line that starts so."""
    line = next(line for line in TEXT.splitlines() if line.startswith(start))
    return set(re.findall(r"`\.?([\w.]+)`", line))


def test_numpy_on_the_page():
    assert listed("Under `np.`") - {"np."} == set(vars(NUMPY))


def test_methods_on_the_page():
    assert listed("Methods and properties") == set(METHODS) | {"map", "transform"}


@pytest.mark.parametrize("name", sorted(LIBRARY.keys() | CONSTANTS.keys()))
def test_functions_on_the_page(name):
    spelled = re.sub(r"^as_", "as.", name)
    types = {"bool", "float", "int", "str"}  # for .astype
    assert name in {"np", "contr", *types} or f"`{spelled}`" in TEXT or f"`{spelled}(" in TEXT
