"""Power curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inputs.arguments import choice, hinted, instance, probability
from . import canvas

_COLUMNS = ["effect", "size", "power", "conf_low", "conf_high"]


def power_lines(table: pd.DataFrame, x: str | None) -> tuple[str, dict[Any, pd.DataFrame]]:
    """Which column is horizontal, and a part of the table for every value of the other."""
    lacking = [name for name in _COLUMNS if name not in table]
    if lacking:
        raise DataError(f"the table has no column {lacking[0]!r}: pass one of lmm.power")
    if x is None:
        x = "size" if table["size"].nunique() >= table["effect"].nunique() else "effect"
    other = "effect" if choice(x, "x", ("size", "effect")) == "size" else "size"
    values = list(dict.fromkeys(table[other].where(table[other].notna(), None)))
    lines = {
        v: table[table[other].isna() if v is None else table[other] == v].sort_values(x)
        for v in values
    }
    return x, lines


@hinted
@canvas.finished
def power(table: Any, *, x: str | None = None, target: float = 0.8, ax: Any = None) -> Any:
    """Power over sizes or effects, with exact 95 % intervals of the simulation.

    Parameters
    ----------
    table : DataFrame
        Of :func:`lmm_jax.power`.
    x : {"size", "effect"}, optional
        What is horizontal; the other one has a line for each of its values. By default that of
        which there are more values.
    target : float
        Where a line is drawn.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import pandas as pd, lmm_jax as lmm
    >>> table = pd.DataFrame({"effect": 0.3, "size": [10, 40], "n_obs": [60, 240],
    ...     "power": [0.3, 0.8], "conf_low": [0.2, 0.7], "conf_high": [0.4, 0.9]})
    >>> lmm.plots.power(table).get_xlabel()
    'size'
    """
    instance(table, "table", pd.DataFrame, "the frame of lmm.power")
    x, lines = power_lines(table, x)
    other = "effect" if x == "size" else "size"
    numeric = pd.api.types.is_numeric_dtype(table[x])
    ticks = list(dict.fromkeys(table[x]))
    own, ax = ax is None, canvas.axes(ax)
    for i, (value, line) in enumerate(lines.items()):
        look = canvas.series(i)
        place = line[x].to_numpy(float) if numeric else np.array([ticks.index(v) for v in line[x]])
        ends = line["conf_low"].to_numpy(float), line["conf_high"].to_numpy(float)
        ax.fill_between(place, *ends, color=look["color"], alpha=0.2, linewidth=0)
        ax.plot(place, line["power"], label=f"{value}", **look, markersize=5)
    canvas.reference(ax, y=probability(target, "target"))
    if not numeric:
        ax.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
    ax.set_ylim(0.0, 1.02)
    ax.set(xlabel=x, ylabel="Power")
    if len(lines) > 1:
        canvas.legend(ax, other, own=own)
    return ax
