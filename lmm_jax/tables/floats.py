"""What stands in which float of LaTeX: as much as a page of article has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import NamedTuple

# Lines of a page by the size of the letters.
_PAGES = {r"\small": 48, r"\footnotesize": 55}
# Lines that the rules of a tabular take with what is above it, and a caption with what is around
# it; characters of a caption, whose letters have their usual size.
RULES, _CAPTION, _CAPTION_LINE = 2, 2, 60
# Floats that every LaTeX can hold back for pages to come.
_MOST_HELD = 18


class Part(NamedTuple):
    """A tabular, or some rows of one that is longer than a page."""

    text: str
    lines: int
    gap: str  # to what stands above it


def lines_of(text: str, width: float) -> int:
    """Lines of a paragraph of so many characters a line, about."""
    return max(ceil(len(text) / width), 1)


def room_below(size: str, title: str) -> int:
    """Lines of a page that a caption leaves."""
    return _PAGES[size] - (_CAPTION + lines_of(title, _CAPTION_LINE) if title else 0)


def rows_on_pages(lines: Sequence[int], room: int) -> Iterator[slice]:
    """Rows of so many lines each that stand on one page; at least one."""
    start, left = 0, room
    for i, own in enumerate(lines):
        if own > left and i > start:
            yield slice(start, i)
            start, left = i, room
        left -= own
    yield slice(start, len(lines))


def floats(parts: Sequence[Part], room: int, head: str, caption: str, label: str) -> list[str]:
    """Floats without their ends, the first with the label; the others have its number."""
    out, left = ["\n".join(filter(None, [head, caption, label]))], room
    again = caption.removesuffix("}") + " (continued)}" if caption else ""
    for i, part in enumerate(parts):
        if i and part.lines > left:
            number = r"\addtocounter{table}{-1}" if caption else ""
            out.append("\n".join(filter(None, [head, number, again])))
            left = room
        on_top = left == room
        out[-1] += ("\n" if on_top else part.gap) + part.text
        left -= part.lines
    return out


def between(count: int) -> str:
    """What stands between floats: where there are many, pages that end."""
    return "\n" if count <= _MOST_HELD else "\n\\clearpage\n"
