"""Many responses, one design: fit_many beside a loop over the peers.

    python benchmarks/many.py --peers .venv-peers/bin/python
    python benchmarks/many.py --responses 1000000          # unchanged on a GPU

200 rows, 40 subjects of 5, 3 fixed effects; a random intercept, or an intercept and a slope.
A peer is timed on a subsample, warm, one response after the other, and scaled; its criterion is
compared with ours response by response.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np

SUBJECTS, ROWS = 40, 5
PEERS = ("lme-python", "mixedlm-rs", "statsmodels")


def data(responses: int, slope: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Y (n, R), X, group and time; standard deviations between 0.3 and 2 residual ones."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(SUBJECTS), ROWS)
    time_ = np.tile(np.arange(float(ROWS)), SUBJECTS)
    X = np.column_stack([np.ones(group.size), time_, rng.normal(size=group.size)])
    Y = np.empty((group.size, responses))
    for start in range(0, responses, 10_000):
        part = slice(start, min(start + 10_000, responses))
        count = part.stop - start
        sd = rng.uniform(0.3, 2.0, count)
        b = rng.normal(size=(2, SUBJECTS, count)) * sd
        Y[:, part] = X.sum(axis=1)[:, None] + b[0, group] + rng.normal(size=(group.size, count))
        if slope:
            Y[:, part] += 0.5 * b[1, group] * time_[:, None]
    return Y, X, group, time_


def random_columns(time_: np.ndarray, slope: bool) -> np.ndarray:
    ones = np.ones(time_.size)
    return np.column_stack([ones, time_]) if slope else ones[:, None]


def ours(responses: int, slope: bool, runs: int) -> tuple[dict, np.ndarray]:
    import jax

    import lmm_jax as lmm

    Y, X, group, time_ = data(responses, slope)
    design = lmm.design_from_arrays(Y[:, 0], X, group, exog_re=random_columns(time_, slope))
    seconds = []
    for run in range(runs + 2):  # a new model as it comes, the first compiled call, warm ones
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lmm.ConvergenceWarning)  # counted below
            many = lmm.fit_many(design, Y, runtime="jax" if run else "auto")
        many.pvalues  # noqa: B018  computed when first asked for
        seconds.append(time.perf_counter() - start)
    row = {
        "system": "lmm_jax",
        "device": str(jax.devices()[0]),
        "first_s": round(seconds[0], 2),
        "compiled_s": round(seconds[1], 2),
        "seconds": median(seconds[2:]),
        "best": min(seconds[2:]),
        "converged": float(many.converged.mean()),
        "singular": float(many.singular.mean()),
    }
    return row, -2.0 * many.llf


# ------------------------------------------------------------ in the interpreter of the peers


def peer_calls(name: str, folder: Path, slope: bool, count: int):
    """A function that fits response i and gives -2 log-likelihood (REML)."""
    saved = np.load(folder / "data.npz")
    Y, X, group, time_ = saved["Y"], saved["X"], saved["group"], saved["time"]
    Z = random_columns(time_, slope)
    if name == "lme-python":
        import lme_python
        import polars

        right = "1 + t + x + (t | g)" if slope else "1 + t + x + (1 | g)"
        columns = {"t": X[:, 1], "x": X[:, 2], "g": [f"g{i:02d}" for i in group]}
        frames = [polars.DataFrame({"y": Y[:, i].copy(), **columns}) for i in range(count)]

        def fit(i: int) -> float:
            result = lme_python.lmer(f"y ~ {right}", data=frames[i], reml=True)
            return float(result.reml_criterion)

        return fit
    if name == "mixedlm-rs":
        from mixedlm_rs import MixedLM
    else:
        from statsmodels.regression.mixed_linear_model import MixedLM

    def fit_marginal(i: int) -> float:
        result = MixedLM(Y[:, i].copy(), X, groups=group, exog_re=Z).fit(reml=True)
        np.asarray(result.bse_fe)
        return -2.0 * float(result.llf)

    return fit_marginal


def peer(name: str, folder: Path, slope: bool, count: int) -> None:
    """Print one line of JSON."""
    warnings.simplefilter("ignore")
    try:
        fit = peer_calls(name, folder, slope, count)
    except ImportError as error:
        print(json.dumps({"system": name, "missing": str(error)}))
        return
    fit(0)
    start = time.perf_counter()
    criteria = [fit(i) for i in range(count)]
    seconds = time.perf_counter() - start
    print(json.dumps({"system": name, "each": seconds / count, "criteria": criteria}))


def run_peers(python: str, slope: bool, counts: dict[str, int]) -> list[dict]:
    out = []
    with tempfile.TemporaryDirectory() as folder:
        Y, X, group, time_ = data(max(counts.values()), slope)
        np.savez(Path(folder) / "data.npz", Y=Y, X=X, group=group, time=time_)
        for name, count in counts.items():
            command = [python, __file__, "--peer", name, folder, str(int(slope)), str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = done.stdout.strip().splitlines()
            out.append(
                json.loads(lines[-1]) if done.returncode == 0 and lines
                else {"system": name, "missing": done.stderr.strip().splitlines()[-1:]}
            )  # fmt: skip
    return out


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--peer":
        name, folder, slope, count = sys.argv[2:]
        peer(name, Path(folder), slope == "1", int(count))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", help="interpreter that has the peers")
    parser.add_argument("--sample", type=int, default=200, help="responses that a peer fits")
    parser.add_argument("--models", nargs="+", default=["intercept", "slope"])
    args = parser.parse_args()
    for model in args.models:
        slope = model == "slope"
        row, _ = ours(args.responses, slope, args.runs)
        print(f"{model}, {args.responses} responses on {row['device']}")
        print(
            f"  lmm_jax      {row['seconds']:9.3f} s  (compiled, best {row['best']:.3f}; "
            f"first call {row['first_s']:.2f}, first compiled call {row['compiled_s']:.1f}; "
            f"{row['converged']:.4%} converged, "
            f"{row['singular']:.2%} singular)"
        )
        if not args.peers:
            continue
        sample = min(args.sample, args.responses)
        counts = {name: sample if name != "statsmodels" else max(sample // 10, 1) for name in PEERS}
        # other sizes draw other numbers: the same few responses again
        _, own = ours(max(counts.values()), slope, 1)
        for found in run_peers(args.peers, slope, counts):
            if "missing" in found:
                print(f"  {found['system']:12s} not available: {found['missing']}")
                continue
            total = found["each"] * args.responses
            excess = np.array(found["criteria"]) - own[: len(found["criteria"])]
            print(
                f"  {found['system']:12s} {total:9.1f} s  ({total / row['seconds']:.0f} times as "
                f"long, from {len(excess)} fits; criterion above ours by more than 1e-3 in "
                f"{int((excess > 1e-3).sum())}, below in {int((excess < -1e-3).sum())})"
            )


if __name__ == "__main__":
    main()
