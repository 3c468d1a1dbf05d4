"""What a parametric bootstrap has found: replicates, intervals, tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ..designs.labels import TermLabel
from ..errors import DataError
from ..inputs.arguments import choice, coverage, function, hinted, numbers
from ..inputs.arguments import names as read_names
from ..inputs.names import unique
from ..reprs import brief, public
from ..tables.frames import as_frame
from ..tables.page import Summary, table
from ..tables.shown import Shown
from .bootstrap_statistics import BootstrapStatistics, Kind
from .saving import Saved

Scale = Literal["vcov", "sdcor"]
SCALES = ("vcov", "sdcor")
_GAVE = "what fun gave"


class Replicates(NamedTuple):
    """Parameters of R fits of one design, in the units of the data."""

    beta: np.ndarray  # (R, p)
    covariances: tuple[np.ndarray, ...]  # (R, k, k) a term
    scale: np.ndarray  # (R,)  residual variance
    deviance: np.ndarray  # (R,)  -2 log-likelihood
    converged: np.ndarray  # (R,)
    singular: np.ndarray  # (R,)
    residual: np.ndarray | None = None  # (R, r)  parameters of a residual covariance

    def __repr__(self) -> str:
        return brief(self)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Replicate:
    """Parameters of one replicate, as a function given to ``apply`` sees them.

    ``replicate["Days"]`` is a fixed effect by its name; variances are those of the data.
    """

    fe_params: np.ndarray  # (p,)
    covariances: tuple[np.ndarray, ...]  # (k, k) a term, in the order of the fit's terms
    scale: float  # residual variance
    fixed_names: tuple[str, ...]
    residual_params: dict[str, float]  # of a residual covariance, as those of the fit

    __repr__ = brief

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return float(np.sqrt(self.scale))

    def __getitem__(self, name: str) -> float:
        """The fixed effect of that name."""
        if name not in self.fixed_names:
            raise KeyError(f"no fixed effect {name!r}: choose from {list(self.fixed_names)}")
        return float(self.fe_params[self.fixed_names.index(name)])


@public
@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BootstrapResults(Shown, Saved):
    """Replicates of a parametric bootstrap.

    Parameters come on two scales: ``"vcov"`` gives variances and covariances under
    the names of ``LMMResults.params``, ``"sdcor"`` standard deviations and correlations
    under those of ``tidy()``; both end with the residual standard deviation ``sigma`` and, where
    the model has a residual covariance, its ``LMMResults.residual_params``.
    Replicates that did not converge stay in the arrays and out of every statistic.
    """

    fit: Replicates  # the fit itself, R = 1
    replicates: Replicates
    fixed_names: tuple[str, ...]
    term_labels: tuple[TermLabel, ...]
    reml: bool
    seed: int
    residual_names: tuple[str, ...] = ()
    output: str = "pandas"  # kind of frame that tables come in: that of the data

    @property
    def n_boot(self) -> int:
        """Replicates asked for."""
        return self.replicates.scale.size

    @property
    def n_failed(self) -> int:
        """Replicates that did not converge."""
        return int(np.sum(~self.replicates.converged))

    @property
    def n_singular(self) -> int:
        """Converged replicates with a covariance on the boundary."""
        return int(np.sum(self.replicates.singular & self.replicates.converged))

    def params(self, scale: Scale = "vcov") -> pd.DataFrame:
        """All replicates, a column a parameter; those that did not converge are NaN.

        Parameters
        ----------
        scale : {"vcov", "sdcor"}

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> boot = lmm.bootstrap(res, n_boot=200, seed=1)
        >>> boot.params().shape
        (200, 3)
        """
        choice(scale, "scale", SCALES)
        values = parameter_columns(self.replicates, scale)
        values[~self.replicates.converged] = np.nan
        return pd.DataFrame(values, columns=list(self._names(scale)))

    def statistics(self, scale: Scale = "vcov") -> BootstrapStatistics:
        """The parameters as statistics of the bootstrap."""
        choice(scale, "scale", SCALES)
        values = parameter_columns(self.replicates, scale)[self.replicates.converged]
        estimate = parameter_columns(self.fit, scale)[0]
        return BootstrapStatistics(
            names=self._names(scale), estimate=estimate, values=values, output=self.output
        )

    def apply(
        self, fun: Callable[[Replicate], Any], names: Sequence[str] | None = None
    ) -> BootstrapStatistics:
        """Statistics of a function of the parameters.

        Parameters
        ----------
        fun : callable
            From a :class:`Replicate` to a number, a vector of numbers or a mapping of names to
            numbers.
        names : sequence of str, optional
            Names of the entries of a vector.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> boot = lmm.bootstrap(res, 200, seed=1)
        >>> icc = boot.apply(lambda r: {"icc": r.covariances[0][0, 0] /
        ...                             (r.covariances[0][0, 0] + r.scale)})
        >>> print(f"{icc.estimate[0]:.3f}")
        0.418
        """
        function(fun, "fun")
        estimate, own = _evaluate(fun(self._view(self.fit, 0)))
        names = own if names is None else tuple(read_names(names, "names", estimate.size))
        at = np.flatnonzero(self.replicates.converged)
        rows = [_evaluate(fun(self._view(self.replicates, int(i))))[0] for i in at]
        values = np.array(rows, dtype=float).reshape(at.size, estimate.size)
        return BootstrapStatistics(
            names=names, estimate=estimate, values=values, output=self.output
        )

    def conf_int(
        self,
        *,
        kind: Kind = "percentile",
        alpha: float = 0.05,
        scale: Scale = "vcov",
        level: float | None = None,
    ) -> pd.DataFrame:
        """Intervals of all parameters, with columns lower and upper.

        Parameters
        ----------
        kind : {"percentile", "basic", "normal"}
            See :meth:`BootstrapStatistics.conf_int`.
        alpha : float
            One less the coverage.
        scale : {"vcov", "sdcor"}
            As in :meth:`params`.
        level : float, optional
            The coverage, in the place of ``alpha``.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> boot = lmm.bootstrap(res, n_boot=200, seed=1)
        >>> bool((boot.conf_int()["lower"] >= 0).all())
        True
        """
        return self.statistics(scale).conf_int(kind=kind, alpha=alpha, level=level)

    def tidy(
        self,
        *,
        kind: Kind = "percentile",
        conf_level: float = 0.95,
        scale: Scale = "sdcor",
        level: float | None = None,
        output: str | None = None,
    ) -> Any:
        """One row a parameter: effect, group, term, estimate, bias, std_error and the interval.

        Parameters
        ----------
        kind : {"percentile", "basic", "normal"}
        conf_level, level : float
            The coverage, by either of both words.
        scale : {"vcov", "sdcor"}
            As in :meth:`params`.
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> boot = lmm.bootstrap(res, n_boot=200, seed=1)
        >>> boot.tidy()["term"].tolist()
        ['Intercept', 'sd(Intercept|Batch)', 'sigma']
        """
        level = coverage(level, conf_level=conf_level)
        found = self.statistics(scale)
        frame: pd.DataFrame = found.tidy(kind=kind, level=level, output="pandas")
        owners = [label.group for label in self.term_labels for _ in label.parameter_names()]
        p = len(self.fixed_names)
        frame.insert(0, "effect", ["fixed"] * p + ["ran_pars"] * (len(frame) - p))
        rest = len(frame) - p - len(owners)
        groups = pd.Series([None] * p + owners + ["Residual"] * rest, dtype=object)
        frame.insert(1, "group", groups)
        return as_frame(frame, output, self.output)

    def summary(
        self, *, kind: Kind = "percentile", alpha: float = 0.05, level: float | None = None
    ) -> Summary:
        """The table of :meth:`tidy` as it is printed, with what was counted."""
        level = coverage(level, alpha=alpha)
        frame = self.tidy(kind=kind, level=level, output="pandas").drop(columns="effect")
        criterion = "REML" if self.reml else "ML"
        title = f"Parametric bootstrap, {self.n_boot} replicates fitted by {criterion}"
        return Summary(
            title=title,
            method=title,
            sheets=(table(frame, "", kinds={"group": "label", "term": "label"}),),
            notes=(
                f"{100 * level:g} % intervals: {kind}",
                f"{self.n_singular} singular, {self.n_failed} failed; seed {self.seed}",
            ),
        )

    def to_arviz(self, scale: Scale = "sdcor") -> Any:
        """The replicates that converged as draws of ArviZ, with a name for every parameter.

        Parameters
        ----------
        scale : {"sdcor", "vcov"}

        Returns
        -------
        arviz.InferenceData, or xarray.DataTree since ArviZ 1.0
            The group ``posterior``, where ArviZ's functions look, though these are draws of
            estimates: ``fe_params`` by effect, ``sd_<group>`` and ``cor_<group>`` of every term
            (``var_`` and ``cov_``), ``sigma``, and ``residual_params`` where there are such.

        Raises
        ------
        ImportError
            Without ArviZ, ``pip install "lmm-jax[neighbours]"``.
        """
        from ..neighbours.draws import draws_of  # loaded when it is asked for

        return draws_of(self, choice(scale, "scale", SCALES))

    def _page(self) -> Summary:
        return self.summary()

    def __repr__(self) -> str:
        return (
            f"<BootstrapResults: {self.n_boot} replicates, {self.n_singular} singular, "
            f"{self.n_failed} failed>"
        )

    def _view(self, at: Replicates, i: int) -> Replicate:
        return Replicate(
            fe_params=at.beta[i],
            covariances=tuple(S[i] for S in at.covariances),
            scale=float(at.scale[i]),
            fixed_names=self.fixed_names,
            residual_params={}
            if at.residual is None
            else dict(zip(self.residual_names, at.residual[i].tolist(), strict=True)),
        )

    def _names(self, scale: Scale) -> tuple[str, ...]:
        names = [name for label in self.term_labels for name in _term_names(label, scale)]
        return unique([*self.fixed_names, *names, "sigma", *self.residual_names])


def _term_names(label: TermLabel, scale: Scale) -> list[str]:
    names = label.parameter_names()
    if scale == "vcov":
        return names
    return [name.replace("var(", "sd(", 1).replace("cov(", "cor(", 1) for name in names]


def parameter_columns(at: Replicates, scale: Scale) -> np.ndarray:
    """Fixed effects, lower triangles row by row, sigma, residual parameters: (R, parameters)."""
    parts = [at.beta]
    for S in at.covariances:
        rows, columns = np.tril_indices(S.shape[-1])
        values = S[:, rows, columns]
        if scale == "sdcor":
            sd = np.sqrt(np.diagonal(S, axis1=1, axis2=2))
            off = rows != columns
            with np.errstate(divide="ignore", invalid="ignore"):
                correlations = values / (sd[:, rows] * sd[:, columns])
            values = np.where(off, correlations, sd[:, rows])
        parts.append(values)
    rest = [] if at.residual is None else [at.residual]
    return np.concatenate([*parts, np.sqrt(at.scale)[:, None], *rest], axis=1)


def _evaluate(value: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Values of a user's function as a vector, and names for them."""
    if isinstance(value, dict):
        return numbers(list(value.values()), _GAVE, finite=False), tuple(map(str, value))
    if isinstance(value, pd.Series):
        return numbers(value, _GAVE, finite=False), tuple(map(str, value.index))
    values = np.atleast_1d(numbers(value, _GAVE, finite=False))
    if values.ndim != 1:
        raise DataError(
            f"the function gave an array of shape {values.shape}: a number, a vector or a "
            "mapping of names to numbers is needed"
        )
    return values, tuple(f"t{i}" for i in range(values.size))
