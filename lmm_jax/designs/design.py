"""The design of a model: y, X and the random-effects terms of the rows that are used.

Made from a formula (:mod:`lmm_jax.designs.from_formula`) or from arrays
(:mod:`lmm_jax.designs.from_arrays`); bad input ends in :mod:`lmm_jax.designs.assembled`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd

from ..covariance.params import Params
from ..covariance.structures import Structure, term_sizes
from ..inputs.arguments import instance
from ..layouts.plan import LayoutInfo, plan_layout
from ..layouts.residual.field_index import FieldPlan
from ..numerics.blocks import AnyMatrix
from ..numerics.processes import float64
from ..reprs import folded, inside, public
from .column_moments import ColumnMoments, of_rows
from .compressed import AnyLayout, AnyPlan, Compressed, compress_rows, few_groups, padded
from .fixed_source import FixedSource
from .named_params import in_order
from .related import RelatedCompression, RelatedPlan, compress_related, related_root
from .residual import Residual
from .terms import RandomTerm

V = TypeVar("V")


@inside(
    "column_moments",
    "compressed",
    "compressed_by",
    "correlated_sizes",
    "endog_less_offset",
    "free_exog",
    "is_compressed",
    "is_related",
    "is_rotated",
    "known_part",
    "padded_rows",
    "traceable_plan",
    "places",
    "reach",
    "related_roots",
    "response_bound",
    "response_size",
    "row_weights",
    "sigma2",
    "source",
)
@public
@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """A linear mixed model without its parameters: ``y = X beta + Z b + offset + e``.

    Made by :func:`design` or :func:`design_from_arrays`.
    """

    endog: np.ndarray  # (n,)    response as given
    exog: np.ndarray  # (n, p)  fixed effects, full column rank
    exog_names: tuple[str, ...]
    endog_name: str
    terms: tuple[RandomTerm, ...]
    group_codes: np.ndarray  # (n,)   independent group of each row
    n_groups: int
    weights: np.ndarray | None  # (n,)   prior weights
    offset: np.ndarray | None  # (n,)
    index: pd.Index[Any]  # (n,)   labels of the rows that are used
    dropped: tuple[str, ...]  # columns of X left out for linear dependence
    n_missing: int  # rows left out for missing values
    source: FixedSource | None
    held: np.ndarray | None = None  # (p,)   values of fixed effects held fixed, NaN where free
    residual: Residual | None = None  # covariance of the residuals; None: independent, one variance
    gaps: tuple[tuple[str, int], ...] = ()  # variables with missing values, and how many
    output: str = "pandas"  # kind of frame that tables come in: that of the data
    approximate: bool | None = None  # crossed factors; None: where nothing else can be done
    sigma: float | None = None  # residual standard deviation where it is known
    absorbed: tuple[str, ...] = ()  # terms left out: X has their columns
    _subject: ClassVar[str] = "design"

    def _is_kind(self, kind: str) -> bool:
        """Whether the design is of a kind that some functions refuse (``capabilities.py``)."""
        return kind in _KINDS and _KINDS[kind](self)

    def __repr__(self) -> str:
        model = f"{self.endog_name} (from arrays)" if self.source is None else self.source.formula
        parts = [f"{term.text} {term.n_levels} levels" for term in self.terms]
        terms = ", ".join([*parts, *([] if self.residual is None else [self.residual.text])])
        fixed = f"{len(self.exog_names)} fixed effect{'s' * (len(self.exog_names) != 1)}"
        return folded(f"<{type(self).__name__}: {model}; {self.nobs} rows, {fixed}, {terms}>")

    def __getstate__(self) -> dict[str, Any]:
        # what is computed from the rows is computed again
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def nobs(self) -> int:
        """Number of rows used."""
        return self.endog.size

    @property
    def row_weights(self) -> np.ndarray:
        """Prior weights, (n,): ones where none were given."""
        return np.ones(self.nobs) if self.weights is None else self.weights

    @property
    def endog_less_offset(self) -> np.ndarray:
        """The response without the part of its mean that is known, (n,)."""
        return self.endog if self.offset is None else self.endog - self.offset

    @property
    def correlated_sizes(self) -> tuple[int, ...]:
        """Block sizes of ``cov_re``."""
        return self.sizes[: len(self.sizes) - self.n_components]

    @property
    def has_rows(self) -> bool:
        """Whether the rows are in memory."""
        return True

    def response_bound(self) -> float:
        """At least the norm of y around its mean, from one look at y."""
        y = self.endog_less_offset
        total = self.nobs if self.weights is None else self.weights.sum()
        return 2.0 * max(float(y.max()), -float(y.min())) * float(np.sqrt(total))

    def response_size(self) -> tuple[float, float, float]:
        """Largest ``|y|``, norm of y around its mean in units of it, and the sum of the weights."""
        y = self.endog_less_offset
        largest = max(float(y.max()), -float(y.min()))
        centred = y / (largest or 1.0)  # squares stay in the range of floats
        centred -= np.average(centred, weights=self.weights)
        if self.weights is None:
            return largest, float(np.sqrt(centred @ centred)), float(y.size)
        total = centred @ (self.weights * centred)
        return largest, float(np.sqrt(total)), float(self.weights.sum())

    def column_moments(self) -> ColumnMoments | None:
        """Moments of the columns of X and of every term; None where sums do not tell them."""
        return of_rows(self.exog, self.terms)

    @property
    def sigma2(self) -> np.ndarray | None:
        """Residual variance where it is known, ()."""
        return None if self.sigma is None else np.asarray(self.sigma * self.sigma)

    @property
    def structures(self) -> tuple[Structure, ...]:
        """Covariance structure of each term."""
        return tuple(term.structure for term in self.terms)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Coefficients per level of each term."""
        return term_sizes(self.structures)

    @property
    def n_components(self) -> int:
        """Number of variance components among the terms (they come last)."""
        return sum(term.is_component for term in self.terms)

    @property
    def is_related(self) -> bool:
        """Whether the levels of a term are related."""
        return any(term.relationship is not None for term in self.terms)

    @property
    def is_rotated(self) -> bool:
        """Whether one related term with one coefficient is all there is: rows can be rotated."""
        return self.is_related and self.sizes == (1,)

    @cached_property
    def _related(self) -> RelatedCompression:
        y, X, _ = self._free_rows()
        return compress_related(
            y, X, self.terms, self.weights, self.group_codes, self.n_groups, self.n_components
        )

    @cached_property
    def related_roots(self) -> tuple[AnyMatrix | None, ...]:
        """B with ``A = B B'`` of the levels that rows have, (m, r); None of a term without A."""
        return tuple(related_root(term) for term in self.terms)

    @cached_property
    def _planned(self) -> tuple[AnyPlan, LayoutInfo]:
        return self._plan_of(traceable=False)

    @cached_property
    def traceable_plan(self) -> AnyPlan:
        """That of a layout which programs can make of the rows as well."""
        return self._plan_of(traceable=True)[0] if isinstance(self.plan, FieldPlan) else self.plan

    def _plan_of(self, *, traceable: bool) -> tuple[AnyPlan, LayoutInfo]:
        if self.residual is not None:
            self.residual.check_settled()
        return plan_layout(
            self.group_codes,
            self.n_groups,
            [term.codes for term in self.terms],
            [term.n_levels for term in self.terms],
            self.structures,
            [term.label for term in self.terms],
            self.n_components,
            None if self.residual is None else self.residual.rows,
            traceable=traceable,
            approximate=self.approximate if self.has_rows else False,
        )

    @property
    def plan(self) -> AnyPlan:
        """Integer bookkeeping of the layout."""
        return self._planned[0]

    @property
    def places(self) -> AnyPlan | RelatedPlan:
        """Where the random effects stand in the layout."""
        return self._related.plan if self.is_related else self.plan

    @property
    def layout_info(self) -> LayoutInfo:
        """Which layout the data have got, and why."""
        return self._related.info if self.is_related else self._planned[1]

    @cached_property
    def compressed(self) -> Compressed:
        """The rows as a layout, from one pass over them when it is first asked for."""
        if self.is_related:
            return self._related.compressed.with_known(self.sigma2)
        with float64():
            found = compress_rows(*self._free_rows(), self.weights, self.plan)
        return found.with_known(self.sigma2)

    def compressed_by(self, program: Callable[..., tuple[AnyLayout, tuple[Any, Any], V]]) -> V:
        """Compress in a program that goes on from there; what it gives besides.

        Parameters
        ----------
        program : callable
            Of the padded rows, the residual variance that is known or None, and the
            ``few_groups`` of :class:`Compressed`: the layout, its reach and anything else.
        """
        few = few_groups(self.plan)
        layout, reach, rest = program(self.padded_rows(), self.sigma2, groups=few)
        found = Compressed(layout=layout, reach=reach, few_groups=few)
        self.__dict__["compressed"] = found  # where cached_property keeps it
        return rest

    def padded_rows(self) -> tuple[Any, ...]:
        """Arguments of :func:`lmm_jax.compress`, in the size of a program."""
        return padded(*self._free_rows(), self.weights, self.plan)

    @property
    def is_compressed(self) -> bool:
        """Whether the pass over the rows has been made."""
        return "compressed" in self.__dict__

    @property
    def layout(self) -> AnyLayout:
        """The compressed model: float64 JAX arrays, nothing of the size of the rows."""
        return self.compressed.on_device

    def ordered(self, params: Params) -> Params:
        """Parameters that were given by name in the order of this design, for arrays' functions."""
        instance(params, "params", Params, "a Params")
        return in_order(params, self.terms, self.exog_names)

    @property
    def reach(self) -> tuple[int, float]:
        """Dimensions of the rows that random effects reach, and what of y none can explain."""
        ranks, within = self.compressed.reach
        return int(ranks), float(within)

    def _free_rows(self) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
        """y, X and Z without the offset and the fixed effects that are held."""
        known = self.known_part()
        y = self.endog if known is None else self.endog - known
        return y, self.free_exog(), tuple(term.values for term in self.terms)

    def free_exog(self) -> np.ndarray:
        """Columns of X whose fixed effects are not held, (n, free)."""
        return self.exog if self.held is None else self.exog[:, np.isnan(self.held)]

    def known_part(self) -> np.ndarray | None:
        """Offset and what the held fixed effects give to the mean, (n,); None without either."""
        if self.held is None:
            return self.offset
        fixed = ~np.isnan(self.held)
        mean = self.exog[:, fixed] @ self.held[fixed]
        return mean if self.offset is None else mean + self.offset


def _has_core(design: Design) -> bool:
    """Whether some factors stand in a core, be they crossed or nested with many levels a group."""
    return not design.is_rotated and design.layout_info.kind in _CROSSED


def _has_outer_factor(design: Design) -> bool:
    """Whether the levels of one factor are the independent groups."""
    return any(t.n_levels == design.n_groups for t in design.terms if not t.is_component)


_CROSSED = ("crossed", "sparse", "matrix-free")  # kinds of layouts
_KINDS: dict[str, Callable[[Design], bool]] = {
    "weighted": lambda d: d.weights is not None,
    "offset": lambda d: d.offset is not None,
    "dropped": lambda d: bool(d.dropped),
    "components": lambda d: d.n_components > 0,
    "structured": lambda d: any(not s.unrestricted for s in d.structures),
    "nested": lambda d: len({t.group for t in d.terms}) > 1 and d.layout_info.kind == "grouped",
    "crossed": lambda d: _has_core(d) and not _has_outer_factor(d),
    "core": lambda d: _has_core(d),
    "sparse": lambda d: d.layout_info.kind == "sparse",
    "approximate": lambda d: d.layout_info.kind == "matrix-free",
    "large core": lambda d: d.compressed.layout._is_kind("large core"),
    "related": lambda d: d.is_related,
    "residual": lambda d: d.residual is not None,
    "arrays": lambda d: d.source is None,
    "batches": lambda d: not d.has_rows,
    "held effects": lambda d: d.held is not None,
    "sigma": lambda d: d.sigma is not None,
    "means": lambda d: d.residual is not None and d.residual.term.follows_means,
}
