"""The rows of a design as a layout: made by one pass over them, and then in their place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..layouts.compress import RowLayout, layout_of_rows
from ..layouts.contract import origin_apart
from ..layouts.crossed.index import CrossedPlan
from ..layouts.group_index import GroupPlan
from ..layouts.grouped import GroupedLayout
from ..layouts.matrix_free.compress import matrix_free_layout
from ..layouts.matrix_free.index import MatrixFreePlan
from ..layouts.matrix_free.layout import MatrixFreeLayout
from ..layouts.merged import merge, trim
from ..layouts.residual.alike import merge_alike
from ..layouts.residual.compress import field_layout
from ..layouts.residual.field_index import FieldPlan
from ..layouts.residual.fields import FieldLayout
from ..layouts.residual.index import ResidualPlan
from ..layouts.residual.layout import ResidualLayout
from ..layouts.sparse.compress import sparse_layout
from ..layouts.sparse.index import SparsePlan
from ..layouts.sparse.layout import SparseLayout
from ..layouts.stream_pass import MANY_ROWS, pad, sum_rows
from ..numerics.blocks import AnyMatrix
from ..numerics.processes import float64
from ..numerics.programs import compiled
from ..numerics.shapes import round_up_few
from ..numerics.tiers import Tier
from ..reprs import brief

AnyLayout = RowLayout | FieldLayout | SparseLayout | MatrixFreeLayout
AnyPlan = GroupPlan | CrossedPlan | SparsePlan


@dataclass(frozen=True, kw_only=True, eq=False)
class Compressed:
    """A layout and what is known of it besides."""

    layout: AnyLayout
    reach: tuple[Any, Any]  # dimensions that random effects reach; of y what none can explain
    few_groups: tuple[int, ...]  # of every bucket, those that an optimization has to look at
    bases: tuple[AnyMatrix | None, ...] = ()  # (L, r) a related term; none where no term is

    __repr__ = brief

    def __getstate__(self) -> dict[str, Any]:
        reach = tuple(float(number) for number in self.reach)
        return {
            "layout": self.layout,
            "reach": reach,
            "few_groups": self.few_groups,
            "bases": self.bases,
        }

    def with_known(self, sigma2: Any) -> Compressed:
        """The same with a residual variance that is known, (), or None."""
        if sigma2 is None:
            return self
        return replace(self, layout=replace(self.layout, sigma2=sigma2))

    def basis(self, t: int) -> AnyMatrix | None:
        """``B`` of term t, whose effects are ``a = B b`` with the b of the layout; or None."""
        return self.bases[t] if self.bases else None

    @cached_property
    def on_device(self) -> AnyLayout:
        """The layout as arrays of JAX, if it is not for NumPy alone."""
        if self.layout.on_host:
            return self.layout
        with float64():
            return jax.tree.map(jnp.asarray, self.layout)

    @cached_property
    def merged(self) -> AnyLayout:
        """The layout for optimization: groups of equal factors merged where that is worth it."""
        layout, few = self.layout, self.few_groups
        if not isinstance(layout, GroupedLayout):
            return merge_alike(layout)
        merged = merge(layout)
        if merged is not layout or few == tuple(b.copies.size for b in layout.buckets):
            return merged
        return trim(jax.tree.map(np.asarray, layout), few)  # slices on the host need no programs

    @property
    def of_fit(self) -> AnyLayout:
        """The layout that leads from a solution back to the data, and that profiles evaluate.

        Beside a residual covariance the one that was optimized, which may measure y from other
        fixed effects; otherwise :attr:`merged` has the coordinates of the layout as it was.
        """
        return self.merged if self.layout._is_kind("residual") else self.layout

    @property
    def moved(self) -> np.ndarray:
        """Fixed effects that :attr:`of_fit` measures y from, as the layout measures them, (p,)."""
        return origin_apart(self.of_fit, self.layout)

    @property
    def of_moments(self) -> AnyLayout:
        """The layout for moments of V: merged as well where that leaves the rows in order."""
        return self.merged if isinstance(self.layout, ResidualLayout) else self.layout


# Seconds that NumPy takes for a number in the rows, about; and in the rows and the lists of a
# crossed design.
_PER_NUMBER, _PER_ENTRY = 2e-7, 5e-8
_MANY = Tier(_PER_NUMBER)  # of rows that compiled programs take in batches, whatever their number


@partial(compiled, host=_PER_ENTRY)
def _compress(*args: Any) -> tuple[Any, tuple[Any, Any]]:
    layout = layout_of_rows(*args)
    return layout, (layout.ranks(), layout.within_rss())


def compress_rows(
    y: np.ndarray,
    X: np.ndarray,
    Z: tuple[np.ndarray, ...],
    weights: np.ndarray | None,
    plan: AnyPlan,
) -> Compressed:
    """One pass over the rows: by NumPy, in one program, or in batches where they are many."""
    at_once = _by_numpy(y, X, Z, weights, plan)
    if at_once is not None:
        reach = at_once.ranks(), at_once.within_rss()
        return Compressed(layout=at_once, reach=reach, few_groups=())
    made, key = None, (X.shape[1], plan.index.sizes)
    streamed = None
    if isinstance(plan, GroupPlan) and not isinstance(plan, ResidualPlan) and y.size > MANY_ROWS:
        streamed = plan.index
    numbers = y.size + X.size + sum(z.size for z in Z)
    if streamed is not None and not _MANY.takes_numpy(key, numbers):
        made = sum_rows(y, X, Z, weights, streamed)
        _MANY.add_compiled(key)
    if made is None:
        start = perf_counter()
        made = _compress(*padded(y, X, Z, weights, plan))
        if streamed is not None:
            _MANY.add(key, perf_counter() - start)
    return Compressed(layout=made[0], reach=made[1], few_groups=few_groups(plan))


def _by_numpy(
    y: np.ndarray,
    X: np.ndarray,
    Z: tuple[np.ndarray, ...],
    weights: np.ndarray | None,
    plan: AnyPlan,
) -> AnyLayout | None:
    """The layout, where its shapes depend on what is in the rows; otherwise None."""
    if isinstance(plan, FieldPlan):
        return field_layout(*padded(y, X, Z, weights, plan))
    if isinstance(plan, MatrixFreePlan):
        return matrix_free_layout(y, X, Z, weights, plan.index, plan.first)
    return sparse_layout(y, X, Z, weights, plan.index) if isinstance(plan, SparsePlan) else None


def padded(
    y: np.ndarray,
    X: np.ndarray,
    Z: tuple[np.ndarray, ...],
    weights: np.ndarray | None,
    plan: AnyPlan,
) -> tuple[Any, ...]:
    """Arguments of :func:`lmm_jax.compress`, with rows that weigh nothing after the others."""
    rows = plan.index.n_rows
    weights = np.ones(y.size) if weights is None else weights
    blocks = tuple(pad(z, rows) for z in Z)
    return pad(y, rows), pad(X, rows), blocks, pad(weights, rows), plan.index


def few_groups(plan: AnyPlan) -> tuple[int, ...]:
    """Groups of every bucket that an optimization has to look at."""
    if not isinstance(plan, GroupPlan) or isinstance(plan, ResidualPlan):
        return ()
    counts = np.bincount(plan.group_bucket, minlength=len(plan.index.n_groups))
    return tuple(round_up_few(count) for count in counts.tolist())
