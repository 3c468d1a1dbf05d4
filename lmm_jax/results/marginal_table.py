"""The printed table of marginal means and contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..inference.contrasts.multiplicity import ALTERNATIVES, SIDES
from ..inference.contrasts.stepwise import STEPWISE
from ..inference.df.robust import robust_note
from ..tables.page import Summary, Table, table


def shown_table(means: Any, infer: bool | None, **how: Any) -> Summary:
    """Estimates with limits, contrasts with tests, or both, and below how they were made."""
    frame, is_contrast = means.to_frame(output="pandas", **how), means.kind == "contrast"
    limits, tests = (not is_contrast, is_contrast) if infer is None else (infer, infer)
    labels = list(frame.columns[: len(means.labels.columns)])
    finite = bool(np.isfinite(frame["df"]).any())
    chosen = [*labels, "estimate", "std_error", *(["df"] if finite else [])]
    chosen += ["conf_low", "conf_high"] * limits + ["statistic", "p_value"] * tests
    look = _look(means, labels, frame["df"], how["type"])
    unknown = frame["estimate"].isna()
    shown = frame[chosen]
    if unknown.any():
        shown = shown.assign(estimate=frame["estimate"].astype(object).where(~unknown, "nonEst"))
        look["kinds"]["estimate"] = "number"
    made = table(shown, "", **look)
    notes = _notes(means, limits=limits, tests=tests, **how)
    if unknown.any():
        notes += (
            "nonEst: the data do not determine this combination, or its weights add up to nothing",
        )
    return Summary(title=title_of(means), sheets=(made,), notes=notes)


def labelled_table(
    means: Any, frame: Any, title: str, notes: Sequence[str], *, type: str = "link"
) -> Table:
    """A frame that begins with the labels of means as a table that shows itself."""
    labels = list(frame.columns[: len(means.labels.columns)])
    return table(frame, title, notes, **_look(means, labels, frame["df"], type))


def _look(means: Any, labels: Sequence[str], df: Any, type: str) -> dict[str, Any]:
    """Headings and kinds of the columns of such a table."""
    headings = dict(zip(labels, means.labels.columns, strict=True))
    headings.pop("contrast", None)  # a word of ours
    headings |= {"statistic": "t" if np.isfinite(df).any() else "z"}
    is_contrast, response = means.kind == "contrast", type == "response"
    headings |= {} if is_contrast else {"estimate": means.kind}
    if is_contrast and means.ratios and response:
        headings["estimate"] = means.transformation.ratio
    elif not is_contrast and means.transformation is not None and response:
        headings["estimate"] = "response"
    kinds = {**dict.fromkeys(labels, "label"), "statistic": "statistic"}
    return {"headings": headings, "kinds": kinds}


def table_notes(
    means: Any, *, limits: bool = False, type: str = "link", adjust: str | None = None
) -> tuple[str, ...]:
    """The small print of means as they are, adjustments of tests left out."""
    how: dict[str, Any] = {"adjust": adjust, "level": None, "side": "two-sided"}
    return _notes(means, limits=limits, tests=False, type=type, **how)


def title_of(means: Any) -> str:
    """What a table of means is called."""
    if means.kind == "contrast":
        return "Contrasts"
    return "Marginal means" if means.kind == "emmean" else f"Marginal trends: {means.kind}"


def _notes(
    means: Any,
    *,
    limits: bool,
    tests: bool,
    type: str,
    adjust: str | None,
    level: float | None,
    side: str,
) -> tuple[str, ...]:
    notes = [*means.notes, f"Degrees of freedom: {means.df_method}", *robust_note(means.tests)]
    sign = SIDES[side]
    if sign:
        notes.append(f"Alternative: {ALTERNATIVES[sign]}")
    how = sorted(set(means._compared(adjust, level, side=sign).adjust) - {"none"})
    if not tests:  # limits of step-wise procedures are Bonferroni's
        how = sorted({"bonferroni" if name in STEPWISE else name for name in how})
    of_level = f"limits of level {float(means.level if level is None else level):g}"
    what = " and ".join(["P values"] * tests + [of_level] * limits)
    if how and what:
        adjusted = f"{what} adjusted by {', '.join(how)} within each family"
        notes.append(adjusted[0].upper() + adjusted[1:])
    elif limits:
        notes.append(of_level[0].upper() + of_level[1:])
    f = means.transformation
    if f is None and type == "response" and means.kind != "contrast" and not means.changed:
        notes.append("The response is not transformed in the formula: nothing to carry back")
    if f is not None and type == "link":
        notes.append(f"Estimates are on the scale of {f.name}")
    elif f is not None:
        notes.append(f"Carried back from the scale of {f.name}, that of the tests" if tests else
                     f"Carried back from the scale of {f.name}")  # fmt: skip
    return tuple(notes)
