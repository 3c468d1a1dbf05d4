"""Related terms in a dense core, alone or behind one that is rotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ..covariance.structures import Structure
from ..numerics.blocks import AnyMatrix
from ..numerics.shapes import round_up
from .buckets import Bucket
from .core_columns import CoreColumns, core_term
from .crossed.arrays import StartMoments
from .crossed.compress import core_moments, two_way_fit, within_step
from .crossed.core import Core
from .crossed.core_index import entry_pairs, padded
from .crossed.layout import CrossedLayout
from .crossed.links import Links
from .group_index import LevelMap
from .grouped import GroupedLayout
from .related_rows import ScaledColumns, TermColumns
from .rotation import ids_of, rotated_bucket, rotated_map, spectrum_of
from .scaled_rows import maps_back, one_response


class RelatedParts(NamedTuple):
    """A layout and the way back from it."""

    layout: GroupedLayout | CrossedLayout
    bases: tuple[AnyMatrix | None, ...]  # (L, r) a related term: a = B b + what no row tells of
    level_maps: tuple[LevelMap, ...]  # places of the b of a related term, or of the levels
    few_groups: tuple[int, ...]
    eliminated: tuple[int, ...]
    core_size: int
    n_blocks: int


class _Reach(NamedTuple):
    """The rotated term beside the core: ``Q_1' [Z_2, X y]``, and what is left of the rows."""

    sigma: np.ndarray  # (r,)
    d: np.ndarray  # (r, F)
    c: np.ndarray  # (r, p + 1)
    d_rest: np.ndarray  # (m - r, F)  directions of ids that A gives no variance
    c_rest: np.ndarray  # (m - r, p + 1)
    residual: np.ndarray  # (n, p + 1)  beside these: what no id reaches
    unit: scipy.sparse.csr_array | None  # (n, m)  Q of the ids
    group: np.ndarray  # (r,)  independent group of every row
    c_ols: np.ndarray  # (r,)  Q_1' y of the OLS residual

    @property
    def left(self) -> np.ndarray:
        """Rows that the term does not reach, (n + m - r, p + 1)."""
        return np.concatenate([self.residual, self.c_rest])

    def less(self, step: np.ndarray, core: CoreColumns, effects: np.ndarray) -> _Reach:
        """With y measured from ``X step + Z_2 effects``."""

        def moved(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
            out = rows.copy()
            out[:, -1] -= rows[:, :-1] @ step + own
            return out

        fit = core.forth(effects[:, None])[:, 0]
        if self.unit is not None:
            fit = fit - self.unit @ (self.unit.T @ fit)
        return self._replace(
            c=moved(self.c, self.d @ effects),
            c_rest=moved(self.c_rest, self.d_rest @ effects),
            residual=moved(self.residual, fit),
        )


def _reach(
    rows: ScaledColumns,
    terms: Sequence[TermColumns],
    turned: int | None,
    core: CoreColumns,
    group: np.ndarray,
) -> tuple[_Reach, AnyMatrix | None]:
    """Rows with the rotated term apart, and its basis; all rows are left where there is none."""
    F, C = core.row.size, rows.XY.shape[1]
    if turned is None:
        none = np.zeros(0)
        empty = _Reach(none, np.zeros((0, F)), np.zeros((0, C)), np.zeros((0, F)),
                       np.zeros((0, C)), rows.XY, None, none, none)  # fmt: skip
        return empty, None
    known = terms[turned].known
    assert known is not None  # the caller has looked
    ids = ids_of(rows, turned)
    spectrum = spectrum_of(known, ids.lengths, rows.scales[turned])
    d = core.back(ids.unit).T
    of_id = np.zeros(ids.lengths.size, np.int64)
    of_id[terms[turned].codes] = group[:, None]
    c = spectrum.turn(ids.c)
    found = _Reach(
        spectrum.sigma, spectrum.turn(d), c, spectrum.left_over(d), spectrum.left_over(ids.c),
        ids.residual, ids.unit, of_id[spectrum.family], c[:, -1],
    )  # fmt: skip
    return found, spectrum.basis


def core_layout(
    rows: ScaledColumns,
    terms: Sequence[TermColumns],
    turned: int | None,
    group: np.ndarray,
    n_groups: int,
    labels: Sequence[str],
    n_components: int,
) -> RelatedParts:
    """All terms, or all but the rotated one, in the core."""
    structures = tuple(term.structure for term in terms)
    inside = [t for t in range(len(terms)) if t != turned]
    core = CoreColumns(
        [core_term(terms[t], rows.Z[t], rows.scales[t], group) for t in inside],
        [structures[t].k for t in inside],
        n_groups,
        ", ".join(labels[t] for t in inside),
    )
    at, basis = _reach(rows, terms, turned, core, group)
    layout = _layout(rows, at, core, turned, structures, n_components)
    level_maps, bases = core.maps(len(layout.buckets)), [term.basis for term in core.terms]
    if turned is not None:
        level_maps.insert(turned, rotated_map(at.sigma.size))
        bases.insert(turned, basis)
    return RelatedParts(
        layout=layout,
        bases=tuple(bases),
        level_maps=tuple(level_maps),
        few_groups=(),
        eliminated=layout.eliminated,
        core_size=int(np.bincount(core.block).max()),
        n_blocks=core.shape[1],
    )


def _layout(
    rows: ScaledColumns,
    at: _Reach,
    core: CoreColumns,
    turned: int | None,
    structures: tuple[Structure, ...],
    n_components: int,
) -> CrossedLayout:
    """The core, behind the groups of one row that the rotated term has."""
    inside = [t for t in range(len(structures)) if t != turned]
    squares: Any = core.products()  # arrays of NumPy, where layouts say Array
    at, held, step = _measured(at, core, squares if turned is None else squares - core.square(at.d))
    buckets: tuple[Bucket, ...] = ()
    links: tuple[Links, ...] = ()
    if turned is not None:
        buckets = (rotated_bucket(at.sigma, at.c, len(rows.XY)),)
        links = (_links(at.d, core.places.group_block[at.group], core),)
    eliminated = () if turned is None else (turned,)
    maps = maps_back(
        rows.weights, rows.frame, rows.whiteners, step[:, None], structures, n_components
    )
    return CrossedLayout(
        buckets=buckets,
        S0=at.left.T @ at.left,
        links=links,
        core=held,
        moments=_moments(
            squares,
            rows,
            at,
            buckets,
            links,
            core,
            sizes=[s.k for s in structures],
            eliminated=eliminated,
            crossed=inside,
        ),
        eliminated=eliminated,
        crossed=tuple(inside),
        **one_response(maps),
    )


def _measured(at: _Reach, core: CoreColumns, S: Any) -> tuple[_Reach, Core, Any]:
    """Rows with y measured from fixed effects, beside those of the core's levels; and these."""
    step: Any = within_step(at.left[:, :-1].T @ at.left[:, :-1], at.left[:, :-1].T @ at.left[:, -1])
    at = at.less(step, core, np.zeros(core.row.size))
    nothing: Any = np.zeros((len(S), 1, S.shape[2]))
    held = Core(S=S, s=_core_rows(core, at), origin=nothing, widths=core.places.widths)
    origin: Any
    more: Any
    origin, more = two_way_fit(held, at.left.T @ at.left)
    at = at.less(more, core, core.flat(origin)[:, 0])
    held = Core(S=S, s=_core_rows(core, at), origin=origin, widths=core.places.widths)
    return at, held, step + more


def _core_rows(core: CoreColumns, at: _Reach) -> Any:
    """``Z_2' [X y]`` of what the rotated term leaves, (N, p + 1, B)."""
    return core.rows(core.back(at.residual) + at.d_rest.T @ at.c_rest)


def _links(d: np.ndarray, block: np.ndarray, core: CoreColumns) -> Links:
    """Every row of d meets every column of its block of the core."""
    group, column = [], []
    for b in np.unique(block):
        ids, columns = np.flatnonzero(block == b), np.flatnonzero(core.block == b)
        group.append(np.repeat(ids, columns.size))
        column.append(np.tile(columns, ids.size))
    groups, columns = np.concatenate(group), np.concatenate(column)
    order = np.lexsort((core.row[columns], groups))
    groups, columns = groups[order], columns[order]
    size = round_up(groups.size + 1)  # the last entry is empty: pairs past the end point there
    row, own = core.row[columns], core.block[columns]
    left, right = entry_pairs(groups, own * core.shape[0] + row, size)
    values = np.zeros((1, size))
    values[0, : groups.size] = d[groups, columns]
    arrays: dict[str, Any] = {
        "d": values,
        "group": padded(groups, size, last=int(groups[-1])),
        "row": padded(row, size),
        "block": padded(own, size),
        "left": left,
        "right": right,
    }
    return Links(**arrays)


def _moments(
    squares: Any,
    rows: ScaledColumns,
    at: _Reach,
    buckets: Sequence[Bucket],
    links: Sequence[Links],
    core: CoreColumns,
    *,
    sizes: Sequence[int],
    eliminated: Sequence[int],
    crossed: Sequence[int],
) -> StartMoments:
    """The moment equations of the start values; the rotated term's rows are groups of one."""
    y = rows.frame.Y * rows.weights.root[:, None]
    own: list[Any] = []
    raw = []
    for bucket, link in zip(buckets, links, strict=True):
        groups = np.zeros((1, 1, bucket.T.shape[2]))
        groups[0, 0, : at.sigma.size] = at.sigma * at.c_ols
        own.append(groups)
        raw.append(replace(link, d=link.d * bucket.T[0, :, link.group].T))
    y_rows: Any = core.rows(core.back(y))
    return core_moments(
        squares,
        y_rows,
        raw,
        own,
        buckets,
        sizes=sizes,
        eliminated=eliminated,
        crossed=crossed,
        widths=core.places.widths,
    )
