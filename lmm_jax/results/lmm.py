"""The fitted model: immutable, labelled, made of NumPy arrays and pandas labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from ..designs.from_sums import BatchDesign
from ..designs.labels import TermLabel
from ..errors import DataError
from ..inference.df.robust import robust_of
from ..inputs.arguments import coverage, flag, hinted
from ..inputs.elsewhere import here
from ..inputs.names import unique
from ..reprs import inside, public
from ..tables.frames import as_frame
from . import tidy as tables
from .coefficients import long_table
from .kept import Kept, keep
from .predicted import PredictedModel
from .saving import Saved

__all__ = ["LMMResults", "TermLabel"]

# Numbers that a result without data may hold (8 MiB).
_SMALL = 1 << 20


@inside("estimates", "kept", "residual", "df_methods")
@public
@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LMMResults(Saved, PredictedModel):
    """A fitted linear mixed model.

    Variances are variances of the data, never divided by ``scale``. Everything
    that costs more than the parameters is computed when it is first asked for.
    A pickled result leaves the rows of the data out; it predicts new rows and keeps its
    random effects with their covariances, fitted values and tests. :meth:`save` can keep
    the rows as well.

    Attributes and methods by subject; ``help(lmm.LMMResults.tidy)`` describes one.

    - The fit: formula, endog_name, endog_names, fixed_names, term_labels, nobs, n_missing, gaps,
      n_groups, reml, df_method, converged, singular, message, n_iter, hist, runtime, free,
      penalized, sigma_known, approximation, design, layout_info, output
    - Estimates: params, fe_params, cov_re, cov_re_unscaled, vcomp, scale, sigma, theta, varcorr,
      residual_params, residual_params_se, residual_cov, residual_corr, visits
    - Fit statistics: llf, aic, aicc, bic, n_params, df_resid
    - Standard errors and tests: bse, bse_fe, bse_re, cov_params, df, tvalues, pvalues, tests,
      t_test, wald_test, f_test, wald_test_terms, anova, with_df, robust
    - Intervals: conf_int, residual_intervals, profile_re
    - Random effects: random_effects, random_effects_cov, random_effects_frame, joint_effects_cov,
      coef
    - Prediction and residuals: fittedvalues, resid, predict, model_matrix, basis
    - Tables, plots and files: summary, tidy, glance, augment, to_latex, to_html, to_markdown,
      to_gt, plot, save, without_data
    - Other packages: to_marginaleffects, to_maketables, to_summary_col
    """

    def _state(self, *, keep_data: bool) -> dict[str, Any]:
        state = super()._state(keep_data=keep_data)
        if keep_data or self.design is None:
            return state
        self.tests  # noqa: B018  what it takes of the rows is kept
        return {**state, "design": None, "kept": self._kept}

    @cached_property
    def _kept(self) -> Kept:
        design = self.design
        assert design is not None  # the caller has looked
        fitted = None if isinstance(design, BatchDesign) else self.fittedvalues
        return keep(design, self._level_effects, self.random_effects_cov, fitted)

    # ---- plots

    def plot(self, *, ax: Any = None) -> Any:
        """Four plots to check the model by: :func:`lmm_jax.plots.overview`.

        Residuals against fitted values, normal quantiles of the residuals, scale-location, and
        random effects. Other plots are functions of :mod:`lmm_jax.plots`.

        Parameters
        ----------
        ax : sequence of four matplotlib Axes, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        ndarray of Axes, shape (4,)

        Raises
        ------
        ImportError
            Without matplotlib, ``pip install "lmm-jax[plot]"``.
        """
        from ..plots.page import overview  # matplotlib's names load when something is drawn

        return overview(self, ax=ax)

    # ---- tables

    def tidy(
        self,
        effects: str | Sequence[str] = ("fixed", "ran_pars"),
        *,
        conf_int: bool = True,
        conf_level: float = 0.95,
        level: float | None = None,
        df_method: str | None = None,
        output: str | None = None,
    ) -> Any:
        """One row a parameter or effect, with broom.mixed's columns.

        Parameters
        ----------
        effects : str or sequence of str
            Rows to give: ``"fixed"``; ``"ran_pars"``, standard deviations (``sd__``) and
            correlations (``cor__``) of the random effects and of the residual; ``"ran_vals"``,
            random effects of every level with conditional standard deviations; ``"ran_coefs"``,
            those of :meth:`coef`. The last two have a column ``level``.
        conf_int : bool
            Give limits.
        conf_level, level : float
            Coverage of the intervals, by either of both words.
        df_method : str, optional
            As in :func:`lmm_jax.fit`; that of the fit if not given.
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> table = res.tidy(["fixed", "ran_vals"], conf_int=False)
        >>> print(table[["effect", "group", "level", "estimate"]].head(2).round(1))
             effect  group level  estimate
        0     fixed   None  None    1527.5
        1  ran_vals  Batch     A     -17.6
        """
        of_levels = {
            "ran_vals": lambda level: self.random_effects_frame(level, output="pandas"),
            "ran_coefs": lambda _: long_table(self.coef()),
        }
        conf_int = flag(conf_int, "conf_int")
        level = coverage(level, conf_level=conf_level)
        made = tables.tidy(self.with_df(df_method), effects, conf_int, level, of_levels)
        return as_frame(made, output, self.output)

    def augment(self, *, output: str | None = None) -> Any:
        """Response, fitted values, residuals and the fixed part of every row used.

        Parameters
        ----------
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given. Where a frame has no index, a column
            ``row`` has the labels of the rows.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> list(res.augment().columns)
        ['Reaction', 'fitted', 'resid', 'fixed']
        """
        design = self._need("augment")
        own = {
            "fitted": self.fittedvalues,
            "resid": self.resid,
            "fixed": self.predict(output="pandas"),
        }
        response = unique([*own, design.endog_name])[-1]  # a response may be called `fitted`
        made = pd.DataFrame({response: design.endog, **own}, index=design.index)
        return as_frame(made, output, self.output, labels="row")

    # ---- other packages

    def to_marginaleffects(self, *, df: float | None = None) -> Any:
        """The fixed effects as a model of marginaleffects: predictions, comparisons, slopes.

        Parameters
        ----------
        df : float, optional
            Degrees of freedom of all of its t statistics and intervals, for which it has one
            number; normal quantiles if not given.

        Returns
        -------
        A model of marginaleffects
            Its rows are those of the fit, with the variables of the fixed effects. ``vcov=`` of
            its functions takes the names of ``df_method`` and of :meth:`robust` as well, for
            their covariances; by default it is that of the fit. Standard errors of slopes need
            ``eps_vcov=1``: means are linear in the coefficients, and the package's own step of a
            difference quotient leaves about three digits of them.

        Raises
        ------
        ImportError
            Without marginaleffects, ``pip install "lmm-jax[neighbours]"``.
        DataError
            A result without its data, a design without a formula, an offset that is an array;
            degrees of freedom that are none.
        """
        from ..neighbours.marginal_effects import marginal_model  # loaded when it is asked for

        return marginal_model(self, df)

    def to_maketables(self) -> Any:
        """The fit as a column of maketables' ``ETable``, with its groups and likelihood.

        ``ETable`` takes the result itself too, and shows what it knows of results of statsmodels.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> res.to_maketables().__maketables_default_stat_keys__[:2]
        ['N', 'Groups: Batch']
        """
        from ..neighbours.regression_tables import MakeTablesModel

        return MakeTablesModel(self)

    def to_summary_col(self) -> Any:
        """The fit as a column of statsmodels' ``summary_col``, variances as standard deviations.

        Whatever else is asked of it is asked of the fit, ``info_dict={"N": lambda x: x.nobs}``.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> res.to_summary_col().params.round(2).to_dict()
        {'Intercept': 1527.5, 'sd(Intercept|Batch)': 42.0, 'sigma': 49.51}
        """
        from ..neighbours.regression_tables import SummaryColModel

        return SummaryColModel(self)

    def __getattr__(self, name: str) -> Any:
        if hasattr(type(self), name):  # a property whose own error this would hide
            return object.__getattribute__(self, name)
        kind = type(self).__name__
        raise AttributeError(f"{kind!r} object has no attribute {name!r}{here(name)}")

    def without_data(self) -> LMMResults:
        """The parameters and their tests alone: the same result without a trace of its data.

        Raises
        ------
        DataError
            Tests by a robust covariance of so many clusters and fixed effects that what they keep
            of each cluster is no longer small.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> bool(res.without_data().pvalues.equals(res.pvalues))
        True
        """
        robust = robust_of(self.tests)
        if robust is not None and robust.size > _SMALL:
            raise DataError(
                f"tests by {robust.kind} keep {robust.size:,} numbers, two matrices of the fixed "
                f"effects for each of {robust.n_clusters:,} clusters: take without_data() of "
                "the fit that robust() was called on, or keep the result as it is"
            )
        return replace(self, design=None, kept=None, df_methods={self.df_method: self.tests})
