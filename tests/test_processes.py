"""Several processes and threads: right where XLA's threads are there, refused where they are not.

Everything that forks or spawns runs in an interpreter of its own.
"""

import ast
import os
import pickle
import platform
import re
import subprocess
import sys
import textwrap
import timeit
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax.numerics import processes

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "processes.md").read_text(encoding="utf-8")
SAME = 1e-12  # the same program on the same numbers

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def run(script, *argv, timeout=240):
    """Standard output of a script in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore:os.fork:RuntimeWarning", str(script), *argv],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# `outcome(call)` runs a call in a forked child: the value it prints, the name of what it raises,
# or "hangs" after a while
FORK = """
import os, select, signal, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
import lmm_jax as lmm

data = lmm.load_dataset("sleepstudy")
FORMULA = "Reaction ~ Days + (1 | Subject)"

def outcome(call):
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            value = call()
            text = "done" if value is None else str(value)
        except BaseException as error:
            text = type(error).__name__
        os.write(sink, text.encode())
        os._exit(0)
    os.close(sink)
    ready = select.select([source], [], [], 60)[0]
    text = os.read(source, 1000).decode() if ready else "hangs"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(source)
    return text

def fitted():
    return f"{lmm.fit(FORMULA, data, runtime='jax').llf:.6f}"
"""

CHILDREN = f"""{FORK}
print(outcome(fitted))  # before anything was computed
print(fitted())
res = lmm.fit(FORMULA, data, runtime="jax")
design = lmm.design(FORMULA, data)
layout, theta = design.layout, np.array([0.7])
params = res.estimates
new = lmm.Params(fe_params=np.zeros(2), cov_re=np.eye(1), vcomp=np.zeros(0))
y = np.asarray(data["Reaction"], dtype=float)
X = np.ones((180, 1))
rows = (data[i : i + 60] for i in range(0, 180, 60))
refused = dict(
    fit=lambda: lmm.fit(FORMULA, data),
    fit_of_a_design=lambda: lmm.fit(design),
    another=lambda: lmm.fit("Reaction ~ Days + (Days | Subject)", data),
    lbfgs=lambda: lmm.fit(FORMULA, data, method="lbfgs"),
    fit_many=lambda: lmm.fit_many(FORMULA, data, responses=np.ones((180, 3)) + X),
    regularized=lambda: lmm.fit_regularized(FORMULA, data, alpha=0.1),
    power=lambda: lmm.power(design, new, scale=1.0, test="Days", seed=1, n_sim=4),
    bootstrap=lambda: lmm.bootstrap(res, 4, seed=1),
    profile=lambda: res.profile_re(0, "re"),
    effects=lambda: res.random_effects,
    layout=lambda: lmm.design(FORMULA, data).layout,
    arrays=lambda: lmm.design_from_arrays(y, X, np.arange(180) // 10).layout,
    batches=lambda: lmm.design_from_batches(FORMULA, rows),
    loglike=lambda: lmm.loglike(theta, layout),
    profile_loglike=lambda: lmm.profile_loglike(theta, layout),
    score=lambda: lmm.score(theta, layout),
    hessian=lambda: lmm.hessian(theta, layout),
    fit_params=lambda: lmm.fit_params(layout),
    pack=lambda: lmm.pack(new, sizes=(1,)),
    unpack=lambda: lmm.unpack(np.zeros(3), (1,), 2, 0),
    woodbury=lambda: lmm.woodbury_logdet(1.0, X, np.eye(1), np.zeros(0)),
)
for name, call in refused.items():
    print(name, outcome(call))
print("summary", len(outcome(lambda: str(res.summary())[:500])))
print("estimates", outcome(lambda: round(res.llf, 6)))
print("influence", outcome(lambda: len(lmm.influence(res).params)))  # NumPy alone
print("grandchild", outcome(lambda: outcome(fitted)))
print(fitted())  # the parent computes on
"""


def test_numpys_generator_is_left_alone(tmp_path):
    """A script that sets a seed, fits and draws gets the numbers of its seed."""
    code = """
        import numpy as np, lmm_jax as lmm
        np.random.seed(1)
        lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        after = np.random.rand(3)
        np.random.seed(1)
        assert (after == np.random.rand(3)).all()
    """
    script = tmp_path / "seed.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    subprocess.run([sys.executable, str(script)], check=True)


@needs_fork
def test_what_a_fork_of_a_computing_process_can_do(tmp_path):
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    lines = run(script).splitlines()
    llf = f"{lmm.fit('Reaction ~ Days + (1 | Subject)', lmm.load_dataset('sleepstudy')).llf:.6f}"
    assert lines[:2] == [llf, llf]
    assert lines[-1] == llf
    outcomes = dict(line.split(" ", 1) for line in lines[2:-1])
    assert int(outcomes.pop("summary")) > 100
    assert float(outcomes.pop("estimates")) == float(llf)
    assert outcomes.pop("influence") == "18"
    assert {name: text for name, text in outcomes.items() if text != "ForkError"} == {}


NUMPY_ALONE = f"""{FORK}
pens = lmm.load_dataset("penicillin")
res = lmm.fit("diameter ~ 1 + (1 | plate) + (1 | sample)", pens)
assert res.runtime == "numpy"
lmm.ranova(res), lmm.step(lmm.fit(FORMULA, data)), res.conf_int(method="profile")
lmm.fit_many("~ 1 + (1 | plate) + (1 | sample)", pens, pens[["diameter"]])
print(outcome(fitted))
"""


@needs_fork
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what glibc's allocator learns")
def test_arrays_take_memory_that_was_freed(tmp_path):
    """Pages are asked for once, not for every array; without it 256 for each of them."""
    code = """
        import resource
        import numpy as np
        import lmm_jax.numerics.programs

        def faults():
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        np.ones(1 << 17) + np.ones(1 << 17)
        before = faults()
        for _ in range(50):
            np.ones(1 << 17) + np.ones(1 << 17)
        print(faults() - before)
    """
    script = tmp_path / "faults.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    assert int(run(script)) < 50 * 256


def test_what_numpy_works_off_starts_no_threads(tmp_path):
    """A fork afterwards computes: crossed factors, tests of random effects, profiles, lanes."""
    script = tmp_path / "numpy_alone.py"
    script.write_text(NUMPY_ALONE)
    llf = lmm.fit("Reaction ~ Days + (1 | Subject)", lmm.load_dataset("sleepstudy")).llf
    assert run(script).split() == [f"{llf:.6f}"]


OTHERS = f"""{FORK}
import jax
jax.numpy.ones(3).sum()  # somebody else's computation
print(outcome(fitted))
"""

POOLS = f"""{FORK}
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def job(k):
    return fitted()

early = get_context("fork").Pool(1)
print(early.map(job, [1])[0])
print(fitted())
print(early.map(job, [1])[0])  # forked before: it computes on
early.terminate()
try:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        print(list(pool.map(job, [1, 2])))
except lmm.ForkError as error:
    print(error)
"""


@needs_fork
def test_a_fork_after_somebody_elses_computation(tmp_path):
    script = tmp_path / "others.py"
    script.write_text(OTHERS)
    assert run(script).split() == ["ForkError"]


@needs_fork
def test_pools_made_by_fork(tmp_path):
    script = tmp_path / "pools.py"
    script.write_text(POOLS)
    first, second, third, message = run(script).splitlines()
    assert first == second == third
    for fragment in ('get_context("spawn")', "forkserver", "threads", "before the first"):
        assert fragment in message


def test_the_error_passes_between_processes():
    error = pickle.loads(pickle.dumps(lmm.ForkError("a message")))
    assert isinstance(error, RuntimeError)
    assert str(error) == "a message"


def test_every_module_takes_the_door():
    """64 bits are asked for in one place, which looks for lost threads."""
    for path in (ROOT / "lmm_jax").rglob("*.py"):
        if path.stem == "processes":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert getattr(node, "attr", None) != "enable_x64", path
            assert getattr(node, "id", None) != "enable_x64", path


def test_the_check_costs_microseconds():
    best = min(timeit.repeat(processes.check_process, number=10_000, repeat=5))
    assert best < 10_000 * 5e-6


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def on_the_page():
    """What both scripts of the page print."""
    data = lmm.load_dataset("sleepstudy")
    formulas = ["Reaction ~ Days + (1 | Subject)", "Reaction ~ Days + (Days | Subject)"]
    return [f"{lmm.fit(formula, data).llf:.3f}" for formula in formulas]


@pytest.mark.parametrize("block", [0, 1], ids=["threads", "spawn"])
def test_the_page_runs(tmp_path, block, on_the_page):
    script = tmp_path / "page.py"
    script.write_text(blocks()[block])
    assert ast.literal_eval(run(script)) == on_the_page


LOKY = """
    try:
        from joblib import Parallel, delayed
    except ImportError:
        pass
    else:
        values = Parallel(n_jobs=2)(delayed(log_likelihood)(formula) for formula in formulas)
        print([f"{value:.3f}" for value in values])
"""


@needs_fork
def test_fresh_processes_after_a_fit(tmp_path, on_the_page):
    """By forkserver, and by joblib where it is installed."""
    fit_first = "    log_likelihood('Reaction ~ 1 + (1 | Subject)')\n    formulas ="
    page = blocks()[1].replace('"spawn"', '"forkserver"').replace("    formulas =", fit_first, 1)
    assert "forkserver" in page
    assert fit_first in page
    script = tmp_path / "fresh.py"
    script.write_text(page + LOKY)
    lists = run(script).splitlines()
    assert lists
    for values in lists:
        assert ast.literal_eval(values) == on_the_page


def models(seed=5):
    """Data sets and formulas of several shapes."""
    rng = np.random.default_rng(seed)
    for k, (groups, size) in enumerate([(8, 5), (8, 5), (20, 6), (30, 30), (100, 7)]):
        g = np.repeat(np.arange(groups), size)
        x = rng.normal(size=g.size)
        y = x + rng.normal(size=groups)[g] + rng.normal(size=g.size)
        data = pd.DataFrame({"y": y, "x": x, "g": g, "h": rng.integers(0, 6, g.size)})
        yield f"y ~ x + {['(1 | g)', '(x | g)', '(1 | g) + (1 | h)'][k % 3]}", data


def everything(model):
    formula, data = model
    res = lmm.fit(formula, data)
    effects = np.concatenate([np.ravel(v) for v in res.random_effects.values()])
    return np.concatenate([[res.llf], res.fe_params, res.bse_fe, effects, res.predict(data)])


def test_threads_give_what_a_serial_run_gives():
    given = [model for model in models() for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(everything, given))
    for one, model in zip(at_once, given, strict=True):
        np.testing.assert_allclose(one, everything(model), rtol=SAME, atol=SAME)


IMPORTED_WITHIN = """
from contextlib import nullcontext
import jax

@jax.jit
def first(x):
    from lmm_jax.numerics import processes
    print(type(processes.eagerly()) is nullcontext)
    return x

first(1.0)
from lmm_jax.numerics import processes
print(type(processes.eagerly()) is nullcontext)
"""


def test_an_import_within_a_program_is_no_matter(tmp_path):
    script = tmp_path / "within.py"
    script.write_text(IMPORTED_WITHIN)
    assert run(script).split() == ["False", "True"]
