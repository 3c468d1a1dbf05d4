"""What a result shows: a title, tables and the small print below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from .cells import Cells, Kind, cells
from .frames import as_frame
from .great import great_page
from .markup import html_page, latex_page, markdown_page
from .text import terminal_width, text_of, wrapped

# Rows of a table that are shown; LaTeX, Markdown and the frame have all of them.
_MOST_ROWS = 60
# Rows that stand for a table of many responses.
_FIRST_ROWS = 20


class Table(pd.DataFrame):
    """A data frame that shows itself whole: text of any width, HTML, LaTeX, Markdown.

    It is a frame in every other way: columns, ``loc`` and arithmetic give plain frames and series.
    """

    _metadata: ClassVar[list[str]] = ["title", "notes", "headings", "kinds"]
    title: str = ""
    notes: tuple[str, ...] = ()
    headings: Mapping[str, str] = {}
    kinds: Mapping[str, Kind] = {}

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def _cells(self, most: int | None) -> Cells:
        """The strings of the table."""
        return cells(pd.DataFrame(self), self.title, self.headings, self.kinds, most)

    def _page(self) -> Summary:
        """The table by itself."""
        alone = table(self, "", headings=self.headings, kinds=self.kinds)
        return Summary(title=self.title, tables=(alone,), notes=self.notes)

    def __repr__(self) -> str:
        return self._page().as_text()

    def __str__(self) -> str:
        return self._page().as_text()

    def _repr_html_(self) -> str:  # type: ignore[override]
        return self._page().as_html()

    def to_frame(self, output: str = "pandas") -> Any:
        """The table as a plain frame of pandas, polars or pyarrow.

        Parameters
        ----------
        output : {"pandas", "polars", "pyarrow"}
            A frame without an index has the labels of the rows in a column ``term``, or in one
            of the name that they have.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.anova().to_frame("polars").columns[:3]
        ['term', 'sum_sq', 'mean_sq']
        """
        labels = None if isinstance(self.index, pd.RangeIndex) else "term"
        return as_frame(pd.DataFrame(self), output, "pandas", labels)

    def to_latex(self, *args: Any, **options: Any) -> Any:
        r"""The table as LaTeX for booktabs; with arguments, what pandas makes of the frame.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> print(res.anova().to_latex().splitlines()[3])
        \begin{tabular}{@{}lrrrrrr@{}}
        """
        if args or options:
            return super().to_latex(*args, **options)
        return self._page().as_latex()

    def to_markdown(self, *args: Any, **options: Any) -> Any:
        r"""The table in GitHub's Markdown; with arguments, what pandas makes of the frame.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> print(res.anova().to_markdown().splitlines()[4])
        | Days | 30031.0148 | 30031.0148 | 1 | 17 | 45.8530 | \<0.001 |
        """
        if args or options:
            return super().to_markdown(*args, **options)
        return self._page().to_markdown()

    def to_html(self, *args: Any, **options: Any) -> Any:
        """The table as notebooks show it; with arguments, what pandas makes of the frame.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.anova().to_html().count("<table")
        1
        """
        if args or options:
            return super().to_html(*args, **options)
        return self._page().to_html()

    def to_gt(self) -> Any:
        """The table as a ``GT`` of great_tables: its title, columns and small print.

        Raises
        ------
        ImportError
            Without great_tables, ``pip install lmm-jax[neighbours]``.
        """
        return self._page().to_gt()[0]


def table(
    frame: pd.DataFrame,
    title: str,
    notes: Sequence[str] = (),
    *,
    headings: Mapping[str, str] | None = None,
    kinds: Mapping[str, Kind] | None = None,
) -> Table:
    """A frame as a table.

    Parameters
    ----------
    frame : DataFrame
    title : str
        Its caption.
    notes : sequence of str
        Small print.
    headings : mapping of str to str, optional
        What stands above a column where that is not its name.
    kinds : mapping of str to Kind, optional
        What columns hold where their names and values do not say it.
    """
    out = Table(frame)
    out.title, out.notes = title, tuple(notes)
    out.headings, out.kinds = dict(headings or {}), dict(kinds or {})
    return out


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Tables of a result; ``str()`` gives text for the terminal, notebooks show HTML.

    Attributes
    ----------
    title : str
    tables : tuple of DataFrame
        With all digits; they show themselves as in the summary.
    notes : tuple of str
        Small print: how the numbers were made.
    """

    title: str
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    most: int = _MOST_ROWS  # rows of a table on a screen
    whole: str = ""  # where all rows are, of tables that are longer

    def _on_screen(self) -> tuple[list[Cells], tuple[str, ...]]:
        """Tables no longer than a screen, and notes that say so."""
        tables, notes = [one._cells(self.most) for one in self.tables], self.notes
        for one, shown in zip(self.tables, tables, strict=True):
            if shown.more and self.whole:
                notes += (f"The first {self.most} of {len(one):,} rows: {self.whole} has all",)
        return tables, notes

    def as_text(self, width: int | None = None) -> str:
        """Plain text.

        Parameters
        ----------
        width : int, optional
            Characters a line; wider tables are folded. By default those of the terminal.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> max(map(len, res.summary().as_text(60).splitlines())) <= 60
        True
        """
        room = terminal_width() if width is None else width
        tables, notes = self._on_screen()
        small_print = ["\n".join(wrapped(note, room) for note in notes)] if notes else []
        title = [wrapped(self.title, room)] if self.title else []
        return "\n\n".join([*title, *(text_of(one, room) for one in tables), *small_print])

    def as_html(self) -> str:
        """HTML tables.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.summary().as_html().count("<table") >= 2
        True
        """
        return html_page(self.title, *self._on_screen())

    def as_latex(self) -> str:
        """LaTeX tables in one float; the document needs the package booktabs.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.summary().as_latex().count("begin{tabular}") >= 2
        True
        """
        return latex_page(self.title, [one._cells(None) for one in self.tables], self.notes)

    def to_latex(self) -> str:
        """:meth:`as_latex`, under the name that tables and all other results have for it."""
        return self.as_latex()

    def to_html(self) -> str:
        """:meth:`as_html`, under the name that tables and all other results have for it."""
        return self.as_html()

    def to_markdown(self) -> str:
        """Tables in GitHub's Markdown, which Quarto and pandoc read as well.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> print(res.summary().to_markdown().splitlines()[0])
        **Linear mixed model fitted by REML**
        """
        return markdown_page(self.title, [one._cells(None) for one in self.tables], self.notes)

    def to_gt(self) -> tuple[Any, ...]:
        """The tables as ``GT`` of great_tables, notes below the last.

        Raises
        ------
        ImportError
            Without great_tables, ``pip install lmm-jax[neighbours]``.
        """
        return great_page(self.title, [one._cells(None) for one in self.tables], self.notes)

    def __str__(self) -> str:
        return self.as_text()

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        return self.as_html()


def first_rows(
    frame: pd.DataFrame, title: str, whole: str, kinds: Mapping[str, Kind] | None = None
) -> Summary:
    """A page that shows the beginning of a long table; ``whole`` says where all of it is."""
    return Summary(
        title=title, tables=(table(frame, "", kinds=kinds),), most=_FIRST_ROWS, whole=whole
    )


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

    def to_latex(self) -> str:
        """What is shown, as LaTeX for the package booktabs."""
        return self._page().as_latex()

    def to_html(self) -> str:
        """What notebooks show, as HTML for pages of your own."""
        return self._page().as_html()

    def to_markdown(self) -> str:
        """What is shown, in GitHub's Markdown, which Quarto and pandoc read as well."""
        return self._page().to_markdown()

    def to_gt(self) -> tuple[Any, ...]:
        """The tables of what is shown, each a ``GT`` of great_tables (:meth:`Summary.to_gt`)."""
        return self._page().to_gt()
