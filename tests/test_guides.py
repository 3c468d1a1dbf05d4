"""The pages that lead a user: their code runs, prints what they say and makes their pictures.

Tables with a column *here* have lines of Python in it, which run beside the code of the page; those
with *term here* the right side of a formula.
"""

import re
import runpy

import jax
import numpy as np
import pandas as pd
import pytest
from examples import ROOT

import lmm_jax as lmm

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("pyarrow")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

DOCS = ROOT / "docs"
GUIDES = [DOCS / "start.md", *sorted(DOCS.glob("howto/*.md")), *sorted(DOCS.glob("from/*.md"))]
MAKE = runpy.run_path(str(DOCS / "plots" / "make.py"))
ROWS = pd.DataFrame(
    {
        "y": np.sin(np.arange(48.0)),
        "x": np.tile([1.0, 2.0, 4.0, 7.0, 8.0, 9.0], 8),
        "f": list("abc") * 16,
        "g": np.repeat(range(6), 8),
        "h": [1, 1, 2, 2] * 12,
    }
)


def cells(line):
    """The cells of a row of a table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def code_in(page, header):
    """What stands as code in the columns of this name; tables of defaults have words there."""
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        head, _, *rows = map(cells, table.splitlines())
        if header in head and head[0]:
            for row in rows:
                for code in re.findall("`([^`]+)`", row[head.index(header)]):
                    yield code.replace("\\|", "|")


def check_tables(page, names):
    for code in code_in(page, "here"):
        exec(code, dict(names))
        plt.close("all")
    for term in code_in(page, "term here"):
        lmm.design(f"y ~ {term}", ROWS)


@pytest.mark.parametrize("page", GUIDES, ids=[page.stem for page in GUIDES])
def test_a_guide(page, capsys):
    links = MAKE["links"](page)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integer types
        pictures, failed, names = MAKE["run"](page)
        assert not failed, capsys.readouterr().out
        if page.stem != "statsmodels":  # test_migration_page.py knows its tables
            check_tables(page, names)
    assert pictures == len(links) == len(set(links))


def test_tables_of_guides_are_read():
    assert len(list(code_in(DOCS / "from" / "lme4.md", "here"))) > 80
    assert len(list(code_in(DOCS / "from" / "lme4.md", "term here"))) > 5


def test_every_picture_is_made_on_one_page():
    links = [name for page in MAKE["PAGES"] for name in MAKE["links"](page)]
    assert sorted(path.stem for path in (DOCS / "plots").glob("*.png")) == sorted(links)
