"""Compiled programs do not pile up."""

import subprocess
import sys

import numpy as np
import pytest

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


def test_a_file_is_no_place_for_programs(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="pass a directory"):
        programs.use_cache(tmp_path / "file")


def test_programs_survive_the_process(tmp_path):
    script = (
        "import sys, jax, lmm_jax as lmm\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda e, **_: hits.append(e))\n"
        "lmm.use_cache(sys.argv[1])\n"
        "lmm.fit('Yield ~ 1 + (1 | Batch)', lmm.load_dataset('dyestuff'))\n"
        "print(sum(e.endswith('compilation_cache/cache_hits') for e in hits))\n"
    )
    call = [sys.executable, "-c", script, str(tmp_path / "new")]
    first, second = (subprocess.run(call, capture_output=True, text=True) for _ in range(2))
    assert int(first.stdout) == 0, first.stderr
    assert int(second.stdout) >= 1, second.stderr


def test_options_that_xla_does_not_have_are_given_up(monkeypatch):
    monkeypatch.setattr(programs, "_OPTIONS", {("cpu", True): {"xla_no_such_option": True}})
    double = programs.compiled(lambda x: 2 * x)
    assert double(np.ones(3)).sum() == 6
    assert programs._OPTIONS == {}
