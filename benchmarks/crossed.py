"""Crossed random effects beside lme4 and mixedlm: seconds, memory, criterion reached.

    OPENBLAS_NUM_THREADS=1 python benchmarks/crossed.py [--problems insteval movielens]
        [--systems lmm_jax lme4 mixedlm] [--runs 5] [--python PEERS/bin/python]

Every system fits every problem in a process of its own, from a data frame, once cold and then
``--runs`` times; peers that are not installed are left out (mixedlm runs under ``--python``,
lme4 under Rscript). Writes ``results/crossed.json``, where problems that were not asked for
keep their figures, and prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
DATA = HERE.parent / "tests" / "data"
SYSTEMS = ("lmm_jax", "lme4", "mixedlm")
RATINGS = "y ~ 1 + (1 | user) + (1 | item)"


def insteval() -> pd.DataFrame:
    """73,421 ratings of 1,128 lecturers by 2,972 students (lme4)."""
    return pd.read_csv(DATA / "insteval.csv.gz", dtype={"s": str, "d": str, "dept": str})


def ratings(users: int, items: int, rows: int) -> pd.DataFrame:
    """Ratings of items whose popularity follows a power law."""
    rng = np.random.default_rng(1)
    popularity = np.arange(1, items + 1) ** -0.8
    user = rng.integers(0, users, rows)
    item = rng.choice(items, rows, p=popularity / popularity.sum())
    y = 3.5 + 0.45 * rng.normal(size=users)[user] + 0.6 * rng.normal(size=items)[item]
    return pd.DataFrame({"y": y + 0.95 * rng.normal(size=rows), "user": user, "item": item})


def bundled(name: str) -> pd.DataFrame:
    return pd.read_csv(DATA / f"{name}.csv")


PROBLEMS = {
    "penicillin": (lambda: bundled("penicillin"), "diameter ~ 1 + (1 | plate) + (1 | sample)"),
    "insteval": (insteval, "y ~ service + (1 | s) + (1 | d) + (1 | dept:service)"),
    "insteval two factors": (insteval, "y ~ service + (1 | s) + (1 | d)"),
    "movielens": (lambda: ratings(6_040, 3_706, 1_000_000), RATINGS),
    "wide": (lambda: ratings(100_000, 2_000, 5_000_000), RATINGS),
}

LME4 = """
args <- commandArgs(TRUE); suppressMessages(library(lme4))
d <- read.csv(args[1], stringsAsFactors = TRUE)
for (v in all.vars(findbars(as.formula(args[2])))) d[[v]] <- factor(d[[v]])
for (i in seq_len(as.integer(args[3]))) {
  t <- system.time(m <- lmer(as.formula(args[2]), d))[["elapsed"]]
  cat(sprintf('{"seconds": %.4f, "criterion": %.6f, "converged": %s}\\n', t, REMLcrit(m),
              tolower(as.character(is.null(m@optinfo$conv$lme4$messages)))))
}
"""

MIXEDLM = """
import json, sys, time, pandas as pd, mixedlm
d = pd.read_csv(sys.argv[1], dtype={"s": str, "d": str, "dept": str, "user": str, "item": str})
for _ in range(int(sys.argv[3])):
    t = time.perf_counter(); m = mixedlm.lmer(sys.argv[2], d); t = time.perf_counter() - t
    out = {"seconds": t, "criterion": float(m.REMLcrit()), "converged": bool(m.converged)}
    print(json.dumps(out))
"""


def fit_here(frame: str, formula: str, runs: int) -> None:
    """The worker of this library: one line of JSON a fit."""
    import lmm_jax as lmm

    text = dict.fromkeys(("s", "d", "dept"), str)
    data = pd.read_csv(frame, dtype=text)
    for _ in range(runs):
        start = time.perf_counter()
        result = lmm.fit(formula, data)
        result.bse_fe  # noqa: B018  standard errors are part of a fit
        seconds = time.perf_counter() - start
        report = {"seconds": seconds, "criterion": -2 * result.llf, "converged": result.converged}
        print(json.dumps(report), flush=True)


def command(system: str, python: str) -> list[str] | None:
    """How to start the worker of a system; None if it is not installed."""
    if system == "lmm_jax":
        return [sys.executable, __file__, "--worker"]
    if system == "lme4":
        return ["Rscript", "-e", LME4] if shutil.which("Rscript") else None
    found = subprocess.run([python, "-c", "import mixedlm"], capture_output=True, check=False)
    return [python, "-c", MIXEDLM] if found.returncode == 0 else None


def measure(start: list[str], frame: str, formula: str, runs: int, limit: float) -> dict:
    """Cold and median warm seconds, criterion and peak memory of one worker."""
    before = ["/usr/bin/time", "-f", "%M"] if Path("/usr/bin/time").exists() else []
    call = [*before, *start, frame, formula, str(runs + 1)]
    try:
        out = subprocess.run(call, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {limit:.0f} s"}
    fits = [json.loads(line) for line in out.stdout.splitlines() if line.startswith("{")]
    if not fits:
        return {"error": (out.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    report = {
        "warm_runs": len(fits) - 1,
        "cold_s": round(fits[0]["seconds"], 3),
        "warm_median_s": round(statistics.median(f["seconds"] for f in fits[1:] or fits), 4),
        "criterion": fits[-1]["criterion"],
        "converged": fits[-1]["converged"],
    }
    last = out.stderr.strip().splitlines()[-1:]
    if before and last and last[0].isdigit():
        report["peak_gb"] = round(int(last[0]) / 1e6, 2)
    return report


def table(results: dict) -> str:
    """Markdown: one row a problem and system, ratio of warm medians to this library's."""
    lines = [
        "| problem | system | warm, s | ratio | first call, s | peak, GB | criterion |",
        "|---|---|---|---|---|---|---|",
    ]
    for problem, systems in results.items():
        ours = systems.get("lmm_jax", {}).get("warm_median_s")
        for system, r in systems.items():
            if "error" in r:
                lines.append(f"| {problem} | {system} | {r['error']} | | | | |")
                continue
            ratio = f"{r['warm_median_s'] / ours:.1f}" if ours else ""
            lines.append(
                f"| {problem} | {system} | {r['warm_median_s']:.3g} | {ratio} | {r['cold_s']:.3g} "
                f"| {r.get('peak_gb', '')} | {r['criterion']:.3f} |"
            )
    return "\n".join(lines)


def cpu_model() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS)[:4], choices=list(PROBLEMS))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds a worker may take")
    parser.add_argument("--python", default=sys.executable, help="Python that has mixedlm")
    parser.add_argument("--worker", nargs=3, metavar=("CSV", "FORMULA", "RUNS"))
    args = parser.parse_args()
    if args.worker:
        fit_here(args.worker[0], args.worker[1], int(args.worker[2]))
        return
    path = HERE / "results" / "crossed.json"
    results: dict[str, dict] = {}
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
    with tempfile.TemporaryDirectory() as folder:
        for problem in args.problems:
            make, formula = PROBLEMS[problem]
            frame = str(Path(folder) / "data.csv")
            make().to_csv(frame, index=False)
            results[problem] = {}
            for system in args.systems:
                start = command(system, args.python)
                if start is not None:
                    found = measure(start, frame, formula, args.runs, args.limit)
                    results[problem][system] = found
                    print(problem, system, found, file=sys.stderr, flush=True)
    report = {
        "machine": f"{cpu_model()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
        "results": results,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
