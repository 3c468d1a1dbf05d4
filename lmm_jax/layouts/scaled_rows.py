"""Rows of a model on a common scale, which layouts are made of, and the way back to the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import Array

from ..covariance.structures import Structure
from ..numerics.namespace import namespace
from .common_scale import Frame, RowWeights, fixed_frame, read_weights, whitener


class ScaledRows(NamedTuple):
    """Rows on a common scale, times root weights."""

    weights: RowWeights
    frame: Frame
    XY: Array  # (n, p + R)  orthonormal X, OLS residuals Y; of NumPy column by column
    whiteners: tuple[Array, ...]  # (k, k) a term
    streams: list[Array]  # (n, k) a stream: whitened covariates


def scaled_rows(
    Y: Array,
    X: Array,
    Z: Sequence[Array],
    weights: Array,
    terms: Sequence[Structure],
    streams: Sequence[int],
) -> ScaledRows:
    """Bring all columns to one scale.

    Parameters
    ----------
    Y : Array, shape (n, R)
    X : Array, shape (n, p)
    Z : sequence of Array, shape (n, S, k)
        Random-effects covariates of each term, for each of its S memberships.
    weights : Array, shape (n,)
    terms : sequence of Structure
        Of the random effects alone.
    streams : sequence of int
        Term of each stream (a (term, membership) pair).
    """
    xp = namespace(Y, X, Z, weights)
    read = read_weights(weights)
    frame = fixed_frame(X, Y, read)
    XY = xp.concatenate([frame.X, frame.Y], axis=1) * read.root[:, None]
    whiteners = tuple(whitener(z, weights, s) for z, s in zip(Z, terms, strict=True))
    covariates = _weighted_streams(Z, whiteners, read.root, streams)
    return ScaledRows(read, frame, XY, whiteners, covariates)


def _weighted_streams(
    Z: Sequence[Array], whiteners: Sequence[Array], root: Array, streams: Sequence[int]
) -> list[Array]:
    """Whitened covariates of every stream, (n, k) each, multiplied by root weights."""
    out, member = [], 0
    for i, t in enumerate(streams):
        member = member + 1 if i > 0 and streams[i - 1] == t else 0
        out.append((Z[t][:, member] @ whiteners[t]) * root[:, None])
    return out


def maps_back(
    rows: RowWeights,
    frame: Frame,
    whiteners: tuple[Array, ...],
    step: Array,
    structures: tuple[Structure, ...],
    n_components: int,
) -> dict[str, Any]:
    """What leads from a layout back to the data, Y being measured from X step, (p, R)."""
    return dict(
        whiteners=whiteners,
        beta_map=frame.beta_map,
        log_det_map=frame.log_det_map,
        beta_origin=frame.beta_origin + frame.y_scale[None] * (frame.beta_map @ step),
        beta_shift=frame.beta_shift,
        y_scale=frame.y_scale,
        n_obs=rows.n_obs,
        log_weights=rows.logs,
        structures=structures,
        n_components=n_components,
    )


def one_response(maps: dict[str, Any]) -> dict[str, Any]:
    """The maps of the only response, without their axis R."""
    of_responses = ("beta_origin", "beta_shift", "y_scale")
    return {**maps, **{name: maps[name][..., 0] for name in of_responses}}
