"""Tests and marginal means of many fits, which :class:`ManyResults` offers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from ..designs.labels import TermLabel
from ..designs.residual import ResidualLabel
from ..errors import DataError
from ..formulas.equations import parameter_number
from ..inference.contrasts.moderation import Moderation, moderate, residual_df
from ..inference.contrasts.stepwise import false_discovery
from ..inference.df.kenward_roger import KenwardRoger
from ..inference.tails.student import student_tail
from ..inputs.arguments import flag, hinted
from ..numerics.parts import by_parts
from .many_means import ManyMeans, means_of_many
from .many_tests import ManyTests, many_t_test, many_wald_test
from .refits import NO_DATA, Refits


@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ManyTested:
    """Many fits, hypotheses about their fixed effects, marginal means and adjustments."""

    response_names: tuple[str, ...]
    fixed_names: tuple[str, ...]
    term_labels: tuple[TermLabel, ...]
    fe_params: np.ndarray
    bse_fe: np.ndarray
    df: np.ndarray
    cov_beta: np.ndarray
    dcov_beta: np.ndarray
    joint_cov: np.ndarray
    theta: np.ndarray
    covariances: tuple[np.ndarray, ...]
    scale: np.ndarray
    llf: np.ndarray
    nobs: np.ndarray
    converged: np.ndarray
    singular: np.ndarray
    n_iter: np.ndarray
    reml: bool
    source: Refits | None = None
    df_method: str = "satterthwaite"
    adjusted: KenwardRoger | None = None  # with a first axis R, for df_method="kenward-roger"
    residual: ResidualLabel | None = None  # covariance of the residuals
    output: str = "pandas"  # kind of frame that tables come in: that of the data

    @cached_property
    def tvalues(self) -> np.ndarray:
        """Fixed effects over their standard errors, (R, p)."""
        with np.errstate(all="ignore"):  # what is held fixed has no statistic
            return self.fe_params / np.where(self.bse_fe == 0, np.nan, self.bse_fe)

    @cached_property
    def pvalues(self) -> np.ndarray:
        """Two-sided p values of the fixed effects, (R, p)."""
        return by_parts(partial(student_tail, two_sided=True), self.tvalues, self.df)

    def t_test(self, r_matrix: Any, *, moderate: bool = False) -> ManyTests:
        """Test linear hypotheses of the fixed effects one by one, in every response.

        Parameters
        ----------
        r_matrix : array of shape (r, p), tuple or str
            As in :meth:`LMMResults.t_test`.
        moderate : bool
            Draw the residual variances towards their common distribution (limma's empirical
            Bayes, Smyth 2004, doi:10.2202/1544-6115.1027), which adds degrees of freedom. Of the
            variance of a contrast the share of the residual variance is moderated: all of it
            where groups are compared with themselves, none where balanced groups are compared
            with each other. Responses that did not converge do not make the prior.

        Returns
        -------
        ManyTests

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> found = many.t_test("Machine[T.B] = Machine[T.C]")
        >>> one = many.select(2).t_test("Machine[T.B] = Machine[T.C]")
        >>> bool(abs(found.statistic[2, 0] - one.statistic[0]) < 1e-6)
        True
        """
        return many_t_test(self, r_matrix, flag(moderate, "moderate"))

    def wald_test(self, r_matrix: Any, *, moderate: bool = False) -> ManyTests:
        """Test linear hypotheses together, in every response: F, or chi-square for "normal".

        Parameters
        ----------
        r_matrix, moderate
            As in :meth:`t_test`.

        Returns
        -------
        ManyTests
            With one column.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> many.wald_test("Machine[T.B] = 0, Machine[T.C] = 0").df_num.ravel().tolist()
        [2, 2, 2, 2]
        """
        return many_wald_test(self, r_matrix, flag(moderate, "moderate"))

    def emmeans(
        self,
        specs: Any,
        *,
        by: Any = None,
        at: Any = None,
        weights: Any = "equal",
        cov_reduce: Any = "mean",
        level: float = 0.95,
    ) -> ManyMeans:
        """Marginal means of every response: :func:`lmm_jax.emmeans` for all of them.

        Parameters
        ----------
        specs, by, at, weights, cov_reduce, level
            As in :func:`lmm_jax.emmeans`.

        Returns
        -------
        ManyMeans
            Whose ``contrast``, ``pairs`` and ``tests`` serve all responses at once.

        Raises
        ------
        DataError
            A result without its data, or of a design made from arrays; as :func:`lmm_jax.emmeans`.

        Notes
        -----
        All responses have one reference grid: means of covariates and weights of levels are those
        of all rows of the design, also where a response has missing values, so that estimates of
        different responses stand for the same point. ``lmm.emmeans(many.select(i), ...)`` takes
        the rows of that response; with ``at=`` and equal weights the two agree.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> many.emmeans("Machine").pairs().tests().names
        ('A - B', 'A - C', 'B - C')
        """
        if self.source is None:
            raise DataError(NO_DATA)
        return ManyMeans(
            means=means_of_many(
                self, self.source.design, specs,
                by=by, at=at, weights=weights, cov_reduce=cov_reduce, level=level,
            ),
            many=self,
        )  # fmt: skip

    @cached_property
    def moderation(self) -> Moderation:
        """Residual variances moderated over the responses, and their prior.

        Raises
        ------
        DataError
            Residuals of several variances, of which ``scale`` is one.
        """
        known = None if self.source is None else self.source.design.sigma
        if known is not None:
            raise DataError(
                "moderate=True moderates residual variances that are estimated, and that of these "
                "fits is known"
            )
        residual = None if self.source is None else self.source.design.residual
        if residual is not None and any(s.spread.n_params for s in residual.structures):
            raise DataError(
                f"moderate=True: beside {residual.term.text} residuals have several variances, and "
                "which of them scale is depends on the order of levels: there is no one variance "
                "to draw towards the others"
            )
        return moderate(self.scale, np.where(self.converged, residual_df(self.joint_cov), np.nan))

    def fdr(self, term: str) -> pd.Series[float]:
        """P values of one fixed effect over all responses, adjusted by Benjamini and Hochberg.

        With the m p values sorted, ``q_(i) = min over j >= i of p_(j) m / j``.
        Responses without a p value are not counted among the m and stay NaN.

        Parameters
        ----------
        term : str
            Name of the fixed effect.

        Returns
        -------
        pandas.Series
            On the names of the responses.

        References
        ----------
        Benjamini & Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> bool((many.fdr("Machine[T.B]") < 0.05).all())
        True
        """
        p = self.pvalues[:, parameter_number(term, self.fixed_names, "fixed effect")]
        return pd.Series(false_discovery(p), index=list(self.response_names), name=term)
