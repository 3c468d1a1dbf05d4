"""Information of the variances of a model at a special case of it, in the data's coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ...covariance.theta import theta_slices
from ...covariance.triangles import lower_indices
from ...designs.design import Design
from ...numerics.processes import float64
from ..df.kenward_roger import expected_information
from ..record import FitRecord
from .boundary import boundary_p_value, cone_p_value


def information_beside(
    design: Design, psi: Sequence[np.ndarray], t: int, new: Sequence[int], *, reml: bool
) -> np.ndarray | None:
    """Expected information of some coefficients of a term, everything else profiled out.

    Parameters
    ----------
    design : Design
        Of the larger model, whose terms have any covariance.
    psi : sequence of ndarray, shape (k, k)
        Relative covariance of every term where the hypothesis is true: zeros for ``new``.
    t : int
        The term.
    new : sequence of int
        Its coefficients that the smaller model has not.
    reml : bool

    Returns
    -------
    ndarray, shape (d, d), or None
        Of the covariances of old with new coefficients, then of the lower triangle of the new
        ones, row by row. None for terms with a structure, or beside a residual covariance.
    """
    if design.residual is not None or any(not s.unrestricted for s in design.structures):
        return None
    layout = jax.tree.map(np.asarray, design.compressed.layout)
    inverses = [np.linalg.inv(A) for A in layout.whiteners]
    theta = np.concatenate([_lower(Ai @ S @ Ai.T) for Ai, S in zip(inverses, psi, strict=True)])
    with float64():
        moments = layout.psi_moments(theta)
    info = expected_information(moments, float(layout.n_obs), reml=reml)
    at = theta_slices(design.structures)[t]
    B = np.eye(len(info))
    rows, columns = lower_indices(design.structures[t].k)
    E = design.structures[t].directions
    moved = inverses[t] @ E @ inverses[t].T
    own = np.arange(at.start, at.stop) + 1  # V itself comes first
    B[np.ix_(own, own)] = moved[:, rows, columns].T
    if design.sigma is not None:  # which then tells nothing of them
        info[0, 1:] = info[1:, 0] = 0.0
    return _profiled(B.T @ info @ B, *_order(own, rows, columns, set(new)))


def boundary_p_value_of(
    large: FitRecord, small: FitRecord | None, chisq: float, t: int, rest: Sequence[int]
) -> float:
    """P value of a likelihood ratio against a fit in which a term has some coefficients only.

    Parameters
    ----------
    large, small : FitRecord
        The fits; None where the smaller one has no random effects.
    chisq : float
    t : int
        The term.
    rest : sequence of int
        Its coefficients that the smaller fit has.
    """
    design = large.design
    assert design is not None  # the caller has looked
    k = len(design.terms[t].names)
    if not design.structures[t].unrestricted:
        return float("nan")
    if k - len(rest) == 1:
        return boundary_p_value(chisq, k)
    if design.residual is not None:
        return float("nan")
    null = [np.zeros((s.k, s.k)) for s in design.structures]
    if small is not None:
        pairs = zip(small.term_labels, small.estimates.covariances, strict=True)
        found = {(at.factor, at.names): S / small.scale for at, S in pairs}
        for i, (label, S) in enumerate(zip(large.term_labels, null, strict=True)):
            places = list(range(len(S))) if i != t else list(rest)
            known = found.get((label.factor, tuple(label.names[j] for j in places)))
            if known is not None:
                S[np.ix_(places, places)] = known
            elif places:
                return float("nan")  # called otherwise there
    new = [j for j in range(k) if j not in rest]
    information = information_beside(design, null, t, new, reml=large.reml)
    return float("nan") if information is None else cone_p_value(chisq, information, len(new))


def _lower(S: np.ndarray) -> np.ndarray:
    """Theta of a covariance, singular or not: the lower factor of its root."""
    e, V = np.linalg.eigh(S)
    root = V * np.sqrt(np.maximum(e, 0.0))
    R = np.asarray(np.linalg.qr(root.T, mode="r"))
    return np.asarray(R.T[lower_indices(len(S))])


def _order(own: np.ndarray, rows: Any, columns: Any, new: set[int]) -> tuple[Any, Any]:
    """Entries of the term that are free, and those of the new covariance, row by row."""
    cells = [(int(i), int(j), int(p)) for i, j, p in zip(rows, columns, own, strict=True)]
    free = [p for i, j, p in cells if (i in new) != (j in new)]
    both = sorted((i, j, p) for i, j, p in cells if i in new and j in new)
    return free, [p for _, _, p in both]


def _profiled(info: np.ndarray, free: list[int], both: list[int]) -> np.ndarray:
    wanted = [*free, *both]
    rest = [i for i in range(len(info)) if i not in wanted]
    cross = info[np.ix_(rest, wanted)]
    out: np.ndarray = info[np.ix_(wanted, wanted)]
    return out - cross.T @ np.linalg.solve(info[np.ix_(rest, rest)], cross)
