"""The profiled criterion of many responses at once, with two derivatives.

The formulas are those of :mod:`lmm_jax.layouts.grouped`; :mod:`lmm_jax.likelihood.criterion`
finishes what is summed here.
A *lane* is one response; its axis is the last of every array, so that all small
algebra is elementwise over lanes. What lanes share has a last axis of length 1:
fixed effects and random-effects designs, unless rows are missing or weights
differ between responses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..covariance.theta import linear_basis
from ..layouts.buckets import Bucket
from ..layouts.contract import Curvature, Maps, maps_of
from ..layouts.grouped import EXACT_WIDTH, GroupedLayout
from ..likelihood.criterion import (
    Factored,
    Jet,
    Lost,
    Profile,
    Slopes,
    finish_jet,
    finish_profile,
    free_df,
)
from ..numerics.linalg import eliminate
from ..numerics.namespace import NUMPY, namespace
from ..numerics.roots import eliminate_root
from ..numerics.stacked import as_lanes, lanes_last
from ..numerics.stacked_functions import lane_spec

# Seconds that NumPy takes for each number of the lanes, about.
NUMPY_SECONDS = 4e-8
# Rows up to which a factorization is written out: batches are large and worth the compilation.
_UNROLL = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LaneBucket:
    """Groups of one shape, in all lanes; L is R, or 1 for what the lanes share.

    D classes of groups with one factor T, of E pseudo-groups each
    (:mod:`lmm_jax.layouts.merged`); D groups and E = 1 where nothing is merged.
    """

    T: Array  # (q, q, D, L)     triangular factors
    X: Array  # (q, p, D, E, L)  Q_i' X_i
    y: Array  # (q, D, E, R)     Q_i' y_i
    copies: Array  # (D, L)      groups of each class
    widths: tuple[int, ...] = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lanes(Maps):
    """Sufficient statistics of R responses; in the maps R or 1 lanes as well, last."""

    buckets: tuple[LaneBucket, ...]
    S_xx: Array  # (p, p, L)
    S_xy: Array  # (p, R)
    S_yy: Array  # (R,)
    usable: Array  # (R,)  bool: whether there is a model to be fitted
    _array: ClassVar[str] = "S_yy"


def contract(spec: str, *operands: Array) -> Array:
    """Einstein sum, lane by lane: ``contract("ab,bc->ac", A, B)`` with lanes last in A and B.

    ``jnp.einsum`` over the lanes makes ``fit_many`` of 2,000 responses 75 % slower on a CPU.
    """
    xp = namespace(operands)
    inputs, out = spec.split("->")
    names = inputs.split(",")
    summed = "".join(dict.fromkeys(c for c in "".join(names) if c not in out))
    if len(operands) == 2 and operands[0].shape[-1] != operands[1].shape[-1]:
        shared = [c for c in names[0] if c in names[1] and c in out]
        if summed and not shared:  # one matrix for all lanes: a product of matrices
            return _lane_product(names, out, *operands)
    if xp is NUMPY:
        return np.einsum(lane_spec(spec, (True,) * len(operands)), *operands)
    order = summed + out
    total = None
    for name, A in zip(names, operands, strict=True):
        axes = sorted(range(len(name)), key=lambda i: order.index(name[i]))
        A = jnp.transpose(A, (*axes, len(name)))
        A = jnp.expand_dims(A, tuple(i for i, c in enumerate(order) if c not in name))
        total = A if total is None else total * A
    assert total is not None
    # a sum that XLA knows as one: written out, it would be computed again wherever it is used
    return jnp.sum(total, axis=tuple(range(len(summed))))


def _lane_product(names: list[str], out: str, A: Array, B: Array) -> Array:
    left, right = (names[0], names[1] + "Z") if A.shape[-1] == 1 else (names[0] + "Z", names[1])
    A, B = (A[..., 0], B) if A.shape[-1] == 1 else (A, B[..., 0])
    if namespace(A, B) is not NUMPY:
        return jnp.einsum(f"{left},{right}->{out}Z", A, B)
    if "Z" in left:  # lanes stay last in memory too
        left, right, A, B = right, left, B, A
    summed = [c for c in left if c in right]
    kept = [c for c in left + right if c not in summed]
    product: Any = np.tensordot(A, B, ([*map(left.index, summed)], [*map(right.index, summed)]))
    found: Array = product.transpose([kept.index(c) for c in out + "Z"])
    return found


class _Groups(NamedTuple):
    """One bucket with its random effects integrated out."""

    K: Array  # (q, q, D, L)     L_i^-1 T_i, L_i the Cholesky factor of M_i
    F: Array  # (q, q, D, L)     K Lambda
    X: Array  # (q, p, D, E, L)  L_i^-1 c_X
    y: Array  # (q, D, E, R)
    Lambda: Array  # (q, q, L)
    E: Array  # (m, q, q, 1)
    logdet: Array  # (L,)
    pivots: Array  # (q, D, L)   diagonal of L_i
    loss: Array  # (D, L)  see :class:`lmm_jax.numerics.roots.RootElimination`


def _eliminate(theta: Array, bucket: LaneBucket, structures: tuple[Structure, ...]) -> _Groups:
    xp = namespace(theta, bucket.y)
    E = xp.asarray(linear_basis(structures, bucket.widths), theta.dtype)[..., None]
    Lambda = contract("kab,k->ab", E, theta)
    F = contract("rad,ab->rbd", bucket.T, Lambda)
    q, lanes = F.shape[0], F.shape[2:]
    F = F.reshape(q, q, -1)
    identity = xp.broadcast_to(xp.eye(q, dtype=F.dtype)[:, :, None], F.shape)
    at = eliminate_root(F, identity)
    Li = at.X.reshape(q, q, *lanes)
    logs = sum((xp.log(at.U[i, i]) for i in range(q)), xp.zeros(F.shape[2:], F.dtype))
    return _Groups(
        K=contract("rsd,sad->rad", Li, bucket.T),
        F=at.F.reshape(q, q, *lanes),
        X=contract("rsd,spde->rpde", Li, bucket.X),
        y=contract("rsd,sde->rde", Li, bucket.y),
        Lambda=Lambda,
        E=E,
        logdet=2.0 * xp.sum(logs.reshape(lanes) * bucket.copies, axis=0),
        pivots=xp.stack([at.U[i, i] for i in range(q)]).reshape(q, *lanes),
        loss=at.loss.reshape(lanes),
    )


def _profile(groups: list[_Groups], lanes: Lanes, *, reml: bool) -> tuple[Profile, Array]:
    """The profile, and the inverse factor of ``X' V^-1 X``, (p, p, R)."""
    xp = namespace(groups[0].logdet, lanes)
    logdet = sum((g.logdet for g in groups[1:]), groups[0].logdet)
    xx, xy, yy = lanes.S_xx, lanes.S_xy, lanes.S_yy
    for g in groups:
        xx = xx + contract("rade,rbde->ab", g.X, g.X)
        xy = xy + contract("rade,rde->a", g.X, g.y)
        yy = yy + contract("rde,rde->", g.y, g.y)
    p = xx.shape[0]
    identity = xp.broadcast_to(xp.eye(p, dtype=xx.dtype)[:, :, None], xx.shape)
    U, Xi = eliminate(xx, identity, unroll=_UNROLL)
    z = contract("ab,b->a", Xi, xy)
    logs = sum((xp.log(U[i, i]) for i in range(p)), xp.zeros(xx.shape[2:], xx.dtype))
    at = Factored(Xi, z, yy - contract("a,a->", z, z), 2.0 * logs)
    return finish_profile(logdet, at, lanes, reml=reml, einsum=contract), Xi


def deviance(theta: Array, lanes: Lanes, *, reml: bool) -> Array:
    """-2 log-likelihood of every lane, (R,).

    Parameters
    ----------
    theta : Array, shape (m, L)
        One for each lane, or one for all.
    lanes : Lanes
    reml : bool
    """
    groups = [_eliminate(theta, bucket, lanes.structures) for bucket in lanes.buckets]
    return _profile(groups, lanes, reml=reml)[0].deviance


def lane_jet(theta: Array, lanes: Lanes, *, reml: bool) -> Jet:
    """See :func:`lmm_jax.likelihood.profile.profile_jet`; lanes are last in every array.

    Parameters
    ----------
    theta : Array, shape (m, R)
    lanes : Lanes
    reml : bool
    """
    xp = namespace(theta, lanes)
    groups = [_eliminate(theta, bucket, lanes.structures) for bucket in lanes.buckets]
    at, Xi = _profile(groups, lanes, reml=reml)
    share = 1.0 / at.scale
    slopes = [xp.zeros((k, k, theta.shape[-1]), theta.dtype) for k in lanes.sizes]
    halves, parts = list(slopes), []
    for g, bucket in zip(groups, lanes.buckets, strict=True):
        *part, slope, half = _bucket_sums(g, bucket, at, share, Xi if reml else None)
        parts.append(part)
        start = 0
        for t, (k, w) in enumerate(zip(lanes.sizes, bucket.widths, strict=True)):
            for level in range(start, start + k * w, k):
                block = slice(level, level + k)
                slopes[t] = slopes[t] + slope[block, block]
                halves[t] = halves[t] + half[block, block]
            start += k * w
    first, traces = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts)
    hessian = traces + _psi_curvatures(slopes, lanes.structures)
    bent = Curvature(0.5 * (hessian + xp.swapaxes(hessian, 0, 1)), tuple(slopes), tuple(halves))
    lost, nu = _lost(groups, lanes), free_df(lanes, reml=reml)
    return finish_jet(at, Xi, first, bent, lost, nu, reml=reml, einsum=contract)


def _lost(groups: list[_Groups], lanes: Lanes) -> Lost:
    """What the factorizations round: see :func:`lmm_jax.numerics.roots.root_rounding`."""
    xp = namespace(groups[0].logdet, lanes)
    logs, y = xp.zeros(lanes.S_yy.shape, lanes.S_yy.dtype), lanes.S_yy
    X = _diagonal(lanes.S_xx)
    for g, bucket in zip(groups, lanes.buckets, strict=True):
        logs = logs + g.K.shape[0] * xp.sum(g.loss * bucket.copies, axis=0)
        share = 4.0 / g.pivots
        lost = xp.abs(g.X * bucket.X) * share[:, None, :, None] + 3.0 * g.X**2
        X = X + xp.sum(lost, axis=(0, 2, 3))
        lost = xp.abs(g.y * bucket.y) * share[:, :, None]
        lost = lost + g.y**2 * (3.0 + 2.0 * g.loss)[None, :, None]
        y = y + xp.sum(lost, axis=(0, 1, 2))
    return Lost(logs, X, y)


def _diagonal(A: Array) -> Array:
    """Diagonal of the first two axes, (p, R), entry by entry: without a gather."""
    xp, p = namespace(A), A.shape[0]
    return xp.stack([A[i, i] for i in range(p)]) if p else A.reshape(0, *A.shape[2:])


def _bucket_sums(
    g: _Groups, bucket: LaneBucket, at: Profile, share: Array, Xi: Array | None
) -> tuple[Slopes, Array, Array, Array]:
    """First derivatives, traces of the second ones, the slope G in Psi and G Lambda, (q, q, R)."""
    xp = namespace(share, g.y)
    EL = contract("kab,cb->kac", g.E, g.Lambda)
    D = EL + xp.swapaxes(EL, 1, 2)
    P = contract("rad,rbd->abd", g.K, g.K)
    u = contract("rad,rpde->apde", g.K, g.X)
    y = g.y - contract("rpde,p->rde", g.X, at.beta)
    r = contract("rad,rde->ade", g.K, y)
    # the same times Lambda', without a difference: see lmm_jax.layouts.grouped.waist_jet
    s, t = contract("rad,rpde->apde", g.F, g.X), contract("rad,rde->ade", g.F, y)
    counted = P * bucket.copies[None, None]
    trace = xp.sum(counted, axis=2)
    halves = contract("rad,rbd->abd", g.K, g.F) * bucket.copies[None, None]
    inner = contract("rad,rbd->abd", g.F, g.F)
    half = xp.sum(halves, axis=2)
    rr = contract("ade,bde->abd", r, r)
    R = contract(",abd->abd", share, rr)
    rt = contract("ade,bde->abd", r, t)
    Rt = contract(",abd->abd", share, rt)
    Rtt = contract(",abd->abd", share, contract("ade,bde->abd", t, t))
    if Xi is not None:  # REML
        uX, sX = contract("apde,qp->aqde", u, Xi), contract("apde,qp->aqde", s, Xi)
        R = R + contract("aqde,bqde->abd", uX, uX)
        Rt = Rt + contract("aqde,bqde->abd", uX, sX)
        Rtt = Rtt + contract("aqde,bqde->abd", sX, sX)
    first = Slopes(
        dlogdet=2.0 * contract("ab,kab->k", half, g.E),
        drss=-2.0 * contract("ab,kab->k", xp.sum(rt, axis=2), g.E),
        B=-_tangent_sums(g.E, u, s, r, t),
        A=-_tangent_squares(g.E, u, s),
    )
    if P.shape[0] <= EXACT_WIDTH:
        weights = (
            2.0 * R - counted,
            2.0 * Rt - halves,
            2.0 * Rtt - inner * bucket.copies[None, None],
        )
        traces = _half_traces(weights, (P, contract("rad,rbd->abd", g.K, g.F), inner), g.E)
    else:
        traces = _double_traces(2.0 * R - counted, P, D)
    return first, traces, trace - xp.sum(R, axis=2), half - xp.sum(Rt, axis=2)


def _tangent_sums(E: Array, u: Array, s: Array, r: Array, t: Array) -> Array:
    """``sum_i u_i' D_k r_i`` with ``D_k = E_k Lambda' + Lambda E_k'``, (m, p, R).

    ``s = Lambda' u`` and ``t = Lambda' r``.
    """
    B = contract("abp,kab->kp", contract("apde,bde->abp", u, t), E)
    return B + contract("abp,kab->kp", contract("apde,bde->bap", s, r), E)


def _tangent_squares(E: Array, u: Array, s: Array) -> Array:
    """``sum_i u_i' D_k u_i`` with ``s = Lambda' u``, (m, p, p, R)."""
    xp = namespace(u, s)
    A = contract("abpq,kab->kpq", contract("apde,bqde->abpq", u, s), E)
    return A + xp.swapaxes(A, 1, 2)


def _double_traces(A: Array, P: Array, D: Array) -> Array:
    """``sum_i tr(A_i D_k P_i D_l)`` of every lane, (m, m, R)."""
    if P.shape[0] ** 2 <= 4 * D.shape[0]:
        moments = contract("abg,cdg->abcd", A, P)
        return contract("kad,lda->kl", contract("abcd,kbc->kad", moments, D), D)
    AD, PD = contract("abg,kbc->kacg", A, D), contract("abg,kbc->kacg", P, D)
    return contract("kacg,lcag->kl", AD, PD)


def _half_traces(A: tuple[Array, Array, Array], P: tuple[Array, Array, Array], E: Array) -> Array:
    """See :func:`lmm_jax.layouts.group_algebra.half_traces`; (m, m, R)."""
    pairs = ((A[1], P[1], "kcb", "lad"), (A[0], P[2], "kbc", "lad"), (A[2], P[0], "kcb", "lda"))
    total: Any = 0.0
    for often, (X, Y, first, second) in zip((2.0, 1.0, 1.0), pairs, strict=True):
        moments = contract("abg,cdg->abcd", X, Y)
        half = contract(f"abcd,{first}->kad", moments, E)
        total = total + often * contract(f"kad,{second}->kl", half, E)
    return cast(Array, total)


def _psi_curvatures(slopes: list[Array], structures: tuple[Structure, ...]) -> Array:
    """See :func:`lmm_jax.layouts.group_algebra.psi_curvatures`; (m, m, R)."""
    xp, parts = namespace(slopes), []
    for slope, structure in zip(slopes, structures, strict=True):
        E = xp.asarray(structure.tangents, slope.dtype)[..., None]
        parts.append(2.0 * contract("kac,lac->kl", contract("ab,kbc->kac", slope, E), E))
    m = sum(part.shape[0] for part in parts)
    rows, start = [], 0
    for part in parts:
        after = m - start - part.shape[0]
        rows.append(xp.pad(part, ((0, 0), (start, after), (0, 0))))
        start += part.shape[0]
    return xp.concatenate(rows)


def of_each_lane(fun: Callable[..., Any], lanes: Lanes, *more: Array) -> Any:
    """A function of the layout of every lane, and of arrays (..., R); lanes are last in its value.

    NumPy calls it once, with all lanes side by side.
    """
    R = lanes.S_yy.shape[0]
    if namespace(lanes, more) is NUMPY:
        return lanes_last(fun(_layout_of(lanes, as_lanes), *map(as_lanes, more)), R)
    of_lane = lambda i, *more: fun(lane_layout(lanes, i), *more)  # noqa: E731
    return jax.vmap(of_lane, (0, *(-1 for _ in more)), -1)(jnp.arange(R), *more)


def lane_layout(lanes: Lanes, lane: Any) -> GroupedLayout:
    """One lane as a layout of its own."""
    return _layout_of(lanes, lambda a: a[..., lane])


def _layout_of(lanes: Lanes, take: Callable[[Array], Any]) -> GroupedLayout:
    """Lanes as a layout, by what is taken of an array with lanes; what they share has none."""
    at = jax.tree.map(lambda a: take(a) if a.shape[-1] > 1 else a[..., 0], lanes)
    xp = namespace(at)
    buckets = tuple(_bucket_of(b) for b in at.buckets)
    xy = at.S_xy[:, None]
    top = xp.concatenate([at.S_xx, xy], axis=1)
    S0 = xp.concatenate([top, xp.concatenate([xy.T, at.S_yy.reshape(1, 1)], axis=1)])
    return GroupedLayout(buckets=buckets, S0=S0, **maps_of(at))


def _bucket_of(b: LaneBucket) -> Bucket:
    xp, (q, p, D, E) = namespace(b.X, b.y), b.X.shape
    c = xp.concatenate([b.X, b.y[:, None]], axis=1).reshape(q, p + 1, D * E)
    T, copies = b.T, b.copies
    if E > 1:
        T, copies = (namespace(a).repeat(a, E, axis=-1) for a in (T, copies))
        copies = copies * xp.asarray(np.arange(D * E) % E == 0, copies.dtype)
    return Bucket(T=T, c=c, copies=copies, widths=b.widths)
