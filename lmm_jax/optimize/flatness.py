"""Directions of theta along which a criterion tells something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..covariance.structures import Structure
from ..covariance.theta import theta_slices
from ..numerics.namespace import namespace

# Deviance per squared relative change of theta below which the data say nothing.
FLAT_CURVATURE = 1e-6


def looked_at(
    theta: Any, gradient: Any, structures: Sequence[Structure], singular: Sequence[Any]
) -> Any:
    """Entries of theta, (..., m), along which a criterion has to change for a fit to be told.

    Of a singular term not those of a factor that rotates, which a zero pivot leaves free. At a
    bound of a structure (a correlation of one) the criterion is flat because theta is so far out,
    not because the data say nothing.

    Parameters
    ----------
    theta, gradient : Array, shape (..., m)
    structures : sequence of Structure
    singular : sequence of Array of bool, shape (...)
        Of every term.
    """
    xp, parts = namespace(theta, gradient), []
    for structure, at, corner in zip(structures, theta_slices(structures), singular, strict=True):
        idle = structure.idle(theta[..., at], gradient[..., at])
        free = xp.asarray(corner)[..., None] & structure.rotates
        parts.append(~(idle | free))
    return xp.concatenate(parts, axis=-1)


def flattest(theta: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Sizes of the entries of theta, (m,), in the direction in which a criterion bends least."""
    own = relative_curvature(theta, hessian, np.ones(theta.shape, bool))
    e, V = np.linalg.eigh(np.where(np.isfinite(own), own, 0.0))
    found: np.ndarray = np.abs(V[:, np.argmin(np.abs(e))])
    return found


def relative_curvature(theta: Any, hessian: Any, looked: Any) -> Any:
    """The Hessian per relative change of theta, (..., m, m); of entries not looked at the identity.

    So large variance ratios, where the criterion bends slowly in theta itself, do not count as
    flat.
    """
    xp = namespace(theta, hessian, looked)
    size = 1.0 + xp.abs(theta)
    scaled = hessian * size[..., :, None] * size[..., None, :]
    own = np.eye(theta.shape[-1], dtype=theta.dtype)
    own = np.broadcast_to(own, (*(1,) * (theta.ndim - 1), *own.shape))
    return xp.where(looked[..., :, None] & looked[..., None, :], scaled, own)
