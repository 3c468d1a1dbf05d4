"""One thread of BLAS for small matrices, and as many as before for all else."""

import threading

import numpy as np
import pytest
import scipy.linalg

import lmm_jax as lmm
from lmm_jax.numerics import blas_threads, programs


def counts():
    return [library.threads() for library in blas_threads._libraries()]


@pytest.fixture
def two():
    """Libraries that are asked for two threads, put back afterwards."""
    assert scipy.linalg.__name__  # there from the beginning: its BLAS counts
    libraries = blas_threads._libraries()
    if not libraries:
        pytest.skip("NumPy has another BLAS")
    before = counts()
    for library in libraries:
        library.set_threads(2)
    if counts() != [2] * len(libraries):
        pytest.skip("this machine gives no two threads")
    yield libraries
    for library, count in zip(libraries, before, strict=True):
        library.set_threads(count)


def test_one_thread_inside_and_what_there_was_outside(two):
    with blas_threads.one_thread():
        assert set(counts()) == {1}
        with blas_threads.one_thread():
            assert set(counts()) == {1}
        assert set(counts()) == {1}
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


@pytest.mark.filterwarnings("ignore::lmm_jax.ConvergenceWarning")
@pytest.mark.parametrize(("rows", "expected"), [(40, 1), (400, 2)])
def test_models_of_small_matrices_take_one(two, monkeypatch, rows, expected):
    """By the rows of a subject."""
    seen = []
    plain = programs._in_numpy

    def looked(fun, *rest):
        return plain(
            lambda *args, **options: (seen.extend(counts()), fun(*args, **options))[1], *rest
        )

    monkeypatch.setattr(programs, "_in_numpy", looked)
    rng = np.random.default_rng(0)
    data = {"y": rng.normal(size=rows).cumsum(), "u": rng.uniform(size=rows) * rows}
    lmm.fit("y ~ 1 + sp_gau(u)", data, runtime="numpy", maxiter=1)
    assert seen and set(counts()) == {2}
    assert expected in seen
    assert (1 in seen) == (expected == 1)
