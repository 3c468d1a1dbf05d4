"""Crossed factors fitted approximately, beside exact fits where these can be had.

    python benchmarks/approximate.py [--cases small ratings large movies huge] [--memory 16]

Every fit runs in a process of its own, with two threads. Writes
``docs/benchmarks/approximate.json`` and ``approximate.md``; a run replaces what it measures again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import RESULTS, in_words, machine, worker_environment
from measure import Limits, run_worker

FORMULA = "y ~ x + (1 | a) + (1 | b)"


class Case(NamedTuple):
    """A design: rows at random, levels alike or of very unlike popularity."""

    rows: int
    levels: tuple[int, int]
    tails: tuple[float, float]  # levels are drawn with weights (rank + 10)^-tail
    ratios: tuple[float, ...]  # variance of the effects of both factors over that of the residual
    exact: bool


CASES = {
    "small": Case(50_000, (5_000, 1_000), (0.0, 0.0), (0.1, 1.0, 10.0, 100.0), True),
    "ratings": Case(1_000_000, (6_040, 3_706), (0.7, 1.0), (0.1, 1.0), True),
    "large": Case(1_000_000, (100_000, 10_000), (0.0, 0.0), (0.1, 1.0, 10.0, 100.0), False),
    "few a level": Case(1_000_000, (200_000, 100_000), (0.0, 0.0), (0.1, 1.0, 10.0), False),
    "unlike": Case(1_000_000, (200_000, 100_000), (0.5, 1.0), (0.1, 1.0, 10.0), False),
    "movies": Case(32_000_000, (200_948, 84_432), (0.7, 1.0), (0.3,), False),
    "huge": Case(10_000_000, (1_000_000, 100_000), (0.0, 0.0), (1.0,), False),
}


def frame(case: Case, ratio: float) -> Any:
    """Rows of a case."""
    import pandas as pd

    rng = np.random.default_rng(0)
    n, effects, labels = case.rows, np.zeros(case.rows), {}
    for name, count, tail in zip("ab", case.levels, case.tails, strict=True):
        weight = (np.arange(count) + 10.0) ** -tail
        own = rng.choice(count, n, p=weight / weight.sum()) if tail else rng.integers(0, count, n)
        effects += np.sqrt(ratio) * rng.normal(size=count)[own]
        labels[name] = own
    x = rng.normal(size=n)
    return pd.DataFrame({"y": 1.0 + 0.5 * x + effects + rng.normal(size=n), "x": x, **labels})


def work(name: str, ratio: float, approximate: bool) -> None:
    """One fit, reported in a line of JSON."""
    import lmm_jax as lmm

    data = frame(CASES[name], ratio)
    start = time.perf_counter()
    design = lmm.design(FORMULA, data)
    res = lmm.fit(design, approximate=approximate)
    seconds = time.perf_counter() - start
    found = {
        "seconds": seconds, "criterion": -2 * res.llf, "theta": res.theta.tolist(),
        "converged": bool(res.converged), "n_iter": res.n_iter,
    }  # fmt: skip
    if res.approximation is not None:
        at = res.approximation
        found |= {
            "criterion_se": 2 * at.llf_se, "theta_se": at.theta_se.tolist(), "probes": at.n_probes
        }  # fmt: skip
    print(json.dumps(found), flush=True)


def measure(name: str, ratio: float, limits: Limits) -> dict[str, Any]:
    """The approximate fit, and the exact one if there is one."""
    out: dict[str, Any] = {"case": name, "ratio": ratio}
    for kind in ("approximate", "exact")[: 1 + CASES[name].exact]:
        call = [sys.executable, __file__, "--worker", name, str(ratio), kind]
        ended = run_worker(call, worker_environment(2), limits)
        if ended.over_time or not ended.lines:
            out[kind] = {"failed": ended.stderr.strip()[-300:] or "too long"}
        else:
            out[kind] = {**ended.lines[-1], "peak_mb": ended.peak_mb}
    return out


def markdown(report: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# Crossed factors, approximately",
        "",
        f"`{FORMULA}`, from a data frame to standard errors, each fit in a process of its own; "
        "memory is that of the process, with the data, interpreter and imports. The ratio is that "
        "of the variances of both factors to the residual's; *se* are Monte Carlo standard errors. "
        "[Crossed factors of any size](../scale.md#crossed-factors-of-any-size) says more.",
        "",
        in_words(report["machine"]) + report.get("note", ""),
        "",
        "| rows | levels | ratio | probes | time, s | peak, MB | se of -2 log L | exact: time, s | "
        "-2 log L apart | theta apart, in se |",
        "|" + "---|" * 10,
    ]
    lines += [_line(run) for run in report["runs"]]
    return "\n".join(lines) + "\n"


def _line(run: dict[str, Any]) -> str:
    case, got, exact = CASES[run["case"]], run["approximate"], run.get("exact")
    levels = " x ".join(f"{n:,}" for n in case.levels) + " (unlike)" * any(case.tails)
    head = f"| {case.rows:,} | {levels} | {run['ratio']:g} "
    if "failed" in got:
        return f"{head}| | {got['failed'].splitlines()[-1]} | | | | | |"
    head += (
        f"| {got['probes']} | {got['seconds']:.1f} | {got['peak_mb']:,.0f} "
        f"| {got['criterion_se']:.2g} "
    )
    if exact is None or "failed" in exact:
        return head + "| | | |"
    apart = np.abs(np.subtract(got["theta"], exact["theta"])) / np.array(got["theta_se"])
    return (
        f"{head}| {exact['seconds']:.1f} | {got['criterion'] - exact['criterion']:.2g} "
        f"| {apart.max():.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds of a fit")
    parser.add_argument("--memory", type=float, default=16.0, help="GB of a worker")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    parser.add_argument("--output", type=Path, default=RESULTS / "approximate.json")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, ratio, kind = args.worker
        work(name, float(ratio), kind == "approximate")
        return
    limits = Limits(seconds=args.limit, memory_gb=args.memory)
    kept = json.loads(args.output.read_text("utf-8"))["runs"] if args.output.exists() else []
    for name in args.cases:
        for ratio in CASES[name].ratios:
            kept = [run for run in kept if (run["case"], run["ratio"]) != (name, ratio)]
            kept.append(measure(name, ratio, limits))
            print(kept[-1], flush=True)
            kept.sort(key=lambda run: (list(CASES).index(run["case"]), run["ratio"]))
            report = {"machine": machine(), "note": args.note, "runs": kept}
            args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            args.output.with_suffix(".md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
