"""What a result shows: a title, tables and the small print below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Unpack

import numpy as np
import pandas as pd

from ..inputs.arguments import hinted
from .cells import Cells, Column, Columns, Kind, cells, columns_of
from .exports import Exports
from .frames import as_frame
from .markup import html_page
from .paper import LatexOptions, Paper, PaperOptions, of_pandas, read_paper
from .text import terminal_width, text_of, wrapped

# Rows of a table that are shown; LaTeX, Markdown and the frame have all of them.
_MOST_ROWS = 60


class Table(pd.DataFrame):
    """A data frame that shows itself whole: text of any width, HTML, LaTeX, Markdown.

    It is a frame in every other way: columns, ``loc`` and arithmetic give plain frames and series.
    """

    _metadata: ClassVar[list[str]] = [*("title", "method", "notes", "advice"), "headings", "kinds"]
    title: str = ""
    method: str = ""
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    headings: Mapping[str, str] = {}
    kinds: Mapping[str, Kind] = {}

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def __copy__(self, deep: bool = False) -> Table:
        return self._like(pd.DataFrame.copy(self, deep=deep))

    def __deepcopy__(self, memo: Any = None) -> Table:
        return self.__copy__(deep=True)

    def _like(self, frame: pd.DataFrame) -> Table:
        """A frame of the same rows and columns as a table that is shown like this one."""
        out = Table(frame)
        for name in self._metadata:
            setattr(out, name, getattr(self, name))
        return out

    def _cells(self, most: int | None, paper: Paper | None = None) -> Cells:
        """The strings of the table."""
        frame, headings = pd.DataFrame(self), self.headings
        if paper is None:
            return cells(columns_of(frame, most), self.title, headings, self.kinds)
        frame = paper.columns_of(frame, headings, self.kinds)
        levels = [str(name) for name in frame.index.names if name is not None]
        words = {n: paper.heading(n, headings) for n in [*map(str, frame.columns), *levels]}
        columns = columns_of(frame, most)
        return paper.renamed(cells(columns, self.title, words, self.kinds, paper.digits))

    def _page(self) -> Summary:
        """The table by itself."""
        alone = table(self, "", headings=self.headings, kinds=self.kinds)
        return Summary(
            title=self.title,
            sheets=(alone,),
            notes=self.notes,
            method=self.method,
            advice=self.advice,
        )

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
        r"""The table as LaTeX for booktabs, with the options of :meth:`Summary.to_latex`.

        With an argument that only pandas has, ``float_format=`` for example, what pandas makes
        of the frame.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> print(res.anova().to_latex(label="tab:days", digits=1).splitlines()[4])
        \begin{tabular}{@{}lrrrrrr@{}}
        """
        if args or not options.keys() <= LatexOptions.__annotations__.keys():
            with of_pandas("Jinja2", LatexOptions, options):
                return super().to_latex(*args, **{"escape": True} | options)
        return self._page().to_latex(**options)

    def to_markdown(self, *args: Any, **options: Any) -> Any:
        r"""The table in GitHub's Markdown, with the options of :meth:`Summary.to_markdown`.

        With an argument that only pandas has, what pandas makes of the frame.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> print(res.anova().to_markdown().splitlines()[4])
        | Days | 30031.0148 | 30031.0148 | 1 | 17 | 45.8530 | \<0.001 |
        """
        if args or not options.keys() <= PaperOptions.__annotations__.keys():
            with of_pandas("tabulate", PaperOptions, options):
                return super().to_markdown(*args, **options)
        return self._page().to_markdown(**options)

    def to_html(self, *args: Any, **options: Any) -> Any:
        """The table as HTML, with the options of :meth:`Summary.to_html`.

        With an argument that only pandas has, what pandas makes of the frame.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.anova().to_html(columns=["f", "p_value"]).count("<th")
        5
        """
        if args or not options.keys() <= PaperOptions.__annotations__.keys():
            return super().to_html(*args, **options)
        return self._page().to_html(**options)

    def to_gt(self, **options: Unpack[PaperOptions]) -> Any:
        """The table as a ``GT`` of great_tables, with the options of :meth:`Summary.to_gt`.

        Raises
        ------
        ImportError
            Without great_tables, ``pip install "lmm-jax[neighbours]"``.
        """
        return self._page().to_gt(**options)


def table(
    frame: pd.DataFrame,
    title: str,
    notes: Sequence[str] = (),
    *,
    method: str = "",
    advice: Sequence[str] = (),
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
    method : str
        What the title says of how the numbers were made, as a note: it stays where a caption
        takes the place of the title.
    advice : sequence of str
        Where more is found: small print of screens, which no export has.
    headings : mapping of str to str, optional
        What stands above a column where that is not its name; its name, where that is the
        user's and no export has another word for it.
    kinds : mapping of str to Kind, optional
        What columns hold where their names and values do not say it.
    """
    out = Table(frame)
    out.title, out.method, out.notes, out.advice = title, method, tuple(notes), tuple(advice)
    out.headings, out.kinds = dict(headings or {}), dict(kinds or {})
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """A table that becomes a frame when that is asked for: pandas takes longer than a fit."""

    title: str
    columns: Mapping[str, np.ndarray | list[str]]
    labels: list[str] | None = None  # of its rows
    headings: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @cached_property
    def table(self) -> Table:
        """The frame."""
        frame = pd.DataFrame(dict(self.columns), index=self.labels)
        return table(frame, self.title, headings=self.headings, kinds=self.kinds)

    def _cells(self, most: int) -> Cells:
        """The strings of its first rows."""
        if "table" in self.__dict__:  # which may have been changed
            return self.table._cells(most)
        more = max(max(map(len, self.columns.values())) - most, 0)
        labels = (Column("", "O", self.labels[:most]),) if self.labels is not None else ()
        columns = (
            Column(name, "O", values[:most])
            if isinstance(values, list)
            else Column(name, values.dtype.kind, values[:most].tolist())
            for name, values in self.columns.items()
        )
        return cells(Columns(labels, tuple(columns), more), self.title, self.headings, self.kinds)


@hinted
@dataclass(frozen=True, kw_only=True, slots=True)
class Summary(Exports):
    """Tables of a result; ``str()`` gives text for the terminal, notebooks show HTML.

    Attributes
    ----------
    title : str
    sheets : tuple of Table or Sheet
        What is shown.
    notes : tuple of str
        Small print: how the numbers were made.
    method : str
        What the title says of that; a note where a caption takes its place.
    advice : tuple of str
        Small print of screens alone.
    """

    title: str
    sheets: tuple[Table | Sheet, ...] = ()
    notes: tuple[str, ...] = ()
    method: str = ""
    advice: tuple[str, ...] = ()
    most: int = _MOST_ROWS  # rows of a table on a screen
    whole: str = ""  # where all rows are, of tables that are longer

    @property
    def tables(self) -> tuple[Table, ...]:
        """Frames with all digits; they show themselves as in the summary."""
        return tuple(one.table if isinstance(one, Sheet) else one for one in self.sheets)

    def _on_screen(self) -> tuple[list[Cells], tuple[str, ...]]:
        """Tables no longer than a screen, and notes that say so."""
        shown = [one._cells(self.most) for one in self.sheets]
        more = self._beginnings(shown, f": {self.whole} has all")
        return shown, (*self.notes, *more, *self.advice)

    def _beginnings(self, shown: Sequence[Cells], where: str = "") -> tuple[str, ...]:
        """Notes that say of what tables only the beginning is shown."""
        return tuple(
            f"The first {self.most} of {len(part.rows) + part.more:,} rows{where}"
            for part in shown
            if part.more and self.whole
        )

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

    def _paper(self, most: int | None, **options: Any) -> tuple[str, list[Cells], tuple[str, ...]]:
        """Title, tables and small print as an export asks for them."""
        tables = self.tables
        paper = read_paper(tables, **options)
        shown = [one._cells(most, paper) for one in tables if paper.has(one, one.headings)]
        notes = self.notes + self._beginnings(shown)
        title, notes = paper.words(self.title, self.method, notes)
        return title, shown, notes

    def __str__(self) -> str:
        return self.as_text()

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        return self.as_html()
