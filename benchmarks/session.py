"""A session at the keyboard: 18 different models in one fresh process, each fitted once.

    python benchmarks/session.py [--runs 3] [--peers PYTHON]

Every system reads the same files, fits each model, makes its summary and its random effects,
once, and goes on to the next. Times are of that, model by model; a run is a process. lme4 and
lmerTest are used through ``Rscript``, statsmodels (14 of the models) by the Python of ``--peers``.
Writes ``docs/benchmarks/session.json`` and ``docs/benchmarks/session.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import RESULTS, in_words, machine, worker_environment

HERE = Path(__file__).parent
DATA = HERE.parent / "lmm_jax" / "data"
# name, data, lme4's formula, REML; statsmodels: formula, groups, re_formula, vc_formula
MODELS: list[tuple[str, str, str, bool, dict[str, Any] | None]] = [
    ("sleepstudy intercept", "sleepstudy", "Reaction ~ Days + (1 | Subject)", True, {}),
    ("sleepstudy slope", "sleepstudy", "Reaction ~ Days + (Days | Subject)", True,
     {"re_formula": "~Days"}),
    ("sleepstudy slope, ML", "sleepstudy", "Reaction ~ Days + (Days | Subject)", False,
     {"re_formula": "~Days"}),
    ("sleepstudy uncorrelated", "sleepstudy", "Reaction ~ Days + (Days || Subject)", True,
     {"re_formula": "0", "vc_formula": {"a": "1", "b": "0 + Days"}}),
    ("sleepstudy quadratic", "sleepstudy", "Reaction ~ Days + I(Days**2) + (Days | Subject)",
     True, {"re_formula": "~Days"}),
    ("dyestuff", "dyestuff", "Yield ~ 1 + (1 | Batch)", True, {}),
    ("dyestuff, ML", "dyestuff", "Yield ~ 1 + (1 | Batch)", False, {}),
    ("dyestuff2 (singular)", "dyestuff2", "Yield ~ 1 + (1 | Batch)", True, {}),
    ("machines intercept", "machines", "score ~ Machine + (1 | Worker)", True, {}),
    ("machines nested", "machines", "score ~ Machine + (1 | Worker/Machine)", True,
     {"vc_formula": {"m": "0 + C(Machine)"}, "re_formula": "1"}),
    ("machines factor", "machines", "score ~ Machine + (Machine | Worker)", True,
     {"re_formula": "~Machine"}),
    ("oats nested", "oats", "yld ~ nitro + (1 | Block/Variety)", True,
     {"vc_formula": {"v": "0 + C(Variety)"}, "re_formula": "1"}),
    ("oats two factors", "oats", "yld ~ nitro + Variety + (1 | Block/Variety)", True, None),
    ("orthodont slope", "orthodont", "distance ~ age * Sex + (age | Subject)", True,
     {"re_formula": "~age"}),
    ("orthodont intercept", "orthodont", "distance ~ age * Sex + (1 | Subject)", True, {}),
    ("penicillin", "penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", True, None),
    ("cake", "cake", "angle ~ recipe * temp + (1 | recipe:replicate)", True, None),
    ("pastes", "pastes", "strength ~ 1 + (1 | batch/cask)", True, None),
]  # fmt: skip


def numbers_as_labels(frame: Any) -> Any:
    """Grouping factors of whole numbers as text, as R's factors are."""
    for name in ("Subject", "Worker", "replicate"):
        if name in frame:
            frame[name] = frame[name].astype(str)
    return frame


def of_ours(frame: Any, formula: str, reml: bool, _: Any) -> Any:
    """Fit, summary, random effects."""
    import lmm_jax as lmm

    result = lmm.fit(formula, frame, reml=reml)
    str(result.summary())
    return result.random_effects


def of_statsmodels(frame: Any, formula: str, reml: bool, spelling: Any) -> Any:
    """The same by MixedLM."""
    import statsmodels.formula.api as smf

    fixed, bar = formula.split(" + (")
    groups = bar.rstrip(")").split("|")[-1].split("/")[0].strip()
    result = smf.mixedlm(fixed, frame, groups=groups, **spelling).fit(reml=reml)
    str(result.summary())
    return result.random_effects


WORKERS: dict[str, Callable[..., Any]] = {"lmm_jax": of_ours, "statsmodels": of_statsmodels}


def work(system: str) -> None:
    """One session; prints the seconds of every model."""
    import warnings

    import pandas as pd

    warnings.simplefilter("ignore")
    run, times = WORKERS[system], {}
    if system == "lmm_jax":
        from lmm_jax import fit  # noqa: F401  a name imports what it needs
    else:
        import statsmodels.formula.api  # noqa: F401
    for name, data, formula, reml, spelling in MODELS:
        if system == "statsmodels" and spelling is None:
            continue
        frame = numbers_as_labels(pd.read_csv(DATA / f"{data}.csv"))
        start = time.perf_counter()
        run(frame, formula, reml, spelling)
        times[name] = time.perf_counter() - start
    print(json.dumps(times))


def r_script(package: str) -> str:
    """The session in R."""
    lines = [
        "options(warn = -1)",
        f"suppressPackageStartupMessages(library({package}))",
        "cat('{')",
    ]
    for i, (name, data, formula, reml, _) in enumerate(MODELS):
        spelled = formula.replace("Days**2", "Days^2")
        lines += [
            f"d <- read.csv('{DATA / data}.csv', stringsAsFactors = TRUE)",
            "for (n in intersect(c('Subject', 'Worker', 'replicate'), names(d))) "
            "d[[n]] <- factor(d[[n]])",
            "t <- Sys.time()",
            f"m <- lmer({spelled}, d, REML = {str(reml).upper()})",
            "x <- capture.output(print(summary(m))); r <- ranef(m)",
            "s <- as.numeric(difftime(Sys.time(), t, units = 'secs'))",
            f"cat(sprintf('{', ' if i else ''}\"{name}\": %.6f', s))",
        ]
    return "\n".join([*lines, "cat('}\\n')"])


def session(system: str, peers: str) -> dict[str, float] | None:
    """Seconds of every model in a fresh process; None where the system is not installed."""
    if system in ("lme4", "lmerTest"):
        call = ["Rscript", "-e", r_script(system)]
        if shutil.which("Rscript") is None:
            return None
    else:
        python = sys.executable if system == "lmm_jax" else peers
        call = [python, str(Path(__file__).resolve()), "--worker", system]
    done = subprocess.run(
        call, env=worker_environment(1), capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{system}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def table(times: dict[str, dict[str, float]]) -> str:
    """Medians in milliseconds, a row a model."""
    systems = list(times)
    lines = [f"| ms | {' | '.join(systems)} |", "|---" * (len(systems) + 1) + "|"]
    for name, *_ in MODELS:
        cells = (times[s].get(name) for s in systems)
        shown = ("-" if value is None else f"{1e3 * value:.0f}" for value in cells)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    sums = (f"{sum(times[s].values()):.2f} s ({len(times[s])})" for s in systems)
    middle = (f"{1e3 * statistics.median(times[s].values()):.0f}" for s in systems)
    worst = (f"{1e3 * max(times[s].values()):.0f}" for s in systems)
    lines += [
        f"| **median** | {' | '.join(middle)} |",
        f"| **largest** | {' | '.join(worst)} |",
        f"| **total** (models) | {' | '.join(sums)} |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the sessions in turn and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--worker", choices=WORKERS)
    asked = parser.parse_args()
    if asked.worker:
        work(asked.worker)
        return
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(asked.runs):
        for system in ("lmm_jax", "lme4", "lmerTest", "statsmodels"):
            found = session(system, asked.peers)
            if found is not None:
                runs.setdefault(system, []).append(found)
    times = {
        system: {name: statistics.median(one[name] for one in done) for name in done[0]}
        for system, done in runs.items()
    }
    where = machine()
    text = (
        "# A session: 18 models, each fitted once\n\n"
        "Fit, summary and random effects, one thread, in one fresh process; medians of "
        f"{asked.runs} processes.\n\n{table(times)}\n\n{in_words(where)}\n"
    )
    (RESULTS / "session.md").write_text(text, encoding="utf-8")
    stored = json.dumps({"machine": where, "seconds": times}, indent=1)
    (RESULTS / "session.json").write_text(stored + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
