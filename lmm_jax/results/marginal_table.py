"""The printed table of marginal means and contrasts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..reprs import number, p_value
from .summary import Summary, TextTable


def shown_table(means: Any) -> Summary:
    """Estimates with limits, or contrasts with tests, and in small print how they were made."""
    frame, is_contrast = means.to_frame(), means.kind == "contrast"
    names = list(means.labels.columns)
    estimate = "estimate" if is_contrast else means.kind
    finite = np.isfinite(frame["df"]).any()
    header = [*names, estimate, "std_error", *(["df"] if finite else [])]
    header += [("t" if finite else "z"), "p_value"] if is_contrast else ["conf_low", "conf_high"]
    rows = [_row(line, names, is_contrast, bool(finite)) for _, line in frame.iterrows()]
    table = TextTable(caption="", header=tuple(header), rows=tuple(rows))
    return Summary(title=_title(means), tables=(table,), notes=_notes(means, frame, is_contrast))


def _title(means: Any) -> str:
    if means.kind == "contrast":
        return "Contrasts"
    return "Marginal means" if means.kind == "emmean" else f"Marginal trends: {means.kind}"


def _row(line: pd.Series[Any], names: list[str], contrast: bool, finite: bool) -> tuple[str, ...]:
    cells = [_label(line[name]) for name in names]
    if np.isnan(line["estimate"]):
        return (*cells, "nonEst", *[""] * (4 if finite else 3))
    cells += [number(line["estimate"]), number(line["std_error"])]
    if finite:
        cells.append(f"{line['df']:.4g}")
    if contrast:
        return (*cells, f"{line['statistic']:.3f}", p_value(line["p_value"]))
    return (*cells, number(line["conf_low"]), number(line["conf_high"]))


def _label(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _notes(means: Any, frame: pd.DataFrame, contrast: bool) -> tuple[str, ...]:
    notes = list(means.notes)
    notes.append(f"Degrees of freedom: {means.df_method}")
    found = means._compared(None, None)
    how = sorted(set(found.adjust) - {"none"})
    what = "P values" if contrast else f"Limits of level {means.level:g}"
    if how:
        notes.append(f"{what} adjusted by {', '.join(how)} within each family")
    elif not contrast:
        notes.append(what)
    if frame["estimate"].isna().any():
        notes.append("nonEst: the data do not determine this combination")
    if means.transformation is not None:
        notes.append(f"On the scale of {means.transformation.name}: type='response' carries back")
    return tuple(notes)
