"""Strict JAX for every test: no silent rank or dtype promotion; one BLAS thread."""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy loads; two threads make LAPACK erratic

# nearly all of the time is compilation: programs that run once or twice need no optimization
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64():
    """float64 for the pure functions; the library never sets it globally."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def fresh_programs():
    """Give up compiled programs after each file: a process has room for a few hundred only."""
    yield
    jax.clear_caches()


def pytest_collection_modifyitems(items):
    """Tests that share compiled programs go to one worker: those of a file, or of a case of R."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        case = params.get("name") if item.path.stem == "test_reference" else None
        item.add_marker(pytest.mark.xdist_group(case or item.path.stem))
