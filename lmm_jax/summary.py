"""The printed summary of a fit: plain text and HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .results import LMMResults


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of strings: a caption, a header (may be empty) and rows; first column left."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """Aligned plain text."""
        lines = [self.header, *self.rows] if self.header else list(self.rows)
        widths = [max(len(line[j]) for line in lines) for j in range(len(lines[0]))]
        out = [self.caption] if self.caption else []
        for line in lines:
            cells = [
                cell.ljust(w) if j == 0 else cell.rjust(w)
                for j, (cell, w) in enumerate(zip(line, widths, strict=True))
            ]
            out.append(" " + "  ".join(cells).rstrip())
        return "\n".join(out)

    def html(self) -> str:
        """HTML table."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        head = f"<thead><tr>{head}</tr></thead>" if head else ""
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return f"<table>{caption}{head}<tbody>{body}</tbody></table>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Printed tables of a fit; ``str()`` gives text, notebooks show HTML."""

    title: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]

    def as_text(self) -> str:
        """Plain text."""
        return "\n\n".join([self.title, *(t.text() for t in self.tables), *self.notes])

    def as_html(self) -> str:
        """HTML tables."""
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        title = f"<h4>{html.escape(self.title)}</h4>"
        return title + "".join(t.html() for t in self.tables) + notes

    def __str__(self) -> str:
        return self.as_text()

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        return self.as_html()


def summarize(results: LMMResults, *, title: str | None, alpha: float) -> Summary:
    """Tables of a fit."""
    if title is None:
        title = f"Linear mixed model fitted by {'REML' if results.reml else 'ML'}"
    tables = (_statistics(results), _random(results), _fixed(results, alpha))
    notes = []
    if not results.converged:
        notes.append(f"Not converged: {results.message}.")
    if results.singular:
        notes.append(
            "Singular fit: a variance is zero or a correlation is one. Estimates are valid; the "
            "random-effects structure is richer than these data support."
        )
    return Summary(title=title, tables=tables, notes=tuple(notes))


def _statistics(results: LMMResults) -> Table:
    groups = ", ".join(f"{name} {n}" for name, n in results.n_groups.items())
    rows = [
        ("Formula", results.formula or f"{results.endog_name} (from arrays)"),
        ("Observations", str(results.nobs)),
        ("Groups", groups),
        ("REML log-likelihood" if results.reml else "Log-likelihood", f"{results.llf:.4f}"),
        ("AIC, BIC", f"{results.aic:.3f}, {results.bic:.3f}"),
        ("Converged", "yes" if results.converged else "no"),
    ]
    width = max(len(value) for _, value in rows)
    return Table(
        caption="", header=(), rows=tuple((name, value.ljust(width)) for name, value in rows)
    )


def _random(results: LMMResults) -> Table:
    """Standard deviations and correlations, a row a coefficient."""
    rows: list[tuple[str, ...]] = []
    most = max(len(label.names) for label in results.term_labels)
    corr_columns = max(0, most - 1)
    for label, S in zip(results.term_labels, results.estimates.covariances, strict=True):
        sd = np.sqrt(np.diagonal(S))
        for i, name in enumerate(label.names):
            with np.errstate(invalid="ignore"):
                correlations = [f"{S[i, j] / (sd[i] * sd[j]):.3f}" for j in range(i)]
            correlations += [""] * (corr_columns - len(correlations))
            shown = "(component)" if label.is_component else name
            group = label.group if i == 0 else ""
            rows.append((group, shown, number(S[i, i]), number(sd[i]), *correlations))
    blank = [""] * corr_columns
    rows.append(("Residual", "", number(results.scale), number(results.sigma), *blank))
    header = ("Group", "Term", "Variance", "Std. dev.", *["Corr."] * min(1, corr_columns))
    header += ("",) * (corr_columns - 1)
    return Table(caption="Random effects", header=header, rows=tuple(rows))


def _fixed(results: LMMResults, alpha: float) -> Table:
    normal = results.df_method == "normal"
    interval = results.conf_int(alpha)
    low, high = f"{100 * alpha / 2:g}%", f"{100 * (1 - alpha / 2):g}%"
    rows = []
    for i, name in enumerate(results.fixed_names):
        df = [] if normal else [f"{results.df.iloc[i]:.2f}"]
        rows.append(
            (
                name,
                number(results.fe_params.iloc[i]),
                number(results.bse_fe.iloc[i]),
                *df,
                f"{results.tvalues.iloc[i]:.3f}",
                p_value(results.pvalues.iloc[i]),
                number(interval["lower"].iloc[i]),
                number(interval["upper"].iloc[i]),
            )
        )
    statistic = ("z", "P>|z|") if normal else ("df", "t", "P>|t|")
    header = ("", "Estimate", "Std. error", *statistic, low, high)
    return Table(caption="Fixed effects", header=header, rows=tuple(rows))


def number(value: float) -> str:
    """Four decimals, or six significant digits where those would hide the value."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return f"{value:.4f}"
    return f"{value:.5g}"


def p_value(value: float) -> str:
    """Three decimals, with a floor."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"
