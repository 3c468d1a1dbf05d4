"""Mixed models for repeated measures, an unstructured covariance of the visits.

    python benchmarks/mmrm.py [--runs 5] [--limit 400] [--problems fev1 bcva] [--systems nlme]

Every system fits a trial in a process of its own: the imports, a first call, then warm ones. A
call is the fit and its summary. nlme (``gls``) and glmmTMB are used through ``Rscript``
if R has them; a call that takes longer than ``--limit`` is stopped. Stores seconds by the clock
and of the processor (user and system): on a busy machine the latter are the ones to compare.
Writes ``docs/benchmarks/mmrm.json`` and ``mmrm.md``; a run replaces what it measures again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import RESULTS, in_words, machine, worker_environment
from measure import Ended, Limits, run_worker

HERE = Path(__file__).parent
STORED = RESULTS / "mmrm.json"
# Patients seen at the ten visits of the trial of visual acuity that mmrm's vignette describes.
SEEN = (983, 980, 960, 946, 925, 868, 816, 791, 719, 617)
# Seconds by others on machines of their own: medians of ten fits, of one where it takes minutes.
PUBLISHED = {
    "fev1": {"mmrm": 0.056, "PROC GLIMMIX": 0.10, "nlme": 0.69, "glmmTMB": 0.72},
    "bcva": {"mmrm": 3.4, "nlme": 165.0},
}
SOURCE = (
    "mmrm's vignette *Comparison with other software* "
    "(https://openpharma.github.io/mmrm/latest-tag/articles/mmrm_review_methods.html)"
)
SYSTEMS = ("lmm_jax", "lmm_jax, Satterthwaite", "nlme", "glmmTMB")
# After a first call of so many seconds no warm ones are made.
LONG = 60.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    title: str
    data: Callable[[], pd.DataFrame]
    fixed: str
    peers: tuple[str, ...] = ("nlme", "glmmTMB")


def fev1() -> pd.DataFrame:
    """Rows with a response."""
    import lmm_jax as lmm

    return lmm.load_dataset("fev1").dropna(subset="FEV1")


def simulated(seen: np.ndarray, n: int, again: float, seed: int) -> pd.DataFrame:
    """A trial with a change from baseline at every visit, of which so many of n are seen.

    Patients leave for good; a share ``again`` of the rest misses a visit and comes back.
    """
    rng = np.random.default_rng(seed)
    T = len(seen)
    missed = np.minimum((again * n * np.ones(T)).astype(int), n - seen)
    missed[0], missed[-1] = n - seen[0], 0
    gone = np.maximum.accumulate(n - seen - missed)  # patients who have left by each visit
    order = rng.permutation(n)
    left = np.full(n, T)
    for visit in range(T - 1, -1, -1):
        left[order[: gone[visit]]] = visit
    keep = np.arange(T) < left[:, None]
    for visit in range(T):
        there = np.flatnonzero(keep[:, visit])
        keep[rng.choice(there, max(len(there) - seen[visit], 0), replace=False), visit] = False
    arm, race = rng.integers(0, 2, n), rng.integers(0, 3, n)
    base = rng.normal(75.0, 10.0, n)
    V = np.add.outer(*2 * [np.linspace(1.0, 2.0, T)]) * 0.8 ** np.abs(
        np.subtract.outer(np.arange(T), np.arange(T))
    )
    noise = rng.standard_normal((n, T)) @ np.linalg.cholesky(V + 0.3 * np.eye(T)).T
    change = 5.0 + 0.4 * np.arange(T) * (1 + arm[:, None]) + 0.3 * race[:, None] + noise
    who, visit = np.nonzero(keep)
    names = [f"VIS{k + 1:02d}" for k in range(T)]
    return pd.DataFrame(
        {
            "CHG": change[who, visit] - 0.02 * base[who],
            "USUBJID": who,
            "AVISIT": pd.Categorical.from_codes(visit, names),
            "VISITN": visit + 1,
            "ARMCD": pd.Categorical.from_codes(arm[who], ["CTL", "TRT"]),
            "RACE": pd.Categorical.from_codes(race[who], ["Asian", "Black", "White"]),
            "BASE": base[who],
        }
    )


def bcva() -> pd.DataFrame:
    """Of the size of the trial of visual acuity."""
    return simulated(np.array(SEEN), 1_000, 0.12, 8)


def large() -> pd.DataFrame:
    """100,000 patients."""
    n = 100_000
    return simulated((n * np.linspace(0.99, 0.8, 8)).astype(int), n, 0.005, 2)


_CHANGE = "CHG ~ RACE + BASE + ARMCD * AVISIT"
TRIALS = {
    "fev1": Trial(title="FEV1", data=fev1, fixed="FEV1 ~ RACE + ARMCD * AVISIT"),
    "bcva": Trial(title="as large as BCVA, simulated", data=bcva, fixed=_CHANGE),
    "large": Trial(title="100,000 patients, simulated", data=large, fixed=_CHANGE, peers=()),
}
OURS = {"lmm_jax": "kenward-roger-linear", "lmm_jax, Satterthwaite": "satterthwaite"}


def work(name: str, df_method: str, runs: int) -> None:
    """The Python worker: a first call and warm ones, a line each."""
    start, cpu = time.perf_counter(), time.process_time()
    import lmm_jax as lmm

    fit, trial = lmm.mmrm, TRIALS[name]  # a name imports what it needs
    took = {"import_s": time.perf_counter() - start, "import_cpu_s": time.process_time() - cpu}
    print(json.dumps(took), flush=True)
    data = trial.data()
    formula = f"{trial.fixed} + us(AVISIT | USUBJID)"
    for _ in range(runs + 1):
        start, cpu = time.perf_counter(), time.process_time()
        result = fit(formula, data, df_method=df_method)
        str(result.summary())
        line: dict[str, Any] = {
            "seconds": time.perf_counter() - start,
            "cpu_s": time.process_time() - cpu,
            "criterion": -2.0 * result.llf,
            "converged": bool(result.converged),
            "iterations": int(result.n_iter),
            "runtime": result.runtime,
        }
        print(json.dumps(line), flush=True)


def has(package: str) -> bool:
    """Whether R has a package."""
    if shutil.which("Rscript") is None:
        return False
    call = ["Rscript", "-e", f"suppressMessages(loadNamespace('{package}'))"]
    return subprocess.run(call, capture_output=True, check=False).returncode == 0


def summarized(ended: Ended, limit: float) -> dict[str, Any]:
    """First call and medians of the warm ones."""
    fits = [line for line in ended.lines if "seconds" in line]
    if not fits:
        if ended.over_time:
            return {"status": "limit", "reason": f"more than {limit:g} s"}
        return {"status": "failed", "reason": " / ".join(ended.stderr.strip().splitlines()[-3:])}
    first, warm = fits[0], fits[1:]
    found = {"status": "ok", "first_s": first["seconds"], "first_cpu_s": first["cpu_s"]}
    found |= {"peak_mb": round(ended.peak_mb), "n_warm": len(warm)}
    if warm:
        found["warm_s"] = statistics.median(line["seconds"] for line in warm)
        found["warm_cpu_s"] = statistics.median(line["cpu_s"] for line in warm)
    keys = ("criterion", "converged", "iterations", "runtime")
    found |= {key: first[key] for key in keys if key in first}
    return found | next((line for line in ended.lines if "import_s" in line), {})


def measured(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """All systems on one trial."""
    trial, limits = TRIALS[name], Limits(seconds=asked.limit, memory_gb=asked.memory)
    data, environment = trial.data(), worker_environment(1)
    patterns = data.groupby("USUBJID", observed=True)["AVISIT"].agg(tuple).nunique()
    subjects = data["USUBJID"].nunique()
    about = {"rows": len(data), "subjects": subjects, "patterns": int(patterns)}
    systems: dict[str, Any] = {}
    for system, df_method in OURS.items():
        if system not in asked.systems:
            continue
        call = [sys.executable, str(Path(__file__).resolve()), "--worker", name, df_method]
        call += ["--runs", str(asked.runs)]
        systems[system] = summarized(run_worker(call, environment, limits), asked.limit)
        print(name, system, systems[system], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data.to_csv(Path(folder) / "trial.csv", index=False)
        (Path(folder) / "fixed.txt").write_text(trial.fixed + "\n", encoding="utf-8")
        for package in trial.peers:
            if package not in asked.systems:
                continue
            if not has(package):
                print(f"{package} is not installed", file=sys.stderr)
                continue
            call = ["Rscript", str(HERE / "mmrm.R"), folder, package, str(asked.runs), str(LONG)]
            systems[package] = summarized(run_worker(call, environment, limits), asked.limit)
            print(name, package, systems[package], flush=True)
    return {**about, "systems": systems}


def seconds(x: float | None) -> str:
    """Three digits."""
    return "-" if x is None else f"{1e3 * x:.0f} ms" if x < 1 else f"{x:.3g} s"


def times(ratio: float) -> str:
    """Two digits, or all of a whole number."""
    return f"{ratio:.2g}x" if ratio < 10 else f"{ratio:.0f}x"


def table(name: str, found: dict[str, Any]) -> str:
    """First and warm calls of a trial; ratios are those of processor time."""
    systems = found["systems"]
    best = min(s["criterion"] for s in systems.values() if s["status"] == "ok")
    base = systems["lmm_jax"]
    lines = [
        f"## {TRIALS[name].title}\n",
        f"{found['rows']:,} rows, {found['subjects']:,} subjects, {found['patterns']} patterns of "
        f"visits: `{TRIALS[name].fixed} + us(AVISIT | USUBJID)`\n",
        "| | import | first: clock | processor | ratio | warm: clock | processor | ratio "
        "| criterion | published |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    published = PUBLISHED.get(name, {})
    for system, s in systems.items():
        cells = [system, seconds(s.get("import_cpu_s"))]
        if s["status"] != "ok":
            reached = seconds(published.get(system))
            lines.append(f"| {system} | - | {s['reason']} | | | | | | | {reached} |")
            continue
        for kind in ("first", "warm"):
            cpu = s.get(f"{kind}_cpu_s")
            cells += [seconds(s.get(f"{kind}_s")), seconds(cpu)]
            cells.append("-" if cpu is None else times(cpu / base[f"{kind}_cpu_s"]))
        more = s["criterion"] - best
        reached = "best" if more < 1e-3 else f"+{more:.2g}"
        cells.append(reached if s["converged"] else f"{reached}, warns")
        cells.append(seconds(published.get(system)))
        lines.append(f"| {' | '.join(cells)} |")
    for system in sorted(published.keys() - systems.keys()):
        lines.append(f"| {system} | - | - | - | - | - | - | - | - | {seconds(published[system])} |")
    return "\n".join(lines)


def report(stored: dict[str, Any]) -> str:
    """All tables."""
    versions = {
        system: s["version"]
        for found in stored["trials"].values()
        for system, s in found["systems"].items()
        if "version" in s
    }
    others = (f"{system} ({version})" for system, version in versions.items())
    return "\n\n".join(
        [
            "# Mixed models for repeated measures",
            "REML, an unstructured covariance of the visits, from a data frame to the printed "
            "summary, in a fresh process each, one thread. `lmm_jax` ends with Kenward and Roger's "
            "degrees of freedom and covariance, on the second line with Satterthwaite's; `gls` and "
            "glmmTMB have no such degrees of freedom. *Import* is the processor time of the "
            "imports (of R's package, without R itself), *first* the first call after them, "
            "*warm* the median of those that follow. The clock of a machine that does other work "
            "at the same time says little: ratios are of processor time, over the first line; "
            "more than 1x is slower. *Criterion*: what -2 log restricted likelihood exceeds the "
            "best by; a system *warns* where it doubts its own convergence. *Published*: seconds "
            f"in {SOURCE}, on its authors' machine and for their data, not to be compared with "
            "the other columns.",
            *(table(name, found) for name, found in stored["trials"].items()),
            f"{in_words(stored['machine'])} The others were {', '.join(others)}.",
        ]
    )


def main() -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=float, default=400.0)
    parser.add_argument("--memory", type=float, default=16.0)
    parser.add_argument("--worker", nargs=2, metavar=("PROBLEM", "DF"))
    asked = parser.parse_args()
    if asked.worker:
        work(*asked.worker, asked.runs)
        return
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    trials = stored.get("trials", {})
    for name in asked.problems:
        found, before = measured(name, asked), trials.get(name, {}).get("systems", {})
        both = before | found["systems"]
        trials[name] = {**found, "systems": {s: both[s] for s in SYSTEMS if s in both}}
    ordered = {name: trials[name] for name in TRIALS if name in trials}
    stored = {"machine": machine(), "trials": ordered}
    STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    text = report(stored)
    STORED.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
