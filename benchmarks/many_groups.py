"""Fit 1,000,000 rows in 100,000 groups from arrays: random intercept and slope, p = 5.

    OPENBLAS_NUM_THREADS=1 python benchmarks/many_groups.py [--runs 5] [--groups 100000]

Prints JSON: seconds of the first call (with compilation), medians of the warm calls and
of their parts, the criterion reached, the converged flag and the number of programs that
the warm calls compiled (0 expected).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from typing import Any

import jax
import numpy as np

import lmm_jax as lmm


def simulate(n_groups: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Response, fixed-effects design and group of 5 to 15 rows a group."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), rng.integers(5, 16, n_groups))
    X = np.column_stack([np.ones(group.size), rng.normal(size=(group.size, 4))])
    b = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.3], [0.3, 0.5]], size=n_groups)
    noise = rng.normal(size=group.size)
    y = X @ [1.0, 0.5, -0.3, 0.2, 0.0] + b[group, 0] + b[group, 1] * X[:, 1] + noise
    return y, X, group


def timed(y: np.ndarray, X: np.ndarray, group: np.ndarray) -> tuple[dict[str, float], Any]:
    """One fit from arrays, in seconds by stage."""
    marks = [time.perf_counter()]
    design = lmm.design_from_arrays(y, X, group, exog_re=X[:, :2])
    marks.append(time.perf_counter())
    jax.block_until_ready(design.layout)
    marks.append(time.perf_counter())
    result = lmm.fit(design)
    marks.append(time.perf_counter())
    names = ("design", "compress", "optimize")
    parts = {name: b - a for name, a, b in zip(names, marks[:-1], marks[1:], strict=True)}
    return {**parts, "total": marks[-1] - marks[0]}, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--groups", type=int, default=100_000)
    args = parser.parse_args()
    data = simulate(args.groups, seed=0)
    compiled: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    first, _ = timed(*data)
    compiled_first = len(compiled)
    runs = [timed(*data) for _ in range(args.runs)]
    result = runs[-1][1]
    report = {
        "machine": f"{platform.processor() or platform.machine()}, jax {jax.__version__}",
        "rows": int(data[0].size),
        "groups": args.groups,
        "first_call_s": round(first["total"], 3),
        "warm_median_s": {
            part: round(statistics.median(times[part] for times, _ in runs), 4) for part in first
        },
        "criterion": -2 * result.llf,
        "converged": result.converged,
        "evaluations": result.n_iter,
        "programs_first_call": compiled_first,
        "programs_warm_calls": len(compiled) - compiled_first,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
