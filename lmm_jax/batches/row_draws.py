"""Responses drawn row by row, of layouts that whiten their rows (NumPy)."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_banded

from ..covariance.theta import factor_blocks, spread
from ..layouts.residual.chain_bucket import ChainBucket, steps_of
from ..layouts.residual.field_bucket import FieldBucket, grid_of
from ..layouts.residual.grid_products import back, basis_of
from ..layouts.residual.subject_bucket import SubjectBucket, factor_of, in_groups
from ..layouts.residual.whitened_layout import OfWhitenedRows
from ..layouts.response import Response
from .streams import Stream


class ChainRoot(NamedTuple):
    """What makes rows of independent normal variates, ``y = B^-1 z + Z Lambda u``."""

    band: np.ndarray  # (2, G l)  B, by its diagonals
    ZL: np.ndarray  # (G, q, l)  columns of Z Lambda
    present: np.ndarray  # (G, l)

    def residuals(self, z: np.ndarray) -> np.ndarray:
        """Of variates (R, G l), (R, G, l)."""
        e = solve_banded((1, 0), self.band, z.T, check_finite=False).T
        return np.asarray(e.reshape(len(z), *self.present.shape))

    def at_places(self, rows: np.ndarray) -> np.ndarray:
        """Rows of groups, (R, G, l), where the bucket has them."""
        return rows


class SubjectRoot(NamedTuple):
    """The same of subjects, ``y = U' z + Z Lambda u``."""

    root: np.ndarray  # (N, d, d)  U'
    ZL: np.ndarray  # (G, q, M d)
    present: np.ndarray  # (G, M d)

    def residuals(self, z: np.ndarray) -> np.ndarray:
        """Of variates (R, N d), (R, G, M d)."""
        N, d, _ = self.root.shape
        e = np.einsum("nab,Rnb->Rna", self.root, z.reshape(len(z), N, d))
        return e.reshape(len(z), *self.present.shape)

    def at_places(self, rows: np.ndarray) -> np.ndarray:
        """Rows of groups, (R, G, M d), where the bucket has them, (R, d, N)."""
        N, d, _ = self.root.shape
        return np.swapaxes(rows.reshape(len(rows), N, d), 1, 2)


class FieldRoot(NamedTuple):
    """The same of plots, ``y = U (root d * z) W' + Z Lambda u``."""

    basis: Any  # of whole fields
    ZL: np.ndarray  # (G, q, M R C)
    present: np.ndarray  # (G, M R C)

    def residuals(self, z: np.ndarray) -> np.ndarray:
        """Of variates (R, N R C), (R, G, M R C)."""
        e: Any = z.reshape(-1, *self.basis.d.shape) * np.sqrt(self.basis.d)
        return np.asarray(back(e, self.basis)).reshape(len(z), *self.present.shape)

    def at_places(self, rows: np.ndarray) -> np.ndarray:
        """Rows of groups, (R, G, M R C), where the bucket has them, (R, N, R, C)."""
        return rows.reshape(len(rows), -1, *self.basis.d.shape)


AnyRoot = ChainRoot | SubjectRoot | FieldRoot


def row_roots(layout: OfWhitenedRows, theta: np.ndarray) -> list[AnyRoot]:
    """One a bucket, at a theta; arrays of the layout are NumPy's."""
    return [_root(bucket, theta, layout) for bucket in layout.buckets]


@singledispatch
def _root(bucket: Any, theta: Any, layout: OfWhitenedRows) -> AnyRoot:
    raise NotImplementedError(type(bucket))


@_root.register
def _(bucket: ChainBucket, theta: Any, layout: OfWhitenedRows) -> ChainRoot:
    step = steps_of(theta, layout.structures, bucket)
    shape = bucket.counts.shape
    h, b = (np.broadcast_to(a, shape).ravel() for a in (step.h, step.b))
    band = np.zeros((2, h.size))
    band[0], band[1, :-1] = h, -(h * b)[1:]
    Lambda = np.asarray(spread(factor_blocks(theta, layout.structures), bucket.widths))
    Z = np.asarray(bucket.step[:, : len(Lambda)] + bucket.before[:, : len(Lambda)])
    return ChainRoot(band, Lambda.T @ Z, np.asarray(bucket.counts))


@_root.register
def _(bucket: SubjectBucket, theta: Any, layout: OfWhitenedRows) -> SubjectRoot:
    U = np.asarray(factor_of(theta, layout.structures, bucket)[1])
    Lambda = np.asarray(spread(factor_blocks(theta, layout.structures), bucket.widths))
    Z = np.asarray(in_groups(bucket.c[:, : len(Lambda)], bucket))
    present: Any = in_groups(bucket.present[:, None], bucket)
    return SubjectRoot(np.moveaxis(U, -1, 0).swapaxes(1, 2), Lambda.T @ Z, present[:, 0])


@_root.register
def _(bucket: FieldBucket, theta: Any, layout: OfWhitenedRows) -> FieldRoot:
    basis = basis_of(grid_of(theta, layout.structures, bucket))
    Lambda = np.asarray(spread(factor_blocks(theta, layout.structures), bucket.widths))
    q, G = len(Lambda), bucket.n_groups
    present = np.asarray(bucket.present).reshape(G, -1)
    each = np.asarray(bucket.c[:, :q]).reshape(G, len(bucket.c) // G, q, basis.d.size)
    Z = np.swapaxes(each, 1, 2).reshape(G, q, present.shape[1])
    return FieldRoot(basis, Lambda.T @ Z, present)


def draw_rows(roots: list[AnyRoot], p: int, stream: Stream, index: np.ndarray) -> Response:
    """Responses in residual standard deviations and with beta = 0.

    Parameters
    ----------
    roots : list of ChainRoot, SubjectRoot or FieldRoot
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


def _rows(root: AnyRoot, z: np.ndarray) -> np.ndarray:
    """Rows of a bucket, a leading axis of R, of variates of its rows and then its groups."""
    (G, q, _), n = root.ZL.shape, root.present.size
    u = z[:, n:].reshape(len(z), G, 1, q)
    rows = root.residuals(z[:, :n]) + (u @ root.ZL)[:, :, 0]
    return root.at_places(np.asarray(rows * root.present))
