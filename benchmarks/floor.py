"""How far a fit is from what the machine allows: bytes to read, arithmetic to do.

    OPENBLAS_NUM_THREADS=1 python benchmarks/floor.py [--results docs/benchmarks/run.json]
        [--problems c d g]

Measures the bandwidth and the rate of one core, and sets the times of this library in a
stored run against them. Writes ``docs/benchmarks/floor.json`` and ``docs/benchmarks/floor.md``.

The floor of a fit is the larger of two times. Reading: every byte of the input once, then at
each evaluation the compressed groups, ``q (q + 1) / 2 + q (p + 1)`` numbers each. Arithmetic:
a symmetric update of the ``w x w`` cross-products by every row, ``w = p + 1``, which is
``w (w + 1)`` operations (the columns of Z are columns of X), then at each evaluation and for
every group a Cholesky factor, the triangular solve and the update of the cross-products:
``q^3 / 3 + q^2 w + q w (w + 1)``. One value of the criterion is counted for an iteration;
derivatives, labels and tests are not.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import RESULTS, machine, worker_environment


def fastest(call: Callable[[], Any], runs: int = 7) -> float:
    """Shortest of several runs: what the machine can do, not what it usually does."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measured_rates() -> dict[str, float]:
    """Bytes a second of a sum and of a copy, operations a second of a matrix product."""
    import numpy as np

    values = np.ones(2**25)
    target = np.empty_like(values)
    size = 1_200
    matrix = np.random.default_rng(0).normal(size=(size, size))
    return {
        "read_bytes_per_s": values.nbytes / fastest(values.sum),
        "copy_bytes_per_s": 2 * values.nbytes / fastest(lambda: np.copyto(target, values)),
        "dgemm_flops": 2 * size**3 / fastest(lambda: matrix @ matrix),
    }


def floor(
    problem: dict[str, Any], found: dict[str, Any], rates: dict[str, float]
) -> dict[str, Any]:
    """Floor of one system on one problem, and the measured time in its units."""
    n, groups, p, q = problem["rows"], problem["levels"][0], problem["p"], problem["q"]
    evaluations, w = found["iterations"] or 1, p + 1
    each = q * (q + 1) // 2 + q * w
    total_bytes = found["input_mb"] * 2**20 + 8 * each * groups * evaluations
    flops = n * w * (w + 1) + groups * evaluations * (q**3 / 3 + q**2 * w + q * w * (w + 1))
    reading = total_bytes / max(rates["read_bytes_per_s"], rates["copy_bytes_per_s"])
    arithmetic = flops / rates["dgemm_flops"]
    seconds = found["warm_s"] if found["warm_s"] is not None else found["first_s"]
    return {
        "rows": n,
        "groups": groups,
        "evaluations": evaluations,
        "bytes": total_bytes,
        "flops": flops,
        "reading_s": reading,
        "arithmetic_s": arithmetic,
        "floor_s": max(reading, arithmetic),
        "measured_s": seconds,
        "ratio": seconds / max(reading, arithmetic),
    }


def markdown(report: dict[str, Any]) -> str:
    """Rates and one row for a problem and interface."""
    rates = report["rates"]
    lines = [
        "# Distance from the floor",
        "",
        f"One core of {report['machine']['cpu']}: {rates['read_bytes_per_s'] / 1e9:.1f} GB/s "
        f"(NumPy sum), {rates['copy_bytes_per_s'] / 1e9:.1f} GB/s (NumPy copy, read and written), "
        f"{rates['dgemm_flops'] / 1e9:.1f} GFLOP/s (matrix product).",
        "",
        "| problem | system | rows | evaluations | MB | GFLOP | reading, s | arithmetic, s "
        "| measured, s | measured / floor |",
        "|" + "---|" * 10,
    ]
    for name, systems in report["problems"].items():
        for system, f in systems.items():
            lines.append(
                f"| {name} | {system} | {f['rows']:,} | {f['evaluations']} "
                f"| {f['bytes'] / 2**20:.3g} | {f['flops'] / 1e9:.3g} | {f['reading_s']:.3g} "
                f"| {f['arithmetic_s']:.3g} | {f['measured_s']:.3g} | {f['ratio']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "run.json")
    parser.add_argument("--problems", nargs="+", default=["c", "d", "g"])
    args = parser.parse_args()
    os.environ.update(worker_environment(1))  # before NumPy is imported
    stored = json.loads(args.results.read_text(encoding="utf-8"))["problems"]
    rates = measured_rates()
    problems = {}
    for name in args.problems:
        ours = stored.get(name, {"systems": {}})["systems"]
        problems[name] = {
            system: floor(stored[name], found, rates)
            for system, found in ours.items()
            if system.startswith("lmm_jax") and found["status"] == "ok"
        }
        if not problems[name]:
            print(f"{name}: no time of this library in {args.results}")
    report = {"machine": machine(), "rates": rates, "problems": problems}
    path = args.results.with_name(args.results.stem.replace("run", "floor") + ".json")
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))


if __name__ == "__main__":
    main()
