"""Every notebook (a percent script) runs from top to bottom."""

import runpy
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path):
    runpy.run_path(str(path))


def test_there_are_notebooks():
    assert NOTEBOOKS
