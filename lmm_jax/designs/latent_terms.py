"""Related terms as terms of independent effects: for functions that look at rows one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from .design import Design
from .terms import RandomTerm


def latent_terms(design: Design) -> tuple[RandomTerm, ...]:
    """The terms, related ones in the independent effects b of ``a = B b``.

    A row then belongs to all of the b of its family, with the values ``z B``: a matrix of the
    size of the rows times the ids of the largest family.
    """
    return tuple(
        term if term.relationship is None else _latent(design, t)
        for t, term in enumerate(design.terms)
    )


def _latent(design: Design, t: int) -> RandomTerm:
    term, basis = design.terms[t], design.compressed.basis(t)
    assert basis is not None  # the caller has looked
    seen, row = np.unique(term.codes[:, 0], return_inverse=True)
    own = basis[seen]
    dense = own if isinstance(own, np.ndarray) else own.toarray()
    there = dense != 0
    width = int(there.sum(axis=1).max())
    # columns with a value first, as many as the largest family has
    codes = np.argsort(~there, axis=1, kind="stable")[:, :width]
    values = np.take_along_axis(dense, codes, axis=1)
    first = codes[np.arange(len(codes)), 0][:, None]
    codes = np.where(values != 0, codes, first)  # padding stays in the family
    return replace(
        term,
        levels=pd.RangeIndex(dense.shape[1]),
        codes=codes[row],
        values=values[row][:, :, None] * term.values,
        relationship=None,
    )
