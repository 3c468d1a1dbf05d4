"""Many responses with a residual covariance, of the same rows: fitted side by side in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..layouts.residual.layout import ResidualLayout
from ..layouts.residual.merged import MergedDesign, merge_design
from ..layouts.response import Response
from ..likelihood.criterion import residual_df
from ..numerics.tiers import running_on
from ..optimize.newton import Solution
from .replicate_minimize import fit_each, fit_lanes

# Numbers of a layout from which lanes gain nothing.
_MUCH = 1 << 15


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


def fit_alike(
    layouts: Sequence[ResidualLayout], *, reml: bool, maxiter: int, tol: float
) -> Solution | None:
    """Optima, in NumPy, of layouts that differ in their response, each from its own starts.

    Returns
    -------
    Solution or None
        A leading axis of lanes; None where lanes gain nothing, or there is more to look at.
    """
    layouts = jax.device_get(list(layouts))  # a program may have made them
    base = layouts[0]
    candidates = [one.start_candidates() for one in layouts]
    if base.start_chains(candidates[0]) is not None or not _alike(layouts):
        return None
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
        return None
    starts = np.stack(candidates, axis=-1)
    with running_on("numpy"):
        found = fit_lanes(base, responses, starts, reml=reml, maxiter=maxiter, tol=tol)
    return _in_own_units(found, layouts, reml=reml)


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
