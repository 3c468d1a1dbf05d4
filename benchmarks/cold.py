"""A first fit in a fresh process, with and without a persistent compilation cache.

    python benchmarks/cold.py [--runs 5]

Wall time of ``python -c "..."`` that fits sleepstudy and prints the summary: by NumPy, as it
is; and by compiled programs: without a cache, with an empty one, and with one that an earlier
process has filled, by JAX's variables or by ``lmm.use_cache``. Then the programs compiled by
fits of 20 data sets of different size and equal ``p`` and ``q`` in one process. Writes
``docs/benchmarks/cold.json`` and ``docs/benchmarks/cold.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import RESULTS, machine, worker_environment

IMPORT = "import lmm_jax as lmm"
AT_ONCE = (
    f"{IMPORT}; print(lmm.fit('Reaction ~ Days + (Days | Subject)', "
    "lmm.load_dataset('sleepstudy')).summary())"
)
FIT = AT_ONCE.replace("'))", "'), runtime='jax')")  # compiled


def wall(code: str, folder: str | None) -> float:
    """Seconds of a fresh Python process."""
    start = time.perf_counter()
    call = [sys.executable, "-c", code]
    subprocess.run(call, env=worker_environment(1, folder), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def cold_starts(runs: int) -> dict[str, list[float]]:
    """Seconds of the same process in each state of the cache."""
    times: dict[str, list[float]] = {
        "import only": [],
        "fit (NumPy)": [],
        "no cache": [],
        "empty cache": [],
        "filled cache": [],
        "filled by use_cache()": [],
    }
    for _ in range(runs):
        times["import only"].append(wall(IMPORT, None))
        times["fit (NumPy)"].append(wall(AT_ONCE, None))
        times["no cache"].append(wall(FIT, None))
        with tempfile.TemporaryDirectory() as folder:
            times["empty cache"].append(wall(FIT, folder))
            times["filled cache"].append(wall(FIT, folder))
        with tempfile.TemporaryDirectory() as folder:
            code = FIT.replace(IMPORT, f"{IMPORT}; lmm.use_cache({folder!r})")
            wall(code, None)
            times["filled by use_cache()"].append(wall(code, None))
    return times


def many_shapes(count: int) -> list[dict[str, Any]]:
    """Fits of data sets of random size: seconds and programs compiled by each."""
    import numpy as np
    from problems import grouped
    from worker import Compilations

    import lmm_jax as lmm

    compilations = Compilations()
    compilations.listen()
    rng = np.random.default_rng(0)
    found = []
    for seed in range(count):
        sizes = rng.integers(2, 31, rng.integers(10, 201))
        problem = grouped("", sizes, 2, slope=True, seed=seed)
        before, start = len(compilations.seconds), time.perf_counter()
        result = lmm.fit(problem.formula, problem.frame, runtime="jax")
        str(result.summary())
        found.append(
            {
                "groups": int(sizes.size),
                "rows": int(sizes.sum()),
                "seconds": time.perf_counter() - start,
                "programs": len(compilations.seconds) - before,
                "compile_s": sum(compilations.seconds[before:]),
                "converged": bool(result.converged),
            }
        )
    return found


def markdown(report: dict[str, Any]) -> str:
    lines = [
        "# First fits",
        "",
        f"{report['machine']['cpu']}; sleepstudy from a fresh process, from start to end of it, "
        f"medians of {report['runs']}.",
        "",
        "| process | seconds | shortest | longest |",
        "|---|---|---|---|",
    ]
    for name, times in report["processes"].items():
        middle = statistics.median(times)
        lines.append(f"| {name} | {middle:.2f} | {min(times):.2f} | {max(times):.2f} |")
    fits = report["shapes"]
    programs = [fit["programs"] for fit in fits]
    lines += [
        "",
        f"{len(fits)} data sets of different size in one process, equal p = 3 and q = 2: "
        f"{sum(programs)} programs compiled, {programs[0]} of them in the first fit; "
        f"{sum(fit['seconds'] for fit in fits):.1f} s, of which "
        f"{sum(fit['compile_s'] for fit in fits):.1f} s compiling.",
        "",
        "| fit | groups | rows | seconds | programs | compiling, s |",
        "|---|---|---|---|---|---|",
    ]
    for number, fit in enumerate(fits, start=1):
        lines.append(
            f"| {number} | {fit['groups']} | {fit['rows']:,} | {fit['seconds']:.3f} "
            f"| {fit['programs']} | {fit['compile_s']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shapes", type=int, default=20, help="data sets in one process")
    parser.add_argument("--output", type=Path, default=RESULTS / "cold.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(many_shapes(args.shapes)))
        return
    report: dict[str, Any] = {"machine": machine(), "runs": args.runs}
    report["processes"] = cold_starts(args.runs)
    call = [sys.executable, __file__, "--worker", "--shapes", str(args.shapes)]
    out = subprocess.run(
        call, env=worker_environment(1), capture_output=True, text=True, check=False
    )
    if out.returncode:
        raise SystemExit(out.stderr)
    report["shapes"] = json.loads(out.stdout.splitlines()[-1])
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    args.output.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))


if __name__ == "__main__":
    main()
