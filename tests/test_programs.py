"""Compiled programs do not pile up."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import lmm_jax as lmm
from lmm_jax.numerics import programs


def test_programs_are_given_up_and_compiled_again():
    double = programs.compiled(lambda x: 2 * x)
    for n in range(1, 2 * programs._MAX_PROGRAMS):
        assert double(np.ones(n, dtype=np.float32)).sum() == 2 * n
        assert double.programs[True]._cache_size() <= programs._MAX_PROGRAMS
    assert double(np.ones(1, dtype=np.float32))[0] == 2


MAPS = Path("/proc/self/maps")
needs_maps = pytest.mark.skipif(not MAPS.exists(), reason="this system does not list its mappings")


@needs_maps
def test_mappings_of_programs_that_are_given_up_are_given_back():
    if jax.default_backend() != "cpu":
        pytest.skip("programs of another device are not mapped into the process")
    program = programs.compiled(lambda x: np.pi * x + 1)
    full = programs._MAX_PROGRAMS
    counts = {}
    for n in range(1, 3 * full + 1):
        program(np.ones(n, dtype=np.float32))
        if n == 1 or n % full == 0:
            gc.collect()
            counts[n] = len(MAPS.read_bytes().splitlines())
    one = (counts[full] - counts[1]) / (full - 1)
    assert one > 1  # a program holds some
    assert counts[3 * full] < counts[full] + 0.5 * full * one  # without a bound 2 * full * one


# Fits of as many shapes as are asked for; every quarter prints mappings and megabytes.
SHAPES = """
import gc, os, sys
import jax, numpy as np, pandas as pd
import lmm_jax as lmm
from lmm_jax.numerics import programs

n, programs._MAX_PROGRAMS = int(sys.argv[1]), int(sys.argv[2])
jax.config.update("jax_disable_most_optimizations", True)  # compiles in half of the time
rng = np.random.default_rng(0)
g = np.repeat(np.arange(12), 10)
data = pd.DataFrame(rng.normal(size=(120, 60)), columns=[f"x{j}" for j in range(60)])
data = data.assign(g=g, y=rng.normal(size=12)[g] + rng.normal(size=120))
models = [(p, random, reml) for p in range(60) for random in ("1", "x0") for reml in (True, False)]

def footprint():
    gc.collect()
    with open("/proc/self/maps") as maps, open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return len(maps.readlines()), resident >> 20

print(*footprint())
for done, (p, random, reml) in enumerate(models[:n], start=1):
    fixed = " + ".join(["1", *(f"x{j}" for j in range(p))])
    lmm.fit(f"y ~ {fixed} + ({random} | g)", data, reml=reml)
    if 4 * done % n == 0:
        print(*footprint(), flush=True)
"""


@needs_maps
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_many_shapes_in_one_process():
    """LMM_JAX_SHAPES=200 in the environment: the campaign, with the bound that users have."""
    n = int(os.environ.get("LMM_JAX_SHAPES", "24"))
    bound = min(programs._MAX_PROGRAMS, n // 6)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SHAPES, str(n), str(bound)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    at_rest, *quarters = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    assert len(quarters) == 4
    # 500 mappings at most a program of a fit (XLA 0.9 and 0.12), and as many for all else
    assert max(maps for maps, _ in quarters) < at_rest[0] + 500 * (bound + 1)
    resident = [megabytes for _, megabytes in quarters]
    assert resident[3] < 1.25 * resident[1]  # of which the compiler has most


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
lmm.fit('Yield ~ 1 + (1 | Batch)', lmm.load_dataset('dyestuff'), runtime='jax')
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
        with pytest.raises(OSError), programs._silent.inside():
            with programs._silent.inside():  # another thread
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
    key = jax.default_backend(), True
    monkeypatch.setattr(programs, "_OPTIONS", {key: {"xla_no_such_option": True}})
    double = programs.compiled(lambda x: 2 * x)
    assert double(np.ones(3)).sum() == 6
    assert programs._OPTIONS == {}


def test_options_for_programs_of_others():
    """Those that this library compiles by, and a copy of them."""
    options = lmm.compiler_options()
    assert options == programs._OPTIONS[(jax.default_backend(), True)]
    options.clear()
    assert lmm.compiler_options()
    layout = lmm.design("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff")).layout
    with jax.enable_x64(True):
        fit = jax.jit(lmm.fit_params, compiler_options=lmm.compiler_options())
        np.testing.assert_allclose(fit(layout).llf, lmm.fit_params(layout).llf, rtol=1e-11)
