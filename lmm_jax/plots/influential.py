"""Plots of influence."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..inputs.arguments import choice, hinted, whole_number
from . import canvas
from .sources import expect, level_name

_KINDS = {
    "cooks_distance": "Cook's distance",
    "conditional_cooks": "Cook's distance, conditional fit",
    "hat_values": "Hat value",
}


@hinted
@canvas.finished
def influence(
    influence: Any, *, kind: str = "cooks_distance", label: int = 5, ax: Any = None
) -> Any:
    """Cook's distance of every group, row or level, in the order of the data.

    Parameters
    ----------
    influence : Influence
        Of :func:`lmm_jax.influence`, which says of what.
    kind : {"cooks_distance", "hat_values", "conditional_cooks"}
        Which measure; the last is one of rows.
    label : int
        How many of the largest are called by their name.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> ax = lmm.plots.influence(lmm.influence(res), label=2)
    >>> [text.get_text() for text in ax.texts]
    ['309', '335']
    """
    found = expect(influence, "influence", "Influence")
    has_rows = found.conditional_cooks is not None
    choice(kind, "kind", [name for name in _KINDS if has_rows or name != "conditional_cooks"])
    values = getattr(found, kind)
    y, x = values.to_numpy(), np.arange(len(values))
    ax = canvas.axes(ax)
    ax.vlines(x, 0.0, y, color=canvas.SOFT, linewidth=1.6)
    ax.scatter(x, y, s=16, color=canvas.ACCENT, zorder=3, rasterized=len(y) > canvas.MANY)
    known = np.flatnonzero(np.isfinite(y))
    largest = known[np.argsort(-y[known], kind="stable")][: whole_number(label, "label")]
    names = [level_name(unit) for unit in values.index]
    canvas.name_levels(ax, names, str(values.index.name or found.by), axis="x")
    ax.margins(y=0.1)
    ax.set_ylim(bottom=0.0)
    canvas.label_points(
        ax, x[largest], y[largest], [names[i] for i in largest], np.column_stack([x, y])
    )
    ax.set_ylabel(_KINDS[kind])
    return ax
