"""What a result knows without the rows of its data: enough to predict, test and show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..designs.design import Design
from ..designs.fixed_source import FixedSource, read_expressions
from ..designs.residual import Residual
from ..designs.terms import RandomTerm
from ..designs.variables import Reference, reference_of
from ..formulas.right_side import mentioned
from ..inference.diagnostics.explained import Moments, moments_of
from ..layouts.plan import LayoutInfo
from ..reprs import brief
from .effects import LevelCovariances


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """The specification, the levels and the random effects of a fit; a pickle holds it."""

    source: FixedSource | None
    terms: tuple[RandomTerm, ...]  # without rows
    exog_names: tuple[str, ...]
    effects: tuple[np.ndarray, ...]  # (L, k) a term: conditional means
    covariances: Mapping[str, LevelCovariances]
    fitted: pd.Series[float] | None  # None: the rows came in batches and are gone
    layout_info: LayoutInfo
    reference: Reference | None = None  # for marginal means
    moments: Moments | None = None  # of the rows; None: sums did not tell them
    residual: Residual | None = None  # without rows
    # columns that depend on others, and terms that the fixed effects hold; none in old files
    dropped: tuple[str, ...] = ()
    absorbed: tuple[str, ...] = ()

    __repr__ = brief

    def _is_kind(self, kind: str) -> bool:
        """What the design was that this stands for."""
        lost = {"arrays": self.source is None, "batches": self.fitted is None}
        return lost.get(kind, False)


def keep(
    design: Design,
    effects: Sequence[np.ndarray],
    covariances: Mapping[str, LevelCovariances],
    fitted: pd.Series[float] | None,
) -> Kept:
    """What is kept of a design and of the random effects at its fit."""
    source = design.source
    if source is not None:  # of a context only what the formula names: it may hold anything
        read = read_expressions(source, design.terms)
        if design.residual is not None:
            read += design.residual.term.expressions
        used = mentioned(read)
        context = {name: value for name, value in source.context.items() if name in used}
        source = replace(source, context=context, rows=None)
    return Kept(
        source=source,
        terms=tuple(without_rows(term) for term in design.terms),
        exog_names=design.exog_names,
        effects=tuple(effects),
        covariances=covariances,
        fitted=fitted,
        layout_info=design.layout_info,
        reference=reference_of(design),
        moments=moments_of(design),
        residual=None if design.residual is None else design.residual.without_rows(),
        dropped=tuple(design.dropped),
        absorbed=design.absorbed,
    )


def without_rows(term: RandomTerm) -> RandomTerm:
    """The term with its labels alone."""
    empty: Any = slice(0)
    known = term.relationship
    return replace(
        term,
        codes=term.codes[empty].copy(),
        values=term.values[empty].copy(),
        relationship=None if known is None else known.without_matrix(),
    )
