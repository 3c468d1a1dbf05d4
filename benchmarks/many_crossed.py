"""Many responses of subjects by items: fit_many beside loops over lmm.fit and lme4.

    python benchmarks/many_crossed.py [--responses 1000] [--sample 60]

20 subjects by 12 items, one covariate; random intercepts of both, or a slope by subject as well.
A loop is timed on a sample, warm, and scaled; its criterion is compared with that of fit_many.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

SUBJECTS, ITEMS = 20, 12
MODELS = ("x + (1 | subject) + (1 | item)", "x + (x | subject) + (1 | item)")
R_SCRIPT = Path(__file__).with_suffix(".R")


def data(responses: int) -> tuple[pd.DataFrame, np.ndarray]:
    """The design and the responses (n, R)."""
    rng = np.random.default_rng(0)
    n = SUBJECTS * ITEMS
    frame = pd.DataFrame({"subject": np.arange(n) % SUBJECTS, "item": np.arange(n) // SUBJECTS})
    frame["x"] = x = rng.normal(size=n)
    b, slope = rng.normal(size=(2, SUBJECTS, responses))
    c = rng.normal(size=(ITEMS, responses))
    subject = b[frame["subject"]] + 0.5 * slope[frame["subject"]] * x[:, None]
    return frame, subject + c[frame["item"]] + rng.normal(size=(n, responses))


def lme4(model: str, frame: pd.DataFrame, Y: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Seconds of one refit and of one lmer, and REML criteria."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        names = [f"y{i}" for i in range(Y.shape[1])]
        frame.join(pd.DataFrame(Y, columns=names)).to_csv(path, index=False)
        command = ["Rscript", str(R_SCRIPT), str(path), model]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    refit, lmer, *criteria = map(float, done.stdout.split())
    return refit, lmer, np.array(criteria)


def main() -> None:
    import lmm_jax as lmm

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=60, help="responses that a loop fits")
    args = parser.parse_args()
    frame, Y = data(args.responses)
    sample = Y[:, : args.sample]
    for model in MODELS:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            many = lmm.fit_many(f"~ {model}", frame, Y)
            seconds.append(time.perf_counter() - start)
        print(f"{model}, {args.responses} responses: {many.converged.mean():.2%} converged")
        print(f"  fit_many    first {seconds[0]:.2f} s, then {min(seconds[1:]):.2f} s")
        start = time.perf_counter()
        own = [lmm.fit(f"y ~ {model}", frame.assign(y=y), runtime="numpy").llf for y in sample.T]
        each = (time.perf_counter() - start) / len(own)
        off = np.abs(many.llf[: len(own)] - own).max()
        print(f"  loop of fit {each * args.responses:.1f} s, log-likelihoods within {off:.0e}")
        if shutil.which("Rscript"):
            refit, lmer, criteria = lme4(model, frame, sample)
            off = np.abs(-2.0 * many.llf[: len(own)] - criteria).max()
            print(f"  refit       {refit * args.responses:.1f} s")
            print(f"  lmer        {lmer * args.responses:.1f} s, criteria within {off:.0e}")


if __name__ == "__main__":
    main()
