"""What every layout gives to the rest of the library: the waist and its derivatives.

A layout is a pytree of sufficient statistics. Whatever it looks like inside, at a
relative covariance Psi it answers with

    logdet = log|V|          gram = [X y]' V^-1 [X y]          V = I + Z Psi Z'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance.structures import OfTerms, Structure
from ..covariance.theta import factor_blocks
from ..numerics.linalg import eliminate, exact, group_product, total_product
from ..numerics.processes import float64
from ..reprs import brief

if TYPE_CHECKING:  # Python itself knows defaults of type variables from 3.13 on
    from typing_extensions import TypeVar

    Own = TypeVar("Own", default=Any)
else:
    from typing import TypeVar

    Own = TypeVar("Own")


class Waist(NamedTuple):
    """All that the likelihood needs to know of the data at one covariance."""

    logdet: Array  # ()              log|V| relative to sigma^2
    gram: Array  # (p + 1, p + 1)  [X y]' V^-1 [X y]


class WaistJet(NamedTuple, Generic[Own]):
    """The waist with its first derivatives in theta and what the second ones need."""

    waist: Waist
    dlogdet: Array  # (m,)
    dgram: Array  # (m, p + 1, p + 1)
    rounding: Array  # (p + 2,)  of logdet and of the diagonal of gram, in units of eps
    rest: Own  # what the layout itself keeps


class Curvature(NamedTuple):
    """Second derivative of ``logdet + <W, gram>`` at fixed W."""

    hessian: Array  # (m, m)     in theta
    psi_gradients: tuple[Array, ...]  # (k, k) a term: first derivative in its Psi
    psi_halves: tuple[Array, ...]  # (k, k) a term: the same times Lambda, with more digits


class BlupTerms(NamedTuple):
    """Conditional moments of the random effects of groups of one shape."""

    b: Array  # (q, G)     conditional means, whitened coordinates, y in the layout's units
    cov: Array  # (q, q, G)  conditional covariance in units of sigma^2
    through: Array | None = None  # (q, E)  Psi e at the entries: b falls by so much per core effect


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Maps(OfTerms):
    """From the coordinates of a layout back to those of the data.

    In the layout columns of X are orthonormal, those of every term whitened and y a
    unit OLS residual.
    """

    whiteners: tuple[Array, ...]  # (k, k) a term: Lambda_user = A Lambda
    beta_map: Array  # (p, p)
    log_det_map: Array  # ()      log|det beta_map|
    beta_origin: Array  # (p,)    beta_user = beta_shift + beta_origin + y_scale * beta_map @ beta
    beta_shift: Array  # (p,)    the mean of y on a constant column, apart to keep its digits
    y_scale: Array  # ()
    n_obs: Array  # ()
    log_weights: Array  # ()  sum of the logarithms of the prior weights
    structures: tuple[Structure, ...] = field(metadata={"static": True})  # one a term
    n_components: int = field(metadata={"static": True})  # trailing terms: variance components

    __repr__ = brief


def maps_of(at: Maps) -> dict[str, Any]:
    """The maps of a layout by their names, to make another of."""
    return {f.name: getattr(at, f.name) for f in fields(Maps)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout(Maps):
    """Sufficient statistics of a mixed model."""

    S0: Array  # (p + 1, p + 1)  cross-products of [X y] that no random effect reaches
    _subject: ClassVar[str] = "layout"

    def _is_kind(self, kind: str) -> bool:
        """Whether the layout is of a kind that some functions refuse (``capabilities.py``)."""
        return kind == "structured" and self.is_structured

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        # JAX restores its own arrays in float32 wherever x64 is off at that moment
        on_host = jax.tree.map(np.asarray, self)
        return _restored, (type(self), {f.name: getattr(on_host, f.name) for f in fields(self)})

    __repr__ = brief

    def waist(self, blocks: Sequence[Array]) -> Waist:
        """``(log|V|, [X y]' V^-1 [X y])`` at relative covariances of the whitened terms.

        Parameters
        ----------
        blocks : sequence of Array, shape (k, k)
            ``Psi`` of every term in the layout's coordinates; may be singular.

        Returns
        -------
        Waist
            Differentiable to any order in ``blocks`` and in the layout's arrays.
        """
        raise NotImplementedError

    @exact
    def waist_at(self, theta: Array) -> Waist:
        """The waist at the layout's theta, for values alone: it need not be differentiable."""
        return self.waist(tuple(L @ L.T for L in factor_blocks(theta, self.structures)))

    def jet(self, theta: Array) -> WaistJet:
        """Waist and first derivatives in theta, closed forms."""
        raise NotImplementedError

    def curvature(self, theta: Array, root: Array, jet: WaistJet) -> Curvature:
        """Second derivatives of ``logdet + <W, gram>`` in theta, ``W = root root'`` held fixed.

        W itself has large entries that cancel where large random effects hide fixed effects.
        """
        raise NotImplementedError

    def average_information(self, theta: Array, v: Array, jet: WaistJet) -> Array:
        """``v' U' D_k P D_l U v`` with ``U = Z' V^-1 [X y]``, ``P = Z' V^-1 Z``, (m, m)."""
        raise NotImplementedError

    def psi_slopes(self, theta: Array, W: Array, jet: WaistJet) -> tuple[Array, ...]:
        """Derivative of ``logdet + <W, gram>`` in the Psi of every term, (k, k)."""
        raise NotImplementedError

    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """Conditional means and covariances of all random effects, given y."""
        raise NotImplementedError

    def start_moments(self) -> Array:
        """Moment estimate of one relative standard deviation a coefficient, as theta."""
        raise NotImplementedError

    def ranks(self) -> Array:
        """How many dimensions of the rows the random effects reach, ()."""
        raise NotImplementedError

    def within_rss(self) -> Array:
        """Sum of squares of y that neither X nor any random effect can explain, ()."""
        return self.S0[-1, -1]

    def size(self) -> int:
        """Numbers that one evaluation has to look at."""
        raise NotImplementedError

    def is_dear(self) -> bool:
        """Whether second derivatives cost much more than the criterion itself."""
        return False

    def thinned(self) -> Layout | None:
        """A layout of some of the groups, for start values; None if these are not very many."""
        return None

    def measured_from(self, beta: Array) -> Layout:
        """The layout with ``y - X beta`` in the place of y, all else alike."""
        raise NotImplementedError

    def rotate(self, t: int, Q: np.ndarray) -> Layout:
        """The same model with the columns of term t multiplied by an orthogonal Q (on the host)."""
        raise NotImplementedError


def _restored(kind: type[Layout], values: dict[str, Any]) -> Layout:
    """A layout from a pickle, on the device and in its own precision."""
    with float64():
        return jax.tree.map(jnp.asarray, kind(**values))


def less_fixed(A: Array, beta: Array, axis: int) -> Array:
    """``[X y]`` along an axis, with ``y - X beta`` in the place of y."""
    last = jnp.moveaxis(A, axis, -1)
    y = last[..., -1] - last[..., :-1] @ beta
    return jnp.moveaxis(last.at[..., -1].set(y), -1, axis)


# ------------------------------------------------------------ one group after the other


def marginal(Psi: Array, T: Array) -> Array:
    """``M = I + T Psi T'`` of every group, (q, q, G)."""
    q = T.shape[0]
    TP = jnp.einsum("rag,ab->rbg", T, Psi)
    TPT = group_product(jnp.swapaxes(TP, 0, 1), jnp.swapaxes(T, 0, 1))
    return jnp.eye(q, dtype=T.dtype)[:, :, None] + TPT


@jax.custom_jvp
@exact
def integrate(M: Array, c: Array, copies: Array) -> Waist:
    """``sum_i m_i log|M_i|`` and ``sum_i c_i' M_i^-1 c_i``; the counts m are no variables.

    M is symmetric, and so must be what it is differentiated along: the factorization
    reads one triangle, and second derivatives use ``M' = M``.
    """
    U, w = eliminate(M, c)
    return Waist(logdet=logdet_of(U, copies), gram=total_product(w, w))


@integrate.defjvp
@exact
def _integrate_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Any]
) -> tuple[Waist, Waist]:
    # d log|M| = tr(N dM), d(c' N c) = -w' dM w + dc' w + w' dc with N = M^-1, w = N c:
    # products of small matrices instead of a derivative through the Cholesky factor
    (M, c, copies), (dM, dc, _) = primals, tangents
    N = inverse(M)
    w = group_product(N, c)
    cross = total_product(dc, w)
    dgram = cross + cross.T - total_product(w, group_product(jnp.swapaxes(dM, 0, 1), w))
    return integrate(M, c, copies), Waist(logdet=jnp.sum(weighted(N, copies) * dM), gram=dgram)


@jax.custom_jvp
@exact
def inverse(M: Array) -> Array:
    """``M_i^-1`` of every group, (q, q, G); M and its tangents are symmetric."""
    r = M.shape[0]
    identity = jnp.broadcast_to(jnp.eye(r, dtype=M.dtype)[:, :, None], M.shape)
    half = eliminate(M, identity).X
    return group_product(half, half)


@inverse.defjvp
@exact
def _inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (M,), (dM,) = primals, tangents
    N = inverse(M)
    return N, -group_product(N, group_product(jnp.swapaxes(dM, 0, 1), N))


def logdet_of(U: Array, copies: Array) -> Array:
    """Sum of the log-determinants of ``U'U`` over the groups that the entries stand for."""
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(U)) * copies[:, None])


def weighted(A: Array, copies: Array) -> Array:
    """Every group's matrix times the number of groups that it stands for, (q, q, G)."""
    return A * copies[None, None]


# ------------------------------------------------------------ derivatives in theta


def psi_tangents(Lambda: Array, E: Array) -> Array:
    """``dPsi / dtheta_k = E_k Lambda' + Lambda E_k'``, (m, q, q)."""
    EL = jnp.einsum("kab,cb->kac", E, Lambda)
    return EL + jnp.swapaxes(EL, 1, 2)


def quadratic_tangents(u: Array, D: Array) -> Array:
    """``sum_i u_i' D_k u_i`` for every k, (m, p + 1, p + 1)."""
    if u.shape[0] <= D.shape[0]:
        outer = jnp.einsum("acg,bdg->acbd", u, u)
        return jnp.einsum("acbd,kab->kcd", outer, D)
    Du = jnp.einsum("kab,bdg->akdg", D, u)
    return jnp.einsum("acg,akdg->kcd", u, Du)


def half_tangents(u: Array, s: Array, E: Array) -> Array:
    """``sum_i u_i' D_k u_i`` from ``s_i = Lambda' u_i``, which holds digits that u lacks.

    With ``D_k = E_k Lambda' + Lambda E_k'``; shape (m, p + 1, p + 1).
    """
    if u.shape[0] <= E.shape[0]:
        outer = jnp.einsum("acg,bdg->acbd", u, s)
        half = jnp.einsum("acbd,kab->kcd", outer, E)
    else:
        Es = jnp.einsum("kab,bdg->akdg", E, s)
        half = jnp.einsum("acg,akdg->kcd", u, Es)
    return half + jnp.swapaxes(half, 1, 2)


def halves_of(slopes: Sequence[Array], blocks: Sequence[Array]) -> tuple[Array, ...]:
    """``slope Lambda`` of every term, (k, k)."""
    return tuple(G @ L for G, L in zip(slopes, blocks, strict=True))


def double_traces(A: Array, P: Array, D: Array) -> Array:
    """``sum_i tr(A_i D_k P_i D_l)`` for every k and l, (m, m)."""
    q, _, groups = P.shape
    if q**2 <= 4 * D.shape[0]:
        # sum over the groups first: one product of (q^2, G) matrices
        moments = A.reshape(q * q, groups) @ P.reshape(q * q, groups).T
        return jnp.einsum("abcd,kbc,lda->kl", moments.reshape(q, q, q, q), D, D)
    AD = jnp.einsum("abg,kbc->kacg", A, D)
    PD = jnp.einsum("abg,kbc->kacg", P, D)
    return jnp.einsum("kacg,lcag->kl", AD, PD)


def half_traces(A: Array, P: Array, E: np.ndarray) -> Array:
    """``sum_i tr(A_i D_k P_i D_l)`` with ``D_k = E_k Lambda' + Lambda E_k'``, (m, m).

    Up to its antisymmetric part. The matrices come with what Lambda makes of them, as
    ``[I Lambda]' A [I Lambda]``: their products with a large Lambda hold digits that A lacks.
    Of the four terms two are transposes of each other,

        2 tr(A Lambda E_k' P Lambda E_l') + tr(A E_k Lambda' P Lambda E_l') + tr(..)

    Parameters
    ----------
    A, P : Array, shape (2 q, 2 q, G)
    E : ndarray, shape (m, q, q)
    """
    m, q, _ = E.shape
    left = jnp.stack([A[:q, q:], A[:q, :q], A[q:, q:]]).reshape(3, q * q, -1)
    right = jnp.stack([P[:q, q:], P[q:, q:], P[:q, :q]]).reshape(3, q * q, -1)
    moments = jnp.einsum("tag,tbg->tab", left, right)
    return (moments.reshape(-1) @ jnp.asarray(_pairings(E), A.dtype)).reshape(m, m)


def _pairings(E: np.ndarray) -> np.ndarray:
    """What every product of two entries in :func:`half_traces` adds, (3 q^4, m^2)."""
    terms = [
        2.0 * np.einsum("kcb,lad->abcdkl", E, E),
        np.einsum("kbc,lad->abcdkl", E, E),
        np.einsum("kcb,lda->abcdkl", E, E),
    ]
    return np.stack(terms).reshape(3 * E.shape[1] ** 4, -1)


def psi_curvatures(slopes: Sequence[Array], structures: Sequence[Structure]) -> Array:
    """``<slope, d2Psi_kl>`` with ``d2Psi_kl = E_k E_l' + E_l E_k'``, (m, m).

    Parameters
    ----------
    slopes : sequence of Array, shape (k, k)
        Derivative of a criterion in the Psi of every term.
    structures : sequence of Structure
    """
    parts = []
    for slope, structure in zip(slopes, structures, strict=True):
        E = jnp.asarray(structure.tangents, slope.dtype)
        SE = jnp.einsum("ab,kbc->kac", slope, E)
        parts.append(2.0 * jnp.einsum("kab,lab->kl", SE, E))
    return jax.scipy.linalg.block_diag(*parts)
