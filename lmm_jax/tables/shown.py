"""Results that show themselves: by a page of tables, or by the beginning of a long one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import pandas as pd

from .cells import Kind
from .page import Summary, table
from .paper import LatexOptions, PaperOptions

# Rows that stand for a table of many responses.
_FIRST_ROWS = 20


def first_rows(
    frame: pd.DataFrame,
    title: str,
    whole: str,
    kinds: Mapping[str, Kind] | None = None,
    headings: Mapping[str, str] | None = None,
) -> Summary:
    """A page that shows the beginning of a long table; ``whole`` says where all of it is."""
    made = table(frame, "", kinds=kinds, headings=headings)
    return Summary(title=title, sheets=(made,), most=_FIRST_ROWS, whole=whole)


class Shown:
    """A result that shows itself by the page that ``_page`` makes."""

    __slots__ = ()

    def _page(self) -> Summary:
        """Title, tables and notes."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self._page().as_text()

    def __repr__(self) -> str:
        return self._page().as_text()

    def _repr_html_(self) -> str:
        return self._page().as_html()

    def to_latex(self, **options: Unpack[LatexOptions]) -> str:
        """What is shown, as LaTeX for the package booktabs, with :meth:`Summary.to_latex`."""
        return self._page().to_latex(**options)

    def to_html(self, **options: Unpack[PaperOptions]) -> str:
        """What is shown, as HTML for pages of your own, with :meth:`Summary.to_html`."""
        return self._page().to_html(**options)

    def to_markdown(self, **options: Unpack[PaperOptions]) -> str:
        """What is shown, in GitHub's Markdown, with :meth:`Summary.to_markdown`."""
        return self._page().to_markdown(**options)

    def to_gt(self, **options: Unpack[PaperOptions]) -> Any:
        """What is shown as a ``GT`` of great_tables, or a tuple, with :meth:`Summary.to_gt`."""
        return self._page().to_gt(**options)
