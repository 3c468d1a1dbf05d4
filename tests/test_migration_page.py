"""The code in docs/migrating-from-statsmodels.md runs and prints what it says."""

import doctest
import re
from pathlib import Path

import pytest

import lmm_jax as lmm

PAGE = Path(__file__).parents[1] / "docs" / "migrating-from-statsmodels.md"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.slow
def test_examples_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    assert len(blocks) >= 6
    assert test.examples
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed == 0


def names_on_the_page():
    """What the page calls in the package or asks of a result, a design or Params."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"\b(lmm|result|design|Params)\.([a-z]\w*)", text)
    return sorted({(owner, name) for owner, name in found})


@pytest.mark.parametrize(("owner", "name"), names_on_the_page())
def test_names_on_the_page_exist(owner, name):
    classes = {"lmm": lmm, "result": lmm.LMMResults, "design": lmm.Design, "Params": lmm.Params}
    fields = getattr(classes[owner], "__dataclass_fields__", {})
    assert hasattr(classes[owner], name) or name in fields
