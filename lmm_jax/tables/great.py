"""Tables of great_tables, of the same strings as text, HTML and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..inputs.names import unique
from ..inputs.packages import needed
from .cells import Cells


def great_page(title: str, tables: Sequence[Cells], notes: Sequence[str]) -> Any:
    """One table, or a tuple: the title above the first and the small print below the last."""
    last = len(tables) - 1
    made = [
        great_table(table, title if i == 0 else "", notes if i == last else ())
        for i, table in enumerate(tables)
    ]
    return made[0] if last == 0 else tuple(made)


def great_table(table: Cells, title: str, notes: Sequence[str]) -> Any:
    """One table with its title, its caption and the small print as source notes."""
    with needed("great_tables", "to_gt()", "neighbours"):
        from great_tables import GT

    ids = _ids(table.names)
    out = GT(pd.DataFrame(table.rows, columns=ids, dtype=object), auto_align=False)
    out = out.cols_label(dict(zip(ids, table.header, strict=True)))
    for name, is_right in zip(ids, table.right, strict=True):
        out = out.cols_align("right" if is_right else "left", name)
    heading = [text for text in (title, table.caption) if text]
    if heading:
        out = out.tab_header(*heading)
    for note in notes:
        out = out.tab_source_note(note)
    return out


def _ids(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns by which great_tables is told more; those of labels may be empty."""
    return unique([name or f"label{j}" for j, name in enumerate(names)])
