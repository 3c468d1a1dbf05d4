"""The examples in docstrings and in README.md run and print what they say."""

import pkgutil
from importlib.util import find_spec

import pytest
from examples import ROOT, check_module, check_page
from test_doctests_of_batches import MODULES as BATCHES

import lmm_jax

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(lmm_jax.__path__, "lmm_jax.")
    if not module.name.endswith("__main__")
    and not module.name.startswith("lmm_jax.plots")  # test_plots.py, with matplotlib
    and module.name not in BATCHES
)
# Packages that a module or a page needs beside those of the library.
NEEDS = {
    "lmm_jax.sklearn": ("sklearn",),
    "lmm_jax.tables.page": ("polars",),
    "docs/tables.md": ("polars", "pyarrow"),
    "docs/sklearn.md": ("sklearn",),
    "docs/data.md": ("polars", "pyarrow", "duckdb"),
    "docs/scale.md": ("pyarrow",),
}


@pytest.mark.parametrize("name", ["lmm_jax", *MODULES])
def test_docstrings(name):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    check_module(name)


PAGES = (
    *("data", "index", "inference", "mmrm", "relatedness", "residual-structures", "scale"),
    *("sklearn", "tables", "trust"),
)
# Sections for engines that are installed for campaigns: test_engines.py runs them; and those of
# packages that are not installed.
ELSEWHERE = {"docs/scale.md": ("Dask", "Spark", "Ray")}
SECTIONS = {"docs/scale.md": {"A database": "duckdb"}}


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{page}.md" for page in PAGES)])
def test_examples_of_a_page(name):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    lacking = [s for s, package in SECTIONS.get(name, {}).items() if find_spec(package) is None]
    check_page(name, without=[*ELSEWHERE.get(name, ()), *lacking])


def test_the_summary_in_the_readme_is_what_is_printed():
    result = lmm_jax.fit("Reaction ~ Days + (Days | Subject)", lmm_jax.load_dataset("sleepstudy"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```text\n{result.summary()}\n```" in readme
