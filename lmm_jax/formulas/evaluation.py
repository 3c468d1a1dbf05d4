"""Values of expressions: names are resolved, arithmetic is that of doubles, as in R."""

from __future__ import annotations

import ast
import builtins
import copy
import difflib
import re
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from . import columns as col
from .expressions import NAMESPACES, Expression, read, show
from .functions import CONSTANTS, INSTEAD, LABELLED, LIBRARY
from .grammar import ARITHMETIC, check_methods, missing_values, root

# Methods for which a column stays what it is.
_AS_IS = {"astype", "isin", "map", "replace", "dt", "str", "cat", "eq", "ne"}
_TOOLS: dict[str, Callable[..., Any]] = {
    "__number__": col.number,
    "__real__": col.real,
    "__operand__": col.operand,
    "__exact__": col.exact,
    "__label__": col.label,
    "__logical__": col.logical,
    "__own__": col.own,
    "__in__": col.is_in,
    "__compare__": col.compare,
    "__category__": col.category,
}


class Scope(NamedTuple):
    """What the names of a formula mean: columns first, then the caller's, then the library's."""

    columns: Mapping[str, pd.Series[Any]]
    context: Mapping[str, Any]
    intercept: bool = False  # of the formula

    def value(self, name: str) -> Any:
        """A value by its name."""
        for layer in (self.columns, self.context, CONSTANTS):
            if name in layer:
                return layer[name]
        return self.function(name)

    def function(self, name: str) -> Any:
        """A function by its name."""
        return self.context[name] if name in self.context else LIBRARY[name]

    def at(self, node: ast.expr) -> Any:
        """The object that a function's name or a dotted name of the caller's means."""
        if isinstance(node, ast.Attribute):
            return getattr(self.at(node.value), node.attr)
        return self.function(node.id) if isinstance(node, ast.Name) else None


def resolve(
    codes: Sequence[tuple[str, bool]], data: pd.DataFrame, context: Mapping[str, Any], text: str
) -> dict[str, pd.Series[Any]]:
    """Columns that expressions (text, whether it is code) need; raise if a name is unknown."""
    found = [read(code) if is_code else None for code, is_code in codes]
    values: list[str] = []
    for (code, _), expression in zip(codes, found, strict=True):
        values += [code] if expression is None else expression.values
    values = list(dict.fromkeys(values))
    functions = list(dict.fromkeys(f for e in found if e is not None for f in e.functions))
    for name in values:
        constant = name in CONSTANTS and (name, False) not in codes
        if name not in data.columns and name not in context and not constant:
            raise _unknown("column", name, [str(column) for column in data.columns], text)
    for name in functions:
        if name not in context and name not in LIBRARY:
            raise _unknown("function", name, sorted(LIBRARY.keys() - NAMESPACES), text)
    columns = [name for name in values if name in data.columns]
    for name in columns:
        if list(data.columns).count(name) > 1:
            raise DataError(f"the data has several columns named `{name}`: rename them")
        if name in functions:
            raise DataError(f"`{name}` is a column and a function here: rename the column")
    for expression in found:
        if expression is not None:
            _check_attributes(expression, columns, context, text)
    return {name: data[name] for name in columns}


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
    compiled, names = _compiled(code, own, stateful, exact)
    tools = {name: _meant(name, expression, scope) for name in names}
    if expression.calls:
        columns = {name: scope.columns.get(expression.column(name)) for name in names}
        tools |= {name: col.guarded(c) for name, c in columns.items() if c is not None}
    state = {} if state is None else state
    tools |= {
        "__state__": lambda call: state.setdefault(call, {}),
        "__spec__": spec,
        "__metadata__": {"intercept": scope.intercept},
        "__context__": scope.columns,
    }
    return eval(compiled, {**tools, "__builtins__": {}, **_TOOLS})  # names are checked


def _meant(name: str, expression: Expression, scope: Scope) -> Any:
    """What a name of the tree stands for."""
    name = expression.column(name)
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


@lru_cache(maxsize=1024)
def _compiled(
    code: str, own: frozenset[str], stateful: frozenset[str], exact: bool
) -> tuple[CodeType, tuple[str, ...]]:
    """The expression with its conversions, and the names that it reads."""
    expression = read(code)
    tree = copy.deepcopy(expression.tree)
    names = tuple({n.id for n in ast.walk(tree) if isinstance(n, ast.Name)})
    tree.body = _Rewriter(expression, own, stateful, exact).visit(tree.body)
    if exact:
        tree.body = _call("__label__", tree.body)
    return compile(ast.fix_missing_locations(tree), "<formula>", "eval"), names


def _call(name: str, *given: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(given), [])


class _Rewriter(ast.NodeTransformer):
    """Puts the conversions of :mod:`lmm_jax.formulas.columns` around what an operation reads."""

    def __init__(
        self, expression: Expression, own: frozenset[str], stateful: frozenset[str], exact: bool
    ) -> None:
        self.expression, self.own, self.stateful = expression, own, stateful
        self.real = "__exact__" if exact else "__real__"

    def _read(self, tool: str, node: ast.expr) -> ast.expr:
        """An operand in float64; what is written as a number or a text stays."""
        written = isinstance(node, ast.Constant | ast.List | ast.Tuple | ast.Dict)
        return node if written else _call(tool, node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        fixed = not any(isinstance(n, ast.Name | ast.List | ast.Tuple) for n in ast.walk(node))
        self.generic_visit(node)
        if not isinstance(node.op, ARITHMETIC):
            node.left = _call("__logical__", node.left)
            node.right = _call("__logical__", node.right)
        elif not fixed or isinstance(node.op, ast.Pow | ast.Mult):
            node.left, node.right = self._operand(node.left), self._operand(node.right)
        return node  # 1 + 1 may count columns: poly(x, 1 + 1)

    def _operand(self, node: ast.expr) -> ast.expr:
        return _call("__operand__", _call(self.real, node))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Invert):
            node.operand = _call("__logical__", node.operand)
        else:
            fixed = isinstance(node.operand, ast.Constant)
            node.operand = node.operand if fixed else self._operand(node.operand)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.ops[0], ast.In | ast.NotIn):
            found = _call("__in__", node.left, node.comparators[0])
            return found if isinstance(node.ops[0], ast.In) else ast.UnaryOp(ast.Invert(), found)
        sign = ast.Constant(type(node.ops[0]).__name__)
        return _call("__compare__", sign, node.left, node.comparators[0])

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        start = root(node)
        self.generic_visit(node)
        space = isinstance(start, ast.Name) and (start.id in self.own or start.id in NAMESPACES)
        if not space and node.attr not in _AS_IS and not isinstance(node.value, ast.Attribute):
            node.value = self._read("__number__", node.value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name, written = ast.unparse(node.func), show(ast.unparse(node), self.expression.quoted)
        if name in ("as_numeric", "as_integer") and name not in self.own:
            self._use_codes(node)
        labels = name in LABELLED and name not in self.own
        outer, simple = self.real, all(isinstance(a, ast.Name) for a in node.args[:1])
        if labels and name in ("C", "hashed"):
            self.real = "__exact__"
        self.generic_visit(node)
        self.real = outer
        if labels and name in ("C", "hashed") and not simple:
            node.args[:1] = [_call("__label__", argument) for argument in node.args[:1]]
        if not labels and not self._is_as_is(node.func):
            tool = "__own__" if name.split(".")[0] in self.own else self._tool(node.func)
            node.args = [self._read(tool, argument) for argument in node.args]
            for given in node.keywords:
                given.value = self._read(tool, given.value)
        if name in self.stateful:
            extra = {
                "_state": _call("__state__", ast.Constant(written)),
                "_spec": ast.Name("__spec__", ast.Load()),
                "_metadata": ast.Name("__metadata__", ast.Load()),
                "_context": ast.Name("__context__", ast.Load()),
            }
            node.keywords += [ast.keyword(key, value) for key, value in extra.items()]
        return node

    def _use_codes(self, node: ast.Call) -> None:
        """R's as.numeric(factor(k)) gives the codes of a factor that is made here."""
        inner = node.args[0] if node.args else None
        if not isinstance(inner, ast.Call) or not isinstance(inner.func, ast.Name):
            return
        if inner.func.id != "C" or "C" in self.own:
            return
        if len(inner.args) != 1 or inner.keywords:
            raise FormulaError(
                "as.numeric() of factor() with levels: make the column a categorical in the data"
            )
        node.args[0] = _call("__category__", inner.args[0])

    def _tool(self, function: ast.expr) -> str:
        """The library's functions count logicals as 0 and 1, methods take them as they are."""
        if isinstance(function, ast.Name):
            return self.real
        start = root(function)
        return self.real if isinstance(start, ast.Name) and start.id == "np" else "__number__"

    def _is_as_is(self, function: ast.expr) -> bool:
        return isinstance(function, ast.Attribute) and function.attr in {*_AS_IS, "groupby"}


def shaped(value: Any, expr: str, index: pd.Index[Any]) -> Any:
    """The value of a term, one entry or one line a row; raise for anything else."""
    inner = getattr(value, "__wrapped__", value)
    if inner is None:
        raise DataError(f"`{expr}` gives None: a function has to return a value for every row")
    if isinstance(inner, Mapping):
        for part in inner.values():
            shaped(part, expr, index)
        return value
    if isinstance(inner, list | tuple):
        value = inner = np.asarray(inner)
    shape = getattr(inner, "shape", ())
    if not shape:
        raise DataError(
            f"`{expr}` gives one value, {inner!r:.40}: a term needs a value for every row"
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
