"""Layouts of models in which the levels of a factor are related: ``cov(a) = A (x) Psi``.

With ``A = B B'`` on the ids that have rows, ``a = B b`` with independent b: Z B takes the place
of Z, and nothing above the waist has to know. What stands in the layout is chosen by cost.

One related term with one coefficient is *rotated*: with t_i the length of the column of id i,
``t A t = U S U'``, the rows ``U' Q' [X y]`` are independent, with ``T_j = sqrt(S_j)``: groups of
one row, after one decomposition (Kang et al. 2008, doi:10.1534/genetics.107.080101). Other terms
form a core behind it where that is small; otherwise all terms stand in the core together, with
``Z B`` dense.

All of it is done once, in NumPy, with nothing of the size of the rows times that of A.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..numerics.shapes import round_up_few
from .grouped import GroupedLayout
from .related_core import RelatedParts, core_layout
from .related_rows import Known, ScaledColumns, TermColumns, on_scale
from .rotation import ids_of, rotate, rotated_bucket, rotated_map, spectrum_of
from .scaled_rows import maps_back, one_response

__all__ = ["Known", "RelatedParts", "TermColumns", "related_layout"]

# Pairs of entries that links may hold, and what one costs in units of a multiplication in the
# dense matrices of the core.
_MOST_PAIRS = 1 << 25
_PAIR_COST = 50


def related_layout(
    y: np.ndarray,
    X: np.ndarray,
    terms: Sequence[TermColumns],
    weights: np.ndarray | None,
    group: np.ndarray,
    n_groups: int,
    labels: Sequence[str],
    n_components: int,
) -> RelatedParts:
    """Compress a model with related terms.

    Parameters
    ----------
    y : ndarray, shape (n,)
    X : ndarray, shape (n, p)
    terms : sequence of TermColumns
    weights : ndarray, shape (n,), or None
    group : ndarray of int, shape (n,)
        Independent group of each row: families, and what other terms join.
    n_groups : int
    labels : sequence of str
        Names of the terms, for errors.
    n_components : int
        How many of the last terms are variance components.
    """
    rows = on_scale(y[:, None], X, terms, np.ones(y.size) if weights is None else weights)
    turned = _to_rotate(terms)
    if turned is not None and len(terms) == 1:
        return _rotated_layout(rows, terms, n_components)
    return core_layout(rows, terms, turned, group, n_groups, labels, n_components)


def _rotated_layout(
    rows: ScaledColumns, terms: Sequence[TermColumns], n_components: int
) -> RelatedParts:
    """Groups of one row each."""
    known, p = terms[0].known, rows.frame.X.shape[1]
    assert known is not None  # the caller has looked
    ids = ids_of(rows, 0)
    spectrum = spectrum_of(known, ids.lengths, rows.scales[0])
    c, rest, step = rotate(ids, spectrum, p)
    maps = maps_back(
        rows.weights, rows.frame, rows.whiteners, step, (terms[0].structure,), n_components
    )
    layout = GroupedLayout(
        buckets=(rotated_bucket(spectrum.sigma, c, len(rows.XY)),),
        S0=rest.T @ rest,
        **one_response(maps),
    )
    size = spectrum.sigma.size
    return RelatedParts(
        layout=layout,
        bases=(spectrum.basis,),
        level_maps=(rotated_map(size),),
        few_groups=(round_up_few(size),),
        eliminated=(0,),
        core_size=0,
        n_blocks=0,
    )


def _to_rotate(terms: Sequence[TermColumns]) -> int | None:
    """The related term that is rotated: with one coefficient, and worth it beside the others."""
    able = [t for t, term in enumerate(terms) if term.known is not None and term.structure.k == 1]
    if not able:
        return None
    found = max(able, key=lambda t: terms[t].n_levels)
    own = terms[found].n_levels
    rest = sum(t.n_levels * t.structure.k for t in terms) - own
    pairs = own * rest * (rest + 1) // 2
    if rest and (pairs > _MOST_PAIRS or _PAIR_COST * pairs > (own + rest) ** 3):
        return None
    return found
