"""Every notebook (a percent script) runs from top to bottom."""

import runpy
from pathlib import Path

import jax
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path):
    try:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integer types
            runpy.run_path(str(path))
    finally:
        plt.close("all")


def test_the_page_lists_every_notebook():
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert [path.name for path in NOTEBOOKS if f"`{path.name}`" not in page] == []
