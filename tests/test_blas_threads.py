"""One thread of BLAS for small matrices, and as many as before for all else."""

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import scipy.linalg

import lmm_jax as lmm
from lmm_jax.layouts.contract import Layout
from lmm_jax.numerics import blas_threads, programs


def counts():
    return [library.threads() for library in blas_threads._libraries()]


@pytest.fixture
def two():
    """Libraries that are asked for two threads, put back afterwards."""
    assert scipy.linalg.__name__  # there from the beginning: its BLAS counts
    libraries, before = blas_threads._libraries(), counts()
    if not libraries:
        pytest.skip("NumPy has another BLAS")
    try:
        for library in libraries:
            library.set_threads(2)
        if counts() != [2] * len(libraries):
            pytest.skip("this machine gives no two threads")
        yield libraries
    finally:
        for library, count in zip(libraries, before, strict=True):
            library.set_threads(count)


def test_one_thread_inside_and_what_there_was_outside(two):
    with blas_threads.one_thread(rows=300):
        assert set(counts()) == {1}
        with blas_threads.one_thread(numbers=1000):
            assert set(counts()) == {1}
        with blas_threads.one_thread(rows=301):  # within another one
            assert set(counts()) == {1}
        assert set(counts()) == {1}
    assert set(counts()) == {2}
    with blas_threads.one_thread(rows=301), blas_threads.one_thread(numbers=1 << 21):
        assert set(counts()) == {2}
    with pytest.raises(ValueError, match="stop"), blas_threads.one_thread():
        raise ValueError("stop")
    assert set(counts()) == {2}


def test_threads_of_python_that_overlap(two):
    """The first one in and the last one out change the number."""
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with blas_threads.one_thread():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=stay)
    with blas_threads.one_thread():
        other.start()
        assert inside.wait(10)
    assert set(counts()) == {1}
    leave.set()
    other.join()
    assert set(counts()) == {2}


COPY = """
    import os, sys
    from lmm_jax.numerics.held import Held
    changes = []
    held = Held(lambda: changes.append("in"), lambda: changes.append("out"))
    with held.inside():
        held._lock.acquire()  # as another thread may have it
        child = os.fork()
        if not child:
            with held.inside():
                pass
            os._exit(changes != ["in", "out", "in", "out"])
        held._lock.release()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(code or changes != ["in", "out"])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_copy_of_the_process_is_outside():
    """A fork while another thread is inside: the copy has what there was, and goes on."""
    call = [sys.executable, "-c", textwrap.dedent(COPY)]
    subprocess.run(call, check=True, timeout=60)


def of(rows):
    """A field of so many plots, in any order."""
    rng = np.random.default_rng(0)
    return {"y": rng.normal(size=rows).cumsum(), "u": rng.uniform(size=rows) * rows}


def panel(**sizes):
    rng, n = np.random.default_rng(1), 4000
    data = {name: rng.integers(0, levels, n) for name, levels in sizes.items()}
    return {**data, "x": rng.normal(size=n), "y": rng.normal(size=n)}


CASES = {
    "a small field": (lambda: of(40), "y ~ 1 + sp_gau(u)", True),
    "a large field": (lambda: of(400), "y ~ 1 + sp_gau(u)", False),
    "groups": (lambda: panel(g=40), "y ~ x + (x | g)", True),
    "few crossed levels": (lambda: panel(a=64, b=75), "y ~ x + (1 | a) + (1 | b)", True),
    "many crossed levels": (lambda: panel(a=320, b=330), "y ~ x + (1 | a) + (1 | b)", False),
}


@pytest.mark.filterwarnings("ignore::lmm_jax.ConvergenceWarning")
@pytest.mark.parametrize("case", CASES)
def test_models_of_small_matrices_take_one(two, monkeypatch, case):
    """By the rows of a subject, or the levels of the core."""
    data, formula, narrow = CASES[case]
    seen, plain = set(), programs._in_numpy

    def looked(fun, *rest):
        def watched(*args, **options):
            if narrow or any(isinstance(arg, Layout) for arg in args):
                seen.update(counts())
            return fun(*args, **options)

        return plain(watched, *rest)

    monkeypatch.setattr(programs, "_in_numpy", looked)
    lmm.fit(formula, data(), runtime="numpy", maxiter=2)
    assert set(counts()) == {2}
    assert seen == ({1} if narrow else {2})
