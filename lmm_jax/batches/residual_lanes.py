"""Many responses with a residual covariance, of the same rows: fitted side by side in NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import jax
import numpy as np

from ..designs.design import Design
from ..designs.responses import Responses, one_response
from ..errors import DataError
from ..layouts.residual.layout import ResidualLayout
from ..layouts.residual.merged import MergedDesign, merge_design
from ..layouts.response import Response
from ..likelihood.criterion import residual_df
from ..numerics.processes import float64
from ..numerics.tiers import running_on
from ..optimize.minimize import find_starts
from ..optimize.newton import CONVERGED, Solution
from .replicate_minimize import fit_each, fit_lanes

# Numbers of a layout from which lanes gain nothing.
_MUCH = 1 << 15
# Responses whose optima are looked for together, and numbers that their layouts hold.
_AT_ONCE = 256
_HELD = 1 << 23


def fit_subjects(
    layout: ResidualLayout,
    merged: MergedDesign | None,
    responses: Response,
    start: np.ndarray,
    *,
    reml: bool,
) -> Solution:
    """Optima from one start, (m,): side by side where that is not too much.

    ``merged`` is :func:`lmm_jax.layouts.residual.merged.merge_design` of the layout.
    """
    if merged is not None:
        layout, responses = merged.layout, merged.responses(responses)
    elif layout.size() > _MUCH:
        return fit_each(layout, responses, start, reml=reml)
    with running_on("numpy"):
        return fit_lanes(layout, responses, start, reml=reml)


def begin_responses(
    design: Design, columns: Responses, *, reml: bool, maxiter: int, tol: float, runtime: str
) -> Iterator[tuple[Design | None, Solution | None]]:
    """Designs of responses one after another, with their optima where lanes have found them.

    A design is None where a response leaves nothing to estimate from. Optima of complete
    responses with a residual covariance are looked for side by side in NumPy; what is not found
    is None.
    """
    together = design.residual is not None and design.held is None and runtime != "jax"
    waiting: list[Design | None] = []
    size = 0
    for i in range(columns.count):
        waiting.append(_model(design, columns, i))
        if together and _shares_rows(waiting[-1], design):
            with float64(), running_on(runtime):
                layout = waiting[-1].compressed.layout
            together = isinstance(layout, ResidualLayout)
            size += layout.size()
        if together and size < _HELD and len(waiting) < _AT_ONCE and i + 1 < columns.count:
            continue
        found: dict[int, Solution] = {}
        if together:
            with float64():
                together, found = _fit_alike(waiting, design, reml=reml, maxiter=maxiter, tol=tol)
        yield from ((model, found.get(k)) for k, model in enumerate(waiting))
        waiting, size = [], 0


def _model(design: Design, columns: Responses, i: int) -> Design | None:
    try:
        return one_response(design, columns, i)
    except DataError:
        return None


def _shares_rows(model: Design | None, design: Design) -> TypeGuard[Design]:
    """Whether a response has all rows and no weights of its own."""
    return model is not None and model.exog is design.exog and model.weights is design.weights


def _fit_alike(
    models: Sequence[Design | None], design: Design, *, reml: bool, maxiter: int, tol: float
) -> tuple[bool, dict[int, Solution]]:
    """Whether designs gain by lanes, and optima of some by their place, in NumPy.

    Each has its own starts. They differ in their response alone.
    """
    shared = [(k, one) for k, one in enumerate(models) if _shares_rows(one, design)]
    if len(shared) < 2:
        return True, {}
    # a program may have made them
    layouts = jax.device_get([one.compressed.layout for _, one in shared])
    base = layouts[0]
    if not _alike(layouts):
        return False, {}
    responses: Response = jax.tree.map(
        lambda *leaves: np.stack(leaves),
        *(
            Response(y=tuple(bucket.c[:, -1] for bucket in one.buckets), S0=one.S0[-1])
            for one in layouts
        ),
    )
    merged = merge_design(base)
    if merged is not None:
        base, responses = merged.layout, merged.responses(responses)
    elif base.size() > _MUCH:
        return False, {}
    with running_on("numpy"):
        each = [find_starts(one, reml=reml, maxiter=maxiter) for one in layouts]
        starts, wanted = (np.stack(parts, axis=-1) for parts in zip(*each, strict=True))
        found = fit_lanes(base, responses, starts, wanted, reml=reml, maxiter=maxiter, tol=tol)
    found = _in_own_units(found, layouts, reml=reml)
    lanes = (jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(shared)))
    pairs = zip(shared, layouts, lanes, strict=True)
    return True, {k: at for (k, _), one, at in pairs if _stands(at, one)}


def _stands(at: Solution, layout: ResidualLayout) -> bool:
    """Whether lanes have found the optimum of a response: nothing is left that challenges it."""
    others = layout.challengers(at.theta) if int(at.status) == CONVERGED else None
    return int(at.status) == CONVERGED and (others is None or not others[1].any())


def _in_own_units(found: Solution, layouts: Sequence[ResidualLayout], *, reml: bool) -> Solution:
    """Criteria of responses that have each their unit, in the place of the first one's."""
    nu = float(residual_df(layouts[0], reml=reml))
    units: Any = np.array([float(one.y_scale) for one in layouts])
    shift = 2.0 * nu * np.log(units / units[0])
    profile = found.jet.profile
    profile = profile._replace(deviance=profile.deviance + shift)
    return found._replace(jet=found.jet._replace(value=found.jet.value + shift, profile=profile))


def _alike(layouts: Sequence[ResidualLayout]) -> bool:
    """Whether all that does not depend on the response is the same."""
    first = _without_response(layouts[0])
    rest = (_without_response(one) for one in layouts[1:])
    return all(
        len(one) == len(first)
        and all(np.array_equal(a, b) for a, b in zip(first, one, strict=True))
        for one in rest
    )


def _without_response(layout: ResidualLayout) -> list[np.ndarray]:
    parts = [bucket.c[:, :-1] for bucket in layout.buckets]
    return [np.asarray(part) for part in (layout.S0[:-1, :-1], *parts, *layout.whiteners)]
