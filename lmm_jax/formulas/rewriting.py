"""Expressions with conversions around what they read: arithmetic is that of doubles, as in R."""

from __future__ import annotations

import ast
import copy
import re
from functools import lru_cache
from types import CodeType

from ..errors import FormulaError
from .expressions import NAMESPACES, Expression, read, show
from .functions import LABELLED, LOGICALS
from .grammar import ARITHMETIC, REDUCTIONS, SUMMARIES, root

# A function called like a column that the expression reads.
CALLED = "__called_"
# Methods for which a column stays what it is.
_AS_IS = {"astype", "isin", "map", "replace", "dt", "str", "cat", "eq", "ne"}


@lru_cache(maxsize=1024)
def compiled(
    code: str, own: frozenset[str], stateful: frozenset[str], exact: bool
) -> tuple[CodeType, tuple[str, ...]]:
    """The expression with its conversions, and the names that it reads."""
    expression = read(code)
    tree = copy.deepcopy(expression.tree)
    names = tuple({n.id for n in ast.walk(tree) if isinstance(n, ast.Name)})
    tree.body = _Rewriter(expression, own, stateful, exact).visit(tree.body)
    if exact:
        tree.body = _call("__label__", tree.body)
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        if isinstance(call.func, ast.Name) and call.func.id in expression.both:
            call.func = ast.Name(CALLED + call.func.id, ast.Load())
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

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """One number of a column, `x[1]`, is that of the first data; `poly(x, 2)[, 1]` a column."""
        written, places = show(ast.unparse(node), self.expression.quoted), node.slice
        of_python = self._is_of_python(node)
        self.generic_visit(node)
        if isinstance(places, ast.Tuple) and re.fullmatch(r"\(:, \d+\)", ast.unparse(places)):
            return _call("__column__", node.value, places.elts[1])
        if of_python:
            return self._kept(node, written, several=False)
        if isinstance(node.slice, ast.Slice | ast.Tuple):
            raise FormulaError(
                f"`{written}` is read differently by R and Python: list the places, counted from "
                "1, `x[c(1, 2)]`; a column of several is `poly(x, 2)[, 1]`"
            )
        return self._kept(_call("__place__", node.value, node.slice), written, several=False)

    def _is_of_python(self, node: ast.Subscript) -> bool:
        """Whether brackets follow what is Python's, `x.mode()[0]`, and count from 0."""
        value = node.value.func if isinstance(node.value, ast.Call) else node.value
        own = isinstance(value, ast.Name) and value.id in self.own
        return own or isinstance(value, ast.Attribute | ast.List | ast.Dict | ast.Tuple)

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
        several = _is_several(node)
        outer, simple = self.real, all(isinstance(a, ast.Name) for a in node.args[:1])
        if labels and name in ("C", "hashed"):
            self.real = "__exact__"
        self.generic_visit(node)
        self.real = outer
        if labels and name in ("C", "hashed") and not simple:
            node.args[:1] = [_call("__label__", argument) for argument in node.args[:1]]
        if name in LOGICALS and name not in self.own:
            tool = "__exact_number__" if self.real == "__exact__" else "__number__"
            node.args = [self._read(tool, argument) for argument in node.args]
        elif not labels and not self._is_as_is(node.func):
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
        elif self._is_summary(node.func) or self._is_own(node.func):
            return self._kept(node, written, several=several)
        return node

    def _kept(self, node: ast.expr, written: str, *, several: bool) -> ast.expr:
        """A value that new data take over from the first data, found where it is not there."""
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        later = ast.Lambda(nothing, node)  # of few rows it may have no value
        state = _call("__state__", ast.Constant(written))
        return _call("__kept__", later, state, ast.Constant(several))

    def _is_summary(self, function: ast.expr) -> bool:
        """Whether one number comes of a column, `x.mean()` or `np.mean(x)`, as of `mean(x)`."""
        start = root(function)
        own = isinstance(start, ast.Name) and start.id in {*self.own, "contr"}  # contr.sum(3)
        known = REDUCTIONS | SUMMARIES
        return isinstance(function, ast.Attribute) and function.attr in known and not own

    def _is_own(self, function: ast.expr) -> bool:
        """Whether a function of the caller's is called, which may be a summary itself."""
        start = root(function)
        return isinstance(start, ast.Name) and start.id in self.own

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


def _is_several(call: ast.Call) -> bool:
    """Whether a few numbers come of a column: not of columns side by side, nor of its windows."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in SUMMARIES:
        return False
    own = isinstance(root(call.func), ast.Name) and root(call.func).id == "np"  # type: ignore[attr-defined]
    along = len(call.args) > 1 + own or any(given.arg == "axis" for given in call.keywords)
    inner = {node.attr for node in ast.walk(call.func.value) if isinstance(node, ast.Attribute)}
    return not along and not inner & {"rolling", "expanding", "ewm", "groupby"}
