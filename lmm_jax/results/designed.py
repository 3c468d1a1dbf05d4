"""What a fit says with the help of its design: tests of terms, robust covariances, profiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd

from ..capabilities import require
from ..designs.design import Design
from ..designs.variables import reference_of
from ..errors import DataError
from ..inference.df.robust import robust_tests
from ..inference.diagnostics.explained import Moments, moments_of
from ..inference.profiles import ratio as profile_ratio
from ..inputs.arguments import choice, flag, hinted, whole_number
from ..layouts.plan import LayoutInfo
from . import tidy as tables
from .anova import term_table
from .fitted import FittedModel
from .kept import Kept
from .marginal_basis import Basis

# Rules of other packages than lmerTest, and the type of an analysis of variance that they are of.
_RULES = {"car": 2, "nlme": 1}


@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DesignedModel(FittedModel):
    """A fit and its design, or what a pickle keeps of that."""

    kept: Kept | None = None  # in the place of a design, after a pickle

    def _is_kind(self, kind: str) -> bool:
        """See :meth:`FitRecord._is_kind`."""
        if kind in ("saved", "without data"):
            return self.design is None and (self.kept is None) == (kind == "without data")
        if self.kept is not None and self.kept._is_kind(kind):
            return True
        return super()._is_kind(kind)

    def _need(self, what: str) -> Design:
        """The design, if it has what the member ``what`` needs."""
        return require(self, what).design

    def _known(self, what: str) -> Design | Kept:
        """The design or what is left of it, if the member ``what`` can do with that."""
        require(self, what)
        found = self._what_is_known
        assert found is not None  # a result without both is refused
        return found

    @property
    def _what_is_known(self) -> Design | Kept | None:
        """See :meth:`FitRecord._what_is_known`: what a pickle keeps counts as well."""
        return self.kept if self.design is None else self.design

    @property
    def layout_info(self) -> LayoutInfo:
        """Which layout the data got (grouped, or crossed with a dense core), and why.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> model = "diameter ~ 1 + (1 | plate) + (1 | sample)"
        >>> res = lmm.fit(model, lmm.load_dataset("penicillin"))
        >>> print(res.layout_info)
        crossed: 24 groups eliminated (1 | plate), dense core of 6 (1 | sample)
        because factors are crossed
        """
        return self._known("layout_info").layout_info

    @cached_property
    def basis(self) -> Basis:
        """What marginal means are made of."""
        known = self._known("emmeans")
        found = known.reference if isinstance(known, Kept) else reference_of(known)
        source = known.source
        assert found is not None and source is not None  # require has looked
        return Basis(
            source=source,
            reference=found,
            rows=source.rows,
            beta=self.estimates.beta,
            tests=self.tests,
            scale=self.scale,
            df_method=self.df_method,
            output=self.output,
        )

    @cached_property
    def _moments(self) -> Moments | None:
        """Moments of the rows, of which shares of variance are made; None without them."""
        if self.kept is not None:
            return self.kept.moments
        design = self.design
        return None if design is None else moments_of(design)

    # ---- tests

    def robust(self, kind: str = "CR2", cluster: Any = None) -> Self:
        """The same fit with a cluster-robust covariance of its fixed effects and its tests.

            cov = f B (sum_i X_i' V_i^-1 A_i e_i e_i' A_i' V_i^-1 X_i) B    B = (X' V^-1 X)^-1

        Parameters
        ----------
        kind : {"CR0", "CR1", "CR1S", "CR2", "CR3"}
            CR2 is unbiased if the model is right; CR1 and CR1S are CR0 times f; CR3 is larger.
        cluster : array of length n, Series or str, optional
            Labels of clusters that contain the model's independent groups, which are the default;
            or the name of a variable of the formula. Other columns are passed as they are,
            ``data["school"]``.

        Returns
        -------
        The same kind of result
            t tests with Satterthwaite's degrees of freedom, joint tests by HTZ
            (Pustejovsky & Tipton 2018, doi:10.1080/07350015.2016.1247004).

        Raises
        ------
        DataError
            An unknown kind; clusters that the model correlates, or fewer than two; a result
            without its data.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.robust("CR2").bse_fe.round(3).to_dict()
        {'Intercept': 6.825, 'Days': 1.546}
        """
        design = self._need("robust" if cluster is None else "robust with cluster=")
        tests = robust_tests(design, self.estimates, kind, cluster)
        others = {n: m for n, m in self.df_methods.items() if not n.startswith(f"{kind}, ")}
        return replace(self, df_method=kind, df_methods={**others, kind: tests})

    def wald_test_terms(
        self, *, skip_single: bool = False, df_method: str | None = None
    ) -> pd.DataFrame:
        """Test every term of the fixed-effects formula: all of its coefficients are zero.

        As statsmodels does; it depends on the contrasts of the fit. :meth:`anova` does not.

        Parameters
        ----------
        skip_single : bool
            Leave out terms with one coefficient.
        df_method : str, optional
            As in :func:`lmm_jax.fit`; that of the fit if not given.

        Returns
        -------
        pandas.DataFrame
            A row a term: statistic, df_num, df_denom (infinite for chi-square), p_value.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> res.wald_test_terms().round(2)["statistic"].to_dict()
        {'Intercept': 77.17, 'Variety': 1.22, 'Nf': 13.02, 'Variety:Nf': 0.3}
        """
        skip_single = flag(skip_single, "skip_single")
        design = self._known("wald_test_terms")
        return tables.term_tests(self.with_df(df_method), design, skip_single)

    def anova(
        self, type: int | str = 3, *, df_method: str | None = None, marginal: str = "lmertest"
    ) -> pd.DataFrame:
        """Analysis of variance: F tests of the terms of the fixed effects.

        Parameters
        ----------
        type : {3, 2, 1, "III", "II", "I"}
            III: every term averaged over the factors that interact with it, whatever contrasts
            the fit has; II: beside all terms that do not contain it; I: beside those before it.
        df_method : str, optional
            As in :func:`lmm_jax.fit`; that of the fit if not given. ``"normal"`` gives
            chi-square tests.
        marginal : {"lmertest", "car", "nlme"}
            Whose rule. Type II: whether a factor is marginal to its interaction with a covariate.
            For lmerTest (and SAS) it is not, and is tested where the covariate is zero; for car
            it is. Type I: what a term explains beside those before it is measured in X by
            lmerTest (and SAS), in ``V^-1/2 X`` by nlme, and by lme4 where lmerTest is not loaded.

        Returns
        -------
        pandas.DataFrame
            A row a term: sum_sq, mean_sq, df_num, df_denom, f, p_value; or chisq, df, p_value.
            A term of which empty cells leave nothing has no degrees of freedom and no test.

        Raises
        ------
        DataError
            A result without its data; fixed effects held fixed; a type or method that there is not.

        Notes
        -----
        :meth:`wald_test_terms` tests that all coefficients of a term are zero, as statsmodels
        does; under treatment contrasts that is a main effect at the reference level of the
        other factors, and no analysis of variance.

        References
        ----------
        Goodnight (1980), doi:10.1080/03610928008827904; Kuznetsova, Brockhoff & Christensen
        (2017), doi:10.18637/jss.v082.i13.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> print(res.anova()[["df_num", "df_denom", "f"]].round(2))
                    df_num  df_denom      f
        term
        Variety          2      10.0   1.49
        Nf               3      45.0  37.69
        Variety:Nf       6      45.0   0.30
        """
        if isinstance(type, str):
            named = {"I": 1, "II": 2, "III": 3, "1": 1, "2": 2, "3": 3}
            type = named.get(type.upper(), type)
        kind = whole_number(type, "type", least=1, most=3)
        whose = choice(marginal, "marginal", ("lmertest", *_RULES))
        if kind != _RULES.get(whose, kind):
            need = _RULES[whose]
            raise DataError(
                f"marginal={whose!r} is a rule of type {'I' * need}: pass type={need} with it"
            )
        return term_table(self.with_df(df_method), kind, whose=whose)

    def profile_re(
        self,
        re_ix: int | str,
        vtype: str,
        num_low: int = 5,
        dist_low: float = 1.0,
        num_high: int = 5,
        dist_high: float = 1.0,
        *,
        progress: bool = False,
    ) -> np.ndarray:
        """Profile likelihood of one variance of a random coefficient or component.

        Parameters
        ----------
        re_ix : int or str
            Number or name of the coefficient in ``cov_re``, of the component in ``vcomp``.
        vtype : {"re", "vc"}
            Which of the two.
        num_low, num_high : int
            Points below and above the estimate.
        dist_low, dist_high : float
            How far below and above it they reach, in units of the variance.
        progress : bool
            Show a progress bar over the points, if tqdm is installed.

        Returns
        -------
        ndarray, shape (num_low + 1 + num_high, 2)
            Variance of the data and log-likelihood maximized over everything else.

        Raises
        ------
        DataError
            Held or penalized parameters, a structured term, or no such variance.

        Notes
        -----
        As in statsmodels, the ratio of the variance to the residual variance is
        held, at equally spaced values; the first column is that ratio times the
        residual variance that goes with it.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> curve = res.profile_re("Intercept", "re", 2, 1000.0, 2, 1000.0)
        >>> bool(curve[2, 1] == curve[:, 1].max())
        True
        """
        return profile_ratio.profile_re(
            self, self._need("profile_re").compressed.of_fit, re_ix, vtype,
            num_low=num_low, dist_low=dist_low, num_high=num_high, dist_high=dist_high,
            progress=progress,
        )  # fmt: skip
