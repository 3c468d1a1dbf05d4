"""Axes to draw on, and the few colours, lines and marks that all plots share.

Nothing here changes a setting of matplotlib: every artist is told how it looks. The colours differ
in lightness as well as in hue, and series in their marks and dashes, so that a plot can be printed
in grey.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from math import lcm
from typing import Any, TypeVar

import numpy as np

from ..errors import DataError
from .room import fold, give_room

F = TypeVar("F", bound=Callable[..., Any])
# Lines that are compared with, what is looked at first, what is put beside it, intervals, bands.
INK, ACCENT, SECOND, SOFT, FAINT = "#404040", "#0b3c6f", "#c4622d", "#8fb3d1", "#d5dfe8"
_COLOURS = ("#0b3c6f", "#b04a1a", "#4fa3a5", "#e0b04c", "#7a5195", "#8c8c8c")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
# Points beyond which a vector file would be slow to open: they are drawn as an image.
MANY = 4000
# Labels of an axis beyond which they would overlap.
_MOST_LABELS = 60
# Characters of a line of a name beside an axis or in a legend; the least size of several lines.
_WIDTH, _LEGIBLE = 44, 6.5
# Inches of an entry of a legend, and how many have room in any frame.
_ENTRY, _ENTRIES = 0.185, 6
# Lines of a plot at most.
_MOST_LINES = 60
# Inches of a row, and of the tallest figure (an image has 65,536 dots at most).
_ROW, _TALLEST = 0.22, 200.0


def pyplot() -> Any:
    """The module pyplot of matplotlib.

    Raises
    ------
    ImportError
        Where matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'lmm-jax[plot]'") from error
    return plt


def axes(ax: Any, size: tuple[float, float] = (6.4, 4.4)) -> Any:
    """The given Axes, or those of a new figure."""
    if ax is None:
        return pyplot().subplots(figsize=size, layout="constrained")[1]
    if not hasattr(ax, "get_xlim"):
        raise DataError(f"ax is a {type(ax).__name__}: one Axes of matplotlib is needed")
    return ax


def finished(plot: F) -> F:
    """A plot whose texts are the labels of the data, no ``$`` begins mathematics, and have room."""

    @wraps(plot)
    def call(*args: Any, **options: Any) -> Any:
        drawn = plot(*args, **options)
        from matplotlib.text import Text  # what draws has imported it, or said that it cannot

        for ax in np.ravel(drawn):
            legends = ax.figure.legends if hasattr(ax.figure, "legends") else []
            for text in [t for part in (ax, *legends) for t in part.findobj(Text)]:
                text.set_parse_math(False)
        give_room(list(np.ravel(drawn)), own=options.get("ax") is None)
        return drawn

    return call  # type: ignore[return-value]


def panels(
    ax: Any,
    count: int,
    *,
    columns: int | None = None,
    size: tuple[float, float] = (3.4, 3.0),
    **shared: Any,
) -> np.ndarray:
    """Given Axes, or ``count`` of a new figure, ``columns`` in a row: an array of length count."""
    if ax is not None:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(given) != count:
            raise DataError(f"ax holds {len(given)} Axes: {count} are needed")
        return np.array([axes(one) for one in given], dtype=object)
    columns = min(count, columns or _columns(count))
    rows = -(-count // columns)
    figsize = (max(size[0] * columns, 4.0), max(size[1] * rows, 2.6))
    _, grid = pyplot().subplots(
        rows, columns, figsize=figsize, layout="constrained", squeeze=False, **shared
    )
    for spare in grid.ravel()[count:]:
        spare.remove()
    bottom = grid.ravel()[max(count - columns, 0) : count]
    for one in bottom:  # where the last row is not full
        one.xaxis.set_tick_params(labelbottom=True)
    return np.asarray(grid.ravel()[:count])


def starts_row(ax: Any) -> bool:
    """Whether Axes stand at the left of a grid, or in none."""
    grid = ax.get_subplotspec()
    return grid is None or bool(grid.is_first_col())


def one_or_all(drawn: np.ndarray) -> Any:
    """The Axes themselves where there are only one."""
    return drawn[0] if len(drawn) == 1 else drawn


def _columns(count: int) -> int:
    return {1: 1, 2: 2, 3: 3, 4: 2}.get(count, 3 if count <= 9 else 6)


def series(number: int) -> dict[str, Any]:
    """Colour, dashes and marker of one of several lines."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        # every colour has every dash before two lines look alike
        "linestyle": _DASHES[(number + number // lcm(len(_COLOURS), len(_DASHES))) % len(_DASHES)],
        "marker": _MARKS[number % len(_MARKS)],
    }


def points(ax: Any, x: np.ndarray, y: np.ndarray, **how: Any) -> Any:
    """Open circles: many of them still show where they are dense."""
    look = {"s": 20, "facecolors": "none", "edgecolors": ACCENT, "linewidths": 0.9, "alpha": 0.8}
    if "color" in how:
        look |= {"edgecolors": how.pop("color")}
    return ax.scatter(x, y, **{**look, "rasterized": len(x) > MANY, **how})


def reference(
    ax: Any, *, x: float | None = None, y: float | None = None, above: bool = False
) -> Any:
    """A thin line at a value, below what is drawn or above it."""
    look = {"color": INK, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 3 if above else 0.5}
    return ax.axvline(x, **look) if y is None else ax.axhline(y, **look)


def name_levels(
    ax: Any, labels: Sequence[str], what: str, *, axis: str = "y", every: bool | None = None
) -> None:
    """Levels at 0, 1, ... of an axis; only their number where there are too many to be read.

    ``every``: all of them however many there are, or none.
    """
    own = ax.yaxis if axis == "y" else ax.xaxis
    if len(labels) > _MOST_LABELS if every is None else not every:
        own.set_ticks([])
        what = f"{what} ({len(labels)})" if what else ""
    else:
        room = ax.get_window_extent().height * 72 / ax.figure.dpi / max(len(labels), 1)
        names, size = _in_rows(labels, room) if axis == "y" else (labels, 9.0)
        own.set_ticks(range(len(names)), list(names))
        own.set_tick_params(labelsize=size)
    own.set_label_text(what)
    (ax.set_ylim if axis == "y" else ax.set_xlim)(-0.7, len(labels) - 0.3)


def _in_rows(labels: Sequence[str], room: float) -> tuple[Sequence[str], float]:
    """Names for rows of a height in points, folded where that is legible, and their size."""
    folded = [fold(label, _WIDTH) for label in labels]
    lines = max((label.count("\n") + 1 for label in folded), default=1)
    if lines > 1 and 0.7 * room / lines >= _LEGIBLE:
        return folded, min(0.7 * room / lines, 10.0)
    return labels, float(np.clip(0.8 * room, 4, 10))


def only_zero(ax: Any, axis: str) -> None:
    """An axis of which zero is the only value."""
    place, wide = {f"{axis}ticks": [0.0]}, {f"{axis}lim": (-1.0, 1.0)}
    ax.set(**wide, **place, title="The variance is zero")
    ax.title.set_fontsize("medium")


def note(ax: Any, text: str) -> None:
    """Small print below the label of the horizontal axis."""
    ax.annotate(
        text, (0.5, 0.0), (0.0, -3.0), xycoords=ax.xaxis.label, textcoords="offset points",
        ha="center", va="top", fontsize="small", color=INK, annotation_clip=False,
    )  # fmt: skip


def height(count: int, *, every: bool | None = None) -> float:
    """Of a figure with a row for each of some levels, in inches; as ``every`` name needs it."""
    return float(np.clip(1.2 + _ROW * count, 3.0, _TALLEST if every else 9.0))


def check_lines(count: int, of: str, advice: str) -> None:
    """Refuse more lines than a legend has and a reader can tell from each other."""
    if count > _MOST_LINES:
        raise DataError(
            f"there are {count} lines, one for each {of}, and a plot has {_MOST_LINES} at most: "
            f"{advice}"
        )


def legend(ax: Any, title: str | None = None, *, own: bool = False, beside: bool = False) -> None:
    """A legend in columns that are no taller than the frame, where there is room in it.

    ``beside``: beside the frame, as it is in a figure of the plot's own with many entries.
    """
    count, frame = len(ax.get_legend_handles_labels()[1]), ax.get_window_extent()
    rows = max(int(frame.height / ax.figure.dpi / _ENTRY) - (title is not None), _ENTRIES)
    look: dict[str, Any] = {"ncols": -(-count // rows), "frameon": False}
    beside = beside or (own and count > _ENTRIES)
    if beside:
        look |= {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    else:  # over the data, where there is no room
        look |= {"frameon": True, "framealpha": 0.7, "edgecolor": "none"}
        look["facecolor"] = ax.get_facecolor()
    drawn = ax.legend(title=title, fontsize="small", title_fontsize="small", **look)
    drawn.set_in_layout(beside)  # what lies in the frame takes no room from it
    fold_legend(drawn)


def fold_legend(drawn: Any) -> None:
    """Long entries of a legend in several lines."""
    for text in (drawn.get_title(), *drawn.get_texts()):
        text.set_text(fold(text.get_text(), _WIDTH))


def over_lines(ax: Any) -> dict[str, Any]:
    """Look of a text that covers the lines below it."""
    return {
        "bbox": {"facecolor": ax.get_facecolor(), "edgecolor": "none", "alpha": 0.7, "pad": 0.6}
    }


def label_points(
    ax: Any, x: np.ndarray, y: np.ndarray, names: Sequence[str], among: np.ndarray
) -> None:
    """Names beside points: inside the frame, off points and other names, to the right if free.

    ``among``: all points that are drawn, (n, 2).
    """
    ax.get_xlim()  # limits follow the data when they are asked for
    frame, scale = ax.get_window_extent(), 72.0 / ax.figure.dpi
    at, points = (
        (ax.transData.transform(places) - frame.p0) * scale
        for places in (np.column_stack([x, y]), among)
    )
    taken = np.zeros((0, 3))  # centre and half width of names, in points
    for place, own, name in zip(np.column_stack([x, y]), at, names, strict=True):
        half = 2.4 * len(name) + 2.0
        beside, near = half + 4.0, half + 2.0
        sides = [(beside, 0.0), (-beside, 0.0), (0.0, 9.0), (0.0, -9.0)]
        sides += [(dx, dy) for dx in (near, -near) for dy in (8.0, -8.0)]
        prices = [_crowding(own + side, half, points, taken, frame.size * scale) for side in sides]
        best = sides[int(np.argmin(prices))]
        taken = np.vstack([taken, [*(own + best), half]])
        ax.annotate(
            name, place, best, textcoords="offset points", ha="center", va="center", fontsize=8,
            **over_lines(ax),
        )  # fmt: skip


def _crowding(
    centre: np.ndarray, half: float, points: np.ndarray, taken: np.ndarray, size: np.ndarray
) -> float:
    """How bad a place of a name is: by how much it leaves the frame, what else is there."""
    reach = np.array([half, 5.0])
    out = np.maximum(reach - centre, 0.0) + np.maximum(centre + reach - size, 0.0)
    x, y = np.abs(taken[:, :2] - centre).T
    names = (x < half + taken[:, 2]) & (y < 9.0)
    marks = (np.abs(points - centre) < reach + np.array([3.0, 2.0])).all(axis=1)
    return float(10 * out.sum() + 5 * names.sum() + marks.sum())
