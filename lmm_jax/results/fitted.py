"""What a fit says about its parameters: tests and tables; nothing here needs the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..errors import DataError
from ..inference import intervals
from ..inference.contrasts import contrasts
from ..inference.contrasts.contrasts import ContrastResults
from ..inference.parameters import SCALES, chosen, parameters_of
from ..inference.profiles.profile_likelihood import profile_limits
from ..inference.record import FitRecord
from ..inputs.arguments import choice, coverage, flag, hinted
from ..reprs import folded
from ..tables.frames import as_frame
from ..tables.page import Summary, table
from ..tables.shown import Shown
from . import tidy as tables
from .resampling import resample
from .summary import summarize, warnings_of

# Of intervals beside those of a residual covariance.
_OF_RESIDUALS = "sigma is the standard deviation of the reference of the residual covariance"
_OTHERS = "residual_intervals() has the parameters of the residual covariance"

METHODS = ("wald", "profile", "bootstrap")
# Replicates of intervals by bootstrap, unless asked otherwise.
_REPLICATES = 1000


@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FittedModel(Shown, FitRecord):
    """The parameters of a linear mixed model, their tests and their tables."""

    # ---- intervals

    def conf_int(
        self,
        alpha: float = 0.05,
        *,
        df_method: str | None = None,
        method: str = "wald",
        level: float | None = None,
        scale: str | None = None,
        parm: Any = None,
        reml: bool = False,
        n_boot: int = _REPLICATES,
        seed: int | None = None,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Confidence intervals of the parameters, with columns lower and upper.

        Parameters
        ----------
        alpha : float
            One less the coverage.
        df_method : str, optional
            Of Wald intervals of fixed effects, as in :func:`lmm_jax.fit`; that of the fit if
            not given.
        method : {"wald", "profile", "bootstrap"}
            ``"wald"``: estimates and standard errors. Fixed effects have t quantiles, variances
            an interval on the scale of the logarithm, correlations on that of Fisher's z (as
            ``nlme::intervals``), covariances a symmetric one; NaN for a variance at zero.
            ``"profile"``: where the deviance, minimized over all other parameters, has risen
            by the square of the normal quantile (as lme4's ``confint``); ends at a standard
            deviation of zero and at a correlation of one. ``"bootstrap"``: percentiles of
            :func:`lmm_jax.bootstrap`.
        level : float, optional
            The coverage, in the place of ``alpha``.
        scale : {"sdcor", "vcov"}, optional
            Standard deviations and correlations, ``sigma`` last; or variances and covariances,
            ``scale`` last. By default the rows of ``params`` for Wald intervals, ``"sdcor"``
            for the others.
        parm : str or sequence of str, optional
            Names of rows; ``"beta"`` for the fixed effects, ``"theta"`` for all others.
        reml : bool
            Profiles of the restricted likelihood, which have no fixed effects; by default of
            the likelihood, whatever the fit was by.
        n_boot : int
            Replicates of the bootstrap.
        seed : int, optional
            Of the bootstrap, which needs one.
        progress : bool
            Show a progress bar over the parameters of a profile or the replicates of a bootstrap,
            if tqdm is installed.

        Raises
        ------
        DataError
            Unknown names, alpha and level together, a fit that the method refuses.

        Warns
        -----
        ConvergenceWarning
            A profile that could not be followed; its limits are NaN.

        References
        ----------
        Venzon & Moolgavkar (1988), doi:10.2307/2347496; Pinheiro & Bates (2000), Mixed-Effects
        Models in S and S-PLUS, section 2.4, doi:10.1007/b98882.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.conf_int(method="profile", parm="theta").round(2).to_numpy().tolist()
        [[14.38, 37.72], [-0.48, 0.69], [3.8, 8.75], [22.9, 28.86]]
        """
        level, progress = coverage(level, alpha=alpha), flag(progress, "progress")
        choice(method, "method", METHODS)
        what = f"intervals of level {level:g}"
        advice = () if self.residual is None else (_OTHERS,)
        _check_given(method, reml=reml, n_boot=n_boot, seed=seed)
        if method == "wald":
            fit = self.with_df(df_method)
            limits_of = intervals.wald_intervals(fit, level, scale, parm)
            notes = (f"Degrees of freedom: {fit.df_method}", *warnings_of(fit))
            return table(limits_of, f"Wald {what}", notes, method=f"Wald {what}", advice=advice)
        if df_method is not None:
            raise DataError(f"df_method belongs to method='wald', not to {method!r}: leave it out")
        scale = choice("sdcor" if scale is None else scale, "scale", SCALES)
        if method == "profile":
            found = profile_limits(self, level, scale, parm, reml, progress)
            limits = {"lower": found.lower, "upper": found.upper}
            found_limits = pd.DataFrame(limits, index=list(found.names))
            notes = () if self.residual is None else (_OF_RESIDUALS,)
            title = f"Profile {what}"
            return table(found_limits, title, notes, method=title, advice=advice)
        if seed is None:
            raise DataError("method='bootstrap' draws: pass seed= (a whole number)")
        limits_of = _bootstrapped(self, level, scale, parm, n_boot, seed, progress)
        title = f"Bootstrap {what}, {n_boot} replicates"
        return table(limits_of, title, method=title)

    # ---- tests

    def t_test(
        self, r_matrix: Any, *, use_t: bool | None = None, df_method: str | None = None
    ) -> ContrastResults:
        """Test linear hypotheses one by one.

            t = (r' params - q) / sqrt(r' cov r)

        Parameters
        ----------
        r_matrix : array of shape (r, p), tuple or str
            One row a hypothesis, over the fixed effects or over all ``params``;
            equations such as ``"x1 = x2, x3 = 0"``; or a pair of either and their values,
            ``(R, q)``, ``("x1, x2", [1, 2])``. Names may stand between backticks or quotes, and be
            spelled as in the formula: ``factor(f)[T.b]`` for ``C(f)[T.b]``. The name of a term
            stands for all of its coefficients.
        use_t : bool, optional
            t with Satterthwaite's degrees of freedom (residual ones for
            ``df_method="normal"``), or z. By default as the fit says; z where a
            hypothesis concerns variances.
        df_method : str, optional
            As in :func:`lmm_jax.fit`; that of the fit if not given.

        Returns
        -------
        ContrastResults

        Raises
        ------
        DataError
            A hypothesis that cannot be read; t tests of variances.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> test = res.t_test("Days = 5")
        >>> print(f"t = {test.tvalue[0]:.3f}, df = {test.df_denom[0]:.2f}")
        t = 3.537, df = 17.00
        """
        return contrasts.t_test(self.with_df(df_method), r_matrix, use_t)

    def wald_test(
        self,
        r_matrix: Any,
        *,
        use_f: bool | None = None,
        df_method: str | None = None,
        test: str | None = None,
    ) -> ContrastResults:
        """Test linear hypotheses together: F, or chi-square for ``df_method="normal"``.

            F = (R b - q)' (R cov R')^-1 (R b - q) / rank

        with lmerTest's denominator degrees of freedom, or with pbkrtest's and its scale of F
        for ``df_method="kenward-roger"``.

        Parameters
        ----------
        r_matrix : array of shape (r, p), tuple or str
            As in :meth:`t_test`.
        use_f : bool, optional
            F or chi-square.
        df_method : str, optional
            As in :func:`lmm_jax.fit`; that of the fit if not given.
        test : {"HTZ", "chi2", "naive-F"}, optional
            Of a fit with a robust covariance (:meth:`LMMResults.robust`): Hotelling's T^2 with
            the degrees of freedom of Pustejovsky & Tipton (the default), chi-square, or F with
            as many as clusters less 1.

        Returns
        -------
        ContrastResults

        Raises
        ------
        DataError
            A hypothesis that cannot be read or contradicts itself; F tests of variances.

        References
        ----------
        Kuznetsova, Brockhoff & Christensen (2017), doi:10.18637/jss.v082.i13.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("score ~ Machine + (1 | Worker)", lmm.load_dataset("machines"))
        >>> print(res.wald_test("Machine[T.B] = 0, Machine[T.C] = 0"))
        F test
        <BLANKLINE>
               F  df_num  df_denom  p_value
          87.798       2        46   <0.001
        <BLANKLINE>
        Tested: Machine[T.B] = 0, Machine[T.C] = 0
        """
        return contrasts.wald_test(self.with_df(df_method), r_matrix, use_f, test)

    def f_test(self, r_matrix: Any, *, df_method: str | None = None) -> ContrastResults:
        """F test of linear hypotheses together: :meth:`wald_test` with ``use_f=True``.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> test = res.f_test("Days = 5")
        >>> print(f"F = {test.fvalue:.4f}, p = {test.pvalue:.6f}")
        F = 12.5096, p = 0.002533
        """
        return self.wald_test(r_matrix, use_f=True, df_method=df_method)

    # ---- tables

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variances and correlations: columns grp, var1, var2, vcov, sdcor.

        A row without ``var2`` is a variance and its standard deviation, one with
        it a covariance and its correlation; the residual comes last.
        """
        return tables.variance_table(self)

    def glance(self, *, output: str | None = None) -> Any:
        """One row of fit statistics, with broom.mixed's columns; also R2 and the adjusted ICC.

        ``r2_marginal``, ``r2_conditional`` and ``icc`` as in :func:`lmm_jax.r2` and
        :func:`lmm_jax.icc`; NaN for a result without its data, or of rows in batches.

        Parameters
        ----------
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.glance()[["nobs", "loglik", "df"]].round(2).iloc[0].to_dict()
        {'nobs': 180.0, 'loglik': -871.81, 'df': 6.0}
        """
        return as_frame(tables.glance(self), output, self.output)

    def summary(
        self,
        yname: str | None = None,
        xname_fe: Sequence[str] | None = None,
        xname_re: Sequence[str] | None = None,
        title: str | None = None,
        alpha: float = 0.05,
        df_method: str | None = None,
        *,
        level: float | None = None,
    ) -> Summary:
        """Tables of fit statistics, fixed and random effects: text, HTML and LaTeX.

        Parameters
        ----------
        yname : str, optional
            Name of the response, in the place of the formula's.
        xname_fe : sequence of str, length p, optional
            Names of the fixed effects.
        xname_re : sequence of str, optional
            Names of the random coefficients and components, one for each
            variance, in the order of the table.
        title : str, optional
        alpha : float
            One less the coverage of the intervals.
        df_method : str, optional
            As in :func:`lmm_jax.fit`; that of the fit if not given.
        level : float, optional
            The coverage, in the place of ``alpha``.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> print(str(res.summary(title="Sleep")).splitlines()[0].strip())
        Sleep
        """
        level, res = coverage(level, alpha=alpha), self.with_df(df_method)
        return summarize(
            res, yname=yname, xname_fe=xname_fe, xname_re=xname_re, title=title, level=level
        )

    def _page(self) -> Summary:
        return self.summary()

    def __repr__(self) -> str:
        kind = "REML" if self.reml else "ML"
        model = self.formula or f"{self.endog_name} (from arrays)"
        return folded(f"<{type(self).__name__} by {kind}: {model}, llf {self.llf:.4f}>")


def _check_given(method: str, *, reml: Any, n_boot: Any, seed: Any) -> None:
    """Refuse arguments of another method, which would be left aside in silence."""
    of_profile = flag(reml, "reml")
    counted = type(n_boot) is not int or n_boot != _REPLICATES
    of_bootstrap = ["n_boot"] * counted + ["seed"] * (seed is not None)
    if of_profile and method != "profile":
        raise DataError(f"reml=True belongs to method='profile', not to {method!r}: leave it out")
    if of_bootstrap and method != "bootstrap":
        raise DataError(
            f"{of_bootstrap[0]}= belongs to method='bootstrap', not to {method!r}: leave it out"
        )


def _bootstrapped(
    fit: FitRecord, level: float, scale: str, parm: Any, n_boot: int, seed: int, progress: bool
) -> pd.DataFrame:
    """Percentile intervals of a bootstrap, in the rows of the other methods."""
    parameters = parameters_of(fit.fixed_names, fit.term_labels, scale)
    places = chosen(parameters, parm)
    boot = resample(fit, n_boot, seed, progress=progress)
    limits = boot.conf_int(alpha=1.0 - level, scale="sdcor" if scale == "sdcor" else "vcov")
    limits = limits.iloc[: len(parameters)]  # those of a residual covariance come last
    limits.index = pd.Index([parameter.name for parameter in parameters])
    if scale == "vcov":
        limits.iloc[-1] = limits.iloc[-1] ** 2  # a replicate has sigma, whatever the scale
    return limits.iloc[places]
