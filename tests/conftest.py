"""Strict JAX for every test; plain programs, compiled once for all workers; one BLAS thread."""

import gc
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy loads; two threads make LAPACK erratic
os.environ["COLUMNS"] = "80"  # tables fold at the width of the terminal
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA 0.9 is loud about programs from a disk
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # workers share an accelerator

import jax
import pytest
from jax._src import compiler

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Nearly all of the time is compilation: programs that run once or twice need no optimization, here
# and in the processes that tests start. Options of programs, and a setting of JAX that stands for
# such options: a flag that a version of XLA does not know ends the process.
_ON_CPU = jax.default_backend() == "cpu"
if _ON_CPU:  # a GPU's compiler needs its passes
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
# XLA's older code generator takes half the time; LLVM need not cut programs up for idle cores. A
# GPU's compiler would try several kernels for every product.
_PLAIN: dict[str, Any] = (
    {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    if _ON_CPU
    else {
        "xla_backend_optimization_level": 1,
        "xla_gpu_autotune_level": 0,
        "xla_gpu_enable_triton_gemm": False,
    }
)


def _knows(name):
    """Whether XLA has an option; it refuses to compile with others."""
    try:
        jax.jit(lambda x: x, compiler_options={name: _PLAIN[name]})(0.0)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _compile_plainly():
    """These options for every program, the tests' own too. JAX has no setting for that."""
    known = {name: value for name, value in _PLAIN.items() if _knows(name)}
    make = compiler.get_compile_options

    def get_compile_options(*args, env_options_overrides=None, **options):
        plain = {**(env_options_overrides or {}), **known}
        return make(*args, env_options_overrides=plain, **options)

    compiler.get_compile_options = get_compile_options


_compile_plainly()

# Tracing makes millions of objects that live as long as their program: looking through them again
# and again takes a tenth of the time. Each file's are looked through once, at its end.
gc.collect()
gc.freeze()
gc.disable()

_MANY_MAPPINGS = 40_000  # of the 65,530 that Linux allows; a file of tests adds up to 6,000

_CACHE = "LMM_JAX_TEST_CACHE"  # directory of compiled programs; workers find it here
# Files whose tests make the quick tier: what differs between versions of Python and of what is
# installed (reading frames and formulas, compiling, printing), and one pass over the main jobs.
_QUICK = {
    "test_dense_twin", "test_doctests", "test_formula", "test_layers", "test_main",
    "test_processes", "test_summary",
}  # fmt: skip
# Files whose slow tests are campaigns: whole grids of what other tests of the file prove on a few
# cells. They compile for an hour and run where they are asked for.
_CAMPAIGNS = {
    "test_anova", "test_bootstrap", "test_capabilities", "test_certificate", "test_garbage",
    "test_engines", "test_programs", "test_runtimes", "test_site", "test_structures",
}  # fmt: skip
# Files that take longest begin: a long one at the end would leave the other workers idle.
_LONGEST = (
    "test_reference", "test_options", "test_many", "test_crossed", "test_likelihood",
    "test_fit_params", "test_bootstrap", "test_runtimes", "test_structures",
    "test_doctests_of_batches", "test_embedding", "test_merged",
)  # fmt: skip


def pytest_configure(config):
    """One directory of compiled programs for the session, or the one that the user keeps."""
    config.option.loadscopereorder = False  # xdist keeps the order of the files
    config.own_cache = None
    if _CACHE not in os.environ:
        os.environ[_CACHE] = config.own_cache = tempfile.mkdtemp(prefix="lmm_jax_programs_")
    kept = {
        "jax_compilation_cache_dir": os.environ[_CACHE],
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in kept.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for the processes that tests start


def pytest_unconfigure(config):
    if config.own_cache is not None:
        shutil.rmtree(config.own_cache, ignore_errors=True)
        del os.environ[_CACHE]


@pytest.fixture
def x64():
    """float64 for the pure functions; the library never sets it globally."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def compiled(caplog):
    """Programs that JAX compiles, by name, as it logs them."""
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        yield lambda: re.findall(r"Finished XLA compilation of (\S+) in", caplog.text)


@pytest.fixture(scope="module", autouse=True)
def fresh_programs():
    """Give up compiled programs where there are many: a process has room for so many mappings."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > _MANY_MAPPINGS:
        jax.clear_caches()
        gc.unfreeze()
    gc.collect()
    gc.freeze()


def pytest_ignore_collect(collection_path, config):
    """Tiers do not import the other files: a tenth of the quick one's time.

    And a machine with an accelerator may lack what other files import.
    """
    if not collection_path.match("test_*.py"):
        return None
    tier, others = config.option.markexpr, False
    if tier == "quick":
        others = collection_path.stem not in _QUICK
    elif tier == "device":
        others = "mark.device" not in collection_path.read_text(encoding="utf-8")
    return others or None


@pytest.hookimpl(tryfirst=True)  # markers come before they are selected by
def pytest_collection_modifyitems(items):
    """The longest files first; campaigns and the quick tier.

    Tests of a file share compiled programs, so that a file goes to one worker: ``--dist=loadfile``,
    since pytest 9.2 does not show xdist the groups that ``--dist=loadgroup`` goes by.
    """
    first = {stem: rank for rank, stem in enumerate(_LONGEST)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))
    for item in items:
        slow = item.get_closest_marker("slow") is not None
        if slow and item.path.stem in _CAMPAIGNS and "LMM_JAX_CAMPAIGN" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="a campaign: set LMM_JAX_CAMPAIGN=1"))
        if item.path.stem in _QUICK and not slow:
            item.add_marker(pytest.mark.quick)
