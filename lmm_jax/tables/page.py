"""What a result shows: a title, tables and the small print below them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import pandas as pd

from ..errors import DataError
from ..inputs.arguments import hinted, instance, whole_number
from .cells import Cells, Kind, cells
from .frames import as_frame
from .great import great_page
from .markup import PAGE, html_page, latex_page, markdown_page
from .paper import LABEL, LatexOptions, Paper, PaperOptions, in_words, of_pandas, read_paper
from .text import terminal_width, text_of, wrapped

# Rows of a table that are shown; LaTeX, Markdown and the frame have all of them.
_MOST_ROWS = 60


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

    def _cells(self, most: int | None, paper: Paper | None = None) -> Cells:
        """The strings of the table."""
        frame, headings = pd.DataFrame(self), self.headings
        if paper is None:
            return cells(frame, self.title, headings, self.kinds, most)
        frame = paper.columns_of(frame, headings, self.kinds)
        levels = [str(name) for name in frame.index.names if name is not None]
        headings = {name: name for name in levels if name != "term"} | dict(headings)
        words = {n: paper.heading(n, headings) for n in [*map(str, frame.columns), *levels]}
        return paper.renamed(cells(frame, self.title, words, self.kinds, most, paper.digits))

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
            Without great_tables, ``pip install lmm-jax[neighbours]``.
        """
        return self._page().to_gt(**options)


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
        What stands above a column where that is not its name; its name, where that is the
        user's and no export has another word for it.
    kinds : mapping of str to Kind, optional
        What columns hold where their names and values do not say it.
    """
    out = Table(frame)
    out.title, out.notes = title, tuple(notes)
    out.headings, out.kinds = dict(headings or {}), dict(kinds or {})
    return out


def of_users(names: Iterable[Any]) -> dict[str, Any]:
    """Headings and kinds of columns of numbers that have names of the user's."""
    own = list(map(str, names))
    return {"headings": dict(zip(own, own, strict=True)), "kinds": dict.fromkeys(own, "number")}


@hinted
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
        shown = [one._cells(self.most) for one in self.tables]
        return shown, self.notes + self._beginnings(self.tables, shown)

    def _beginnings(self, tables: Sequence[Table], shown: Sequence[Cells]) -> tuple[str, ...]:
        """Notes that say of what tables only the beginning is shown."""
        return tuple(
            f"The first {self.most} of {len(one):,} rows: {self.whole} has all"
            for one, part in zip(tables, shown, strict=True)
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

    def as_latex(self, **options: Unpack[LatexOptions]) -> str:
        """:meth:`to_latex`, under statsmodels' name."""
        return self.to_latex(**options)

    def to_latex(
        self,
        *,
        caption: str | None = None,
        label: str | None = None,
        digits: int | None = None,
        columns: Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        notes: bool | str | Sequence[str] = True,
        width: int = PAGE,
    ) -> str:
        r"""LaTeX tables in one float; the document needs the package booktabs.

        Parameters
        ----------
        caption, digits, columns, rename, notes
            See :meth:`to_markdown`.
        label : str, optional
            What ``\ref`` finds the float by.
        width : int
            Characters that a line of the page has room for; wider tables are folded.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> text = res.summary().to_latex(caption="Sleep", label="tab:sleep", digits=2)
        >>> text.splitlines()[2:4]
        ['\\caption{Sleep}', '\\label{tab:sleep}']
        """
        options = {"caption": caption, "digits": digits, "columns": columns, "rename": rename}
        if label is not None and not LABEL.fullmatch(instance(label, "label", str, "a string")):
            raise DataError(f"label={label!r}: letters, digits and -_:. make a label of LaTeX")
        width = whole_number(width, "width", least=1)
        return latex_page(*self._paper(None, notes=notes, **options), label, width)

    def to_html(
        self,
        *,
        caption: str | None = None,
        digits: int | None = None,
        columns: Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        notes: bool | str | Sequence[str] = True,
    ) -> str:
        """HTML tables for pages of your own, with the arguments of :meth:`to_markdown`.

        Of long ones it is the beginning, as in notebooks.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> "Days without sleep" in res.summary().to_html(rename={"Days": "Days without sleep"})
        True
        """
        options = {"caption": caption, "digits": digits, "columns": columns, "rename": rename}
        return html_page(*self._paper(self.most, notes=notes, **options))

    def to_markdown(
        self,
        *,
        caption: str | None = None,
        digits: int | None = None,
        columns: Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        notes: bool | str | Sequence[str] = True,
    ) -> str:
        r"""Tables in GitHub's Markdown, which Quarto and pandoc read as well.

        Parameters
        ----------
        caption : str, optional
            What stands above, in the place of the title; "" for nothing.
        digits : int, optional
            Decimals of estimates and statistics. P values have three, degrees of freedom two.
        columns : sequence of str, optional
            The columns to show, in this order, by the names that they have in the frames or what
            stands above them. Labels of rows stay; a table without any of these columns is left
            out.
        rename : mapping of str to str, optional
            Other words for headings, terms and levels, also within an interaction ``a:b``.
        notes : bool, str or sequence of str
            Whether the small print stands below, or what does.

        Returns
        -------
        str

        Raises
        ------
        DataError
            A column that there is not.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> chosen = ["estimate", "conf_low", "conf_high", "p_value"]
        >>> print(res.summary().to_markdown(caption="", columns=chosen, digits=1, notes=False))
        *Fixed effects*
        <BLANKLINE>
        |  | Estimate | 2.5% | 97.5% | P\>\|t\| |
        | :--- | ---: | ---: | ---: | ---: |
        | Intercept | 251.4 | 237.0 | 265.8 | \<0.001 |
        | Days | 10.5 | 7.2 | 13.7 | \<0.001 |
        <BLANKLINE>
        """
        options = {"caption": caption, "digits": digits, "columns": columns, "rename": rename}
        return markdown_page(*self._paper(None, notes=notes, **options))

    def to_gt(
        self,
        *,
        caption: str | None = None,
        digits: int | None = None,
        columns: Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        notes: bool | str | Sequence[str] = True,
    ) -> Any:
        """The table as a ``GT`` of great_tables, with the arguments of :meth:`to_markdown`.

        Of several tables it is a tuple. Columns have the names that they have in the frames.

        Raises
        ------
        ImportError
            Without great_tables, ``pip install lmm-jax[neighbours]``.
        """
        options = {"caption": caption, "digits": digits, "columns": columns, "rename": rename}
        return great_page(*self._paper(None, notes=notes, **options))

    def _paper(self, most: int | None, **options: Any) -> tuple[str, list[Cells], tuple[str, ...]]:
        """Title, tables and small print as an export asks for them."""
        paper = read_paper(self.tables, **options)
        tables = [one for one in self.tables if paper.has(one, one.headings)]
        shown, notes = [one._cells(most, paper) for one in tables], self.notes
        notes += self._beginnings(tables, shown)
        title = in_words(self.title) if paper.caption is None else paper.caption
        return title, shown, tuple(map(in_words, notes)) if paper.notes is None else paper.notes

    def __str__(self) -> str:
        return self.as_text()

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        return self.as_html()
