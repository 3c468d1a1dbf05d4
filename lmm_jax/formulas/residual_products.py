"""Products of residual covariances: `ar1(visit | id) * diag(sex)`, rows and columns of a field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import FormulaError
from .residual import OF_NUGGETS, SEPARABLE, ResidualTerm, is_residual, read_call
from .tokens import Item, split


def read_residual(term: Sequence[Item], text: str) -> ResidualTerm:
    """The residual covariance of a term of the formula, a product of up to three calls.

    Raises
    ------
    FormulaError
        It cannot be read, or asks for two correlations or two variances of a kind.
    """
    found = _factors(term, text)
    whole = found.get("correlation", next(iter(found.values())))
    if whole.nugget and whole.correlation == "ar1":
        raise FormulaError(OF_NUGGETS, text, term[0].start)
    levels, of = found.get("diag"), found.get("covariate")
    if levels is not None:
        if whole.spread == "visits":
            raise FormulaError(
                f"`{whole.text}` has a variance for every visit already: take its homogeneous "
                f"form, or leave out `{levels.text}`",
                text,
                term[0].start,
            )
        whole = replace(whole, spread="diag", strata=levels.strata)
    if of is not None:
        whole = replace(whole, of=of.of, covariate=of.covariate)
    return replace(whole, text=text[term[0].start : term[-1].stop])


def _factors(term: Sequence[Item], text: str) -> dict[str, ResidualTerm]:
    """Factors of a product by what they are: correlation, levels of `diag()`, covariate."""
    found: dict[str, ResidualTerm] = {}
    for _, items in split(term, "*", text):
        if len(items) != 1 or not is_residual(items[0].text):
            raise FormulaError(
                "a residual covariance stands alone, or is the product of one correlation and one "
                "variance, `ar1(visit | id) * diag(sex)`, or of those along the rows and columns "
                "of a field, `ar1(row | field) * ar1(column | field)`, without parentheses",
                text,
                items[0].start,
            )
        one = read_call(items[0], text)
        kind = "correlation" if one.correlation else "covariate" if one.of else "diag"
        if kind in found and _are_axes(found[kind], one):
            one = _field(found.pop(kind), one)
        if kind in found:
            raise FormulaError(
                f"`{found[kind].text}` and `{one.text}` are two of a kind: a product has one "
                "correlation, one `diag()`, and one `power()` or `expo()`, as in "
                "`ar1(visit | id) * diag(sex)`; of a field's rows and columns "
                "`ar1(row | field) * ar1(column | field)`",
                text,
                items[0].start,
            )
        found[kind] = one
    return found


def _are_axes(one: ResidualTerm, other: ResidualTerm) -> bool:
    """Whether two correlations are those along the rows and the columns of one field."""
    same = (one.by, one.group) == (other.by, other.group) and one.places != other.places
    return same and all(at.correlation == "ar1" and at.spread == "one" for at in (one, other))


def _field(one: ResidualTerm, other: ResidualTerm) -> ResidualTerm:
    """Their product."""
    return replace(
        one,
        correlation=SEPARABLE,
        places=(*one.places, *other.places),
        order=(0, 0),
        nugget=one.nugget or other.nugget,
        steps=False,
        text=f"{one.text} * {other.text}",
    )
