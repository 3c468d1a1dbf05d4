"""Lines through the optimum: one parameter of the data held, as a coordinate of the criterion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from ...covariance.structures import CompoundSymmetry
from ...covariance.theta import factor_blocks, theta_slices
from ...covariance.triangles import lower_indices
from ...errors import DataError
from ...layouts.contract import Layout
from ...likelihood.joint import joint_jet
from ...likelihood.profile import profile_jet
from ...numerics.devices import on_processor
from ...numerics.programs import compiled
from ...optimize.minimize import has_few_groups, in_doubt, minimize, off_boundary
from ...optimize.newton import newton
from ...optimize.starts import SMALL_PROBLEM
from ..parameters import Parameter
from .charts import Angle, Chart, Difference, Polar, Product, Reference, Size, pulled_back

# Limit on the steps of one search for the optimum.
MAXITER = 200

_joint = compiled(joint_jet, static=("reml", "with_effect"), host=2e-7)
_profiled = compiled(profile_jet, static="reml", host=1e-7)


class Base(NamedTuple):
    """The optimum that a profile starts from, in the layout's coordinates."""

    layout: Layout  # y measured from the fixed effects at the optimum
    beta: np.ndarray  # (p,)  these
    y: np.ndarray  # (m + 1,)  theta and log sigma^2
    deviance: float
    reml: bool
    doubtful: bool  # groups so few that the criterion may well have several minima
    reference: tuple[int, float] | None = None  # see Covariates.reference

    def sigma(self, y: np.ndarray) -> float:
        """Standard deviation of the residuals, of the data, at a point (theta, tau, ..)."""
        tau = y[self.y.size - 1]
        if self.reference is not None:
            place, c = self.reference
            tau = tau - 2.0 * c * y[place]
        return float(self.layout.y_scale) * float(np.exp(0.5 * tau))


class LineJet(NamedTuple):
    """The criterion at a point of a line, in the coordinates of its chart."""

    z: np.ndarray  # (M,)
    value: float
    gradient: np.ndarray  # (M,)
    hessian: np.ndarray  # (M, M)
    noise: float
    y: np.ndarray  # (M,)  the same point in (theta, tau), or (theta, tau, b)
    beta: np.ndarray  # (p,)


class Form(NamedTuple):
    """How a parameter of the data follows from its coordinate z."""

    kind: str = "linear"
    unit: float = 1.0
    origin: float = 0.0
    squared: bool = False  # what is reported is the square

    def of_data(self, z: float) -> float:
        """``origin + unit z``, ``unit exp(z / 2)``, ``cos(z)``, ``1 - unit cos(z)^2``."""
        if self.squared:
            return self._replace(squared=False).of_data(z) ** 2
        if self.kind == "linear":
            return float(self.origin + self.unit * z)
        if self.kind == "exp":
            return float(self.unit * np.exp(0.5 * z))
        return float(np.cos(z) if self.kind == "cos" else 1.0 - self.unit * np.cos(z) ** 2)

    @property
    def orientation(self) -> int:
        """1 where the parameter grows with its coordinate, -1 where it falls."""
        return -1 if self.kind == "cos" else 1


_PLAIN = Form()


@dataclass(frozen=True, kw_only=True)
class Line:
    """One parameter and the coordinates in which it can be held."""

    parameter: Parameter
    layout: Layout
    reml: bool
    doubtful: bool  # see Base
    chart: Chart
    z: np.ndarray  # (M,)  the optimum
    direction: np.ndarray  # (p,)  of a fixed effect
    low: float = -np.inf  # where the coordinate ends
    high: float = np.inf
    form: Form = _PLAIN
    turned: tuple[int, np.ndarray] | None = None  # the term that was rotated, and by what

    @property
    def held(self) -> int:
        """Place in z of the parameter."""
        return self.chart.held

    def jet(self, z: np.ndarray) -> LineJet:
        """The criterion with two derivatives in z."""
        with np.errstate(all="ignore"):
            at = self.chart.at(z)
            found = _joint(
                at.y, self.layout, self.direction, reml=self.reml, with_effect=self.with_effect
            )
            gradient, hessian = pulled_back(
                at, np.asarray(found.gradient), np.asarray(found.hessian)
            )
        if self.layout.sigma2 is not None:  # log sigma^2 stays where it is
            tau, gradient, hessian = self.chart.tau, gradient.copy(), hessian.copy()
            gradient[tau] = hessian[tau] = hessian[:, tau] = 0.0
            hessian[tau, tau] = 1.0
        value, noise = float(found.value), float(found.noise)
        return LineJet(z, value, gradient, hessian, noise, at.y, np.asarray(found.beta))

    @property
    def with_effect(self) -> bool:
        """Whether a fixed effect is held."""
        return self.parameter.kind == "beta"


def base_at(layout: Layout, theta: Any, *, reml: bool, refit: bool) -> Base:
    """The optimum near a theta, or that theta itself without ``refit``."""
    if refit:
        theta = _optimum(layout, theta, reml=reml)
    places = zip(layout.structures, theta_slices(layout.structures), strict=True)
    theta = np.concatenate([s.canonical(theta[at]) for s, at in places])  # zeros are zeros
    profile = _profiled(theta, layout, reml=reml).profile
    near = layout.measured_from(profile.beta)
    beta = np.asarray(profile.beta)
    profile = _profiled(theta, near, reml=reml).profile
    tau = np.log(float(profile.scale))
    near = _prepared(near.measured_from(profile.beta))
    few = layout.size() <= SMALL_PROBLEM and bool(has_few_groups(layout))
    beta = beta + np.asarray(profile.beta)
    return Base(near, beta, np.append(theta, tau), float(profile.deviance), reml, few)


def _prepared(layout: Layout) -> Layout:
    """The layout without padding and with its sums, where evaluations stay in NumPy."""
    if layout.size() <= SMALL_PROBLEM or (layout._is_kind("crossed") and on_processor()):
        return layout.without_padding().with_sums()
    return layout  # programs take padded shapes


def _optimum(layout: Layout, theta: Any, *, reml: bool) -> Any:
    """Theta of the optimum: by Newton from a start nearby, from all starts where in doubt."""

    def evaluate(at: Any) -> Any:
        return jax.tree.map(np.asarray, _profiled(at, layout, reml=reml))

    def run(start: Any) -> Any:
        return newton(start, evaluate, layout.structures, maxiter=MAXITER)

    with np.errstate(all="ignore"):
        best = run(theta)
        if layout.size() <= SMALL_PROBLEM and in_doubt(best, layout):
            host = jax.tree.map(np.asarray, layout)
            found = minimize(host, reml=reml, maxiter=MAXITER)
            return found.theta if found.jet.value < best.jet.value else best.theta
        opened, cornered = off_boundary(best.theta, layout.structures)
        if cornered:
            inner = run(opened)
            best = inner if inner.jet.value < best.jet.value else best
    return best.theta


# ------------------------------------------------------------ the line of each parameter


def line_of(parameter: Parameter, base: Base) -> Line:
    """The line of one parameter through the optimum."""
    m, p = base.y.size - 1, base.beta.size
    at = Line(
        parameter=parameter,
        layout=base.layout,
        reml=base.reml,
        doubtful=base.doubtful,
        chart=Chart(m, m),
        z=base.y,
        direction=np.zeros(p),
    )
    y_scale = float(base.layout.y_scale)
    if parameter.kind == "sigma":
        if base.reference is not None:
            chart: Chart = Reference(m, m, *base.reference)
            at = replace(at, chart=chart, z=chart.inverse(base.y))
        return replace(at, form=Form("exp", y_scale))
    if parameter.kind == "beta":
        row = np.asarray(base.layout.beta_map)[parameter.i]
        low = float(np.asarray(base.layout.beta_origin)[parameter.i] + y_scale * (row @ base.beta))
        origin = low + float(np.asarray(base.layout.beta_shift)[parameter.i])
        return replace(
            at, chart=Chart(m + 1, m), z=np.append(base.y, 0.0), direction=row,
            form=Form("linear", y_scale, origin),
        )  # fmt: skip
    structure = base.layout.structures[parameter.term]
    if structure.unrestricted:
        return _unrestricted(at, y_scale)
    if not isinstance(structure, CompoundSymmetry):
        raise DataError(
            f"{parameter.name!r}: there is no profile of a covariance such as "
            f"{structure.spelled('x | g')}: choose method='wald' or 'bootstrap', or the fixed "
            "effects alone, parm='beta'"
        )
    return _symmetric(at, y_scale)


def _unrestricted(at: Line, y_scale: float) -> Line:
    """A standard deviation, correlation or covariance of a term with any covariance."""
    term, i, j = at.parameter.term, at.parameter.i, at.parameter.j
    A = np.asarray(at.layout.whiteners[term])
    places = theta_slices(at.layout.structures)[term]
    k, tau = len(A), at.z.size - 1
    rows = A[[i]] if i == j else A[[i, j]]
    Q, R = np.linalg.qr(np.column_stack([rows.T, np.eye(k)]))
    signs = np.where(np.diagonal(R) < 0, -1.0, 1.0)
    Q, R = Q * signs, R * signs[:, None]
    y = at.z.copy()
    if k > 1:
        factor = Q.T @ factor_blocks(y[:tau], at.layout.structures)[term]
        L = np.linalg.qr(factor.T)[1].T  # lower triangular, the same covariance
        y[places] = (L * np.where(np.diagonal(L) < 0, -1.0, 1.0))[lower_indices(k)]
        at = replace(at, layout=_prepared(at.layout.rotate(term, Q)), turned=(term, Q))
    else:
        y[places] = np.abs(y[places])
    u, first = R[0, 0], places.start
    if i == j:
        chart: Chart = Size(first, tau)
        return replace(at, chart=chart, z=chart.inverse(y), low=0.0, form=Form(unit=u * y_scale))
    size = float(np.hypot(R[0, 1], R[1, 1]))  # units of x leave with it
    s, t = float(R[0, 1]) / size, float(R[1, 1]) / size
    pair: Any = dict(l11=first, l21=first + 1, l22=first + k, s=s, t=t)
    if at.parameter.kind == "cor":
        chart = Angle(first + 1, tau, **pair)
        return replace(at, chart=chart, z=chart.inverse(y), low=0.0, high=np.pi, form=Form("cos"))
    chart = Product(first + 1, tau, **pair)
    return replace(at, chart=chart, z=chart.inverse(y), form=Form(unit=u * size * y_scale**2))


def _symmetric(at: Line, y_scale: float) -> Line:
    """The same of a term ``cs(1 + x | g, hom=True)``, whose whitener is a number."""
    t, tau = at.parameter.term, at.z.size - 1
    first, k = theta_slices(at.layout.structures)[t].start, at.layout.sizes[t]
    y = at.z.copy()
    y[first : first + 2] = np.abs(y[first : first + 2])
    unit = float(np.asarray(at.layout.whiteners[t])[0, 0]) * y_scale
    kind = at.parameter.kind
    if kind == "cov":
        chart: Chart = Difference(first + 1, tau, first, k)
        return replace(at, chart=chart, z=chart.inverse(y), form=Form(unit=unit**2))
    if kind == "sd":
        chart = Polar(first, tau, first, k, True)
        return replace(at, chart=chart, z=chart.inverse(y), low=0.0, form=Form(unit=unit))
    chart = Polar(first + 1, tau, first, k, False)
    at = replace(at, chart=chart, z=chart.inverse(y), low=0.0, high=0.5 * np.pi)
    return replace(at, form=Form("cos2", k / (k - 1.0)))


def pivots_of(line: Line) -> list[int]:
    """Free places of z at which a covariance is singular where the coordinate is zero."""
    structures = line.layout.structures
    own = {line.held}
    if isinstance(line.chart, Polar):  # its own term has none: both ends are those of its angle
        own = {line.chart.start, line.chart.start + 1}
    places = zip(structures, theta_slices(structures), strict=True)
    return [int(n) for s, at in places for n in at.start + s.pivots if int(n) not in own]


def theta_at(line: Line, y: np.ndarray) -> np.ndarray:
    """Theta in the coordinates of the layout that was not rotated, (m,)."""
    theta = y[: line.chart.tau].copy()
    if line.turned is not None:
        t, Q = line.turned
        factor = Q @ factor_blocks(theta, line.layout.structures)[t]
        lower = np.linalg.qr(factor.T)[1].T
        theta[theta_slices(line.layout.structures)[t]] = lower[lower_indices(len(Q))]
    return theta


def covariances_at(line: Line, y: np.ndarray) -> list[np.ndarray]:
    """Covariance of the data of every term at a point of the line, (k, k) each."""
    m = line.chart.tau
    scale = float(line.layout.y_scale) ** 2 * np.exp(y[m])
    out = []
    factors: Sequence[np.ndarray] = factor_blocks(y[:m], line.layout.structures)
    for t, (A, L) in enumerate(zip(line.layout.whiteners, factors, strict=True)):
        turned = line.turned is not None and line.turned[0] == t
        AL = np.asarray(A) @ (line.turned[1] @ L if turned and line.turned else L)
        out.append(scale * AL @ AL.T)
    return out
