"""Kenward and Roger's adjustment of many fits of one design."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ...designs.design import Design
from ...designs.responses import Responses, one_response
from ...likelihood.coordinates import theta_of
from ...numerics.processes import float64
from ...numerics.progress import progress_bar
from ..many_estimates import ManyEstimates
from .kenward_roger import KenwardRoger, side_by_side
from .methods import expected_adjustment


def many_adjusted(
    design: Design, columns: Responses, found: ManyEstimates, *, progress: bool
) -> KenwardRoger:
    """That of every response, with a first axis R; NaN where there is no fit.

    It depends on the response through its rows, its weights and its theta, and is made of the
    design's own layout where rows and weights are all that it has.
    """
    whole, out = columns.complete(), list[KenwardRoger | None]()
    with float64(), progress_bar(columns.count, "response", progress) as tick:
        shared: Any = jax.tree.map(np.asarray, design.compressed.of_moments)
        for i, scale in enumerate(found.scale):
            tick(1)
            if not np.isfinite(found.bse_fe[i]).any() or not scale > 0:
                out.append(None)
                continue
            layout = shared
            if not whole[i]:
                one = one_response(design, columns, i)
                layout = jax.tree.map(np.asarray, one.compressed.of_moments)
            blocks = [S[i] / scale for S in found.covariances]
            theta = np.asarray(theta_of(blocks, layout))
            out.append(expected_adjustment(layout, theta, design.held))
    return side_by_side(out, found.fe_params.shape[1])
