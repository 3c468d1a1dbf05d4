"""The printed table of marginal means and contrasts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..tables.cells import Kind
from ..tables.page import Summary, table


def shown_table(means: Any) -> Summary:
    """Estimates with limits, or contrasts with tests, and in small print how they were made."""
    frame, is_contrast = means.to_frame(output="pandas"), means.kind == "contrast"
    labels = list(frame.columns[: len(means.labels.columns)])
    finite = bool(np.isfinite(frame["df"]).any())
    chosen = [*labels, "estimate", "std_error", *(["df"] if finite else [])]
    chosen += ["statistic", "p_value"] if is_contrast else ["conf_low", "conf_high"]
    headings = dict(zip(labels, means.labels.columns, strict=True))
    headings |= {"statistic": "t" if finite else "z"}
    headings |= {} if is_contrast else {"estimate": means.kind}
    kinds: dict[str, Kind] = {**dict.fromkeys(labels, "label"), "statistic": "statistic"}  # type: ignore[dict-item]
    unknown = frame["estimate"].isna()
    shown = frame[chosen]
    if unknown.any():
        shown = shown.assign(estimate=frame["estimate"].astype(object).where(~unknown, "nonEst"))
        kinds["estimate"] = "number"
    made = table(shown, "", headings=headings, kinds=kinds)
    return Summary(title=_title(means), tables=(made,), notes=_notes(means, frame, is_contrast))


def _title(means: Any) -> str:
    if means.kind == "contrast":
        return "Contrasts"
    return "Marginal means" if means.kind == "emmean" else f"Marginal trends: {means.kind}"


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
