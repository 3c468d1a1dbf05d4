"""Coefficients of every level: fixed plus random, and random effects in one long table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import special

from ..designs.terms import RandomTerm
from ..inputs.names import Labelled
from ..tables.cells import of_users
from ..tables.page import table
from .effects import LevelCovariances, terms_of_factors


def coefficient_frames(
    fixed: pd.Series[float], terms: Sequence[RandomTerm], effects: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Fixed effects plus those of every level, a frame a grouping factor."""
    factors = [
        name
        for name, members in terms_of_factors(terms).items()
        if not terms[members[0]].is_component
    ]
    random = dict.fromkeys(name for factor in factors for name in effects[factor].columns)
    names = [*(name for name in random if name not in fixed.index), *fixed.index]
    out = Labelled[pd.DataFrame]()
    for factor in factors:
        frame = effects[factor]
        sums = frame.reindex(columns=names, fill_value=0.0) + fixed.reindex(names, fill_value=0.0)
        out[factor] = table(sums, f"Coefficients of {factor}", **of_users(sums))
    return out


def effects_table(
    effects: Mapping[str, pd.DataFrame],
    covariances: Mapping[str, LevelCovariances],
    level: float,
    more: Mapping[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Random effects with conditional standard deviations, a row each: by factor, term, level.

    ``more`` has what is added to their squares.
    """
    quantile = special.ndtri(0.5 + 0.5 * level)
    out = long_table(effects)
    errors = [covariances[factor].std_errors.to_numpy().ravel("F") for factor in effects]
    if more is not None:
        added = [more[factor].to_numpy().ravel("F") for factor in effects]
        errors = [np.hypot(sd, np.sqrt(own)) for sd, own in zip(errors, added, strict=True)]
    out["std_error"] = np.concatenate([np.zeros(0), *errors])
    out["conf_low"] = out["estimate"] - quantile * out["std_error"]
    out["conf_high"] = out["estimate"] + quantile * out["std_error"]
    notes = (f"Limits of level {level:g}, at known covariances",)
    return table(out, "Random effects", notes, kinds={"level": "label"})


def long_table(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row an entry: factor, term (a column), level (a row), estimate."""
    factor, term, level, estimate = [], [], [], [np.zeros(0)]
    for name, frame in frames.items():
        L, k = frame.shape
        factor += [name] * (L * k)
        term += [column for column in frame.columns for _ in range(L)]
        level += list(frame.index) * k
        estimate.append(frame.to_numpy().ravel("F"))
    labels = {"factor": factor, "term": term, "level": level}
    columns = {k: pd.Series(v, dtype=object) for k, v in labels.items()}
    return pd.DataFrame({**columns, "estimate": np.concatenate(estimate)})
