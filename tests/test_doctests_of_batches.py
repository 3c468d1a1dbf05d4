"""Examples that compile programs for many fits: in a file of their own, not in the quick tier."""

import pytest
from examples import check_module, check_page

MODULES = [
    "lmm_jax.api.bootstrap",
    "lmm_jax.api.power",
    "lmm_jax.layouts.sharding",
    "lmm_jax.optimize.implicit",
    "lmm_jax.results.bootstrap",
    "lmm_jax.results.bootstrap_statistics",
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    check_module(name)


@pytest.mark.parametrize("name", ["docs/bootstrap.md", "docs/fit_many.md"])
def test_examples_of_a_page(name):
    check_page(name)
