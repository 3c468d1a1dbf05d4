"""The printed summary of a fit: plain text, HTML and LaTeX."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..inference.estimates import residual_variance_error
from ..inference.intervals import wald_intervals
from ..inference.record import FitRecord
from ..inference.robust import robust_of
from ..inputs.arguments import instance, probability
from ..inputs.arguments import names as read_names
from ..reprs import number, p_value

# Columns that a terminal is sure to have.
_WIDTH = 80
_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTable:
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

    def latex(self) -> str:
        """A tabular with booktabs rules."""
        lines = [_latex_row(row) for row in self.rows]
        if self.header:
            lines = [_latex_row(self.header), r"\midrule", *lines]
        align = "l" + "r" * (len(self.header or self.rows[0]) - 1)
        caption = [rf"\caption*{{{escape_latex(self.caption)}}}"] if self.caption else []
        begin = [*caption, rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
        return "\n".join([*begin, *lines, r"\bottomrule", r"\end{tabular}"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Printed tables of a fit; ``str()`` gives text, notebooks show HTML."""

    title: str
    tables: tuple[TextTable, ...]
    notes: tuple[str, ...]

    def as_text(self) -> str:
        """Plain text.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.summary().as_text() == str(res.summary())
        True
        """
        small_print = ["\n".join(self.notes)] if self.notes else []
        return "\n\n".join([self.title, *(t.text() for t in self.tables), *small_print])

    def as_html(self) -> str:
        """HTML tables.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.summary().as_html().count("<table") >= 2
        True
        """
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        title = f"<h4>{html.escape(self.title)}</h4>"
        return title + "".join(t.html() for t in self.tables) + notes

    def as_latex(self) -> str:
        """LaTeX tables in one float, for the packages booktabs and caption.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.summary().as_latex().count("begin{tabular}") >= 2
        True
        """
        tables = "\n\n\\bigskip\n".join(t.latex() for t in self.tables)
        notes = [escape_latex(note) for note in self.notes]
        head = [r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(self.title)}}}"]
        return "\n".join([*head, tables, *notes, r"\end{table}"])

    def __str__(self) -> str:
        return self.as_text()

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        return self.as_html()


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters as themselves."""
    return "".join(_LATEX.get(c, c) for c in text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(escape_latex(cell.strip()) for cell in cells) + r" \\"


def summarize(
    results: FitRecord,
    *,
    yname: str | None,
    xname_fe: Sequence[str] | None,
    xname_re: Sequence[str] | None,
    title: str | None,
    alpha: float,
) -> Summary:
    """Tables of a fit, with names of the caller's choice."""
    if title is None:
        title = f"Linear mixed model fitted by {'REML' if results.reml else 'ML'}"
    alpha = probability(alpha, "alpha")
    for what, text in {"title": title, "yname": yname}.items():
        if text is not None:
            instance(text, what, str, "a string")
    fixed = _names(xname_fe, list(results.fixed_names), "xname_fe")
    shown = ["(component)" if label.is_component else name
             for label in results.term_labels for name in label.names]  # fmt: skip
    random = _names(xname_re, shown, "xname_re")
    tables = [_statistics(results, yname), _random(results, random), *_residual(results)]
    tables += [_fixed(results, fixed, alpha)] if fixed else []
    notes, tests = [], robust_of(results.tests)
    if tests is not None:
        notes.append(
            f"Standard errors of the fixed effects: {tests.kind}, {tests.n_clusters} clusters "
            f"({tests.cluster})."
        )
    if not results.converged:
        notes.append(f"Not converged: {results.message}.")
    if results.singular:
        notes.append(
            "Singular fit: a variance is zero or a correlation is one. Estimates are valid; the "
            "random-effects structure is richer than these data support."
        )
    return Summary(title=title, tables=tuple(tables), notes=tuple(notes))


def _names(given: Sequence[str] | None, default: list[str], what: str) -> list[str]:
    """Names to print, one for each default."""
    if given is None:
        return default
    return read_names(given, what, len(default))


def _statistics(results: FitRecord, yname: str | None) -> TextTable:
    model = [("Formula", results.formula or f"{results.endog_name} (from arrays)")]
    if yname is not None:
        model = [("Response", yname)]
        if results.formula is not None:
            model.append(("Formula", results.formula))
    related = {label.factor for label in results.term_labels if label.related}
    groups = ", ".join(
        f"{name} {n}" + " related" * (name in related) for name, n in results.n_groups.items()
    )
    rows = [
        *model,
        ("Observations", str(results.nobs)),
        *([("Groups", groups)] if groups else []),
        ("REML log-likelihood" if results.reml else "Log-likelihood", f"{results.llf:.4f}"),
        ("AIC, BIC", f"{results.aic:.3f}, {results.bic:.3f}"),
        ("Converged", "yes" if results.converged else "no"),
    ]
    width = max(len(value) for _, value in rows)
    return TextTable(
        caption="", header=(), rows=tuple((name, value.ljust(width)) for name, value in rows)
    )


def _random(results: FitRecord, names: Sequence[str]) -> TextTable:
    """Variances, their standard errors where these fit, and correlations."""
    table = _random_table(results, names, with_errors=True)
    wide = max(len(line) for line in table.text().splitlines()) > _WIDTH
    return _random_table(results, names, with_errors=False) if wide else table


def _random_table(results: FitRecord, names: Sequence[str], *, with_errors: bool) -> TextTable:
    """A row a coefficient."""
    rows: list[tuple[str, ...]] = []
    corr_columns = max([0, *(len(label.names) - 1 for label in results.term_labels)])
    name, errors = iter(names), iter(_variance_errors(results))
    for label, S in zip(results.term_labels, results.estimates.covariances, strict=True):
        sd = np.sqrt(np.diagonal(S))
        for i in range(len(label.names)):
            with np.errstate(invalid="ignore"):
                correlations = [f"{S[i, j] / (sd[i] * sd[j]):.3f}" for j in range(i)]
            correlations += [""] * (corr_columns - len(correlations))
            group = label.group if i == 0 else ""
            error = next(errors)
            se = [number(error) if np.isfinite(error) else ""] * with_errors
            rows.append((group, next(name), number(S[i, i]), *se, number(sd[i]), *correlations))
    se = [number(next(errors))] * with_errors
    last = ("Residual", "", number(results.scale), *se, number(results.sigma))
    rows.append((*last, *[""] * corr_columns))
    columns = ("Group", "Term", "Variance", *["Std. error"] * with_errors, "Std. dev.")
    header = (*columns, *["Corr."] * min(1, corr_columns), *[""] * (corr_columns - 1))
    caption = "Random effects" if results.term_labels else "Residual"
    return TextTable(caption=caption, header=header, rows=tuple(rows))


def _residual(results: FitRecord) -> list[TextTable]:
    """Parameters of the residual covariance, where there is one."""
    values, errors = results.residual_params, results.residual_params_se
    if not len(values):
        return []
    rows = tuple(
        (str(name), number(value), number(error) if np.isfinite(error) else "")
        for name, value, error in zip(values.index, values, errors, strict=True)
    )
    header = ("", "Estimate", "Std. error")
    return [TextTable(caption=f"Residual covariance {results.residual}", header=header, rows=rows)]


def _variance_errors(results: FitRecord) -> list[float]:
    """Standard errors of the variances, the residual one last; covariances left out."""
    out: list[float] = []
    start, errors = 0, results.bse_re.to_numpy()
    for S in results.estimates.covariances:
        rows, columns = np.tril_indices(len(S))
        part = errors[start : start + rows.size]
        out += part[rows == columns].tolist()
        start += rows.size
    return [*out, residual_variance_error(results.estimates)]


def _fixed(results: FitRecord, names: Sequence[str], alpha: float) -> TextTable:
    normal = not results.tests.uses_t
    p = len(names)
    low, high = f"{100 * alpha / 2:g}%", f"{100 * (1 - alpha / 2):g}%"
    interval = wald_intervals(results, 1 - alpha, None, None).to_numpy()[:p]
    columns = zip(
        results.fe_params.to_numpy(),
        results.bse_fe.to_numpy(),
        results.df.to_numpy(),
        results.tvalues.to_numpy(),
        results.pvalues.to_numpy(),
        interval,
        strict=True,
    )
    rows = [
        (
            name,
            number(estimate),
            number(se),
            *([] if normal else [f"{df:.2f}"]),
            f"{t:.3f}",
            p_value(p),
            number(lower),
            number(upper),
        )
        for name, (estimate, se, df, t, p, (lower, upper)) in zip(names, columns, strict=True)
    ]
    statistic = ("z", "P>|z|") if normal else ("df", "t", "P>|t|")
    header = ("", "Estimate", "Std. error", *statistic, low, high)
    return TextTable(caption="Fixed effects", header=header, rows=tuple(rows))
