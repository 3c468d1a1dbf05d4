"""The time of an iteration against the number of rows, at a fixed number of groups.

    python benchmarks/iterations.py [--groups 1000] [--rows 10 100 1000] [--runs 15]

Compresses the rows, then fits the ready layout, with the usual limit on the steps and with
none allowed: their difference over the number of iterations is the time of one. Writes
``docs/benchmarks/iterations.json``, ``.md`` and ``.svg``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import RESULTS, machine, worker_environment


def median_time(call: Callable[[], Any], runs: int) -> float:
    """Median of the warm calls, in seconds."""
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(groups: int, rows: int, runs: int) -> dict[str, Any]:
    """Seconds of the compression, of the fit of a ready layout and of one iteration."""
    import jax
    from problems import even

    import lmm_jax as lmm

    data = even("", groups, rows, 5, 1.0, slope=True).arrays()

    def compress() -> lmm.Design:
        design = lmm.design_from_arrays(
            data["y"], data["X"], data["groups"][:, 0], exog_re=data["Z"]
        )
        jax.block_until_ready(design.layout)
        return design

    design = compress()
    result = lmm.fit(design, runtime="jax")
    fit = median_time(lambda: lmm.fit(design, runtime="jax"), runs)
    start = median_time(lambda: lmm.fit(design, maxiter=0, runtime="jax"), runs)
    return {
        "groups": groups,
        "rows": groups * rows,
        "compress_s": median_time(compress, runs),
        "fit_s": fit,
        "start_s": start,
        "iterations": int(result.n_iter),
        "iteration_s": (fit - start) / max(int(result.n_iter), 1),
        "criterion": -2 * result.llf,
        "converged": bool(result.converged),
    }


def markdown(report: dict[str, Any]) -> str:
    lines = [
        "# Time of an iteration",
        "",
        f"{report['machine']['cpu']}, medians of {report['runs']} warm calls; p = 5, q = 2.",
        "",
        "| groups | rows | compression, s | fit of the layout, s | without steps, s | iterations "
        "| one iteration, s |",
        "|" + "---|" * 7,
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['groups']:,} | {row['rows']:,} | {row['compress_s']:.3g} | {row['fit_s']:.3g} "
            f"| {row['start_s']:.3g} | {row['iterations']} | {row['iteration_s']:.3g} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=1_000)
    parser.add_argument("--rows", type=int, nargs="+", default=[10, 100, 1_000], help="by group")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS / "iterations.json")
    args = parser.parse_args()
    os.environ.update(worker_environment(1))  # before JAX is imported
    rows = [measure(args.groups, rows, args.runs) for rows in args.rows]
    report = {"machine": machine(), "runs": args.runs, "rows": rows}
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    args.output.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))
    try:
        from plots import iteration_plot
    except ImportError:
        print("matplotlib is not installed: no plot")
    else:
        iteration_plot(rows, args.output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
