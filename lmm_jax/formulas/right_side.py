"""A right-hand side as formulaic reads it, and the names that it mentions."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import lru_cache, reduce

from formulaic import Formula, SimpleFormula
from formulaic.errors import FormulaicError
from formulaic.parser import DefaultFormulaParser
from formulaic.parser.parser import DefaultOperatorResolver
from formulaic.parser.types import Factor, Operator, OrderedSet, Term

from ..errors import FormulaError
from .expressions import hide, names_in, quoted, read, show
from .tokens import lex, syntax_error


def _nested_in(nested: OrderedSet[Term], outer: OrderedSet[Term]) -> OrderedSet[Term]:
    """R's `x %in% f`: every term on the left times all of those on the right."""
    common = reduce(lambda left, right: left * right, outer)
    return OrderedSet(term * common for term in nested)


class _Operators(DefaultOperatorResolver):  # type: ignore[misc]
    """Formulaic's operators with R's `%in%`."""

    @property
    def operators(self) -> list[Operator]:
        """All operators; `%in%` binds more tightly than `*`, as in R."""
        nested = Operator("in", arity=2, precedence=250, associativity="left", to_terms=_nested_in)
        return [nested if o.symbol == "in" else o for o in super().operators]


_PARSER = DefaultFormulaParser(operator_resolver=_Operators())


@lru_cache(maxsize=1024)
def as_formula(rhs: str) -> SimpleFormula:
    """Formulaic's formula of a right-hand side; its expressions are read and checked."""
    hidden, names = hide(rhs, texts=True)
    try:
        formula = Formula(hidden, _parser=_PARSER)
    except (FormulaicError, SyntaxError, TypeError, ValueError) as error:
        raise syntax_error(error, rhs, names) from error
    if not isinstance(formula, SimpleFormula):
        raise FormulaError("expected a right-hand side: no `~`, no `|`", rhs, None)
    terms = [Term([_shown(f, names) for f in term.factors]) for term in formula]
    for factor in [f for term in terms for f in term.factors]:
        if factor.eval_method is Factor.EvalMethod.PYTHON:
            names_in(factor.expr)
    return SimpleFormula(terms)


def _shown(factor: Factor, names: tuple[str, ...]) -> Factor:
    """A factor with the names that stood between backticks."""
    expr = show(factor.expr, names)
    if factor.eval_method is Factor.EvalMethod.LOOKUP:
        expr = expr.strip("`")
    return Factor(expr, eval_method=factor.eval_method, kind=factor.kind)


def written(formula: SimpleFormula) -> str:
    """A right-hand side as text, with backticks where names need them."""
    terms = [
        ":".join(
            quoted(f.expr) if f.eval_method is Factor.EvalMethod.LOOKUP else f.expr
            for f in term.factors
        )
        for term in formula
    ]
    return " + ".join(terms) or "0"


@lru_cache(maxsize=1024)
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
    for item in lex(expr):
        if item.kind == "name":
            out.append(item.text.strip("`"))
        elif item.kind == "python":
            out += names_in(item.text.strip("{}"))[0]
    return tuple(dict.fromkeys(out))


def mentioned(expressions: Iterable[str]) -> set[str]:
    """Every name that expressions or right-hand sides hold, of columns, functions and namespaces.

    Examples
    --------
    >>> sorted(mentioned(["I(x - x.mean()) + np.sqrt(z)"]))
    ['I', 'np', 'x', 'z']
    """
    out: set[str] = set()
    for item in (item for expression in expressions for item in lex(expression)):
        if item.kind == "name":
            out.add(item.text.strip("`"))
        elif item.kind == "python":
            found = read(item.text.strip("{}"))
            names = (node.id for node in ast.walk(found.tree) if isinstance(node, ast.Name))
            out |= {found.column(name) for name in names}
    return out
