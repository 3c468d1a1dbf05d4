"""Compiled programs do not pile up."""

import numpy as np

from lmm_jax import programs


def test_programs_are_given_up_and_compiled_again():
    double = programs.compiled(lambda x: 2 * x)
    for n in range(1, 2 * programs._MAX_PROGRAMS):
        assert double(np.ones(n, dtype=np.float32)).sum() == 2 * n
        assert double.programs[True]._cache_size() <= programs._MAX_PROGRAMS
    assert double(np.ones(1, dtype=np.float32))[0] == 2


def test_static_arguments_and_one_program_a_shape():
    power = programs.compiled(lambda x, k: x**k, static="k")
    for value in (1.0, 2.0, 3.0):
        assert power(np.float32(value), k=3) == value**3
    assert power.programs[True]._cache_size() == 1
