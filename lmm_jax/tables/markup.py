"""Tables as HTML for notebooks, as LaTeX for papers, which needs booktabs alone, and Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from .cells import Cells
from .floats import RULES, Part, between, floats, lines_of, room_below, rows_on_pages
from .text import folded_columns

# Colours stay those of the page, so that dark ones are readable as well.
_STYLE = """<style scoped>
.lmm-jax{overflow-x:auto}
.lmm-jax table{border-collapse:collapse;margin:.4em 0 1em;border-top:1px solid;border-bottom:1px \
solid;font-variant-numeric:tabular-nums}
.lmm-jax caption,.lmm-jax .title{caption-side:top;text-align:left;white-space:nowrap;\
font-weight:bold;color:inherit;padding:.2em 0}
.lmm-jax th,.lmm-jax td{padding:.15em .7em;text-align:right;vertical-align:top;white-space:nowrap;\
border:0}
.lmm-jax thead th{border-bottom:1px solid}
.lmm-jax .text{text-align:left;white-space:normal}
.lmm-jax tbody th{font-weight:normal;text-align:left}
.lmm-jax .notes{font-size:smaller;opacity:.8;margin:.1em 0}
</style>"""
_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"$\sim$",  # of formulas; that of text stands too high
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_MINUS = re.compile(r"(?<![\w.])-(?=[\d.])")
_MARKDOWN = re.compile(r"[\\`*_|<>\[\]$~&^@]")
# Characters of a cell that is a paragraph.
_PARAGRAPH = 56
# Characters on a line of LaTeX's article by the size of the letters, and the gap between columns in
# such; parts of the line that a column of folded names has at least and at most.
_LINES = {74: r"\small", 84: r"\footnotesize"}
_COLUMN_GAP, _NARROWEST, _WIDEST = 2, 0.25, 0.6
# Characters of a name that is folded where the line is too short for all columns; lines above a
# column beyond which these are wider than a name.
_NAME, _HEAD_LINES = 24, 8
# What is never parted in a paragraph: a shorter word, of a longer one what stands between signs, of
# one that would take half of a line what stands between underscores.
_LONG_WORD = re.compile(r"\S{17,}")
_BEHIND_SIGNS = re.compile(r"(?<=[+*|~:/,])(?![+*|~:/,])(?!$)")
_BEHIND_UNDERSCORES, _HALF_A_LINE = re.compile(r"(?<=_)(?!_)(?!$)"), 32
# What stands between tabulars.
_GAP = "\n\n{}\n"


# ------------------------------------------------------------ HTML


def html_page(title: str, tables: Sequence[Cells], notes: Sequence[str]) -> str:
    """All tables of a result; of a single one the title is its caption."""
    alone = len(tables) == 1 and not tables[0].caption
    shown = [table._replace(caption=title) if alone else table for table in tables]
    head = f'<p class="title">{html.escape(title)}</p>' if title and not alone else ""
    small = "".join(f'<p class="notes">{html.escape(note)}</p>' for note in notes)
    body = "".join(map(_html_table, shown))
    return f'<div class="lmm-jax">{_STYLE}{head}{body}{small}</div>'


def _html_table(table: Cells) -> str:
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    head = ""
    if table.has_header:
        cells = [
            _html_cell("th", heading, is_right, ' scope="col"' if heading else "")
            for heading, is_right in zip(table.header, table.right, strict=True)
        ]
        head = f"<thead><tr>{''.join(cells)}</tr></thead>"
    rows = []
    for row in table.rows:
        cells = [
            f'<th scope="row">{_indented(cell, "&emsp;")}{html.escape(cell.strip())}</th>'
            if j < table.labels
            else _html_cell("td", cell, table.right[j])
            for j, cell in enumerate(row)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    if table.more:
        span = len(table.header)
        rows.append(f'<tr><td class="text" colspan="{span}">... {table.more:,} rows more</td></tr>')
    return f"<table>{caption}{head}<tbody>{''.join(rows)}</tbody></table>"


def _html_cell(tag: str, text: str, right: bool, attributes: str = "") -> str:
    aligned = "" if right else ' class="text"'
    return f"<{tag}{aligned}{attributes}>{html.escape(text)}</{tag}>"


# ------------------------------------------------------------ LaTeX


def latex_page(
    title: str, tables: Sequence[Cells], notes: Sequence[str], label: str | None, room: int | None
) -> str:
    """A float with all tables, small print below, or several; for the package booktabs.

    ``room``: characters of a line, those of article's by default, in the larger of two sizes in
    which all tables have room.
    """
    fitting = (n for n in _LINES if all(_length(table, n) <= n for table in tables))
    line = next(fitting, max(_LINES)) if room is None else room
    size = _LINES[line if room is None else min(_LINES)]
    head = r"\begin{table}[htbp]" + "\n" + rf"\centering{size}\setlength{{\tabcolsep}}{{4pt}}"
    caption = rf"\caption{{{_paragraph(_in_one_line(title), escape_latex)}}}" if title else ""
    page = room_below(size, title)
    parts = [part for table in tables for part in _latex_parts(table, line, page)]
    parts += _small_print(notes, line)
    pages = floats(parts, page, head, caption, rf"\label{{{label}}}" if label else "")
    end = "\n" + r"\end{table}"
    return between(len(pages)).join(page + end for page in pages)


def _small_print(notes: Sequence[str], line: int) -> list[Part]:
    if not notes:
        return []
    texts = (r"\par" + "\n").join(_paragraph(note, escape_latex) for note in notes)
    start = r"\begin{minipage}{\linewidth}\footnotesize\raggedright"
    text = "\n".join(["", r"\smallskip", start, texts, r"\end{minipage}"])
    return [Part(text, 1 + sum(lines_of(note, line) for note in notes), "\n")]


def _latex_parts(table: Cells, line: int, page: int) -> Iterator[Part]:
    """Tabulars of a table: several where a line or a page is too short for one."""
    blocks = folded_columns(_widths(table, line)[0], table.glued, table.labels, line)
    caption = rf"\textit{{{escape_latex(table.caption)}}}\par\smallskip" + "\n"
    above, gap = caption * bool(table.caption), _GAP.format(r"\bigskip")
    for block in blocks:
        head = max(len(_head(table, j)) for j in block) * table.has_header
        folds, share = _shares(table, block, line)
        lines = [
            max(lines_of(row[j], share * line) if own else 1 for j, own in folds.items())
            for row in table.rows
        ]
        for rows in rows_on_pages(lines, page - RULES - max(head, 1) - bool(above)):
            height = RULES + head + bool(above) + sum(lines[rows])
            yield Part(above + _tabular(table, rows, folds, share), height, gap)
            above, gap = "", _GAP.format(r"\smallskip")


def _length(table: Cells, line: int) -> int:
    """Characters of a line that a table takes, about, if its long names are folded."""
    widths = _widths(table, line)[0]
    return sum(widths) + _COLUMN_GAP * (len(widths) - 1)


def _widths(table: Cells, line: int) -> tuple[list[int], list[bool]]:
    """Characters of every column, and which are folded: where the line is too short, long names."""
    widths = [
        max(map(len, [*_head(table, j), *_column(table, j)])) for j in range(len(table.header))
    ]
    overfull = sum(min(w, _PARAGRAPH) + _COLUMN_GAP for w in widths) > line
    most = _NAME if overfull else _PARAGRAPH
    folds = [w > most and not right for w, right in zip(widths, table.right, strict=True)]
    words = [max(map(len, _words(table, j)), default=0) for j in range(len(widths))]
    narrow = int(_NARROWEST * line) if overfull else _PARAGRAPH
    each = zip(widths, words, folds, strict=True)
    return [max(min(w, narrow), word) if own else w for w, word, own in each], folds


def _shares(table: Cells, block: Sequence[int], line: int) -> tuple[dict[int, bool], float]:
    """Which columns of a block are folded, and the share of the line that these have."""
    widths, own = _widths(table, line)
    folds = {j: own[j] for j in block}
    taken = sum(widths[j] + _COLUMN_GAP for j, own in folds.items() if not own)
    left = [(widths[j] + 1) / line for j, own in folds.items() if own]
    return folds, min(max([1.0 - taken / line, *left]), _WIDEST)


def _tabular(table: Cells, rows: slice, folds: Mapping[int, bool], share: float) -> str:
    align = "".join(
        rf"p{{{share:.2g}\linewidth}}" if own else "r" if table.right[j] else "l"
        for j, own in folds.items()
    )
    out = [rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}", r"\toprule"]
    if table.has_header:
        head = [
            _paragraph(table.header[j], escape_latex) if own else _stacked(table, j)
            for j, own in folds.items()
        ]
        out += [_latex_row(head), r"\midrule"]
    last = [*folds][-1]
    for row in table.rows[rows]:
        shown = (
            _folded(row[j], j == last) if own else latex_cell(row[j]) for j, own in folds.items()
        )
        out.append(_latex_row([*shown]))
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}"])


def _column(table: Cells, j: int) -> list[str]:
    return [row[j] for row in table.rows]


def _head(table: Cells, j: int) -> list[str]:
    """Lines of what stands above a column, no wider than a name or the column if these are few."""
    text, lines = table.header[j].strip(), [""]
    few = min(len(text) // _HEAD_LINES, _PARAGRAPH)
    most = max([_NAME, few, *map(len, _column(table, j))])
    for word in re.findall(r"\S+|\s+", text):
        for part in _parts(word):
            lines += [""] * (len(lines[-1] + part) > most and bool(lines[-1]))
            lines[-1] += part
    return [line.strip() for line in lines]


def _stacked(table: Cells, j: int) -> str:
    """What stands above a column, in one line or several."""
    lines = _head(table, j)
    text = r"\\{}".join(map(escape_latex, lines))
    return text if len(lines) == 1 else rf"\shortstack[{'r' if table.right[j] else 'l'}]{{{text}}}"


def _words(table: Cells, column: int) -> list[str]:
    """What is never parted in the cells of a column."""
    return [part for row in table.rows for word in row[column].split() for part in _parts(word)]


def _parts(word: str) -> list[str]:
    """A word, or what stands between the signs of a long one: a formula without blanks, a name."""
    if not _LONG_WORD.fullmatch(word):
        return [word]
    parts = _BEHIND_SIGNS.split(word)
    return [p for part in parts for p in _parts_of_name(part)]


def _parts_of_name(name: str) -> list[str]:
    return _BEHIND_UNDERSCORES.split(name) if len(name) > _HALF_A_LINE else [name]


def _folded(cell: str, is_last: bool) -> str:
    """A cell that is a paragraph, whose lines end where a word does."""
    start = r"\raggedright "
    if is_last:  # which has to know again what ends the row
        start = r"\raggedright\let\\\tabularnewline " if _LONG_WORD.search(cell) else ""
    # TeX takes no notice of spaces behind \raggedright; what goes on stands further in
    blank = _indented(cell, r"\hangindent=2em\hspace*{1em}")
    return start + blank + _paragraph(cell.strip(), latex_cell)


def _paragraph(text: str, write: Callable[[str], str]) -> str:
    """Text whose long words may go on in the next line."""
    return re.sub(r"\S+", lambda word: r"\allowbreak{}".join(map(write, _parts(word[0]))), text)


def _latex_row(cells: Sequence[str]) -> str:
    first = cells[0].strip()
    guard = (
        "{}" if first.startswith(("[", "*")) else ""
    )  # the row above ends with \\, which takes it
    return guard + " & ".join(_indented(c, r"\quad ") + c.strip() for c in cells) + r" \\"


def _indented(cell: str, blank: str) -> str:
    """What stands before the words of a cell that begins with blanks."""
    return blank if cell.startswith(" ") else ""


def latex_cell(text: str) -> str:
    """Text with a minus sign where a number has a hyphen."""
    return _MINUS.sub(lambda _: "$-$", escape_latex(text))


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters as themselves."""
    return "".join(_LATEX.get(c, c) for c in text)


# ------------------------------------------------------------ Markdown


def markdown_page(title: str, tables: Sequence[Cells], notes: Sequence[str]) -> str:
    """All tables in GitHub's Markdown, which Quarto and pandoc read as well."""
    head = [f"**{escape_markdown(title)}**"] if title else []
    small = [escape_markdown(note) for note in notes]
    return "\n\n".join([*head, *map(_markdown_table, tables), *small]) + "\n"


def _markdown_table(table: Cells) -> str:
    caption = [f"*{escape_markdown(table.caption)}*", ""] if table.caption else []
    rule = ["---:" if is_right else ":---" for is_right in table.right]
    lines = [table.header, *table.rows]
    body = [
        [_indented(cell, "&emsp;") + escape_markdown(cell.strip()) for cell in line]
        for line in lines
    ]
    rows = [f"| {' | '.join(line)} |" for line in (body[0], rule, *body[1:])]
    return "\n".join([*caption, *rows])


def _in_one_line(text: str) -> str:
    """Text without breaks of lines, which end a row and a caption."""
    return " ".join(text.splitlines()) if "\n" in text or "\r" in text else text


def escape_markdown(text: str) -> str:
    """Text with Markdown's special characters as themselves."""
    return _MARKDOWN.sub(r"\\\g<0>", _in_one_line(text))
