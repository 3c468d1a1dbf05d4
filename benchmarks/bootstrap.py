"""Parametric bootstrap of sleepstudy, and of larger designs, beside other systems.

    OPENBLAS_NUM_THREADS=1 python benchmarks/bootstrap.py [--peers .venv-peers/bin/python]
        [--replicates 1000 10000] [--runs 5]

Prints a table and writes ``docs/benchmarks/bootstrap.json``. Peers run fewer replicates where they
are slow; their time is scaled to 1,000. Each result carries its answer: the standard deviation of
the replicates of ``Days``, whose exact value is the standard error of the balanced design, and
the number of replicates that failed. All cores may be used; fits and imports are not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import RESULTS, machine

HERE = Path(__file__).parent
FORMULA = "Reaction ~ Days + (Days | Subject)"
DATA = HERE.parent / "lmm_jax" / "data" / "sleepstudy.csv"

# What a peer does, in its own interpreter: prints one JSON line. ARGS are the file and how often.
PEERS = {
    "lme-python": """
import json, sys, time, numpy as np, polars, lme_python
frame = polars.read_csv(sys.argv[1]); n = int(sys.argv[2])
formula = "Reaction ~ Days + (Days | Subject)"
fit = lme_python.lmer(formula, data=frame, reml=True)
lme_python.boot_lmer(formula, frame, fit, nsim=20, seed=0)
start = time.perf_counter()
boot = lme_python.boot_lmer(formula, frame, fit, nsim=n, seed=1)
seconds = time.perf_counter() - start
reps = [r for r in boot.replicates if r.converged]
print(json.dumps({"seconds": seconds, "n": n, "failed": n - len(reps),
                  "sd": float(np.std([r.coefficients[1] for r in reps], ddof=1))}))
""",
    "mixedlm": """
import json, sys, time, numpy as np, pandas as pd, mixedlm
frame = pd.read_csv(sys.argv[1]); n = int(sys.argv[2])
fit = mixedlm.lmer("Reaction ~ Days + (Days | Subject)", frame)
mixedlm.bootMer(fit, nsim=10, seed=0)
start = time.perf_counter()
boot = mixedlm.bootMer(fit, nsim=n, seed=1)
seconds = time.perf_counter() - start
betas = np.asarray(boot.beta_samples, dtype=float)
good = np.isfinite(betas).all(axis=1)
print(json.dumps({"seconds": seconds, "n": n, "failed": int(n - good.sum()),
                  "sd": float(np.std(betas[good, 1], ddof=1))}))
""",
    # no bootstrap of its own: draws and refits from arrays
    "mixedlm-rs": """
import json, sys, time, numpy as np, pandas as pd
from mixedlm_rs import MixedLM
frame = pd.read_csv(sys.argv[1]); n = int(sys.argv[2])
days = frame["Days"].to_numpy(float)
who = frame["Subject"].astype("category").cat.codes.to_numpy().astype(np.int64)
X = np.column_stack([np.ones(len(days)), days])
def fit_of(y):
    return MixedLM(y, X, groups=who, exog_re=X).fit(reml=True)
fit = fit_of(frame["Reaction"].to_numpy(float))
rng = np.random.default_rng(1)
L, sigma = np.linalg.cholesky(np.asarray(fit.cov_re)), float(np.sqrt(fit.scale))
mean = X @ np.asarray(fit.fe_params, dtype=float)
slopes, failed = [], 0
start = time.perf_counter()
for _ in range(n):
    b = rng.standard_normal((who.max() + 1, 2)) @ L.T
    y = mean + b[who, 0] + b[who, 1] * days + sigma * rng.standard_normal(len(days))
    again = fit_of(y)
    failed += not again.converged
    slopes.append(float(np.asarray(again.fe_params, dtype=float)[1]))
seconds = time.perf_counter() - start
sd = float(np.std(slopes, ddof=1))
print(json.dumps({"seconds": seconds, "n": n, "failed": failed, "sd": sd}))
""",
}  # fmt: skip


def ours(replicates: int, runs: int) -> dict[str, Any]:
    """First call and median of the following ones."""
    import lmm_jax as lmm

    fit = lmm.fit(FORMULA, lmm.load_dataset("sleepstudy"))
    boot, first = timed(lambda: lmm.bootstrap(fit, replicates, seed=1))
    warm = [timed(lambda: lmm.bootstrap(fit, replicates, seed=1))[1] for _ in range(runs)]
    return {
        "first": first,
        "seconds": statistics.median(warm),
        "fastest": min(warm),
        "n": replicates,
        "failed": boot.n_failed,
        "singular": boot.n_singular,
        "sd": float(boot.params()["Days"].std()),
    }


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    value = call()
    return value, time.perf_counter() - start


def wide(groups: int, replicates: int) -> dict[str, Any]:
    """A random slope on a covariate that differs between groups: no two groups are alike."""
    import numpy as np
    import pandas as pd

    import lmm_jax as lmm

    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(groups), 20)
    x = rng.normal(size=g.size)
    b = rng.normal(size=(groups, 2)) * [1.0, 0.5]
    y = 1 + 2 * x + b[g, 0] + b[g, 1] * x + rng.normal(size=g.size)
    fit = lmm.fit("y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x, "g": g}))
    _, first = timed(lambda: lmm.bootstrap(fit, replicates, seed=1))
    boot, seconds = timed(lambda: lmm.bootstrap(fit, replicates, seed=1))
    return {
        "first": first,
        "seconds": seconds,
        "n": replicates,
        "failed": boot.n_failed,
        "singular": boot.n_singular,
        "sd": float(boot.params()["x"].std()),
    }


def peer(interpreter: str, name: str, replicates: int) -> dict[str, Any]:
    """One peer in its own interpreter."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [interpreter, "-c", PEERS[name], str(DATA), str(replicates)],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"error": done.stderr.strip().splitlines()[-1:] or ["no answer"]}
    return dict(json.loads(lines[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="interpreter of the peers' environment")
    parser.add_argument("--replicates", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--peer-replicates", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for n in args.replicates:
        found[f"lmm_jax, {n} of sleepstudy"] = ours(n, args.runs)
    found["lmm_jax, 1000 of 1,000 unlike groups"] = wide(1000, 1000)
    for name in PEERS if args.peers else ():
        found[f"{name}, {args.peer_replicates} of sleepstudy"] = peer(
            args.peers, name, args.peer_replicates
        )
    for label, row in found.items():
        if "error" in row:
            print(f"{label:40s} {row['error']}")
            continue
        row["per_1000"] = 1000 * row["seconds"] / row["n"]
        print(
            f"{label:40s} {row['seconds']:8.3f} s  per 1,000 {row['per_1000']:8.3f} s  first "
            f"{row.get('first', float('nan')):6.2f} s  sd {row['sd']:.4f}  failed {row['failed']}"
        )
    out = RESULTS / "bootstrap.json"
    out.write_text(json.dumps({"machine": machine(), "results": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
