"""Tables in a terminal: columns side by side, folded where the terminal is narrower."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from .cells import Cells

# Narrower than this nothing is readable, and folding would leave a column a block.
_LEAST = 24
_GAP = 2  # blanks between columns
_NARROW = 6  # a column of words is no narrower than this


def terminal_width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return shutil.get_terminal_size().columns


def text_of(table: Cells, width: int) -> str:
    """Aligned plain text of at most ``width`` characters a line."""
    width = max(width, _LEAST)
    out = [wrapped(table.caption, width)] if table.caption else []
    header = [table.header] if table.has_header else []
    columns = [list(column) for column in zip(*header, *table.rows, strict=True)]
    if not columns:
        return "\n".join(out)
    room = width - 1
    fit = _fitted(columns, table.right, table.labels, room)
    blocks = folded_columns(list(map(_width, fit)), table.glued, table.labels, room)
    for i, block in enumerate(blocks):
        out += [""] * (i > 0)
        out += _block([fit[j] for j in block], [table.right[j] for j in block])
    if table.more:
        out.append(f" ... {table.more:,} rows more")
    return "\n".join(out)


def folded_columns(
    widths: Sequence[int], glued: Sequence[bool], labels: int, room: float
) -> list[list[int]]:
    """Columns of every block: the labels, then as many of the others as there is room for."""
    first = list(range(labels))
    room -= sum(widths[:labels]) + _GAP * labels
    units: list[list[int]] = []
    for j in range(labels, len(widths)):
        if glued[j] and j > labels and _together(widths, [*units[-1], j]) <= room:
            units[-1].append(j)
        else:
            units.append([j])
    blocks: list[list[int]] = []
    for unit in units:
        if not blocks or _together(widths, [*blocks[-1], *unit]) > room:
            blocks.append([])
        blocks[-1] += unit
    return [[*first, *block] for block in blocks] or [first]


def _together(widths: Sequence[int], columns: Sequence[int]) -> int:
    return sum(widths[j] for j in columns) + _GAP * (len(columns) - 1)


def wrapped(text: str, width: int) -> str:
    """A paragraph in lines of at most ``width`` characters."""
    lines = textwrap.wrap(text, max(width, _LEAST), break_on_hyphens=False)
    return "\n".join(lines)


def _width(column: Sequence[str]) -> int:
    return max(len(line) for cell in column for line in cell.split("\n"))


def _fitted(
    columns: Sequence[list[str]], right: Sequence[bool], labels: int, room: int
) -> list[list[str]]:
    """Columns whose words are put on several lines where labels and a column have no room."""
    widths = list(map(_width, columns))
    numbers = max([0, *(w for w, is_right in zip(widths, right, strict=True) if is_right)])
    out = list(columns)
    most = _shared(widths[:labels], room - numbers - _GAP * labels)
    for j in range(labels):
        if widths[j] > most:
            out[j] = [_in_lines(cell, most) for cell in columns[j]]
    used = sum(map(_width, out[:labels])) + _GAP * labels
    for j in range(labels, len(columns)):
        if not right[j] and widths[j] > room - used:
            out[j] = [_in_lines(cell, max(room - used, _NARROW)) for cell in columns[j]]
    return out


def _shared(widths: Sequence[int], room: int) -> int:
    """Width that no column may exceed for all to have room: the widest give way first."""
    most = max([_NARROW, *widths])
    while most > _NARROW and sum(min(w, most) for w in widths) > room:
        most -= 1
    return most


def _in_lines(cell: str, width: int) -> str:
    return "\n".join(textwrap.wrap(cell, width, break_on_hyphens=False)) if cell else cell


def _block(columns: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    widths = list(map(_width, columns))
    out = []
    for row in zip(*columns, strict=True):
        parts = [cell.split("\n") for cell in row]
        for i in range(max(map(len, parts))):
            cells = [part[i] if i < len(part) else "" for part in parts]
            shown = [
                cell.rjust(w) if is_right else cell.ljust(w)
                for cell, w, is_right in zip(cells, widths, right, strict=True)
            ]
            out.append((" " + (" " * _GAP).join(shown)).rstrip())
    return out
