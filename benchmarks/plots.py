"""Plots of stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from report import seconds
from systems import SYSTEMS

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "lmm_jax"  # the same results, the same file


def _points(report: dict[str, Any], prefix: str, system: str) -> list[tuple[int, float]]:
    """Size and seconds of the problems of a series."""
    found = []
    for name, problem in report["problems"].items():
        if name.startswith(prefix) and name.removeprefix(prefix).isdigit():
            time = seconds(problem["systems"].get(system, {}))
            size = problem["levels"][0] if prefix == "groups-" else problem["rows"]
            if time is not None:
                found.append((size, time))
    return sorted(found)


def scaling_plot(report: dict[str, Any], path: Path) -> None:
    """Draw time against groups of 10 rows, and against rows in 1,000 groups."""
    panels = {"groups-": "groups of 10 rows", "rows-": "rows in 1,000 groups"}
    if not any(_points(report, prefix, s) for prefix in panels for s in SYSTEMS):
        return
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for axis, (prefix, label) in zip(axes, panels.items(), strict=True):
        for system in SYSTEMS:
            points = _points(report, prefix, system)
            if points:
                style = "-" if system.startswith("lmm_jax") else "--"
                axis.loglog(*zip(*points, strict=True), style, marker="o", label=system)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds, median of the warm calls")
    axes[1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def iteration_plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds of an iteration and of the whole fit against rows."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    sizes = [row["rows"] for row in rows]
    for key, label in {
        "compress_s": "compression of the rows",
        "fit_s": "fit of a ready layout",
        "iteration_s": "one iteration",
    }.items():
        axis.loglog(sizes, [row[key] for row in rows], marker="o", label=label)
    axis.set_xlabel(f"rows in {rows[0]['groups']:,} groups")
    axis.set_ylabel("seconds")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
