"""Formulas of lme4: parsed here, their design matrices built by formulaic.

A formula is cut into its random-effects terms (`Bar`), its offsets and a fixed part, and what R
spells differently is translated. `build` and `replay` turn a right-hand side and a data frame
into columns. Rows with missing values are the caller's business: a value that is not finite is
an error here.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from formulaic import Formula, ModelSpec, SimpleFormula
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.materializers import PandasMaterializer
from formulaic.materializers.types import FactorValues
from formulaic.parser.algos.tokenize import tokenize
from formulaic.transforms import TRANSFORMS
from formulaic.utils.layered_mapping import LayeredMapping
from formulaic.utils.stateful_transforms import stateful_eval, stateful_transform
from pandas.api.types import is_bool_dtype

from .errors import DataError, FormulaError, RankWarning


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


class Matrix(NamedTuple):
    """Columns of a design and the spec that makes the same columns from new data."""

    values: np.ndarray  # (n, k) float64, C-contiguous
    names: tuple[str, ...]  # (k,)
    spec: ModelSpec


# ------------------------------------------------------------------------------ R to Python


@stateful_transform  # type: ignore[untyped-decorator]
def _as_numeric(x: Any, _state: dict[str, Any] | None = None) -> Any:
    """R's as.numeric: the codes 1, 2, ... of a categorical, otherwise the number itself."""
    if not isinstance(getattr(x, "dtype", None), pd.CategoricalDtype):
        return pd.to_numeric(x).astype("float64")
    state = {} if _state is None else _state
    levels = state.setdefault("levels", list(x.cat.categories))  # new data: the first data's codes
    codes = np.asarray(pd.Categorical(x, categories=levels).codes)
    return np.where(codes < 0, np.nan, codes + 1.0)


def _log(x: Any, base: float | None = None) -> Any:
    """R's log; the second argument of numpy's would be the array to write into."""
    return np.log(x) if base is None else np.log(x) / np.log(base)


_SUPPLIED: dict[str, Any] = {
    "log": _log,
    "sqrt": np.sqrt,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "as_numeric": _as_numeric,
}
# Names that a call may mention as a value and that are no columns: C(x, Sum), np.log(x).
_NAMESPACES = {"np", "contr", "Treatment", "Sum", "Poly", "Helmert", "Diff"}
_ACCESSORS = {"dt", "str", "cat"}
_WORDS = {"TRUE": "True", "FALSE": "False", "NULL": "None"}
_FUNCTIONS = {"factor": "C", "as.factor": "C", "as.numeric": "as_numeric"}
_SIGNS = {"^": "**", "%%": "%", "%/%": "//"}
_CODE = re.compile(
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

    return _CODE.sub(translate, code)


def _word(word: str, before: str, after: str) -> str:
    """One name of an expression in Python, given the code on both sides of it."""
    if after.lstrip().startswith("("):
        return _FUNCTIONS.get(word, word)
    if word in ("T", "F") and re.search(r"[^=!<>]=\s*$", before):
        return str(word == "T")
    parts = word.split(".")
    if len(parts) == 1 or before.endswith(".") or parts[0] in _NAMESPACES or parts[1] in _ACCESSORS:
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
    _names(response)
    parts = _Parts()
    _collect(right, formula, parts)
    fixed = parts.fixed or "1"
    _formula(fixed)
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
    _formula(rhs)
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
            _names(parts.offsets[-1])
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
    _formula(lhs)
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
    _names(code)
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


def _formula(rhs: str) -> SimpleFormula:
    """Formulaic's formula of a right-hand side."""
    try:
        formula = Formula(rhs)
    except (FormulaicError, SyntaxError) as error:
        raise _syntax_error(error, rhs) from error
    if not isinstance(formula, SimpleFormula):
        raise FormulaError("expected a right-hand side: no `~`, no `|`", rhs, None)
    return formula


# ------------------------------------------------------------------------------ names


def _names(code: str) -> tuple[list[str], list[str]]:
    """Columns that an expression reads, and functions that it calls, in order of appearance."""
    quoted: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        if match.lastgroup != "quoted":
            return match.group()
        quoted.append(match.group()[1:-1])
        return f"_quoted_{len(quoted) - 1}_"

    try:
        tree = ast.parse(_CODE.sub(placeholder, code).strip(), mode="eval")
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
        elif match or node is tree.body or node.id not in _NAMESPACES:
            values.append(quoted[int(match[1])] if match else node.id)
    return list(dict.fromkeys(values)), list(dict.fromkeys(functions))


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
            out += _names(item.text.strip("{}"))[0]
    return tuple(dict.fromkeys(out))


def _check_names(
    codes: Sequence[tuple[str, bool]], data: pd.DataFrame, context: Mapping[str, Any], rhs: str
) -> list[str]:
    """Columns that factors (text, whether it is code) need; raise if a name is unknown."""
    read = [_names(code) if is_code else ([code], []) for code, is_code in codes]
    values = list(dict.fromkeys(name for names, _ in read for name in names))
    functions = list(dict.fromkeys(name for _, names in read for name in names))
    for name in values:
        if name not in data.columns and name not in context:
            raise _unknown("column", name, [str(column) for column in data.columns], rhs)
    for name in functions:
        supplied = {**TRANSFORMS, **_SUPPLIED}
        if name not in context and name not in supplied and name not in vars(builtins):
            raise _unknown("function", name, sorted(supplied.keys() - _NAMESPACES), rhs)
    columns = [name for name in values if name in data.columns]
    for name in columns:
        if list(data.columns).count(name) > 1:
            raise DataError(f"the data has several columns named `{name}`: rename them")
        if name in functions:
            raise DataError(f"`{name}` is a column and a function here: rename the column")
    return columns


def _unknown(what: str, name: str, known: Sequence[str], rhs: str) -> FormulaError:
    """Error about a name that nobody defines, with the names that resemble it."""
    folded = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), list(folded), 3)
    place = "the data has no" if what == "column" else "there is no"
    hint = f"; did you mean {', '.join(f'`{folded[k]}`' for k in near)}?" if near else ""
    if name == "ns":
        hint = "; formulaic's natural splines are `cr(x, df)`, its B-splines `bs(x, df)`"
    match = re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", rhs)
    return FormulaError(
        f"{place} {what} `{name}`{hint}", rhs, match.start() if match is not None else None
    )


# ------------------------------------------------------------------------------ matrices


class _Materializer(PandasMaterializer):  # type: ignore[misc]
    """Formulaic's pandas reader with R's logicals, and errors where it would guess."""

    @PandasMaterializer.override  # type: ignore[untyped-decorator]
    def _is_categorical(self, values: Any) -> bool:
        dtype = getattr(values, "dtype", None)
        if dtype is not None and (isinstance(dtype, pd.StringDtype) or is_bool_dtype(dtype)):
            return True
        return bool(super()._is_categorical(values))

    @PandasMaterializer.override  # type: ignore[untyped-decorator]
    def _encode_evaled_factor(
        self, factor: Any, spec: Any, drop_rows: Sequence[int], reduced_rank: bool = False
    ) -> dict[str, Any]:
        dtype = getattr(factor.values, "dtype", None)
        if factor.metadata.kind.value == "numerical" and getattr(dtype, "kind", "f") not in "fiub":
            raise DataError(f"`{factor.expr}` has the type {dtype}: numbers or labels are needed")
        factor = _used_levels(factor)
        _check_levels(factor, spec)  # before: formulaic codes an unseen level as the reference
        columns: dict[str, Any] = super()._encode_evaled_factor(
            factor, spec, drop_rows, reduced_rank
        )
        _check_levels(factor, spec)  # after: C(x, levels=[...]) at the first build
        return columns


def _used_levels(factor: Any) -> Any:
    """The evaluated factor without unused levels, where it holds a pandas categorical."""
    values = getattr(factor.values, "__wrapped__", factor.values)
    if not isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        return factor
    used = pd.Series(values).cat.remove_unused_categories()
    return replace(factor, values=FactorValues(used, metadata=factor.metadata))


def _check_levels(factor: Any, spec: Any) -> None:
    """Raise if a categorical factor has missing values or levels outside those of the spec."""
    known = spec.encoder_state.get(factor.expr, (None, {}))[1].get("categories")
    if known is None:
        return
    found = pd.unique(pd.Series(getattr(factor.values, "__wrapped__", factor.values)))
    if pd.isna(found).any():
        raise DataError(f"`{factor.expr}` has missing values: remove these rows")
    unseen = [level for level in found if level not in set(known)]
    if unseen:
        raise DataError(
            f"`{factor.expr}` has the level {_listed(unseen)}, which the model was not fitted to;"
            f" it knows {_listed(known)}"
        )


def _listed(levels: Sequence[Any]) -> str:
    """The first few of some levels."""
    return ", ".join(repr(x) for x in levels[:8]) + (", ..." if len(levels) > 8 else "")


def _columns_of(
    formula: SimpleFormula, data: pd.DataFrame, context: Mapping[str, Any], text: str
) -> pd.DataFrame:
    """The columns that a formula needs: no other column can hide a function of its name."""
    factors = {factor.expr: factor.eval_method.value for term in formula for factor in term.factors}
    codes = [(expr, kind == "python") for expr, kind in factors.items() if kind != "literal"]
    return data[_check_names(codes, data, context, text)]


def _quietly(run: Callable[[], Any]) -> Any:
    """Call into formulaic: numeric warnings off (results are checked), failures as `DataError`."""
    failures = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
    try:
        with np.errstate(all="ignore"):
            return run()
    except DataError:
        raise
    except (FormulaicError, DataMismatchWarning, *failures) as error:
        raise DataError(str(error)) from error


def _materialize(
    spec: SimpleFormula | ModelSpec, frame: pd.DataFrame, context: Mapping[str, Any]
) -> Any:
    """Formulaic's model matrix, dense."""
    materializer = _Materializer(frame, context=LayeredMapping(context, _SUPPLIED))
    options = {} if isinstance(spec, ModelSpec) else {"na_action": "ignore", "output": "numpy"}
    return _quietly(lambda: materializer.get_model_matrix(spec, **options))


def _dense(matrix: Any, names: Sequence[str], n: int) -> np.ndarray:
    """Model matrix as (n, k) float64; raise on what is no finite number."""
    values = np.ascontiguousarray(matrix, dtype=np.float64)
    if values.shape != (n, len(names)):
        raise DataError(f"the terms give {values.shape[0]} rows for {n} rows of data")
    for name, finite in zip(names, np.isfinite(values).T, strict=True):
        _check_finite(name, finite)
    return values


def _check_finite(name: str, finite: np.ndarray) -> None:
    """Raise for the first row of a column that is not finite."""
    if finite.all():
        return
    count, row = int((~finite).sum()), int(np.flatnonzero(~finite)[0])
    raise DataError(
        f"`{name}` is NaN or infinite in {count} of {finite.size} rows (first in row {row},"
        " counted from 0): remove these rows or change the transformation"
    )


def build(rhs: str, data: pd.DataFrame, *, context: Mapping[str, Any] | None = None) -> Matrix:
    """Columns of a right-hand side, as `parse` or `parse_rhs` translated it.

    Strings and categoricals get treatment contrasts (unused levels dropped, strings sorted);
    booleans are categories as in R (`x[T.True]`); integers are numbers.

    Parameters
    ----------
    rhs : str
        For example `1 + x`.
    data : pandas.DataFrame, n rows
        Without missing values in the columns used.
    context : mapping, optional
        The caller's own functions and variables; columns of the data go first.

    Returns
    -------
    Matrix
        values of shape (n, k), k = 0 for `0`.

    Raises
    ------
    FormulaError
        For a column or a function that does not exist.
    DataError
        For values that are not numbers, not finite, or do not fit the terms.

    Warns
    -----
    RankWarning
        For a factor with one level, whose contrasts have no column.
    """
    context = {} if context is None else context
    formula = _formula(rhs)
    matrix = _materialize(formula, _columns_of(formula, data, context, rhs), context)
    spec: ModelSpec = matrix.model_spec
    for expr, (_, state) in spec.encoder_state.items():
        if len(state.get("categories", ())) == 1 and f"{expr}[" not in "".join(spec.column_names):
            message = f"`{expr}` has one level only, {state['categories'][0]!r}: it adds no column"
            warnings.warn(message, RankWarning, stacklevel=2)
    names = tuple(str(name) for name in spec.column_names)
    return Matrix(values=_dense(matrix, names, len(data)), names=names, spec=spec)


def replay(
    spec: ModelSpec, data: pd.DataFrame, *, context: Mapping[str, Any] | None = None
) -> np.ndarray:
    """The columns of a spec for new data, with the levels, knots and means of the first data.

    Returns
    -------
    np.ndarray, shape (n, k)

    Raises
    ------
    DataError
        For a column that is missing, a level that the spec does not know, or a value that is
        not finite.
    """
    context = {} if context is None else context
    try:
        frame = _columns_of(spec.formula, data, context, str(spec.formula))
    except FormulaError as error:
        raise DataError(error.message) from error
    names = tuple(str(name) for name in spec.column_names)
    return _dense(_materialize(spec, frame, context), names, len(data))


def evaluate(
    expr: str, data: pd.DataFrame, *, context: Mapping[str, Any] | None = None
) -> np.ndarray:
    """One numeric column, such as a response `log(y)` or an offset; booleans become 0 and 1.

    Nothing is remembered for new data: `scale(x)` here is scaled by the data at hand.

    Returns
    -------
    np.ndarray, shape (n,)

    Raises
    ------
    FormulaError
        For a column or a function that does not exist.
    DataError
        If the result is not one column of finite numbers.
    """
    raw = labels(expr, data, context=context)
    if raw.dtype.kind not in "fiub":
        raise DataError(f"`{expr}` has the type {raw.dtype}: numbers are needed")
    values = np.ascontiguousarray(raw.to_numpy(dtype=np.float64, na_value=np.nan))
    _check_finite(expr, np.isfinite(values))
    return values


def labels(
    expr: str, data: pd.DataFrame, *, context: Mapping[str, Any] | None = None
) -> pd.Series[Any]:
    """One column of any type, such as a grouping factor, as the expression gives it.

    Raises
    ------
    FormulaError, DataError
        As `evaluate`, whatever the type.
    """
    context = {} if context is None else context
    frame = data[_check_names([(expr, True)], data, context, expr)]
    env = LayeredMapping(frame, context, _SUPPLIED, TRANSFORMS)
    raw = _quietly(lambda: stateful_eval(expr, env, {}, {}, None))
    values = getattr(raw, "__wrapped__", raw)
    values = values if isinstance(values, pd.Series) else np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (len(data),):
        raise DataError(
            f"`{expr}` gives an array of shape {values.shape}: one column of {len(data)} rows"
            " is needed"
        )
    return pd.Series(np.asarray(values) if values is not raw else values, index=data.index)
