"""What rows that a fit has not seen are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..formulas.right_side import written
from .residual_new import spread_expressions


def expressions(
    design: Any,
    chosen: Sequence[bool],
    *,
    conditional: bool = False,
    noise: bool = False,
    groups: bool = True,
) -> list[str]:
    """Expressions that new rows are made of.

    Parameters
    ----------
    design : Design
        Or what a result without its rows keeps of one.
    chosen : sequence of bool
        Random-effects terms whose effects are part of the mean.
    conditional : bool
        Given the residuals that their subjects have in the fit.
    noise : bool
        With the variance of an observation.
    groups : bool
        With what says whose random effects and residuals they have.
    """
    assert design.source is not None  # require has looked
    out = [written(design.source.spec.formula), *design.source.offsets]
    for term, take in zip(design.terms, chosen, strict=True):
        out += term.source.group if take and groups else ()
        out += [written(term.source.spec.formula)] if take or noise else []
    if design.residual is not None:
        own = design.residual.term
        if conditional and own.correlation:
            out += own.expressions if groups else own.row_expressions
        elif noise:
            out += spread_expressions(own)
    return [text for text in out if text]  # a model may have no fixed effects
