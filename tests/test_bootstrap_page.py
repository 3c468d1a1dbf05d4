"""The code in docs/bootstrap.md runs and prints what it says."""

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "bootstrap.md"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_examples_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    assert len(blocks) == 5 and test.examples
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed == 0
