"""Responses of a model whose residuals depend on the row before, drawn row after row (NumPy)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_banded

from ..covariance.theta import factor_blocks, spread
from ..layouts.residual.chain_bucket import ChainBucket, steps_of
from ..layouts.residual.markov import MarkovLayout
from ..layouts.response import Response
from .streams import Stream


class ChainRoot(NamedTuple):
    """What makes rows of independent normal variates, ``y = B^-1 z + Z Lambda u``."""

    band: np.ndarray  # (2, G l)  B, by its diagonals
    ZL: np.ndarray  # (G, q, l)  columns of Z Lambda
    present: np.ndarray  # (G, l)


def chain_roots(layout: MarkovLayout, theta: np.ndarray) -> list[ChainRoot]:
    """One a bucket, at a theta; arrays of the layout are NumPy's."""
    at: Any = theta
    return [_root(at, layout, bucket) for bucket in layout.buckets]


def _root(theta: Any, layout: MarkovLayout, bucket: ChainBucket) -> ChainRoot:
    step = steps_of(theta, layout.structures, bucket)
    shape = bucket.counts.shape
    h, b = (np.broadcast_to(a, shape).ravel() for a in (step.h, step.b))
    band = np.zeros((2, h.size))
    band[0], band[1, :-1] = h, -(h * b)[1:]
    Lambda = np.asarray(spread(factor_blocks(theta, layout.structures), bucket.widths))
    Z = np.asarray(bucket.step[:, : len(Lambda)] + bucket.before[:, : len(Lambda)])
    return ChainRoot(band, Lambda.T @ Z, np.asarray(bucket.counts))


def draw_chains(roots: list[ChainRoot], p: int, stream: Stream, index: np.ndarray) -> Response:
    """Responses in residual standard deviations and with beta = 0.

    Parameters
    ----------
    roots : list of ChainRoot
    p : int
        Fixed effects.
    stream : Stream
    index : ndarray of int, shape (R,)
        Numbers of the replicates.

    Returns
    -------
    Response
        Arrays with a leading axis of R.
    """
    sizes = [root.present.size + root.ZL.shape[0] * root.ZL.shape[1] for root in roots]
    z, _ = stream.variates(index, sum(sizes), np.zeros(0))
    parts = np.split(z, np.cumsum(sizes)[:-1], axis=1)
    y: Any = tuple(_rows(root, own) for root, own in zip(roots, parts, strict=True))
    S0: Any = np.zeros((len(index), p + 1))
    return Response(y=y, S0=S0)


def _rows(root: ChainRoot, z: np.ndarray) -> np.ndarray:
    """Rows of a bucket, (R, G, l), of variates (R, G l + G q)."""
    (G, q, _), n = root.ZL.shape, root.present.size
    e = solve_banded((1, 0), root.band, z[:, :n].T, check_finite=False).T
    u = z[:, n:].reshape(len(z), G, 1, q)
    rows = e.reshape(len(z), *root.present.shape) + (u @ root.ZL)[:, :, 0]
    return np.asarray(rows * root.present)
