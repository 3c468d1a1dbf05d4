"""Formulas of lme4, cut into their parts; columns: :mod:`lmm_jax.formulas.matrices`.

A formula is cut into its random-effects terms (`Bar`), its offsets and a fixed part, and what R
spells differently is translated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from ..errors import FormulaError
from .expressions import check_source, to_python, without_blanks
from .intercepts import Number, decided, numbers_among
from .residual import ResidualTerm, is_residual, without_tilde
from .residual_elsewhere import is_nearest, written_here
from .residual_products import read_residual
from .right_side import as_formula
from .tokens import Item, depths, is_wrapped, lex, render, right_side, split, without_comments


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One random-effects term `(lhs | group)` of a formula, after expansion of `/` and `*`.

    Attributes
    ----------
    lhs : str
        Right-hand-side formula of the columns, such as `1 + x`; without `0 +` it has an intercept.
    group : tuple of str
        Grouping columns, joined by interaction. `a/b` gives `("a",)` and `("b", "a")`.
    structure : str
        Covariance of the columns, of :data:`lmm_jax.formulas.tokens.STRUCTURES`: any (`us`),
        none (`diag`, `||`), and so on.
    equal : bool, optional
        `hom=`: whether all columns have one variance.
    text : str
        The term as written.
    """

    lhs: str
    group: tuple[str, ...]
    structure: str
    text: str
    equal: bool | None = None

    @property
    def group_name(self) -> str:
        """Name of the grouping factor as lme4 prints it, such as `b:a`."""
        return ":".join(self.group).replace("`", "")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedFormula:
    """A two-sided formula in its parts, translated to Python.

    Attributes
    ----------
    response : str
        Expression of the response, for `evaluate`.
    fixed : str
        Right-hand side of the fixed effects, for `build`; `1` if nothing is left.
    bars : tuple of Bar
        Random-effects terms.
    offsets : tuple of str
        Expressions inside `offset()`, for `evaluate`.
    text : str
        The formula as written.
    residual : ResidualTerm, optional
        Covariance of the residuals; None: independent, of one variance.
    """

    response: str
    fixed: str
    bars: tuple[Bar, ...]
    offsets: tuple[str, ...]
    text: str
    residual: ResidualTerm | None = None


@dataclass(kw_only=True, slots=True)
class _Parts:
    fixed: str = ""
    numbers: list[Number] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    offsets: list[str] = field(default_factory=list)
    residual: ResidualTerm | None = None


@lru_cache(maxsize=1024)
def parse(formula: str) -> ParsedFormula:
    """Split an lme4 formula into response, fixed part, random-effects terms and offsets.

    Parameters
    ----------
    formula : str
        For example `y ~ x + (1 + x | g) + (1 | a/b) + offset(log(n))`. A covariance structure
        stands before its parentheses, `cs(1 + x | g)`.

    Returns
    -------
    ParsedFormula

    Raises
    ------
    FormulaError
        With a caret under the place that cannot be read.

    Examples
    --------
    >>> parse("y ~ I(x^2) + (x || a/b)").fixed
    'I(x**2)'
    >>> [bar.group for bar in parse("y ~ I(x^2) + (x || a/b)").bars]
    [('a',), ('b', 'a')]
    """
    formula = without_comments(formula)
    left, right = _sides(formula)
    response = to_python(left)
    check_source(response)
    _check_end(right, formula)
    parts = _Parts()
    _collect(right, formula, parts)
    fixed = (parts.fixed or "1") + decided(parts.numbers)
    try:
        as_formula(fixed)
    except FormulaError as error:  # shown as it was typed, where that is what was read
        at = formula.find(parts.fixed, formula.find("~")) if parts.fixed else -1
        if at < 0 or error.position is None or error.formula != fixed:
            raise
        raise FormulaError(error.message, formula, at + error.position) from error
    return ParsedFormula(
        response=response,
        fixed=fixed,
        bars=tuple(parts.bars),
        offsets=tuple(parts.offsets),
        text=formula,
        residual=parts.residual,
    )


@lru_cache(maxsize=1024)
def parse_residual(text: str) -> ResidualTerm:
    """Read a residual covariance that stands outside of the formula, `ar1(visit | id)`.

    Raises
    ------
    FormulaError
        It cannot be read, or is not one residual covariance.

    Examples
    --------
    >>> parse_residual("ar1(visit | id) * diag(sex)").group
    ('id',)
    """
    items = _marked(lex(text), text)
    if not any(item.kind == "residual" for item in items):
        for _, message, start in other_names(text):
            raise FormulaError(message, text, start)
        raise FormulaError("no residual covariance: write `ar1(visit | id)`, `diag(site)`", text, 0)
    return read_residual(items, text)


def _marked(items: Sequence[Item], text: str) -> list[Item]:
    """Items in which the calls that are residual covariances are of that kind."""
    for item in items:
        plain = without_tilde(item.text) if item.kind == "python" else None
        if plain is not None:
            write = f": write `{plain}`" if plain else ""
            raise FormulaError(f"no `~` stands inside of a term{write}", text, item.start)
    return [
        item._replace(kind="residual") if item.kind == "python" and is_residual(item.text) else item
        for item in items
    ]


def _sides(formula: str) -> tuple[str, list[Item]]:
    """Text before the `~` and tokens after it."""
    items = lex(formula)
    tildes = [i for i, item in enumerate(items) if item.text == "~"]
    if not tildes:
        raise FormulaError("no `~`: write `response ~ terms`", formula, 0)
    if len(tildes) > 1:
        raise FormulaError("a formula has one `~` only", formula, items[tildes[1]].start)
    left, tilde, right = items[: tildes[0]], items[tildes[0]], items[tildes[0] + 1 :]
    if not left:
        raise FormulaError("no response: write it before `~`", formula, tilde.start)
    if not right:
        raise FormulaError("nothing follows `~`: write `~ 1` for a mean", formula, tilde.start)
    for item in left:
        if item.text in ("|", "||"):
            raise FormulaError("random-effects terms stand after `~`", formula, item.start)
    return formula[left[0].start : tilde.start].rstrip(), right_side(
        _marked(right, formula), formula
    )


@lru_cache(maxsize=1024)
def parse_rhs(formula: str) -> str:
    """Translate a one-sided formula such as `~ x` or `x` for `build`.

    Raises
    ------
    FormulaError
        If it has a response, a random-effects term or an offset, or cannot be read.
    """
    formula = without_comments(formula)
    items = lex(formula)
    if items and items[0].text == "~":
        items = items[1:]
    for item in items:
        if item.text == "~":
            raise FormulaError("no response belongs here: write `~ terms`", formula, item.start)
        if item.text in ("|", "||"):
            raise FormulaError("no random-effects term belongs here", formula, item.start)
        _refuse_offset(item, formula)
    if not items:
        raise FormulaError("nothing follows `~`: write `~ 1` for an intercept", formula, 0)
    terms = right_side(items, formula)
    rhs = render(terms, formula) + decided(numbers_among(terms))
    as_formula(rhs)
    return rhs


@lru_cache(maxsize=1024)
def other_names(text: str) -> tuple[tuple[str, str, int], ...]:
    """Calls of residual covariances by names of other packages: name, what to say, where.

    Kept for the next fit, so no errors, which would hold on to where they were raised.
    """
    found = []
    for item in lex(text):
        here = written_here(item.text) if item.kind == "python" else None
        if here is not None:
            name = item.text.split("(")[0]
            message = f"`{name}` is another package's: write `{here}`"
            if is_nearest(name, here):
                message = f"`{name}` is another package's, and not here: `{here}` is the nearest"
            found.append((name, message, item.start))
    return tuple(found)


def _check_end(items: Sequence[Item], text: str) -> None:
    """Refuse what follows a formula in a call or a line."""
    for item, depth in depths(items):
        if depth == 0 and item.text == ",":
            message = "the formula ends before the comma: reml=False and the like stand beside it"
            raise FormulaError(f"{message}, lmm.fit(formula, data, reml=False)", text, item.start)
        if depth == 0 and item.text == ";":
            raise FormulaError("the formula ends before `;`: delete it", text, item.start)


def _collect(items: Sequence[Item], text: str, parts: _Parts) -> None:
    """Sort the terms of a sum into the parts of the formula."""
    for sign, term in split(items, "+-", text):
        bars = [pair for pair in depths(term) if pair[0].text in ("|", "||")]
        if bars and bars[0][1] == 0:
            raise FormulaError(
                "a random-effects term needs parentheses: write `(… | g)`", text, bars[0][0].start
            )
        if any(item.kind == "residual" for item in term):
            _add_residual(sign, term, text, parts)
            continue
        named = term[0].kind == "structure"
        if bars and (sign == "-" or not is_wrapped(term[1:] if named else term)):
            opener = max(i.start for i in term if i.text in "([" and i.start < bars[0][0].start)
            message = "a random-effects term can only be added: put `+` on both sides of it"
            if sign == "-":
                message = "a random-effects term cannot be taken away: leave it out of the formula"
            raise FormulaError(message, text, opener)
        if len(bars) > 1 and min(depth for _, depth in bars) == 1:
            raise FormulaError(
                "two bars in one term: write `(… | g) + (… | h)`", text, bars[1][0].start
            )
        if bars and bars[0][1] == 1:
            parts.bars += _bars(term, bars[0][0], text)
        elif bars or (sign != "-" and is_wrapped(term) and any(map(_is_offset, term))):
            _collect(term[1:-1], text, parts)
        elif sign != "-" and len(term) == 1 and _is_offset(term[0]):
            _add_offset(term[0], parts)
        else:
            for item in term:
                _refuse_offset(item, text)
            joint = f" {sign or '+'} " if parts.fixed else "-" if sign == "-" else ""
            parts.fixed += joint + render(term, text)
            parts.numbers += numbers_among(term, sign)


def _add_residual(sign: str, term: Sequence[Item], text: str, parts: _Parts) -> None:
    if sign == "-":
        raise FormulaError("a residual covariance is added", text, term[0].start)
    if parts.residual is not None:
        own = text[term[0].start : term[-1].stop]
        message = (
            "a formula has one residual covariance; a correlation and variances are "
            f"multiplied: `{parts.residual.text} * {own}`"
        )
        raise FormulaError(message, text, term[0].start)
    parts.residual = read_residual(term, text)


def _add_offset(item: Item, parts: _Parts) -> None:
    """Keep an offset; the same one twice counts once, as in R."""
    offset = to_python(item.text[item.text.index("(") + 1 : -1])
    if not offset.strip():
        raise FormulaError("offset() is empty: write `offset(x)`, or leave it out")
    check_source(offset)
    if without_blanks(offset) not in map(without_blanks, parts.offsets):
        parts.offsets.append(offset)


def _is_offset(item: Item) -> bool:
    return item.kind == "python" and item.text.startswith("offset(")


def _refuse_offset(item: Item, text: str) -> None:
    if _is_offset(item):
        message = "offset() stands alone among the fixed effects: write `+ offset(…)`"
        raise FormulaError(message, text, item.start)


def _bars(term: Sequence[Item], bar: Item, text: str) -> list[Bar]:
    """The terms that one pair of parentheses with a bar in it stands for."""
    at, name = term.index(bar), term[0] if term[0].kind == "structure" else None
    left, right = term[1 if name is None else 2 : at], term[at + 1 : -1]
    structure = "us" if name is None else name.text.rstrip("=!")
    equal = None if name is None else {"=": True, "!": False}.get(name.text[-1])
    if name is not None and bar.text == "||":
        message = f"`{structure}()` says what is correlated: write one bar, `{structure}(… | g)`"
        raise FormulaError(message, text, bar.start)
    structure = "diag" if bar.text == "||" else structure
    if not left:
        raise FormulaError("nothing stands before the bar: write `(1 | g)`", text, bar.start)
    if not right:
        raise FormulaError("no grouping factor after the bar: write `(1 | g)`", text, bar.start)
    for item in left:
        _refuse_offset(item, text)
    while is_wrapped(left):
        left = left[1:-1]
    lhs = render(left, text) + decided(numbers_among(left))
    as_formula(lhs)
    source = text[term[0].start : term[-1].start + 1]
    return [
        Bar(lhs=lhs, group=group, structure=structure, text=source, equal=equal)
        for group in _groups(right, text)
    ]


def _groups(items: Sequence[Item], text: str) -> list[tuple[str, ...]]:
    """Expand the right side of a bar: `+`, then `*` and `/`, then `:`, loosest first."""
    for signs in ("+", "*/", ":"):
        operands = split(items, signs, text)
        if len(operands) == 1:
            continue
        out = _groups(operands[0][1], text)
        for sign, operand in operands[1:]:
            out = _combine(out, sign, _groups(operand, text))
        return list(dict.fromkeys(out))
    if is_wrapped(items) and len(items) > 2:
        return _groups(items[1:-1], text)
    if len(items) > 1 or items[0].kind not in ("name", "python"):
        bad = items[min(1, len(items) - 1)]
        message = f"`{bad.text}` cannot stand in a grouping factor: use names, `:`, `/`, `*`, `+`"
        raise FormulaError(message, text, bad.start)
    code = to_python(items[0].text)
    check_source(code)
    # A grouping factor is categorical in any case: factor(g) is g.
    return [(re.sub(r"^C\(\s*(`[^`]*`|\w+)\s*\)$", r"\1", code),)]


def _combine(
    left: list[tuple[str, ...]], sign: str, right: list[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Grouping factors of `left sign right`."""
    if sign == "+":
        return left + right
    if sign == "/":  # a/b is a + b:a; (a/b)/c adds c within everything on its left
        outer = tuple(name for group in reversed(left) for name in group)
        return left + [tuple(dict.fromkeys(group + outer)) for group in right]
    crossed = [tuple(dict.fromkeys(a + b)) for a in left for b in right]
    return crossed if sign == ":" else left + right + crossed
