"""The pages that lead a user: their code runs, prints what they say and makes their pictures."""

import runpy

import jax
import pytest
from examples import ROOT

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("pyarrow")
matplotlib.use("Agg")

DOCS = ROOT / "docs"
GUIDES = [DOCS / "start.md", *sorted(DOCS.glob("howto/*.md")), *sorted(DOCS.glob("from/*.md"))]
MAKE = runpy.run_path(str(DOCS / "plots" / "make.py"))


@pytest.mark.parametrize("page", GUIDES, ids=[page.stem for page in GUIDES])
def test_examples_of_a_guide(page):
    links = MAKE["links"](page)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integer types
        pictures, failed = MAKE["run"](page)
    assert failed == 0
    assert pictures == len(links) == len(set(links))


def test_every_picture_is_on_one_page():
    links = [name for page in MAKE["illustrated"]() for name in MAKE["links"](page)]
    assert sorted(path.stem for path in (DOCS / "plots").glob("*.png")) == sorted(links)
