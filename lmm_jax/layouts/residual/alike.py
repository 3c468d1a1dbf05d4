"""Rows of a residual covariance that are alike, merged, whatever kind of layout holds them."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import numpy as np

from ..contract import Layout
from .chain_merged import merge_links
from .layout import ResidualLayout
from .markov import MarkovLayout
from .merged import merge_subjects, share_patterns
from .strata_rows import stratify
from .subjects import SubjectLayout

L = TypeVar("L", bound=Layout)


def merge_alike(layout: L) -> L:
    """A layout of NumPy with subjects or links merged; without a residual covariance itself."""
    found: Any = layout
    if isinstance(layout, MarkovLayout):
        rows = jax.tree.map(np.asarray, layout)
        found = stratify(rows)
        found = merge_links(rows) if found is rows else found
    elif isinstance(layout, ResidualLayout):
        found = merge_subjects(jax.tree.map(np.asarray, layout))
    elif isinstance(layout, SubjectLayout):
        found = share_patterns(jax.tree.map(np.asarray, layout))
    merged: L = found
    return merged
