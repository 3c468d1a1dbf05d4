"""The profiled criterion of many responses at once, with two derivatives.

The formulas are those of :mod:`lmm_jax.likelihood` and :mod:`lmm_jax.layouts.grouped`.
A *lane* is one response; its axis is the last of every array, so that all small
algebra is elementwise over lanes. What lanes share has a last axis of length 1:
fixed effects and random-effects designs, unless rows are missing or weights
differ between responses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .covariance import basis
from .layouts.grouped import Bucket, GroupedLayout
from .layouts.waist import Maps, maps_of
from .linalg import eliminate

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


class Profile(NamedTuple):
    """beta and sigma profiled out."""

    deviance: Array  # (R,)
    beta: Array  # (p, R)
    rss: Array  # (R,)
    cov_beta: Array  # (p, p, R)


class Point(NamedTuple):
    """What Newton's method needs."""

    value: Array  # (R,)
    gradient: Array  # (m, R)
    hessian: Array  # (m, m, R)
    psi_gradients: tuple[Array, ...]  # (k, k, R) a term


class LaneJet(NamedTuple):
    """The criterion with two derivatives, and what standard errors are made of."""

    point: Point
    profile: Profile
    dlog_rss: Array  # (m, R)
    dcov_beta: Array  # (m, p, p, R)


def contract(spec: str, *operands: Array) -> Array:
    """Einstein sum, lane by lane: ``contract("ab,bc->ac", A, B)`` with lanes last in A and B."""
    inputs, out = spec.split("->")
    names = inputs.split(",")
    summed = "".join(dict.fromkeys(c for c in "".join(names) if c not in out))
    if len(operands) == 2 and operands[0].shape[-1] != operands[1].shape[-1]:
        shared = [c for c in names[0] if c in names[1] and c in out]
        if summed and not shared:  # one matrix for all lanes: a product of matrices
            return _lane_product(names, out, *operands)
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
    return jnp.einsum(f"{left},{right}->{out}Z", A, B)


class _Groups(NamedTuple):
    """One bucket with its random effects integrated out."""

    K: Array  # (q, q, D, L)     L_i^-1 T_i, L_i the Cholesky factor of M_i
    X: Array  # (q, p, D, E, L)  L_i^-1 c_X
    y: Array  # (q, D, E, R)
    Lambda: Array  # (q, q, L)
    E: Array  # (m, q, q, 1)
    logdet: Array  # (L,)


def _eliminate(theta: Array, bucket: LaneBucket, sizes: tuple[int, ...]) -> _Groups:
    E = jnp.asarray(basis(sizes, bucket.widths), theta.dtype)[..., None]
    Lambda = contract("kab,k->ab", E, theta)
    Psi = contract("ac,bc->ab", Lambda, Lambda)
    TP = contract("rad,ab->rbd", bucket.T, Psi)
    M = contract("rad,sad->rsd", TP, bucket.T)
    q, lanes = M.shape[0], M.shape[2:]
    identity = jnp.eye(q, dtype=M.dtype)[:, :, None]
    M = M.reshape(q, q, -1) + identity
    U, Li = eliminate(M, jnp.broadcast_to(identity, M.shape))
    Li = Li.reshape(q, q, *lanes)
    logs = sum((jnp.log(U[i, i]) for i in range(q)), jnp.zeros(M.shape[2:], M.dtype))
    return _Groups(
        K=contract("rsd,sad->rad", Li, bucket.T),
        X=contract("rsd,spde->rpde", Li, bucket.X),
        y=contract("rsd,sde->rde", Li, bucket.y),
        Lambda=Lambda,
        E=E,
        logdet=2.0 * jnp.sum(logs.reshape(lanes) * bucket.copies, axis=0),
    )


def _profile(groups: list[_Groups], lanes: Lanes, *, reml: bool) -> Profile:
    """See :func:`lmm_jax.likelihood.profile_waist`."""
    logdet = sum((g.logdet for g in groups[1:]), groups[0].logdet)
    xx, xy, yy = lanes.S_xx, lanes.S_xy, lanes.S_yy
    for g in groups:
        xx = xx + contract("rade,rbde->ab", g.X, g.X)
        xy = xy + contract("rade,rde->a", g.X, g.y)
        yy = yy + contract("rde,rde->", g.y, g.y)
    p = xx.shape[0]
    identity = jnp.broadcast_to(jnp.eye(p, dtype=xx.dtype)[:, :, None], xx.shape)
    U, Xi = eliminate(xx, identity, unroll=_UNROLL)
    z = contract("ab,b->a", Xi, xy)
    rss = yy - contract("a,a->", z, z)
    nu = lanes.n_obs - (p if reml else 0)
    # logarithms apart: the product would leave the range of floats for extreme units of y
    log_rss = jnp.log(rss) + 2.0 * jnp.log(lanes.y_scale)
    value = logdet + nu * (1.0 + jnp.log(2.0 * jnp.pi / nu) + log_rss) - lanes.log_weights
    if reml:
        logs = sum((jnp.log(U[i, i]) for i in range(p)), jnp.zeros(xx.shape[2:], xx.dtype))
        value = value + 2.0 * logs - 2.0 * lanes.log_det_map
    return Profile(value, contract("ab,a->b", Xi, z), rss, contract("ca,cb->ab", Xi, Xi))


def deviance(theta: Array, lanes: Lanes, *, reml: bool) -> Array:
    """-2 log-likelihood of every lane, (R,).

    Parameters
    ----------
    theta : Array, shape (m, L)
        One for each lane, or one for all.
    lanes : Lanes
    reml : bool
    """
    groups = [_eliminate(theta, bucket, lanes.sizes) for bucket in lanes.buckets]
    return _profile(groups, lanes, reml=reml).deviance


def lane_jet(theta: Array, lanes: Lanes, *, reml: bool) -> LaneJet:
    """See :func:`lmm_jax.likelihood.profile_jet`.

    Parameters
    ----------
    theta : Array, shape (m, R)
    lanes : Lanes
    reml : bool
    """
    groups = [_eliminate(theta, bucket, lanes.sizes) for bucket in lanes.buckets]
    at = _profile(groups, lanes, reml=reml)
    nu = lanes.n_obs - (at.beta.shape[0] if reml else 0)
    share = nu / at.rss
    slopes = [jnp.zeros((k, k, theta.shape[-1]), theta.dtype) for k in lanes.sizes]
    parts = []
    for g, bucket in zip(groups, lanes.buckets, strict=True):
        part, slope = _bucket_sums(g, bucket, at, share, reml=reml)
        parts.append(part)
        start = 0
        for t, (k, w) in enumerate(zip(lanes.sizes, bucket.widths, strict=True)):
            for level in range(start, start + k * w, k):
                slopes[t] = slopes[t] + slope[level : level + k, level : level + k]
            start += k * w
    first = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts)
    rho = first.drss / at.rss[None]
    CA = contract("ab,kbc->kac", at.cov_beta, first.A)
    through = contract("kb,lb->kl", contract("ka,ab->kb", first.B, at.cov_beta), first.B)
    gradient = first.dlogdet + contract(",k->k", nu, rho)
    hessian = first.hessian + _psi_curvatures(slopes) - 2.0 * contract(",kl->kl", share, through)
    if reml:
        gradient = gradient + contract("kab,ba->k", first.A, at.cov_beta)
        hessian = hessian - contract("kab,lba->kl", CA, CA)
    hessian = hessian - contract(",k,l->kl", nu, rho, rho)
    hessian = 0.5 * (hessian + jnp.swapaxes(hessian, 0, 1))
    return LaneJet(
        Point(at.deviance, gradient, hessian, tuple(slopes)),
        at,
        dlog_rss=rho,
        dcov_beta=-contract("kab,bc->kac", CA, at.cov_beta),
    )


class _Sums(NamedTuple):
    """Sums over the groups of a bucket."""

    dlogdet: Array  # (m, R)
    drss: Array  # (m, R)     d (y - X beta)' V^-1 (y - X beta) at fixed beta
    B: Array  # (m, p, R)     d X' V^-1 (y - X beta)
    A: Array  # (m, p, p, R)  d X' V^-1 X
    hessian: Array  # (m, m, R)


def _bucket_sums(
    g: _Groups, bucket: LaneBucket, at: Profile, share: Array, *, reml: bool
) -> tuple[_Sums, Array]:
    """First derivatives, the traces of the second ones, and the slope in Psi, (q, q, R)."""
    EL = contract("kab,cb->kac", g.E, g.Lambda)
    D = EL + jnp.swapaxes(EL, 1, 2)
    P = contract("rad,rbd->abd", g.K, g.K)
    u = contract("rad,rpde->apde", g.K, g.X)
    r = contract("rad,rde->ade", g.K, g.y - contract("rpde,p->rde", g.X, at.beta))
    counted = P * bucket.copies[None, None]
    trace = jnp.sum(counted, axis=2)
    rr = contract("ade,bde->abd", r, r)
    R = contract(",abd->abd", share, rr)
    if reml:
        R = R + contract("aqde,bqde->abd", contract("apde,pq->aqde", u, at.cov_beta), u)
    sums = _Sums(
        dlogdet=contract("ab,kab->k", trace, D),
        drss=-contract("ab,kab->k", jnp.sum(rr, axis=2), D),
        B=-contract("abp,kab->kp", contract("apde,bde->abp", u, r), D),
        A=-contract("abpq,kab->kpq", contract("apde,bqde->abpq", u, u), D),
        hessian=_double_traces(2.0 * R - counted, P, D),
    )
    return sums, trace - jnp.sum(R, axis=2)


def _double_traces(A: Array, P: Array, D: Array) -> Array:
    """``sum_i tr(A_i D_k P_i D_l)`` of every lane, (m, m, R)."""
    if P.shape[0] ** 2 <= 4 * D.shape[0]:
        moments = contract("abg,cdg->abcd", A, P)
        return contract("kad,lda->kl", contract("abcd,kbc->kad", moments, D), D)
    AD, PD = contract("abg,kbc->kacg", A, D), contract("abg,kbc->kacg", P, D)
    return contract("kacg,lcag->kl", AD, PD)


def _psi_curvatures(slopes: list[Array]) -> Array:
    """See :func:`lmm_jax.layouts.waist.psi_curvatures`; (m, m, R)."""
    parts = []
    for slope in slopes:
        E = jnp.asarray(basis((slope.shape[0],), (1,)), slope.dtype)[..., None]
        parts.append(2.0 * contract("kac,lac->kl", contract("ab,kbc->kac", slope, E), E))
    m = sum(part.shape[0] for part in parts)
    rows, start = [], 0
    for part in parts:
        after = m - start - part.shape[0]
        rows.append(jnp.pad(part, ((0, 0), (start, after), (0, 0))))
        start += part.shape[0]
    return jnp.concatenate(rows)


def lane_layout(lanes: Lanes, lane: Any) -> GroupedLayout:
    """One lane as a layout of its own."""
    at = jax.tree.map(lambda a: a[..., lane if a.shape[-1] > 1 else 0], lanes)
    buckets = tuple(_bucket_of(b) for b in at.buckets)
    xy = at.S_xy[:, None]
    S0 = jnp.block([[at.S_xx, xy], [xy.T, at.S_yy.reshape(1, 1)]])
    return GroupedLayout(buckets=buckets, S0=S0, **maps_of(at))


def _bucket_of(b: LaneBucket) -> Bucket:
    q, p, D, E = b.X.shape
    c = jnp.concatenate([b.X, b.y[:, None]], axis=1).reshape(q, p + 1, D * E)
    copies = jnp.zeros((D, E), c.dtype).at[:, 0].set(b.copies)
    return Bucket(T=jnp.repeat(b.T, E, axis=2), c=c, copies=copies.reshape(D * E), widths=b.widths)
