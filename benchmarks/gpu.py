"""The same jobs on a GPU and on the CPU of the same machine.

    python benchmarks/gpu.py [--jobs many-10k sleepstudy] [--devices cuda cpu] [--runs 5]
        [--scale 0.01]

One process a device works the jobs off, with all cores. The first call of a job compiles its
programs; ``warm`` is the median of the following ones. After a call of more than 20 s beside
compilation no other is made: where there was no warm call, the ratio uses the first ones. The
answers of both devices are compared. Writes ``docs/benchmarks/gpu.json`` and ``gpu.md``; a run
replaces what it measures again. ``--scale`` makes the large jobs smaller, to see that everything
works, and writes to a file of its own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from machine import RESULTS, cpu_model, machine

DEVICES = {"cuda": "GPU", "cpu": "CPU"}
_LONG = 20.0  # seconds of a call that is the last one


class Job(NamedTuple):
    title: str
    prepare: Callable[[float], Callable[[], dict[str, Any]]]  # of a scale; what is timed
    devices: tuple[str, ...] = tuple(DEVICES)


# ------------------------------------------------------------ the jobs


def many(responses: int, scale: float) -> Callable[[], dict[str, Any]]:
    """Responses that differ in the size of their effects, on the design of sleepstudy."""
    import numpy as np

    import lmm_jax as lmm

    count = max(64, round(responses * scale))
    data, rng = lmm.load_dataset("sleepstudy"), np.random.default_rng(0)
    days = data["Days"].to_numpy(float)
    subject = data["Subject"].factorize()[0]
    Y = np.empty((days.size, count))
    for start in range(0, count, 10_000):
        part = Y[:, start : start + 10_000]
        sd = rng.uniform(0.3, 2.0, (2, 1, part.shape[1])) * np.array([1.0, 0.2])[:, None, None]
        b = rng.standard_normal((2, 18, part.shape[1])) * sd
        part[:] = rng.standard_normal(part.shape) + b[0, subject] + b[1, subject] * days[:, None]

    def call() -> dict[str, Any]:
        found = lmm.fit_many("~ Days + (Days | Subject)", data, Y, progress=False, runtime="jax")
        found.pvalues  # noqa: B018  computed when first asked for
        mean = -2 * float(found.llf.mean())
        return {"criterion": mean, "failed": int((~found.converged).sum())}

    return call


def replicates(name: str, formula: str, count: int, scale: float) -> Callable[[], dict[str, Any]]:
    """A parametric bootstrap; the answer is the standard deviation of the last fixed effect."""
    import lmm_jax as lmm

    fit, count = lmm.fit(formula, lmm.load_dataset(name)), max(64, round(count * scale))

    def call() -> dict[str, Any]:
        boot = lmm.bootstrap(fit, count, seed=1)
        last = boot.params()[fit.fe_params.index[-1]]
        return {"criterion": float(last.std()), "failed": boot.n_failed}

    return call


def rows(scale: float) -> Callable[[], dict[str, Any]]:
    """Ten million rows as arrays."""
    from problems import even

    import lmm_jax as lmm

    at = even("", 1_000_000, 10, 2, scale, slope=True).arrays()
    groups = at["groups"][:, 0].copy()

    def call() -> dict[str, Any]:
        design = lmm.design_from_arrays(at["y"], at["X"], groups, exog_re=at["Z"])
        return _ended(lmm.fit(design, runtime="jax"))

    return call


def problem(name: str, runtime: str, scale: float) -> Callable[[], dict[str, Any]]:
    """One of ``problems.py``, from a frame."""
    from problems import PROBLEMS

    import lmm_jax as lmm

    made = PROBLEMS[name](scale)

    def call() -> dict[str, Any]:
        return _ended(lmm.fit(made.formula, made.frame, runtime=runtime))

    return call


def embedded(scale: float) -> Callable[[], dict[str, Any]]:
    """A step of learning: 100 of them, on the criterion's gradient through the compression."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import lmm_jax as lmm

    jax.config.update("jax_enable_x64", True)
    groups = np.repeat(np.arange(max(100, round(100_000 * scale))), 10)
    rng = np.random.default_rng(0)
    x, one = jnp.asarray(rng.uniform(-2, 2, groups.size)), jnp.ones(groups.size)
    b = rng.standard_normal(groups[-1] + 1)[groups]
    y = jnp.sin(2 * x) + jnp.asarray(b + 0.3 * rng.standard_normal(groups.size))
    index = lmm.row_index(groups)
    w = {name: jnp.asarray(rng.standard_normal(16)) for name in "abc"} | {"log": jnp.zeros(())}

    def loss(w: Any, x: Any, y: Any) -> Any:
        net = jnp.tanh(x[:, None] * w["a"][None] + w["b"][None]) @ w["c"]
        layout = lmm.compress(y - net, one[:, None], (one[:, None, None],), one, index)
        return -lmm.loglike(jnp.exp(w["log"])[None], layout, reml=False) / groups.size

    @jax.jit
    def step(w: Any, x: Any, y: Any) -> Any:
        value, slope = jax.value_and_grad(loss)(w, x, y)
        return value, jax.tree.map(lambda a, g: a - 0.01 * g, w, slope)

    def call() -> dict[str, Any]:
        now = w
        for _ in range(100):
            value, now = step(now, x, y)
        return {"criterion": float(value), "failed": 0}

    return call


def _ended(res: Any) -> dict[str, Any]:
    res.bse_fe.to_numpy()
    return {"criterion": -2 * res.llf, "failed": int(not res.converged), "runtime": res.runtime}


SLEEP = "Reaction ~ Days + (Days | Subject)"
PENICILLIN = "diameter ~ 1 + (1 | plate) + (1 | sample)"
JOBS: dict[str, Job] = {
    "sleepstudy": Job(
        "fit of sleepstudy, 180 rows", lambda scale: problem("a", "auto", scale)
    ),
    "many-10k": Job(
        "`fit_many`, 10,000 responses of 180 rows", lambda scale: many(10_000, scale)
    ),
    "many-1M": Job(
        "`fit_many`, 1,000,000 responses", lambda scale: many(1_000_000, scale)
    ),
    "bootstrap": Job(
        "`bootstrap`, 10,000 of sleepstudy",
        lambda scale: replicates("sleepstudy", SLEEP, 10_000, scale),
    ),
    "bootstrap-crossed": Job(
        "`bootstrap`, 10,000 of Penicillin, crossed",
        lambda scale: replicates("penicillin", PENICILLIN, 10_000, scale),
    ),
    "c": Job(
        "fit of 1,000,000 rows in 100,000 groups with a slope, from a frame",
        lambda scale: problem("c", "jax", scale),
    ),
    "rows": Job("fit of 10,000,000 rows, 1,000,000 groups with a slope, from arrays", rows),
    "insteval": Job(
        "fit of InstEval, 2,972 students by 1,128 lecturers by department and service",
        lambda scale: problem("insteval", "jax", scale),
    ),
    "movielens": Job(
        "fit of 1,000,000 ratings, 6,040 by 3,706",
        lambda scale: problem("movielens", "jax", scale),
    ),
    "movies-23k": Job(
        "fit of 32,000,000 ratings, 200,948 by 23,350",
        lambda scale: problem("movies-23k", "jax", scale), ("cuda",),
    ),
    "movies-44k": Job(
        "fit of 32,000,000 ratings, 200,948 by 43,884",
        lambda scale: problem("movies-44k", "jax", scale), ("cuda",),
    ),
    "movies-84k": Job(
        "fit of 32,000,000 ratings, 200,948 by 84,432, approximately",
        lambda scale: problem("movies-84k", "auto", scale), ("cuda",),
    ),
    "embedded": Job(
        "100 gradients through 1,000,000 rows in 100,000 groups (`jit`)", embedded
    ),
}  # fmt: skip


# ------------------------------------------------------------ one device


def work(names: list[str], runs: int, scale: float) -> None:
    """Print a line for the device and one for every call."""
    start = time.perf_counter()
    import jax
    from worker import Compilations

    compilations = Compilations()
    compilations.listen()
    float(jax.numpy.ones(8).sum())
    kind = jax.devices()[0].device_kind
    say(
        device=cpu_model() if kind == "cpu" else kind,
        jax=jax.__version__,
        start_s=time.perf_counter() - start,
    )
    warnings.simplefilter("ignore")
    for name in names:
        try:
            call = JOBS[name].prepare(scale)
            for _ in range(runs + 1):
                before, start = len(compilations.seconds), time.perf_counter()
                answer = call()
                seconds = time.perf_counter() - start
                compiling = sum(compilations.seconds[before:])
                peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
                say(job=name, seconds=seconds, compile_s=compiling, peak_bytes=peak, **answer)
                if seconds - compiling > _LONG:
                    break
        except Exception as error:  # the other jobs go on
            say(job=name, error=f"{type(error).__name__}: {error}"[:300])


def say(**report: Any) -> None:
    print(json.dumps(report), flush=True)


def measured(device: str, names: list[str], runs: int, scale: float) -> Iterator[dict[str, Any]]:
    """What a process on one device has found so far, after each of its lines."""
    names = [name for name in names if device in JOBS[name].devices]
    call = [sys.executable, str(Path(__file__).resolve()), "--worker", "--jobs", *names]
    call += ["--runs", str(runs), "--scale", str(scale)]
    environment = {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.94",  # JAX takes three quarters unless it is told to
        **os.environ,
        "JAX_PLATFORMS": device,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    found: dict[str, Any] = {"date": str(datetime.date.today()), "jobs": {}}
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=environment) as child:
        for line in child.stdout or ():
            if line.startswith('{"'):
                _add(found, json.loads(line))
                yield found
    if child.returncode:
        raise SystemExit(f"{device}: the process ended with {child.returncode}")


def _add(found: dict[str, Any], line: dict[str, Any]) -> None:
    """A line of a worker put among what is found."""
    if "job" not in line:
        found |= line
        return
    job = found["jobs"].setdefault(line.pop("job"), {})
    if "error" in line:
        job |= line
        return
    seconds, compiling = line.pop("seconds"), line.pop("compile_s")
    if "first_s" in job:
        job["warm_runs_s"].append(seconds)
        job["warm_s"] = statistics.median(job["warm_runs_s"])
    else:
        job |= {"first_s": seconds, "first_compile_s": compiling}
        job |= {"warm_s": None, "warm_runs_s": []}
    job |= line


# ------------------------------------------------------------ the tables


def markdown(report: dict[str, Any]) -> str:
    found = {key: report["devices"][key] for key in DEVICES if key in report["devices"]}
    names = [DEVICES[device] for device in found]
    where = [
        f"{DEVICES[device]}: {at['device']}, jax {at['jax']}, {at['date']}, first operation of a "
        f"process after {at['start_s']:.1f} s."
        for device, at in found.items()
    ]
    head = ["job", *(f"{name}, s" for name in names)]
    head += [f"{name}, first call, s (compiling)" for name in names]
    head += ["CPU / GPU", "answers differ by"] if len(names) > 1 else []
    lines = [
        "# Fits on a GPU",
        "",
        f"{' '.join(where)} {report['machine']['cores']} cores; medians of warm calls, float64. "
        "Ratios are those of the warm calls, where both devices had one, otherwise of the first.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for name, job in JOBS.items():
        done = [at["jobs"].get(name) for at in found.values()]
        if any(done):
            cells = [job.title, *map(_warm, done), *map(_first, done)]
            lines.append(f"| {' | '.join(cells + _compared(done))} |")
    return "\n".join(lines) + "\n"


def _warm(at: dict[str, Any] | None) -> str:
    if at is None or "error" in at or at["warm_s"] is None:
        return "failed" if at and "error" in at else "-"
    return f"{at['warm_s']:.3g}" + (" (on the host)" if at.get("runtime") == "numpy" else "")


def _first(at: dict[str, Any] | None) -> str:
    if at is None or "first_s" not in at:
        return "-"
    return f"{at['first_s']:.3g} ({at['first_compile_s']:.3g})"


def _compared(done: list[dict[str, Any] | None]) -> list[str]:
    """Ratio of the times and relative difference of the answers of two devices."""
    if len(done) < 2:
        return []
    if not all(at and "first_s" in at for at in done):
        return ["-", "-"]
    gpu, cpu = done
    key = "warm_s" if gpu["warm_s"] and cpu["warm_s"] else "first_s"
    apart = abs(gpu["criterion"] - cpu["criterion"]) / abs(cpu["criterion"])
    return [f"{cpu[key] / gpu[key]:.2g}", f"{apart:.0e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=list(DEVICES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.jobs, args.runs, args.scale)
        return
    path = args.output if args.scale == 1 else args.output.with_stem("gpu-small")
    report: dict[str, Any] = {"machine": machine(), "devices": {}}
    if path.exists():
        report["devices"] = json.loads(path.read_text(encoding="utf-8"))["devices"]
    for device in args.devices:
        before = report["devices"].get(device, {"jobs": {}})["jobs"]
        for found in measured(device, args.jobs, args.runs, args.scale):
            report["devices"][device] = found | {"jobs": before | found["jobs"]}
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            path.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))


if __name__ == "__main__":
    main()
