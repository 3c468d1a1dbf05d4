"""Room for texts: they are folded to the room that they have, and a new figure grows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

# Where a line may end: after a space or a mark between names, before a bracket.
_BREAK = re.compile(r"(?<=[\s:,;/|_])(?=\S)|(?=\[)")
# Ends of lines that are better than others: between the parts of an interaction or a difference.
_MARKS = (":", ",", ";", " -", " /")
# Part of a panel of a new figure that its frame has at least, however long the labels are.
_LEAST = 0.55
# Inches around a panel that no text has, and between two names below an axis.
_PAD, _BETWEEN = 0.14, 0.05
# Most lines of a name below an axis, and of a title.
_LINES, _TITLE = 3, 2
# Characters of a line at least, and of a name that stands upright at most.
_SHORT, _UPRIGHT = 8, 40
# Part of given Axes that matplotlib leaves free beside them.
_MARGIN = 0.2
# By how much a figure becomes wider for names that stand upright.
_WIDER = 1.6


def fold(text: str, most: int, lines: int | None = None) -> str:
    """A text in lines of about one length, of at most ``most`` characters.

    What is too long for a line, or for all of them, loses its middle.

    Examples
    --------
    >>> print(fold("arm[T.Waiting list]:time since onset (weeks)", 30))
    arm[T.Waiting list]:
    time since onset (weeks)
    >>> fold("participant_0123456789", 12, lines=1)
    'partic…56789'
    """
    if lines is not None:
        text = _cut(text, most * lines)
    rows = [row for line in text.split("\n") for row in _rows(line, most)]
    kept = len(text)
    while lines is not None and len(rows) > lines:
        kept -= 1
        rows = _rows(_cut(text.replace("\n", " "), kept), most)
    return "\n".join(rows)


def _rows(line: str, most: int) -> list[str]:
    """As few lines as there can be, that end behind marks if possible, of about one length."""
    if len(line) <= most:
        return [line]
    pieces = [_cut(piece, most) for piece in _BREAK.split(line)]
    best: list[tuple[int, int, list[str]]] = [(0, 0, [])]  # of the first pieces: rows, their price
    for end in range(1, len(pieces) + 1):
        found = []
        for start in range(end - 1, -1, -1):
            row = "".join(pieces[start:end]).rstrip()
            if len(row) > most:
                break
            count, price, rows = best[start]
            weak = end < len(pieces) and not row.endswith(_MARKS)
            found.append((count + 1, price + len(row) ** 2 + weak * most**2, [*rows, row]))
        best.append(min(found))
    return best[-1][2]


def _cut(text: str, most: int) -> str:
    """A text without its middle, if it is longer."""
    if len(text.rstrip()) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text.rstrip()[-end:] if end else ''}"


def fold_text(text: Any, room: float, lines: int | None = None) -> None:
    """Fold what an artist says to a length in pixels, along its direction."""
    words = text.get_text()
    if not words.strip():
        return
    box = text.get_window_extent()
    length = box.height if round(text.get_rotation()) % 180 == 90 else box.width
    if length > room:
        longest = max(map(len, words.split("\n")))
        text.set_text(fold(words, max(_SHORT, int(longest * room / length)), lines))


def give_room(axes: Sequence[Any], *, own: bool) -> None:
    """Texts that are neither cut off nor lie on each other.

    Labels and titles of Axes are folded to the length of their frame. A figure of the plot's own
    grows until the frames of its panels have a good part of it.

    Parameters
    ----------
    axes : sequence of Axes
        All of the figure, where that is the plot's own.
    own : bool
    """
    for ax in axes:
        fold_text(ax.yaxis.label, ax.get_window_extent().height)
    if not own:
        for ax in axes:
            _fold_along(ax, _width_of_given(ax))
        return
    figure = axes[0].figure
    for text in figure.texts:
        fold_text(text, 0.9 * figure.bbox.size[int(_is_upright(text))])
    wide, tall = _LEAST * figure.bbox.size
    width = _grow(figure, axes, 0, wide)
    for ax in axes:
        _fold_along(ax, width, wider=_WIDER if len(axes) == 1 else 1.0)
    height = _grow(figure, axes, 1, max(tall, _legend_height(axes)))
    before = _beside(axes)[0]
    for ax in axes:
        fold_text(ax.yaxis.label, height)
    _add(figure, 0, _beside(axes)[0] - before)


def _width_of_given(ax: Any) -> float:
    """Pixels that a frame will have about; a layout takes names from it that are beside it."""
    frame, box = ax.get_window_extent(), ax.yaxis.get_tightbbox()
    if ax.figure.get_layout_engine() is None or box is None:
        return float(frame.width)
    taken = np.clip(frame.x0 - box.x0 - _MARGIN * frame.width, 0.0, 0.5 * frame.width)
    return float(frame.width - taken)


def _add(figure: Any, side: int, pixels: float) -> None:
    """Make a figure wider (``side`` 0) or taller (1)."""
    size = figure.bbox.size
    if pixels > 0:
        size[side] += pixels
        figure.set_size_inches(size / figure.dpi)


def _fold_along(ax: Any, width: float, wider: float = 1.0) -> None:
    """All that stands above and below a frame of some width, which may become so much wider."""
    width = _fit_names(ax, width, wider)
    fold_text(ax.xaxis.label, width)
    _clear_multiplier(ax, width)
    fold_text(ax.title, width, _TITLE)
    for note in _notes(ax):
        fold_text(note, width)


def _clear_multiplier(ax: Any, width: float) -> None:
    """Move the label below a horizontal axis further down if it would meet the multiplier."""
    from matplotlib import rcParams

    own, pixels = ax.xaxis, ax.figure.dpi / 72
    own.get_tightbbox()  # which writes the multiplier
    label, multiplier = (t.get_window_extent() for t in (own.label, own.offsetText))
    meet = label.width / 2 + multiplier.width + 72 * _BETWEEN * pixels > width / 2
    if meet and own.offsetText.get_text() and own.label.get_text():
        below = rcParams["axes.labelpad"] + multiplier.height / pixels
        own.labelpad = max(own.labelpad, below)


def _notes(ax: Any) -> list[Any]:
    """Texts that hang on the label of the horizontal axis."""
    return [text for text in ax.texts if getattr(text, "xycoords", None) is ax.xaxis.label]


def _is_upright(text: Any) -> bool:
    return round(text.get_rotation()) % 180 == 90


def _grow(figure: Any, axes: Sequence[Any], side: int, least: float) -> float:
    """Make a figure wider or taller; the width or height of a frame there, in pixels.

    ``least``: what the frames are to have together.
    """
    taken, count = (_beside if side == 0 else _above)(axes)
    around = [*figure.legends] if side == 0 else []
    around += [text for text in figure.texts if _is_upright(text) == (side == 0)]
    taken += sum(artist.get_window_extent().size[side] for artist in around if artist.get_visible())
    taken += _PAD * figure.dpi * (count + len(around))
    size = figure.bbox.size[side]
    left = max(size - taken, least)
    _add(figure, side, left + taken - size)
    return float(left / count)


def _beside(axes: Sequence[Any]) -> tuple[float, int]:
    """Pixels to the left and the right of all columns of frames, and how many there are."""
    left: dict[int, float] = defaultdict(float)
    right: dict[int, float] = defaultdict(float)
    for ax in axes:
        column, frame = ax.get_subplotspec().colspan.start, ax.get_window_extent()
        box, legend = ax.yaxis.get_tightbbox(), ax.get_legend()
        left[column] = max(left[column], frame.x0 - box.x0 if box else 0.0)
        end = legend.get_window_extent().x1 if legend else frame.x1
        right[column] = max(right[column], end - frame.x1)
    return sum(left.values()) + sum(right.values()), len(left)


def _above(axes: Sequence[Any]) -> tuple[float, int]:
    """Pixels above and below all rows of frames, and how many there are."""
    above: dict[int, float] = defaultdict(float)
    below: dict[int, float] = defaultdict(float)
    for ax in axes:
        row, frame = ax.get_subplotspec().rowspan.start, ax.get_window_extent()
        box = ax.xaxis.get_tightbbox()
        below[row] = max(below[row], frame.y0 - box.y0 if box else 0.0)
        below[row] += sum(note.get_window_extent().height for note in _notes(ax))
        above[row] = max(above[row], ax.title.get_window_extent().height)
    return sum(above.values()) + sum(below.values()), len(above)


def _legend_height(axes: Sequence[Any]) -> float:
    """Pixels that rows of frames need to be as tall as their legends."""
    rows: dict[int, float] = defaultdict(float)
    for ax in axes:
        row, legend = ax.get_subplotspec().rowspan.start, ax.get_legend()
        rows[row] = max(rows[row], legend.get_window_extent().height if legend else 0.0)
    return sum(rows.values())


def _fit_names(ax: Any, width: float, wider: float) -> float:
    """Fold names below an axis, or turn them; the width in pixels that it has then."""
    from matplotlib.ticker import FixedLocator

    ticks, labels = ax.get_xticks(), ax.get_xticklabels()
    names, boxes = [t.get_text() for t in labels], [t.get_window_extent() for t in labels]
    if not isinstance(ax.xaxis.get_major_locator(), FixedLocator) or sum(map(bool, names)) < 2:
        return width
    wide, between = np.array([box.width for box in boxes]), _BETWEEN * ax.figure.dpi
    gaps = np.abs(np.diff(ticks)) * width / abs(np.subtract(*ax.get_xlim()))
    if (0.5 * (wide[1:] + wide[:-1]) + between <= gaps).all():
        return width
    letter = max(w / len(name) for w, name in zip(wide, names, strict=True) if name)
    room = int((gaps.min() - between) / letter)
    if max(len(word.rstrip()) for name in names for word in _BREAK.split(name)) <= room:
        folded = [fold(name, room) for name in names]
        if max(name.count("\n") for name in folded) < _LINES:
            ax.set_xticks(ticks, folded)
            return width
    times = 1.15 * max(box.height for box in boxes) / gaps.min()
    grown = float(np.clip(times, 1.0, wider))
    every = int(np.ceil(times / grown - 1e-9))
    upright = [fold(name, _UPRIGHT, 1) if i % every == 0 else "" for i, name in enumerate(names)]
    ax.set_xticks(ticks, upright, rotation=90)
    _add(ax.figure, 0, (grown - 1.0) * width)
    return grown * width
