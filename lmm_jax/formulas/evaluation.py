"""Values of expressions: what their names mean, and what comes out."""

from __future__ import annotations

import ast
import builtins
import difflib
import inspect
import re
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from . import columns as col
from .expressions import BESIDE, NAMESPACES, OF_R, Expression, beside_factor, read, show
from .factors import are_contrasts
from .functions import CONSTANTS, INSTEAD, LIBRARY
from .grammar import check_methods, missing_values, root
from .residual_elsewhere import written_here
from .rewriting import CALLED, compiled
from .times import as_in_fit

# How what is remembered of the categories of a column is called.
CATEGORIES = "categories of "
# Functions that make numbers of dates and spans, and of what else they are given.
_OF_TIMES = frozenset({"as_numeric", "as_integer"})

# Words of R, as Python has them, that are no terms.
_NO_TERMS = {"None": "NULL", "True": "TRUE", "False": "FALSE"}

_TOOLS: dict[str, Callable[..., Any]] = {
    "__number__": col.number,
    "__real__": col.real,
    "__operand__": col.operand,
    "__exact__": col.exact,
    "__exact_number__": col.exact_number,
    "__place__": col.place,
    "__label__": col.label,
    "__logical__": col.logical,
    "__own__": col.own,
    "__in__": col.is_in,
    "__column__": col.column,
    "__compare__": col.compare,
    "__category__": col.category,
    "__kept__": col.kept,
}


def _of_numpy(name: str, *args: Any, **options: Any) -> Any:
    """What methods of NumPy's arrays import when they first run: the builtins of expressions."""
    if name.partition(".")[0] != "numpy":
        raise ImportError(name)
    return __import__(name, *args, **options)


class Scope(NamedTuple):
    """What the names of a formula mean: columns first, then the caller's, then the library's."""

    columns: Mapping[str, pd.Series[Any]]
    context: Mapping[str, Any]
    intercept: bool = False  # of the formula

    def value(self, name: str) -> Any:
        """A value by its name."""
        own = spelled(name, self.context)
        for layer, key in ((self.columns, name), (self.context, own), (CONSTANTS, name)):
            if key in layer:
                return layer[key]
        return self.function(name)

    def function(self, name: str) -> Any:
        """A function by its name."""
        own = spelled(name, self.context)
        return self.context[own] if own in self.context else LIBRARY[name]

    def at(self, node: ast.expr) -> Any:
        """The object that a function's name or a dotted name of the caller's means."""
        if isinstance(node, ast.Attribute):
            return getattr(self.at(node.value), node.attr)
        return self.function(node.id) if isinstance(node, ast.Name) else None


def spelled(name: str, context: Mapping[str, Any]) -> str:
    """The key of a context that a name means: Python writes names in characters of its own."""
    if name in context or name.isascii():
        return name
    wanted = normalize("NFKC", name)
    return next((key for key in context if normalize("NFKC", key) == wanted), name)


def resolve(
    codes: Sequence[tuple[str, bool]], data: pd.DataFrame, context: Mapping[str, Any], text: str
) -> dict[str, pd.Series[Any]]:
    """Columns that expressions (text, whether it is code) need; raise if a name is unknown."""
    found = [read(code) if is_code else None for code, is_code in codes]
    values: list[str] = []
    for (code, _), expression in zip(codes, found, strict=True):
        values += [code] if expression is None else expression.values
    for expression in filter(None, found):
        for call in expression.calls:
            _check_contrasts(call, expression, context, text)
    values = list(dict.fromkeys(values))
    functions = list(dict.fromkeys(f for e in found if e is not None for f in e.functions))
    for name in functions:
        if spelled(name, context) not in context and name not in LIBRARY:
            raise _unknown("function", name, sorted(LIBRARY.keys() - NAMESPACES), text)
    for name in values:
        constant = name in CONSTANTS and (name, False) not in codes
        found_elsewhere = spelled(name, context) in context or constant
        if name not in data.columns and not found_elsewhere:
            if name in data.index.names:
                raise FormulaError(
                    f"`{name}` names the index, and is no column: data.reset_index()", text, None
                )
            raise _unknown("column", name, [str(column) for column in data.columns], text)
    columns = [name for name in values if name in data.columns]
    for name in columns:
        if list(data.columns).count(name) > 1:
            raise DataError(f"the data has several columns named `{name}`: rename them")
    for expression in found:
        if expression is not None:
            _check_attributes(expression, columns, context, text)
            for call in expression.calls:
                _check_arguments(call, expression, context, text)
    return {name: data[name] for name in columns}


def _check_contrasts(
    call: ast.Call, expression: Expression, context: Mapping[str, Any], text: str
) -> None:
    """Raise for `sum(4)` beside a factor, which is no contrasts."""
    for given in beside_factor(call):
        name = given.func.id if isinstance(given, ast.Call) and type(given.func) is ast.Name else ""
        if name in OF_R and spelled(name, context) not in context:
            written = show(ast.unparse(given), expression.quoted)
            raise FormulaError(
                f"`{written}` gives no contrasts: write `contr.{written}`", text, None
            )


def _check_arguments(
    call: ast.Call, expression: Expression, context: Mapping[str, Any], text: str
) -> None:
    """Raise for arguments that a function of the library's does not take."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name not in LIBRARY or spelled(name, context) in context:
        return
    taken = _parameters(name)
    if taken is None:
        return
    first = next(iter(taken.parameters.values()), None)
    try:
        taken.bind(*call.args, **{str(given.arg): given.value for given in call.keywords})
        if not call.args and first is not None and first.kind is first.VAR_POSITIONAL:
            raise TypeError("a column is needed")
    except TypeError as error:
        written = show(ast.unparse(call), expression.quoted)
        stars: dict[Any, str] = {
            inspect.Parameter.VAR_POSITIONAL: "*",
            inspect.Parameter.VAR_KEYWORD: "**",
        }
        known = ", ".join(stars.get(p.kind, "") + p.name for p in taken.parameters.values())
        raise FormulaError(f"`{written}`: {error}; it is `{name}({known})`", text, None) from None


@cache
def _parameters(name: str) -> inspect.Signature | None:
    """What a function of the library's takes from a formula; None where nobody says."""
    try:
        found = inspect.signature(LIBRARY[name])
    except (TypeError, ValueError):
        return None
    own = [p for p in found.parameters.values() if not p.name.startswith("_")]
    return found.replace(parameters=own)


def _check_attributes(
    expression: Expression, columns: Collection[str], context: Mapping[str, Any], text: str
) -> None:
    """Raise for methods and members of namespaces that formulas do without."""
    if not expression.has_attributes and "is_na" not in expression.functions:
        return
    names = {n.id for n in ast.walk(expression.tree) if isinstance(n, ast.Name)}
    read_columns = {name for name in names if expression.column(name) in columns}
    spaces = {n for n in names - read_columns if n in context or n in ("np", "contr")}
    try:
        check_methods(expression.tree, spaces, read_columns)
    except FormulaError as error:
        raise FormulaError(error.message, text, None) from None
    for call in expression.calls:
        asked = isinstance(call.func, ast.Name) and call.func.id == "is_na"
        bare = any(isinstance(a, ast.Name) and a.id in read_columns for a in call.args)
        if asked and bare and "is_na" not in context:
            raise FormulaError(missing_values("is.na").message, text, None)
    for space in [s for s in ("np", "contr") if s in names and s not in {*context, *columns}]:
        for node in ast.walk(expression.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(root(node)) == space:
                _check_member(ast.unparse(node).removeprefix(f"{space}."), space, text)


def _check_member(name: str, space: str, text: str) -> None:
    """Raise for what is no function of a namespace of the library's."""
    known = [member for member in vars(LIBRARY[space]) if not member.startswith("_")]
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        hint = f"; did you mean {', '.join(f'`{space}.{n}`' for n in near)}?" if near else ""
        raise FormulaError(
            f"`{space}.{name}` is not among the functions of formulas{hint}: define a function "
            "beside the call",
            text,
            None,
        )


def _unknown(what: str, name: str, known: Sequence[str], text: str) -> FormulaError:
    """Error about a name that nobody defines, with the names that resemble it."""
    folded = {k.lower(): k for k in known if k != name}
    near = difflib.get_close_matches(name.lower(), list(folded), 3)
    place = "the data has no" if what == "column" else "there is no"
    hint = f"; did you mean {', '.join(f'`{folded[k]}`' for k in near)}?" if near else ""
    if what == "column" and re.search(r"\w\.(dt|str|cat)\.\w", name):
        hint = f": write `I({name})` for what is read from a column"
    elif what == "column" and name in ("pd", "pandas", "scipy", "math"):
        hint = ": modules are no part of formulas, which have `cut`, `factor` and numpy's functions"
    elif what == "column" and written_here(name) is not None:
        hint = f": variances of residuals stand in the formula, `{written_here(name)}`"
    elif what == "column" and normalize("NFC", name) in map(partial(normalize, "NFC"), known):
        hint = (
            ": it has one that looks alike and is written in other characters (accents apart from "
            "their letters): data.columns = data.columns.str.normalize('NFC')"
        )
    if name in _NO_TERMS:
        name, hint = _NO_TERMS[name], ": delete it, or write `1`, `0` for an intercept or none"
    if what == "column" and name in known:
        hint = ": the data has that name as a number, columns are named by strings"
    if what == "function":
        instead = INSTEAD.get(name)
        if instead:
            hint = f"; {instead}"
        elif name in vars(builtins):
            hint = ": Python's own functions are no part of formulas"
        else:
            hint += "; define it beside the call, or pass it in context="
    match = re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text)
    return FormulaError(
        f"{place} {what} `{name}`{hint}", text, match.start() if match is not None else None
    )


def evaluate(
    code: str,
    scope: Scope,
    *,
    state: MutableMapping[str, Any] | None = None,
    spec: Any = None,
    exact: bool = False,
) -> Any:
    """Value of an expression whose names :func:`resolve` has checked.

    Parameters
    ----------
    code : str
    scope : Scope
    state : mutable mapping, optional
        What transforms remember of the first data, by their calls.
    spec : formulaic.ModelSpec, optional
        Handed to formulaic's transforms.
    exact : bool
        Whether the value is used as labels.
    """
    expression = read(code)
    mentioned = (*expression.functions, *expression.values) if scope.context else ()
    own = frozenset(n for n in mentioned if n in scope.context and n not in scope.columns)
    stateful = frozenset(
        ast.unparse(call.func) for call in expression.calls if _is_stateful(call.func, scope, own)
    )
    program, names = compiled(code, own, stateful, exact)
    tools = {name: _meant(name, expression, scope) for name in names}
    tools |= {CALLED + name: scope.function(name) for name in expression.both}
    keys = {name: expression.column(name) for name in names}
    state = {} if state is None else state
    always = not _OF_TIMES.isdisjoint(expression.functions)
    columns = {
        name: as_in_fit(scope.columns[key], key, state, always=always)
        for name, key in keys.items()
        if key in scope.columns and key in expression.values
    }
    guard = col.guarded if expression.calls else lambda column: column
    tools |= {name: guard(column) for name, column in columns.items()}
    if expression.reads_categories:
        for name, column in columns.items():
            before = state.setdefault(CATEGORIES + keys[name], {})
            tools[name] = col.as_before(column, before)
    tools |= {
        "__state__": lambda call: state.setdefault(call, {}),
        "__spec__": spec,
        "__metadata__": {"intercept": scope.intercept},
        "__context__": scope.columns,
    }
    tools["__builtins__"] = {"__import__": _of_numpy}
    return eval(program, {**tools, **_TOOLS})  # names are checked


def _meant(name: str, expression: Expression, scope: Scope) -> Any:
    """What a name of the tree stands for."""
    name = expression.column(name)
    if name.startswith(BESIDE):
        plain = name.removeprefix(BESIDE)
        own = scope.context.get(plain)
        return own if are_contrasts(own) else getattr(LIBRARY["contr"], plain)
    return scope.value(name) if name in expression.values else scope.function(name)


def _is_stateful(node: ast.expr, scope: Scope, own: Collection[str]) -> bool:
    """Whether a transform that remembers something is called."""
    while isinstance(node, ast.Attribute):
        if not isinstance(node.value, ast.Attribute | ast.Name):
            return False
        if isinstance(node.value, ast.Name):
            if node.value.id not in own:
                return False
            break
        node = node.value
    return getattr(scope.at(node), "__is_stateful_transform__", False)


def shaped(value: Any, expr: str, index: pd.Index[Any]) -> Any:
    """The value of a term, one entry or one line a row; raise for anything else."""
    inner = getattr(value, "__wrapped__", value)
    if inner is None:
        raise DataError(f"`{expr}` gives None: a function has to return a value for every row")
    if isinstance(inner, list | tuple):
        value = inner = np.asarray(inner)
    columns = isinstance(inner, Mapping)
    shape: tuple[int, ...] = getattr(inner, "shape", ())
    if (columns and not inner) or (len(shape) == 2 and not shape[1]):
        raise DataError(f"`{expr}` gives no columns: a term needs a value for every row")
    if columns:
        for part in inner.values():
            shaped(part, expr, index)
        return value
    if not shape:
        logical = f"; {expr} is R's for {inner}, and no column" if expr in ("T", "F") else ""
        raise DataError(
            f"`{expr}` gives one value, {inner!r:.40}: a term needs a value for every row{logical}"
        )
    if shape[0] != len(index) or len(shape) > 2:
        raise DataError(f"`{expr}` gives an array of shape {shape} for {len(index)} rows of data")
    other = getattr(inner, "index", index)
    named = isinstance(other, pd.Index) and not other.equals(index)
    if named and not other.equals(pd.RangeIndex(len(index))):
        raise DataError(
            f"`{expr}` gives its values in another order, or on another index, than the data"
        )
    return value
