"""Tables and plots from a stored run.

python benchmarks/report.py [docs/benchmarks/run.json]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from machine import RESULTS, in_words
from systems import SYSTEMS, package

EXCESS = 1e-3  # a criterion so much above the best of all systems is marked
_WORDS = {"cannot": "cannot", "skipped": "skipped", "memory": "> memory", "failed": "failed"}


def seconds(found: dict[str, Any]) -> float | None:
    """Median of the warm calls, or the first call where there was no other."""
    if found.get("status") != "ok":
        return None
    return found["first_s"] if found["warm_s"] is None else found["warm_s"]


def best_criteria(problem: dict[str, Any]) -> dict[str, float]:
    """Smallest criterion of the systems that maximize the same likelihood."""
    best: dict[str, float] = {}
    for found in problem["systems"].values():
        if found.get("status") != "ok" or found["criterion"] is None:
            continue
        values = [(found["method"], found["criterion"])]
        if "criterion_ml" in found:
            values.append(("ML", found["criterion_ml"]))
        for method, value in values:
            best[method] = min(best.get(method, value), value)
    return best


def excess(found: dict[str, Any], best: dict[str, float]) -> float | None:
    """How far above the best criterion a system stopped."""
    if found.get("status") != "ok" or found["criterion"] is None:
        return None
    return found["criterion"] - best[found["method"]]


def baseline(problem: dict[str, Any], system: str) -> float | None:
    """Seconds of this library from the same interface, else from a frame."""
    ours = problem["systems"]
    same = seconds(ours.get(f"lmm_jax-{system.rsplit('-', 1)[1]}", {}))
    return same or seconds(ours.get("lmm_jax-frame", {}))


def marks(found: dict[str, Any], best: dict[str, float]) -> str:
    """Words for an answer that is not the best one, or not said to be one."""
    words = []
    above = excess(found, best)
    if above is None and found.get("status") == "ok":
        words.append("no criterion")
    elif above is not None and above > EXCESS:
        words.append(f"criterion +{above:.2g}")
    if found.get("status") == "ok" and not found["converged"]:
        words.append("not converged")
    return ", ".join(words)


def _cell(problem: dict[str, Any], system: str, best: dict[str, float]) -> str:
    found = problem["systems"].get(system)
    if found is None:
        return ""
    time = seconds(found)
    if time is None:
        word = _WORDS.get(found["status"], "")
        return word or "> " + found["reason"].removeprefix("more than ")
    ours = baseline(problem, system)
    ratio = f"{time / ours:.3g}" if ours else f"{time:.3g} s"
    warning = marks(found, best)
    return f"{ratio} **({warning})**" if warning else ratio


def ratio_table(report: dict[str, Any]) -> str:
    """Seconds of each system in units of this library's from the same interface."""
    problems = report["problems"]
    used = [s for s in SYSTEMS if any(s in p["systems"] for p in problems.values())]
    peers = [s for s in used if package(s) != "lmm_jax"]
    ours = [s for s in used if package(s) == "lmm_jax"]
    head = ["problem", *[f"{s}, s" for s in ours], *peers]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, problem in problems.items():
        best = best_criteria(problem)
        cells = [name]
        for system in ours:
            found = problem["systems"].get(system, {})
            time, warning = seconds(found), marks(found, best)
            text = _cell(problem, system, best) if time is None else f"{time:.3g}"
            cells.append(f"{text} **({warning})**" if warning else text)
        cells += [_cell(problem, system, best) for system in peers]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def detail_table(problem: dict[str, Any]) -> str:
    """Everything that is stored of one problem."""
    head = "system|version|warm, s|calls|first call, s|of it compiling, s|programs, first/warm"
    head += "|CPU, s|peak, MB|after loading, MB|data, MB|criterion|converged|remarks"
    names = head.split("|")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    best = best_criteria(problem)
    for system, found in problem["systems"].items():
        if found["status"] != "ok":
            text = f"{_WORDS.get(found['status'], '> limit')}: {found['reason']}"
            row = [system, found.get("version") or "", *[""] * (len(names) - 3), text]
            lines.append(f"| {' | '.join(row)} |")
            continue
        compiles = found["first_programs"]
        remarks = (marks(found, best), found.get("note", ""))
        row = [
            system,
            found["version"],
            _number(found["warm_s"], ".4g"),
            str(len(found["warm_runs_s"])),
            _number(found["first_s"], ".4g"),
            _number(found["first_compile_s"] if compiles else None, ".3g"),
            f"{compiles}/{found['warm_programs']}" if compiles else "",
            _number(found["warm_cpu_s"], ".3g"),
            *[_number(found[key], ".0f") for key in ("peak_mb", "start_mb")],
            _number(found["input_mb"], ".3g"),
            _number(found["criterion"], ".4f") + (" (ML)" if found["method"] == "ML" else ""),
            "yes" if found["converged"] else "no",
            "; ".join(text for text in remarks if text),
        ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def markdown(report: dict[str, Any]) -> str:
    """The whole report."""
    parts = [
        "# Every problem on every system",
        in_words(report["machine"]),
        "Columns of `lmm_jax` are seconds, those of the others are ratios to it from the same "
        "interface (from a frame where it has no other). A criterion more than "
        f"{EXCESS:g} above the best of all systems is marked.",
        ratio_table(report),
    ]
    for name, problem in report["problems"].items():
        levels = " x ".join(f"{count:,}" for count in problem["levels"])
        size = f"{problem['rows']:,} rows, {levels} levels, p = {problem['p']}"
        scale = "" if problem["scale"] == 1 else f", scale {problem['scale']:g}"
        parts += [f"## {name}: {problem['title']}", f"{size}{scale}", detail_table(problem)]
    return "\n\n".join(parts) + "\n"


def write_report(path: Path) -> str:
    """Write the tables and the plot beside the stored run; return the table of ratios."""
    report = json.loads(path.read_text(encoding="utf-8"))
    path.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    try:
        from plots import scaling_plot
    except ImportError:
        print("matplotlib is not installed: no plot", file=sys.stderr)
    else:
        scaling_plot(report, path.with_name(path.stem.replace("run", "scaling") + ".svg"))
    return ratio_table(report)


if __name__ == "__main__":
    default = RESULTS / "run.json"
    print(write_report(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
