"""Exports of a page of tables: LaTeX, HTML, Markdown and tables of great_tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from ..errors import DataError
from ..inputs.arguments import hinted, instance, whole_number
from .cells import Cells
from .great import great_page
from .markup import html_page, latex_page, markdown_page
from .paper import LABEL, LatexOptions


@hinted
class Exports:
    """The exports of a page, which says by ``_paper`` what stands in them."""

    __slots__ = ()
    most: int  # rows of a table on a screen

    def _paper(self, most: int | None, **options: Any) -> tuple[str, list[Cells], tuple[str, ...]]:
        """Title, tables and small print as an export asks for them."""
        raise NotImplementedError

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
        width: int | None = None,
    ) -> str:
        r"""LaTeX tables in a float; the document needs the package booktabs.

        What is longer than a page of article goes on in another float with the same number.

        Parameters
        ----------
        caption, digits, columns, rename, notes
            See :meth:`to_markdown`.
        label : str, optional
            What ``\ref`` finds the float by.
        width : int, optional
            Characters that a line of the page has room for; wider tables are folded. Those of a
            line of LaTeX's article if not given.

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
        room = None if width is None else whole_number(width, "width", least=1)
        return latex_page(*self._paper(None, notes=notes, **options), label, room)

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
            What stands above, in the place of the title; "" for nothing. What the title says of
            how the numbers were made stands below then.
        digits : int, optional
            Decimals of estimates and statistics. P values have three, degrees of freedom two.
        columns : sequence of str, optional
            The columns to show, in this order, by the names that they have in the frames or what
            stands above them. Labels of rows stay; a table without any of these columns is left
            out.
        rename : mapping of str to str, optional
            Other words for headings, terms and levels, also within an interaction ``a:b``. Names
            may be spelled as in the formula, ``factor(f)`` for ``C(f)``.
        notes : bool, str or sequence of str
            Whether the small print stands below, or what does.

        Returns
        -------
        str

        Raises
        ------
        DataError
            A column that there is not, or a name to replace that the tables do not have.

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
            Without great_tables, ``pip install "lmm-jax[neighbours]"``.
        """
        options = {"caption": caption, "digits": digits, "columns": columns, "rename": rename}
        return great_page(*self._paper(None, notes=notes, **options))
