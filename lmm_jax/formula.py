"""Formulas of lme4: parsed here, their design matrices built by formulaic.

A formula is cut into its random-effects terms (`Bar`), its offsets and a fixed part, and what R
spells differently is translated. `build` and `replay` turn a right-hand side and a data frame
into columns. Rows with missing values are the caller's business: a value that is not finite is
an error here.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from formulaic import Formula, SimpleFormula
from formulaic.errors import FormulaicError
from formulaic.parser.algos.tokenize import tokenize

from .errors import FormulaError


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One random-effects term `(lhs | group)` of a formula, after expansion of `/` and `*`.

    Attributes
    ----------
    lhs : str
        Right-hand-side formula of the columns, such as `1 + x`; without `0 +` it has an intercept.
    group : tuple of str
        Grouping columns, joined by interaction. `a/b` gives `("a",)` and `("b", "a")`.
    correlated : bool
        False for `||`.
    text : str
        The term as written.
    """

    lhs: str
    group: tuple[str, ...]
    correlated: bool
    text: str

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
    """

    response: str
    fixed: str
    bars: tuple[Bar, ...]
    offsets: tuple[str, ...]
    text: str


# ------------------------------------------------------------------------------ R to Python


# Names that a call may mention as a value and that are no columns: C(x, Sum), np.log(x).
NAMESPACES = {"np", "contr", "Treatment", "Sum", "Poly", "Helmert", "Diff"}
_ACCESSORS = {"dt", "str", "cat"}
_WORDS = {"TRUE": "True", "FALSE": "False", "NULL": "None"}
_OPERATORS = {"and", "or", "not", "in", "is", "if", "else", "for", "lambda", *_WORDS.values()}
_RESERVED = set(keyword.kwlist) - _OPERATORS
_FUNCTIONS = {"factor": "C", "as.factor": "C", "as.numeric": "as_numeric"}
_SIGNS = {"^": "**", "%%": "%", "%/%": "//"}
CODE_PATTERN = re.compile(
    r"""\bQ\(\s*(?P<q>["'])(?P<column>.*?)(?P=q)\s*\)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') | (?P<quoted>`[^`]*`)
      | (?P<number>\.?\d(?:[eE][+-]|[\w.])*) | (?P<word>[^\W\d][\w.]*)
      | (?P<sign>\^|%%|%/%)""",
    re.VERBOSE,
)


def _to_python(code: str) -> str:
    """Translate what R spells differently in an expression; Python passes unchanged."""

    def translate(match: re.Match[str]) -> str:
        text, kind = match.group(), match.lastgroup
        if kind == "column":
            return f"`{match['column']}`"
        if kind == "string":  # C(x, "contr.sum")
            return text[1:-1] if re.fullmatch(r"contr\.\w+", text[1:-1]) else text
        if kind == "number":
            return re.sub(r"^(\d+)L$", r"\1", text)
        if kind == "word":
            return _word(text, code[: match.start()], code[match.end() :])
        return _SIGNS.get(text, text)

    return CODE_PATTERN.sub(translate, code)


def _word(word: str, before: str, after: str) -> str:
    """One name of an expression in Python, given the code on both sides of it."""
    if after.lstrip().startswith("("):
        return _FUNCTIONS.get(word, word)
    if word in ("T", "F") and re.search(r"[^=!<>]=\s*$", before):
        return str(word == "T")
    if word in _RESERVED:  # a column that only Python could take for something else
        return f"`{word}`"
    parts = word.split(".")
    if len(parts) == 1 or before.endswith(".") or parts[0] in NAMESPACES or parts[1] in _ACCESSORS:
        return _WORDS.get(word, word)
    return f"`{word}`"  # a column of R such as reaction.time


# ------------------------------------------------------------------------------ tokens


class _Item(NamedTuple):
    text: str  # as written
    kind: str  # name, python, value, operator or context, as formulaic has them
    start: int


_OPERATOR = re.compile(r"\|\||\*\*|%[^%]*%|\S")
_CLOSES = {")": "(", "]": "[", "}": "{"}


def _check_balance(text: str) -> None:
    """Raise at the first bracket or quote that has no partner."""
    opened: list[tuple[str, int]] = []
    skip = False
    for i, char in enumerate(text):
        inside = opened[-1][0] if opened and opened[-1][0] in "\"'`" else ""
        if skip or (inside and char == "\\"):
            skip = not skip
        elif inside:
            if char == inside:
                opened.pop()
        elif char in "\"'`([{":
            opened.append((char, i))
        elif char in _CLOSES:
            if not opened or opened[-1][0] != _CLOSES[char]:
                raise FormulaError(f"`{char}` closes nothing: remove it", text, i)
            opened.pop()
    if opened:
        raise FormulaError(f"`{opened[-1][0]}` is never closed", text, opened[-1][1])


def _lex(text: str) -> list[_Item]:
    """Tokens of a formula, with every operator a token of its own."""
    if not text.strip():
        raise FormulaError("empty formula: write `response ~ terms`", text, 0)
    if "``" in text:
        raise FormulaError("no name between the backticks", text, text.index("``"))
    _check_balance(text)
    try:
        tokens = list(tokenize(text))
    except FormulaicError as error:
        raise _syntax_error(error, text) from error
    starts = [int(token.source_start or 0) for token in tokens]
    items: list[_Item] = []
    for token, start, stop in zip(tokens, starts, [*starts[1:], len(text)], strict=True):
        raw, kind = text[start:stop].rstrip(), str(token.kind.value)
        if kind == "operator":
            items += [_Item(m.group(), kind, start + m.start()) for m in _OPERATOR.finditer(raw)]
        else:
            items.append(_Item(raw, kind, start))
    for item in items:
        if item.text == ".":
            raise FormulaError("`.` is not supported: name the columns", text, item.start)
    return items


def _syntax_error(error: Exception, text: str) -> FormulaError:
    """Formulaic's error as ours; it marks the place with a bracket in the formula."""
    if isinstance(error, SyntaxError):
        return FormulaError(f"a term cannot be read as an expression ({error.msg})", text)
    message, _, shown = str(error).partition("\n\n")
    position = shown.find("⧛")
    return FormulaError(message, text, position if position >= 0 else None)


def _render(items: Sequence[_Item], text: str) -> str:
    """Translated text of consecutive tokens, with the blanks that were between them."""
    out, stop = "", items[0].start
    for item in items:
        code = item.kind in ("name", "python")
        out += text[stop : item.start] + (_to_python(item.text) if code else item.text)
        stop = item.start + len(item.text)
    return out


def _depths(items: Sequence[_Item]) -> Iterator[tuple[_Item, int]]:
    """Each token with the number of brackets around it; a bracket counts as outside itself."""
    depth = 0
    for item in items:
        closing = item.kind == "context" and item.text in ")]"
        depth -= closing
        yield item, depth
        depth += item.kind == "context" and not closing


def _split(items: Sequence[_Item], signs: str, text: str) -> list[tuple[str, list[_Item]]]:
    """Operands at the outermost level, each with the operator before it ("" for the first)."""
    out: list[tuple[str, list[_Item]]] = [("", [])]
    last: _Item | None = None
    for item, depth in _depths(items):
        if depth or item.kind != "operator" or item.text not in signs:
            out[-1][1].append(item)
            continue
        last = item
        if out[-1][1]:
            out.append((item.text, []))
        elif signs == "+-":  # a sign before a term, or two in a row
            out[-1] = ("-" if (out[-1][0] == "-") != (item.text == "-") else "+", [])
        else:
            raise FormulaError(f"nothing stands before `{item.text}`", text, item.start)
    if last is not None and not out[-1][1]:
        raise FormulaError(f"nothing follows `{last.text}`", text, last.start)
    return out


def _is_wrapped(items: Sequence[_Item]) -> bool:
    """Whether one pair of round brackets holds everything."""
    depths = [depth for _, depth in _depths(items)]
    return items[0].text == "(" and items[-1].text == ")" and min(depths[1:-1], default=1) > 0


# ------------------------------------------------------------------------------ parsing


@dataclass(kw_only=True, slots=True)
class _Parts:
    fixed: str = ""
    bars: list[Bar] = field(default_factory=list)
    offsets: list[str] = field(default_factory=list)


def parse(formula: str) -> ParsedFormula:
    """Split an lme4 formula into response, fixed part, random-effects terms and offsets.

    Parameters
    ----------
    formula : str
        For example `y ~ x + (1 + x | g) + (1 | a/b) + offset(log(n))`.

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
    left, right = _sides(formula)
    response = _to_python(left)
    names_in(response)
    parts = _Parts()
    _collect(right, formula, parts)
    fixed = parts.fixed or "1"
    as_formula(fixed)
    return ParsedFormula(
        response=response,
        fixed=fixed,
        bars=tuple(parts.bars),
        offsets=tuple(parts.offsets),
        text=formula,
    )


def _sides(formula: str) -> tuple[str, list[_Item]]:
    """Text before the `~` and tokens after it."""
    items = _lex(formula)
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
    return formula[left[0].start : tilde.start].rstrip(), right


def parse_rhs(formula: str) -> str:
    """Translate a one-sided formula such as `~ x` or `x` for `build`.

    Raises
    ------
    FormulaError
        If it has a response, a random-effects term or an offset, or cannot be read.
    """
    items = _lex(formula)
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
    rhs = _render(items, formula)
    as_formula(rhs)
    return rhs


def _collect(items: Sequence[_Item], text: str, parts: _Parts) -> None:
    """Sort the terms of a sum into the parts of the formula."""
    for sign, term in _split(items, "+-", text):
        bars = [pair for pair in _depths(term) if pair[0].text in ("|", "||")]
        if bars and bars[0][1] == 0:
            raise FormulaError(
                "a random-effects term needs parentheses: write `(… | g)`", text, bars[0][0].start
            )
        if bars and (sign == "-" or not _is_wrapped(term)):
            opener = max(i.start for i in term if i.text in "([" and i.start < bars[0][0].start)
            raise FormulaError(
                "a random-effects term can only be added: put `+` on both sides of it", text, opener
            )
        if len(bars) > 1 and min(depth for _, depth in bars) == 1:
            raise FormulaError(
                "two bars in one term: write `(… | g) + (… | h)`", text, bars[1][0].start
            )
        if bars and bars[0][1] == 1:
            parts.bars += _bars(term, bars[0][0], text)
        elif bars:
            _collect(term[1:-1], text, parts)
        elif sign != "-" and len(term) == 1 and _is_offset(term[0]):
            parts.offsets.append(_to_python(term[0].text[term[0].text.index("(") + 1 : -1]))
            names_in(parts.offsets[-1])
        else:
            for item in term:
                _refuse_offset(item, text)
            joint = f" {sign or '+'} " if parts.fixed else "-" if sign == "-" else ""
            parts.fixed += joint + _render(term, text)


def _is_offset(item: _Item) -> bool:
    return item.kind == "python" and item.text.startswith("offset(")


def _refuse_offset(item: _Item, text: str) -> None:
    if _is_offset(item):
        message = "offset() stands alone among the fixed effects: write `+ offset(…)`"
        raise FormulaError(message, text, item.start)


def _bars(term: Sequence[_Item], bar: _Item, text: str) -> list[Bar]:
    """The terms that one pair of parentheses with a bar in it stands for."""
    at = term.index(bar)
    left, right = term[1:at], term[at + 1 : -1]
    if not left:
        raise FormulaError("nothing stands before the bar: write `(1 | g)`", text, bar.start)
    if not right:
        raise FormulaError("no grouping factor after the bar: write `(1 | g)`", text, bar.start)
    for item in left:
        _refuse_offset(item, text)
    lhs = _render(left, text)
    as_formula(lhs)
    source = text[term[0].start : term[-1].start + 1]
    return [
        Bar(lhs=lhs, group=group, correlated=bar.text == "|", text=source)
        for group in _groups(right, text)
    ]


def _groups(items: Sequence[_Item], text: str) -> list[tuple[str, ...]]:
    """Expand the right side of a bar: `+`, then `*` and `/`, then `:`, loosest first."""
    for signs in ("+", "*/", ":"):
        operands = _split(items, signs, text)
        if len(operands) == 1:
            continue
        out = _groups(operands[0][1], text)
        for sign, operand in operands[1:]:
            out = _combine(out, sign, _groups(operand, text))
        return list(dict.fromkeys(out))
    if _is_wrapped(items) and len(items) > 2:
        return _groups(items[1:-1], text)
    if len(items) > 1 or items[0].kind not in ("name", "python"):
        bad = items[min(1, len(items) - 1)]
        message = f"`{bad.text}` cannot stand in a grouping factor: use names, `:`, `/`, `*`, `+`"
        raise FormulaError(message, text, bad.start)
    code = _to_python(items[0].text)
    names_in(code)
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


def as_formula(rhs: str) -> SimpleFormula:
    """Formulaic's formula of a right-hand side."""
    try:
        formula = Formula(rhs)
    except (FormulaicError, SyntaxError) as error:
        raise _syntax_error(error, rhs) from error
    if not isinstance(formula, SimpleFormula):
        raise FormulaError("expected a right-hand side: no `~`, no `|`", rhs, None)
    return formula


# ------------------------------------------------------------------------------ names


def names_in(code: str) -> tuple[list[str], list[str]]:
    """Columns that an expression reads, and functions that it calls, in order of appearance."""
    quoted: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        if match.lastgroup != "quoted":
            return match.group()
        quoted.append(match.group()[1:-1])
        return f"_quoted_{len(quoted) - 1}_"

    try:
        tree = ast.parse(CODE_PATTERN.sub(placeholder, code).strip(), mode="eval")
    except SyntaxError as error:
        message = f"`{code}` cannot be read as an expression ({error.msg})"
        raise FormulaError(message, code, None) from error
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    nodes.sort(key=lambda node: (node.lineno, node.col_offset))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    values, functions = [], []
    for node in nodes:
        match = re.fullmatch(r"_quoted_(\d+)_", node.id)
        if id(node) in called:
            functions.append(node.id)
        elif match or node is tree.body or node.id not in NAMESPACES:
            values.append(quoted[int(match[1])] if match else node.id)
    return list(dict.fromkeys(values)), list(dict.fromkeys(functions))


def quoted(name: str) -> str:
    """The name of a column as an expression."""
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"`{name}`"


def variables(expr: str) -> tuple[str, ...]:
    """Columns of the data that an expression or a right-hand side needs, in order.

    Names of functions and of namespaces (`np`, `contr`) are left out; names that the caller's
    context supplies are not known here and stay in.

    Examples
    --------
    >>> variables("x + C(A, contr.sum):log(`a b`) + np.sqrt(z)")
    ('x', 'A', 'a b', 'z')
    """
    out: list[str] = []
    for item in _lex(expr):
        if item.kind == "name":
            out.append(item.text.strip("`"))
        elif item.kind == "python":
            out += names_in(item.text.strip("{}"))[0]
    return tuple(dict.fromkeys(out))
