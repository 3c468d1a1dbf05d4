"""Profile likelihood of every parameter: intervals, and the curves for plots.

``profile_re`` (:mod:`lmm_jax.inference.profiles.ratio`) is statsmodels' curve of one variance; this
is lme4's: standard deviations, correlations, sigma and fixed effects, each held while all
others are maximized again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import special

from ...capabilities import require
from ...errors import ConvergenceWarning, DataError, warn_user
from ...inputs.arguments import choice, flag, hinted
from ...layouts.contract import Layout
from ...numerics.processes import float64
from ...numerics.progress import progress_bar
from ..parameters import SCALES, Parameter, chosen, parameter_values, parameters_of
from ..record import FitRecord
from .curves import BETWEEN, LEVELS, ProfileCurve, ProfileResults
from .lines import Base, Line, base_at, covariances_at, line_of
from .search import Found, LowerOptimum, at_optimum, crossing, end_of

# Times that a profile begins again from a better optimum.
_RESTARTS = 3
# Roots of the points of a curve.
_ROOTS = np.sort(np.concatenate([special.ndtri(0.5 + 0.5 * LEVELS), BETWEEN]))
# Those at which minima are sought that are not next to the point before: nine tenths of the time
# of a profile of few groups, were it done at every point.
_SOUGHT = special.ndtri(0.5 + 0.5 * np.array([0.95, LEVELS[-1]]))

R = TypeVar("R")


class Limits(NamedTuple):
    """Ends of the intervals of some parameters."""

    names: tuple[str, ...]
    lower: np.ndarray  # (K,)  NaN where the search failed
    upper: np.ndarray  # (K,)


@hinted
def profile(
    res: FitRecord,
    parm: Any = None,
    *,
    scale: str = "sdcor",
    reml: bool = False,
    progress: bool = False,
) -> ProfileResults:
    """Profile likelihood of the parameters of a fit.

        zeta(psi) = sign(psi - psi_hat) sqrt(D(psi) - D(psi_hat))

    with ``D(psi)`` the deviance at ``psi``, minimized over all other parameters. A straight
    line in ``psi`` is an exact Wald interval.

    Parameters
    ----------
    res : LMMResults
    parm : str or sequence of str, optional
        Names of parameters, ``"beta"`` for the fixed effects, ``"theta"`` for the others.
    scale : {"sdcor", "vcov"}
        Standard deviations, correlations and ``sigma``, or variances, covariances and
        ``scale``.
    reml : bool
        The restricted likelihood, which has no profile of a fixed effect. By default the
        likelihood, as in lme4: a fit by REML is fitted again by ML.
    progress : bool
        Show a progress bar over the parameters, if tqdm is installed.

    Returns
    -------
    ProfileResults

    Raises
    ------
    DataError
        A fit with held covariances or penalties, or one without its data.

    Warns
    -----
    ConvergenceWarning
        A curve that could not be followed so far, with the name of the parameter.

    References
    ----------
    Venzon & Moolgavkar (1988), doi:10.2307/2347496; Bates, Maechler, Bolker & Walker (2015),
    doi:10.18637/jss.v067.i01.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> curves = lmm.profile(res, "theta")
    >>> curves.conf_int(level=0.99).round(2).loc["sigma"].tolist()
    [22.15, 30.03]
    """
    job = _read(res, parm, scale, reml)
    _check_some(job)
    progress = flag(progress, "progress")
    return _from_best(job, lambda base: _curves(base, job, progress))


def profile_limits(
    res: FitRecord, level: float, scale: str, parm: Any, reml: bool, progress: bool
) -> Limits:
    """Ends of profile intervals; see :meth:`lmm_jax.LMMResults.conf_int`."""
    job = _read(res, parm, scale, reml)
    q = float(special.ndtri(0.5 + 0.5 * level))
    return _from_best(job, lambda base: _limits(base, job, q, progress))


class _Job(NamedTuple):
    """What is asked for."""

    fit: FitRecord
    parameters: tuple[Parameter, ...]  # all, those of held effects with i = -1
    places: list[int]  # of those asked for
    roots: bool
    reml: bool


def _read(res: FitRecord, parm: Any, scale: str, reml: bool) -> _Job:
    design: Any = require(res, "profile").design
    choice(scale, "scale", SCALES)
    reml = flag(reml, "reml")
    parameters = parameters_of(res.fixed_names, res.term_labels, scale)
    places = chosen(parameters, parm)
    if reml:
        fixed = [parameters[n].name for n in places if parameters[n].kind == "beta"]
        if parm is not None and fixed and len(fixed) == len(places):
            raise DataError(
                f"the restricted likelihood has no profile of the fixed effects "
                f"{', '.join(fixed)}: leave reml=False"
            )
        places = [n for n in places if parameters[n].kind != "beta"]
    return _Job(res, _among_free(parameters, design.held), places, scale == "sdcor", reml)


def _check_some(job: _Job) -> None:
    """Some parameter that is asked for has a profile."""
    if not any(_is_free(job, job.parameters[n]) for n in job.places):
        names = ", ".join(job.parameters[n].name for n in job.places)
        raise DataError(f"{names} is held or known, and has no profile")


def _among_free(parameters: tuple[Parameter, ...], held: np.ndarray | None) -> Any:
    """Fixed effects by their places in the layout, -1 for those that are held."""
    if held is None:
        return parameters
    free = np.isnan(held)
    place = np.where(free, np.cumsum(free) - 1, -1)
    return tuple(p._replace(i=int(place[p.i])) if p.kind == "beta" else p for p in parameters)


def _from_best(job: _Job, work: Callable[[Base], R]) -> R:
    """Do the work from the optimum, again from a better one where it meets one."""
    layout: Layout = job.fit.design.compressed.of_fit  # type: ignore[union-attr]
    theta = np.asarray(job.fit.estimates.theta_layout)
    moved, reference = layout.recentred(), None
    if moved is not None:  # far from their reference the profile would be a bent ridge
        layout, coordinates = moved
        theta, reference = coordinates.inward(theta), coordinates.reference
    refit = job.fit.reml != job.reml or not job.fit.converged
    with float64(), np.errstate(over="ignore"):
        for _ in range(_RESTARTS):
            base = base_at(layout, theta, reml=job.reml, refit=refit)
            base = base._replace(reference=reference)
            try:
                return work(base)
            except LowerOptimum as lower:
                theta, refit = lower.theta, True
    raise DataError("the likelihood of this model has no maximum that a profile could start from")


def _limits(base: Base, job: _Job, q: float, progress: bool) -> Limits:
    names = tuple(job.parameters[n].name for n in job.places)
    out = np.empty((len(names), 2))
    known: dict[Any, np.ndarray] = {}
    with progress_bar(len(names), "parameter", progress) as tick:
        for row, n in enumerate(job.places):
            parameter = job.parameters[n]
            if parameter.kind == "beta" and parameter.i < 0:
                out[row] = job.fit.estimates.beta[n]
            elif parameter.kind == "sigma" and job.fit.sigma_known:
                out[row] = job.fit.sigma
            else:
                out[row] = _interval(parameter, base, q, known)
            if not job.roots and parameter.kind in ("sd", "sigma"):
                out[row] = out[row] ** 2
            tick(1)
    _warn([name for name, row in zip(names, out, strict=True) if np.isnan(row).any()])
    return Limits(names, out[:, 0], out[:, 1])


def _interval(
    parameter: Parameter, base: Base, q: float, known: dict[Any, np.ndarray]
) -> np.ndarray:
    """Lower and upper end.

    A correlation is anything where one of its standard deviations is zero: what reaches zero
    leaves it no limits.
    """
    key = _key(parameter, base)
    if key in known:
        return known[key]
    line = line_of(parameter, base)
    turn = line.form.orientation
    bounds = (line.low, line.high)[::turn]
    if parameter.kind == "cor" and any(
        _interval(sd, base, q, known)[0] == 0.0 for sd in _deviations(parameter)
    ):
        known[key] = np.array([line.form.of_data(z) for z in bounds])
        return known[key]
    start = at_optimum(line)
    found = [crossing(line, start, base.deviance, q, side * turn) for side in (-1, 1)]
    ends = [np.nan if at is None else line.form.of_data(at.psi) for at in found]
    known[key] = np.array(ends)
    return known[key]


def _deviations(parameter: Parameter) -> tuple[Parameter, Parameter]:
    """The standard deviations of a correlation."""
    i, j = parameter.i, parameter.j
    same = parameter._replace(name="", kind="sd")
    return same._replace(j=i), same._replace(i=j)


def _key(parameter: Parameter, base: Base) -> Any:
    """The same for parameters that are equal by the structure of their term."""
    if parameter.term < 0 or base.layout.structures[parameter.term].unrestricted:
        return parameter[1:]
    return parameter.term, parameter.kind


def _curves(base: Base, job: _Job, progress: bool) -> ProfileResults:
    optimum = line_of(Parameter("", "sigma"), base)
    estimate = _values(job, base, optimum, at_optimum(optimum))
    curves, failed = [], []
    free = [n for n in job.places if _is_free(job, job.parameters[n])]
    with progress_bar(len(free), "parameter", progress) as tick:
        for n in free:
            line = line_of(job.parameters[n], base)
            points, ends = _followed(line, base)
            curves.append(_curve(job, base, line, points, ends, n))
            if any(end is None for end in ends):
                failed.append(job.parameters[n].name)
            tick(1)
    _warn(failed)
    names = tuple(parameter.name for parameter in job.parameters)
    return ProfileResults(
        curves=tuple(curves),
        names=names,
        estimate=estimate,
        deviance=base.deviance,
        reml=job.reml,
        output=job.fit.output,
    )


def _is_free(job: _Job, parameter: Parameter) -> bool:
    """Whether it has a profile: what is held or known has none."""
    if parameter.kind == "sigma":
        return not job.fit.sigma_known
    return parameter.kind != "beta" or parameter.i >= 0


def _followed(line: Line, base: Base) -> tuple[list[Found], tuple[bool | None, bool | None]]:
    """Points by increasing parameter, zeta signed; whether it ends below and above, None: lost."""
    start = at_optimum(line)
    cap = _cap(line.parameter, base)
    (lower, ends_below), (upper, ends_above) = (
        _side(line, base, start, cap, side) for side in (-1, 1)
    )
    return [*reversed(lower), start, *upper], (ends_below, ends_above)


def _side(
    line: Line, base: Base, start: Found, cap: float, side: int
) -> tuple[list[Found], bool | None]:
    """Points from the optimum outwards, and whether the parameter ends; None where it is lost."""
    walked = None
    if line.doubtful:
        walked = _walked(line, base, start, cap, side, sure=False)
    walked = walked or _walked(line, base, start, cap, side, sure=True)
    assert walked is not None  # who has looked everywhere has found what there is
    points, end = walked
    if end is False and cap < _ROOTS[-1]:  # from there on a standard deviation is zero
        last = line.low if side * line.form.orientation < 0 else line.high
        points.append((points or [start])[-1]._replace(psi=last, zeta=cap, slope=0.0))
        end = True
    return [point._replace(zeta=side * point.zeta) for point in points], end


def _walked(
    line: Line, base: Base, start: Found, cap: float, side: int, *, sure: bool
) -> tuple[list[Found], bool | None] | None:
    """:func:`_side` as far as the search goes, zeta not signed.

    Other minima are sought at every point where ``sure``, otherwise at some; None where one is
    found then, or the profile cannot be followed.
    """
    points: list[Found] = []
    at = start
    for q in [*_ROOTS[cap > _ROOTS], *([cap] if cap < _ROOTS[-1] else [])]:
        turn, last = side * line.form.orientation, q in _SOUGHT or q == cap
        found = crossing(line, at, base.deviance, float(q), turn, sure=sure or last)
        if not sure and points and not (found and (found.followed or found.ends)):
            return None
        if found is None:
            return points, None
        at = found
        points += [found] if found.psi != start.psi else []
        if found.ends:
            return points, True
    return points, False


def _cap(parameter: Parameter, base: Base) -> float:
    """Highest root that the profile of a correlation can have: that of a zero variance."""
    if parameter.kind != "cor":
        return np.inf
    lines = [line_of(sd, base) for sd in _deviations(parameter)]
    return min(end_of(line, at_optimum(line), base.deviance, -1).zeta for line in lines)


def _curve(
    job: _Job,
    base: Base,
    line: Line,
    points: Sequence[Found],
    ends: tuple[bool | None, bool | None],
    n: int,
) -> ProfileCurve:
    values = np.array([_values(job, base, line, point) for point in points])
    form = line.form._replace(squared=not job.roots and line.parameter.kind in ("sd", "sigma"))
    own = np.array([form.of_data(point.psi) for point in points])
    values[:, n] = own
    zeta = np.array([point.zeta for point in points]) + 0.0  # no -0.0
    return ProfileCurve(
        name=line.parameter.name,
        value=own,
        zeta=zeta,
        deviance=base.deviance + zeta**2,
        parameters=values,
        coordinate=np.array([point.psi for point in points]),
        slope=np.array([point.slope for point in points]),
        form=form,
        ends=(bool(ends[0]), bool(ends[1])),
    )


def _values(job: _Job, base: Base, line: Line, at: Found) -> np.ndarray:
    """All parameters of the data at a point, (K,)."""
    layout, y = base.layout, at.jet.y
    inner = np.asarray(layout.beta_origin) + float(layout.y_scale) * (
        np.asarray(layout.beta_map) @ (base.beta + at.jet.beta)
    )
    beta = job.fit.estimates.beta.copy()
    places = [n for n, p in enumerate(job.parameters) if p.kind == "beta" and p.i >= 0]
    beta[places] = np.asarray(layout.beta_shift) + inner
    sigma = base.sigma(y)
    named = [p._replace(i=n) if p.kind == "beta" else p for n, p in enumerate(job.parameters)]
    return parameter_values(named, beta, covariances_at(line, y), sigma, roots=job.roots)


def _warn(failed: list[str]) -> None:
    if failed:
        warn_user(
            f"the profile of {', '.join(failed)} could not be followed to this level: the search "
            "for the maximum over the other parameters failed; those limits are NaN",
            ConvergenceWarning,
        )
