"""A right-hand side as formulaic reads it, and the names that it mentions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import lru_cache, reduce
from typing import Any

from formulaic import Formula, ModelSpec, SimpleFormula
from formulaic.errors import FormulaicError
from formulaic.parser import DefaultFormulaParser
from formulaic.parser.parser import DefaultOperatorResolver
from formulaic.parser.types import Factor, Operator, OrderedSet, Term, Token
from formulaic.parser.utils import exc_for_token

from ..errors import FormulaError
from .expressions import BESIDE, hide, is_factor, names_in, quoted, read, show
from .tokens import lex, syntax_error

# Operators that multiply terms, as one writes them.
_PRODUCTS = {"*": "*", "/": "/", ":": ":", "in": "%in%"}


def _nested_in(nested: OrderedSet[Term], outer: OrderedSet[Term]) -> OrderedSet[Term]:
    """R's `x %in% f`: every term on the left times all of those on the right."""
    common = reduce(lambda left, right: left * right, outer)
    return OrderedSet(term * common for term in nested)


def _power(terms: OrderedSet[Term], exponent: OrderedSet[Term]) -> OrderedSet[Term]:
    """`(x + f)^2`: the terms crossed with themselves, until no crossing adds a term."""
    found = terms
    for _ in range(int(next(iter(exponent)).factors[0].expr) - 1):
        crossed = OrderedSet(left * right for left in found for right in terms)
        if list(crossed) == list(found):
            break
        found = crossed
    return found


def _less(terms: OrderedSet[Term], others: OrderedSet[Term]) -> OrderedSet[Term]:
    """`x + f - f`: terms without those that are taken away, which have to be there."""
    for term in others:
        if term.degree and term not in terms:
            why = f"`- {term}` takes away what is no term of the formula"
            token = term.factors[0].token or Token()
            raise exc_for_token(token, f"{why}: {_instead(terms, term)}")
    return terms - others


def _instead(terms: OrderedSet[Term], taken: Term) -> str:
    """What to write in the place of a term that cannot be taken away."""
    there = sorted((term for term in terms if term.degree), key=lambda term: term.degree)
    if there and (taken.degree > 1 or is_factor(taken.factors[0].expr)):
        return f"there are {', '.join(f'`{term}`' for term in there)}"
    last = [f"{term} " for term in there if term.degree == 1][-1:]
    bare = re.sub(r"^I[(](.*)[)]$", r"\1", str(taken))
    return f"write `I({''.join(last)}- {bare})` for arithmetic"


def _nothing_less(others: OrderedSet[Term]) -> OrderedSet[Term]:
    """`-1` where no term stands before it."""
    return _less(OrderedSet(), others)


def _of_terms(product: Operator) -> Operator:
    """A product that refuses a side without a term, `(f - f) * x`."""

    def checked(*sides: OrderedSet[Term]) -> Any:
        if not all(map(len, sides)):
            message = f"no term is left on one side of `{_PRODUCTS[product.symbol]}`: remove it"
            raise exc_for_token(Token(), message)
        return product.to_terms(*sides)

    same = {"precedence": product.precedence, "associativity": product.associativity}
    return Operator(product.symbol, arity=2, to_terms=checked, **same)


class _Operators(DefaultOperatorResolver):  # type: ignore[misc]
    """Formulaic's operators with R's `%in%`; what is taken away has to be there."""

    @property
    def operators(self) -> list[Operator]:
        """All operators; `%in%` binds more tightly than `*`, as in R."""
        left = {"arity": 2, "associativity": "left"}
        right = {"arity": 2, "associativity": "right", "precedence": 500, "to_terms": _power}
        sign = {"arity": 1, "associativity": "right", "fixity": "prefix"}
        own = [
            Operator("in", precedence=250, to_terms=_nested_in, **left),
            Operator("-", precedence=100, to_terms=_less, **left),
            Operator("-", precedence=100, to_terms=_nothing_less, **sign),
            Operator("**", **right),
            Operator("^", **right),
        ]
        known = {(o.symbol, o.arity): o for o in own}
        every = [known.get((o.symbol, o.arity), o) for o in super().operators]
        return [_of_terms(o) if o.symbol in _PRODUCTS else o for o in every]


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
    codes = {"1"}  # the intercept, and what is computed: formulaic knows factors by their text
    for factor in [f for term in formula for f in term.factors]:
        if factor.eval_method is not Factor.EvalMethod.LOOKUP:
            codes.add(show(factor.expr, names))
    terms = [Term([_shown(f, names, codes) for f in term.factors]) for term in formula]
    for factor in [f for term in terms for f in term.factors]:
        if factor.eval_method is Factor.EvalMethod.PYTHON:
            names_in(factor.expr)
    return SimpleFormula(terms)


def _shown(factor: Factor, names: tuple[str, ...], codes: set[str]) -> Factor:
    """A factor with the names that stood between backticks.

    A column that is called like one of the codes keeps them: it is an expression then.
    """
    expr, method = show(factor.expr, names), factor.eval_method
    if method is Factor.EvalMethod.LOOKUP:
        bare = expr.strip("`")
        if bare in codes:
            method = Factor.EvalMethod.PYTHON
        else:
            expr = bare
    return Factor(expr, eval_method=method, kind=factor.kind)


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


def part_of(spec: ModelSpec, stays: Iterable[bool]) -> ModelSpec:
    """A spec with some of its terms, whose columns are those that it has."""
    terms = [term for term, here in zip(spec.term_slices, stays, strict=True) if here]
    return spec.subset(SimpleFormula(terms))


def right_side_of(spec: ModelSpec) -> str:
    """The right-hand side of a spec as one writes it: an intercept is understood."""
    terms = written(spec.formula)
    if terms in ("0", "1"):
        return terms
    return terms.removeprefix("1 + ") if terms.startswith("1 + ") else f"0 + {terms}"


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
            out |= {found.column(name).removeprefix(BESIDE) for name in names}
    return out
