"""What docs/from/statsmodels.md tells to write is there; test_guides.py runs its code."""

import re
from pathlib import Path

import pytest

import lmm_jax as lmm

PAGE = Path(__file__).parents[1] / "docs" / "from" / "statsmodels.md"


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
