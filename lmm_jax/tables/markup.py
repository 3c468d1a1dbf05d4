"""Tables as HTML for notebooks, as LaTeX for papers, which needs booktabs alone, and Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from math import isfinite

from .cells import Cells
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
# Small characters on a line of LaTeX's article, and the gap between columns in such; parts of the
# line that a column of paragraphs has at least and at most.
_LINE, _COLUMN_GAP, _NARROWEST, _WIDEST = 75, 2, 0.25, 0.6
# Characters of a name that is folded where the line is too short for all columns.
_NAME = 24


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
    title: str, tables: Sequence[Cells], notes: Sequence[str], label: str | None, room: float
) -> str:
    """One float with all tables, small print below; for the package booktabs."""
    caption = [rf"\caption{{{escape_latex(_in_one_line(title))}}}"] if title else []
    caption += [rf"\label{{{label}}}"] if label else []
    head = [r"\begin{table}[htbp]", r"\centering\small\setlength{\tabcolsep}{4pt}", *caption]
    body = ("\n\n" + r"\bigskip" + "\n").join(_latex_table(table, room) for table in tables)
    small = []
    if notes:
        lines = (r"\par" + "\n").join(map(escape_latex, notes))
        small = [
            "", r"\smallskip",
            r"\begin{minipage}{\linewidth}\footnotesize\raggedright", lines, r"\end{minipage}",
        ]  # fmt: skip
    return "\n".join([*head, *([body] if tables else []), *small, r"\end{table}"])


def _latex_table(table: Cells, room: float) -> str:
    """A tabular, or several below each other where a page is too narrow for one."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[j]) for line in lines) for j in range(len(table.header))]
    widths = [min(w, _PARAGRAPH) for w in widths]
    blocks = folded_columns(widths, table.glued, table.labels, room)
    line = room if isfinite(room) else _LINE
    parts = [_tabular(table, block, line) for block in blocks]
    caption = [rf"\textit{{{escape_latex(table.caption)}}}\par\smallskip"] * bool(table.caption)
    return "\n".join([*caption, ("\n\n" + r"\smallskip" + "\n").join(parts)])


def _tabular(table: Cells, block: Sequence[int], line: float) -> str:
    lines = [table.header, *table.rows]
    widths = [max(len(line[j]) for line in lines) for j in block]
    overfull = sum(widths) + _COLUMN_GAP * len(widths) > line
    most = _NAME if overfull else _PARAGRAPH
    folds = [not table.right[j] and width > most for j, width in zip(block, widths, strict=True)]
    taken = sum(w + _COLUMN_GAP for w, own in zip(widths, folds, strict=True) if not own)
    share = min(max(1.0 - taken / line, _NARROWEST), _WIDEST)
    align = "".join(
        rf"p{{{share:.2g}\linewidth}}" if own else "r" if table.right[j] else "l"
        for j, own in zip(block, folds, strict=True)
    )
    out = [rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}", r"\toprule"]
    if table.has_header:
        out += [_latex_row([escape_latex(table.header[j]) for j in block]), r"\midrule"]
    # not in the last column, where it would take what ends the row
    ragged = [own and j != block[-1] for j, own in zip(block, folds, strict=True)]
    for row in table.rows:
        pairs = zip(block, ragged, strict=True)
        out.append(_latex_row([r"\raggedright " * own + latex_cell(row[j]) for j, own in pairs]))
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}"])


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
