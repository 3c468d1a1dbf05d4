"""Compiled programs do not pile up."""

import os
import subprocess
import sys

import jax
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


LOADING = """
import sys, threading, jax, numpy as np, lmm_jax as lmm
hits = []
jax.monitoring.register_event_listener(lambda e, **_: hits.append(e))
lmm.use_cache(sys.argv[1])
lmm.fit('Yield ~ 1 + (1 | Batch)', lmm.load_dataset('dyestuff'))
# programs of others, and several at once
jobs = [
    threading.Thread(target=jax.jit(f), args=(np.ones(9),))
    for f in (jax.numpy.sin, jax.numpy.cos, jax.numpy.tan)
]
for job in jobs:
    job.start()
for job in jobs:
    job.join()
print(sum(e.endswith('compilation_cache/cache_hits') for e in hits))
"""


def test_programs_survive_the_process_in_silence(tmp_path):
    """JAX's own level of messages: errors are seen, and there are none."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL", "JAX_COMPILATION_CACHE_DIR"}
    env = {name: value for name, value in os.environ.items() if name not in quiet}
    call = [sys.executable, "-c", LOADING, str(tmp_path / "new")]
    first, second = (
        subprocess.run(call, capture_output=True, text=True, env=env) for _ in range(2)
    )
    assert int(first.stdout) == 0, first.stderr
    assert int(second.stdout) >= 4, second.stderr
    assert second.stderr == ""


@pytest.mark.parametrize(
    ("environment", "setting", "level"),
    [("1", "NOTSET", 1), ("0", "NOTSET", 0), ("2", None, 2), ("x", None, 0), ("1", "ERROR", 2)],
)
def test_xla_is_quiet_while_it_loads_and_no_longer(monkeypatch, environment, setting, level):
    levels = []
    monkeypatch.setattr(programs.utils, "absl_set_min_log_level", levels.append)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", environment)
    jax.config.update("jax_logging_level", setting)
    levels.clear()
    try:
        with pytest.raises(OSError), programs._silence():
            with programs._silence():  # another thread
                pass
            assert set(levels) == {3}
            raise OSError
    finally:
        jax.config.update("jax_logging_level", "NOTSET")
    assert levels[-1] == level


def test_importing_does_not_touch_the_cache():
    script = (
        "from jax._src import compilation_cache as c\n"
        "load = c.get_executable_and_time\n"
        "import lmm_jax\n"
        "assert c.get_executable_and_time is load\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_options_that_xla_does_not_have_are_given_up(monkeypatch):
    monkeypatch.setattr(programs, "_OPTIONS", {("cpu", True): {"xla_no_such_option": True}})
    double = programs.compiled(lambda x: 2 * x)
    assert double(np.ones(3)).sum() == 6
    assert programs._OPTIONS == {}
