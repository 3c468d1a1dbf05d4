"""What every layout gives to the rest of the library: the waist and its derivatives.

A layout is a pytree of sufficient statistics. Whatever it looks like inside, at a
relative covariance Psi it answers with

    logdet = log|V|          gram = [X y]' V^-1 [X y]          V = I + Z Psi Z'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance.structures import OfTerms, Structure
from ..covariance.theta import factor_blocks
from ..numerics.linalg import exact
from ..numerics.namespace import JAX, namespace
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


class PsiMoments(NamedTuple):
    """What ``P = Z' V^-1 Z`` and ``U = Z' V^-1 X`` make of directions D_k of Psi.

    Along them V changes linearly, ``V_k = Z D_k Z'``.
    """

    gram: Any  # (p, p)        X' V^-1 X
    traces: Any  # (m,)          tr(P D_k) = tr(V^-1 V_k)
    products: Any  # (m, m)        tr(P D_k P D_l) = tr(V^-1 V_k V^-1 V_l)
    grams: Any  # (m, p, p)     U' D_k U = X' V^-1 V_k V^-1 X
    seconds: Any  # (m, m, p, p)  U' D_k P D_l U = X' V^-1 V_k V^-1 V_l V^-1 X


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
    sigma2: Array | None = None  # ()  residual variance in the data's units, where it is known

    __repr__ = brief


def maps_of(at: Maps) -> dict[str, Any]:
    """The maps of a layout by their names, to make another of."""
    return {f.name: getattr(at, f.name) for f in fields(Maps)}


def origin_apart(fit: Maps, own: Maps) -> np.ndarray:
    """Fixed effects that one layout of a model measures y from, as another measures them, (p,)."""
    apart = np.asarray(fit.beta_origin) - np.asarray(own.beta_origin)
    found: np.ndarray = np.linalg.solve(np.asarray(own.beta_map), apart) / float(own.y_scale)
    return found


class Coordinates(Protocol):
    """Other coordinates of theta (NumPy); see :meth:`Layout.recentred`."""

    @property
    def reference(self) -> tuple[int, float] | None:
        """Place in theta of a parameter, and c: log sigma^2 is less by ``2 c theta`` outside."""

    def inward(self, theta: np.ndarray) -> np.ndarray:
        """Theta in these coordinates, (m,)."""

    def outward(self, theta: np.ndarray) -> np.ndarray:
        """The way back, (m,)."""

    def slopes(self, inner: np.ndarray) -> np.ndarray:
        """Derivative of :meth:`outward`, (m, m)."""

    @property
    def means(self) -> tuple[float, ...]:
        """Where sigma is meant in these coordinates: the covariate's mean, of every arm."""

    @property
    def slope_of_log_scale(self) -> np.ndarray:
        """Derivative of log sigma^2 outside in theta of these coordinates, (m,)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout(Maps):
    """Sufficient statistics of a mixed model."""

    S0: Array  # (p + 1, p + 1)  cross-products of [X y] that no random effect reaches
    takes_many: ClassVar[bool] = False  # whether NumPy may ask for jets at many thetas in one call
    on_host: ClassVar[bool] = False  # whether NumPy alone works it off
    rough: ClassVar[bool] = False  # whether it is asked for six digits only
    _subject: ClassVar[str] = "layout"
    _array: ClassVar[str] = "S0"

    def _is_kind(self, kind: str) -> bool:
        """Whether the layout is of a kind that some functions refuse (``capabilities.py``)."""
        return kind == "structured" and self.is_structured

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        # JAX restores its own arrays in float32 wherever x64 is off at that moment
        on_host = jax.tree.map(np.asarray, self)
        values = {f.name: getattr(on_host, f.name) for f in fields(self)}
        return _restored, (type(self), values, namespace(self) is JAX)

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

    def waist_of(self, factors: Sequence[Array], theta: Array) -> Waist:
        """The waist at relative factors of the terms, differentiable as :meth:`waist` is.

        Parameters
        ----------
        factors : sequence of Array, shape (k, k)
            ``Lambda`` of every term in the layout's coordinates.
        theta : Array, shape (m,)
            Of which a residual covariance reads its own stretch.
        """
        del theta
        return self.waist(tuple(L @ L.T for L in factors))

    @exact
    def waist_at(self, theta: Array) -> Waist:
        """The waist at the layout's theta, for values alone: it need not be differentiable."""
        return self.waist(tuple(L @ L.T for L in factor_blocks(theta, self.structures)))

    @exact
    def waists_at(self, thetas: Array) -> Waist:
        """The same at many thetas, (S, m): arrays with a first axis S."""
        return namespace(thetas, self).side_by_side(self.waist_at)(thetas)

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

    def psi_moments(self, theta: Array) -> PsiMoments:
        """Contractions with the directions of every term's Psi, in their order in theta."""
        raise NotImplementedError

    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """Conditional means and covariances of all random effects, given y."""
        raise NotImplementedError

    def conditional_means(self, blocks: Sequence[Array], v: Array) -> tuple[Array, ...]:
        """Conditional means of all random effects at relative covariances of the whitened terms.

        Parameters
        ----------
        blocks : sequence of Array, shape (k, k)
            As in :meth:`waist`.
        v : Array, shape (p + 1,)
            ``(-beta, 1)``.

        Returns
        -------
        tuple of Array, shape (q, G)
            As :class:`BlupTerms` has them; differentiable to any order.
        """
        raise NotImplementedError

    def joint_covariance(self, theta: Array) -> Any | None:
        """Conditional covariance of all effects, of a layout that holds all together; or None."""
        return None

    def start_moments(self) -> Array:
        """Moment estimate of one relative standard deviation a coefficient, as theta."""
        raise NotImplementedError

    def start_candidates(self) -> Array | None:
        """Thetas to start from, (S, m), where a grid of standard deviations is none; or None."""
        return None

    def start_chains(self, candidates: Array) -> tuple[Array, ...] | None:
        """Rows of thetas, (S, m) each, from whose local minima to start as well; or None.

        ``candidates`` are those of :meth:`start_candidates`.
        """
        del candidates
        return None

    def challengers(self, theta: Array) -> tuple[Array, Array] | None:
        """Thetas from which an optimum is challenged, (S, m), and which of them; None: never."""
        del theta
        return None

    def recentred(self) -> tuple[Layout, Coordinates] | None:
        """The layout in coordinates that suit an optimizer, and the ways there; or None."""
        return None

    def log_unit(self, theta: np.ndarray) -> Any:
        """Log of a typical residual standard deviation over sigma, theta (..., m) to (...).

        Random effects that are nothing beside it are zero.
        """
        return np.zeros(theta.shape[:-1])

    def ranks(self) -> Array:
        """How many dimensions of the rows the random effects reach, ()."""
        raise NotImplementedError

    def level_counts(self) -> Array:
        """How many levels of every term have rows that weigh something, (t,)."""
        raise NotImplementedError

    def within_rss(self) -> Array:
        """Sum of squares of y that neither X nor any random effect can explain, ()."""
        return self.S0[-1, -1]

    def size(self) -> int:
        """Numbers that one evaluation has to look at."""
        raise NotImplementedError

    def block_rows(self) -> float:
        """Rows of the largest matrix of an evaluation: of few of them BLAS needs one thread.

        Infinite where a layout does not say, and all threads are its.
        """
        return np.inf

    def host_seconds(self) -> float:
        """Seconds that NumPy takes to minimize, about, for each number in the layout."""
        return 1e-6

    def is_dear(self) -> bool:
        """Whether second derivatives cost much more than the criterion itself."""
        return False

    def gains_by_lanes(self, *, own_rows: bool) -> bool:
        """Whether many responses go faster side by side, each by this layout's criterion, in NumPy.

        Where ``own_rows``, they have rows or weights of their own.
        """
        del own_rows
        return False

    def known_at(self, theta: Array, *, rough: bool = False) -> Layout:
        """The layout for programs that are made for thetas like one that is known, or itself.

        Where ``rough``, six digits of the criterion will do, in NumPy.
        """
        del theta, rough
        return self

    def thinned(self) -> Layout | None:
        """A layout of some of the groups, for start values; None if these are not very many."""
        return None

    @property
    def may_gain(self) -> bool:
        """Whether a program may evaluate it faster than NumPy does."""
        return True

    def without_padding(self) -> Layout:
        """The layout without groups that are not there, in NumPy."""
        return self

    def with_sums(self) -> Layout:
        """The layout with sums that its evaluations in NumPy have in common."""
        return self

    def over_columns(self, change: Callable[[Array, int], Array]) -> Self:
        """The layout with all that is made of [X y] changed along the axis of its columns.

        Parameters
        ----------
        change : callable
            Of an array and the axis; linear in the columns.
        """
        raise NotImplementedError

    def measured_from(self, beta: Array) -> Self:
        """The layout with ``y - X beta`` in the place of y, all else alike."""
        return self.over_columns(lambda A, axis: less_fixed(A, beta, axis))

    def rotate(self, t: int, Q: np.ndarray) -> Layout:
        """The same model with the columns of term t multiplied by an orthogonal Q (on the host)."""
        raise NotImplementedError


def _restored(kind: type[Layout], values: dict[str, Any], on_device: bool = True) -> Layout:
    """A layout from a pickle, where it was and in its own precision."""
    layout = kind(**values)
    if not on_device:
        return layout
    with float64():
        return jax.tree.map(jnp.asarray, layout)


def over_bucket_columns(layout: Any, change: Callable[[Array, int], Array]) -> Any:
    """:meth:`Layout.over_columns` of one whose buckets have [X y] in ``c`` alone."""
    buckets = tuple(replace(b, c=change(b.c, 1)) for b in layout.buckets)
    return replace(layout, S0=change(change(layout.S0, 0), 1), buckets=buckets)


def less_fixed(A: Array, beta: Array, axis: int) -> Array:
    """``[X y]`` along an axis, with ``y - X beta`` in the place of y."""
    xp = namespace(A, beta)
    last = xp.moveaxis(A, axis, -1)
    y = last[..., -1] - last[..., :-1] @ beta
    return xp.moveaxis(xp.at(last)[..., -1].set(y), -1, axis)
