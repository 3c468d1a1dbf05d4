"""Marginal means on another scale than that of the fit, by the delta method."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from ..errors import DataError
from ..inference.contrasts.linear_functions import linear_functions
from ..inference.means.transformations import known_transformation, untransformed
from ..inputs.names import unquoted
from ..numerics.read_only import read_only
from .estimate_table import EstimateTable

Means = TypeVar("Means", bound=EstimateTable)


def regridded(means: Means, scale: str, half: float | None) -> Means:
    """Means on the scale of the response, or of a transformation of it.

        m = g(h(x))        dm / dx = h'(x) / g^-1'(m)

    Parameters
    ----------
    means : EstimateTable
        x: of a response f(y), or of y itself. h is the inverse of f.
    scale : str
        "response", or the name of g.
    half : float, optional
        Half a variance of f(y) for which h is corrected.
    """
    f, own = means.transformation, scale == "response"
    if means.kind != "emmean" or (f is None and (own or half is not None)):
        raise DataError(
            "regrid is for means: those of a transformed response, such as log(y), or of another "
            "on a new scale, regrid('log')"
        )
    x = means.at.estimate
    value, slope = x, np.where(np.isnan(x), np.nan, 1.0)
    if f is not None:
        value, slope = f.back(x, half or 0.0), f.back_slope(x, half or 0.0)
    g = None if own else known_transformation(scale)
    if g is not None:
        response = value
        with np.errstate(all="ignore"):
            value = g.forward(response)
            slope = slope / g.back_slope(value)
        outside = ~np.isnan(x) & ~(np.isfinite(value) & np.isfinite(slope))
        if outside.any():
            raise DataError(f"the mean {response[outside][0]:.4g} has no {scale}: other units")
    unknown = np.isnan(slope)
    L = np.where(unknown[:, None], 0.0, slope[:, None] * means.at.L)
    gap = np.eye(len(L))[:, unknown]  # of curved functions of these no difference is known
    at = linear_functions(L, gap, means.at.shift, means.beta, means.tests, means.scale)
    at = read_only(at._replace(estimate=value, shift=np.nan_to_num(value - L @ means.beta)))
    notes = means.notes
    if f is not None:
        notes += (f"Estimates are on the scale of the response, from {f.name}",) if own else ()
    known = means.transformation is not None
    name = (untransformed if known else unquoted)(means.response)
    name = name if own else f"{scale}({name})"
    return replace(means, at=at, transformation=g, changed="", response=name, notes=notes)
