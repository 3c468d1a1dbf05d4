"""The fitted model: immutable, labelled, made of NumPy arrays and pandas labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..capabilities import require
from ..designs.data_frames import as_pandas
from ..designs.design import Design
from ..designs.from_batches import BatchDesign
from ..designs.labels import TermLabel
from ..errors import DataError
from ..inference import profile
from ..inference.robust import robust_tests
from ..inputs.arguments import flag, hinted
from ..inputs.names import unique
from ..layouts.plan import LayoutInfo
from ..reprs import public
from . import tidy as tables
from .effects import (
    LevelCovariances,
    covariance_tables,
    effect_frames,
    group_effects,
    joint_table,
    level_effects,
    random_part,
)
from .fitted import FittedModel
from .joint_effects import GroupEffects
from .kept import Kept, keep
from .predict import predict_new, residuals
from .saving import Saved

__all__ = ["LMMResults", "TermLabel"]


@public
@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LMMResults(Saved, FittedModel):
    """A fitted linear mixed model.

    Variances are variances of the data, never divided by ``scale``. Everything
    that costs more than the parameters is computed when it is first asked for.
    A pickled result leaves the rows of the data out; it predicts new rows and keeps its
    random effects with their covariances, fitted values and tests. :meth:`save` can keep
    the rows as well.
    """

    kept: Kept | None = None  # in the place of a design, after a pickle

    def _is_kind(self, kind: str) -> bool:
        """See :meth:`FitRecord._is_kind`."""
        if kind in ("saved", "without data"):
            return self.design is None and (self.kept is None) == (kind == "without data")
        if self.kept is not None and self.kept._is_kind(kind):
            return True
        return super()._is_kind(kind)

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

    def _need(self, what: str) -> Design:
        """The design, if it has what the member ``what`` needs."""
        return require(self, what).design

    def _known(self, what: str) -> Design | Kept:
        """The design or what is left of it, if the member ``what`` can do with that."""
        require(self, what)
        found = self.kept if self.design is None else self.design
        assert found is not None  # a result without both is refused
        return found

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

    # ---- random effects and predictions

    @cached_property
    def _effects(self) -> GroupEffects:
        return group_effects(self.estimates, self._need("random_effects"))

    @cached_property
    def _level_effects(self) -> Sequence[np.ndarray]:
        if self.kept is not None:
            return self.kept.effects
        design = self._need("random_effects")
        return [level_effects(self._effects, design, t) for t in range(len(design.terms))]

    @cached_property
    def _zb(self) -> np.ndarray:
        return random_part(self._need("predict without newdata").terms, self._level_effects)

    @property
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """Conditional means of the random effects (BLUPs) given y.

        One frame per grouping factor or component: levels in the rows,
        coefficients in the columns.
        """
        return effect_frames(self._known("random_effects").terms, self._level_effects)

    @cached_property
    def random_effects_cov(self) -> Mapping[str, LevelCovariances]:
        """Conditional covariance of the random effects of every level, at known parameters.

        By factor: a mapping from level to DataFrame that also has all levels in one array;
        beside variance components those of a group are joint, see :class:`LevelCovariances`.
        """
        if self.kept is not None:
            return self.kept.covariances
        return covariance_tables(self._need("random_effects_cov"), self._effects, self.scale)

    def joint_effects_cov(self, levels: Mapping[str, Any]) -> pd.DataFrame:
        """Joint conditional covariance of the random effects of some levels, of any factors.

        Parameters
        ----------
        levels : mapping
            Factor (or component) to one of its levels, or to a list of them, as in
            ``random_effects``.

        Returns
        -------
        pandas.DataFrame, shape (K, K)
            Rows and columns by factor, level and coefficient.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("strength ~ 1 + (1 | batch/cask)", lmm.load_dataset("pastes"))
        >>> cov = res.joint_effects_cov({"batch": "A", "cask:batch": ["a:A", "b:A"]})
        >>> cov.round(4).to_numpy().tolist()
        [[1.0578, -1.0169, -1.0169], [-1.0169, 1.3035, 0.9776], [-1.0169, 0.9776, 1.3035]]
        """
        return joint_table(self._need("joint_effects_cov"), self._effects, self.scale, levels)

    @property
    def resid(self) -> pd.Series[float]:
        """``y`` less fitted values."""
        design = self._need("resid")
        values = residuals(design, self.estimates, self._zb)
        return pd.Series(values, index=design.index, name="resid")

    @property
    def fittedvalues(self) -> pd.Series[float]:
        """``X beta + Z b + offset`` with the BLUPs."""
        if self.kept is not None and self.kept.fitted is not None:
            return self.kept.fitted.copy()
        design = self._need("fittedvalues")
        return pd.Series(self._population() + self._zb, index=design.index, name="fitted")

    def _population(self) -> np.ndarray:
        design = self._need("predict without newdata")
        fixed = design.exog @ self.estimates.beta
        return fixed if design.offset is None else fixed + design.offset

    def predict(
        self,
        newdata: Any = None,
        *,
        conditional: bool = False,
        groups: Any = None,
        offset: Any = None,
        new_levels: str = "error",
    ) -> pd.Series[float]:
        """Predicted means.

        Parameters
        ----------
        newdata : DataFrame or mapping, optional
            New rows; the rows of the fit if not given.
        conditional : bool
            Add the random effects of each row's levels (lme4's default), or
            leave them out (statsmodels').
        groups : array, optional
            Group of each new row, where the model was fitted to an array of groups;
            otherwise the new rows have their groups in the column of the fit. A label
            is looked up whatever its type: 350, 350.0 and "350" are one.
        offset : array, optional
            Offset of each new row, where the model was fitted to an array of offsets.
        new_levels : {"error", "population", "nan"}
            A level that the fit has not seen: refuse, leave its random effect
            out, or predict NaN.

        Returns
        -------
        pandas.Series
            On the index of ``newdata``; NaN in rows with missing values.
        """
        conditional = flag(conditional, "conditional")
        if newdata is None:
            if groups is not None or offset is not None:
                raise DataError("groups= and offset= are those of new rows: pass newdata")
            if conditional:
                return self.fittedvalues
            index = self._need("predict without newdata").index
            return pd.Series(self._population(), index=index, name="predicted")
        design = self._known("predict")
        frame = as_pandas(newdata, design.expressions(conditional))
        values = predict_new(
            design,
            self.estimates,
            frame,
            self._level_effects if conditional else None,
            groups=groups,
            offset=offset,
            new_levels=new_levels,
        )
        return pd.Series(values, index=frame.index, name="predicted")

    def robust(self, kind: str = "CR2", cluster: Any = None) -> LMMResults:
        """The same fit with a cluster-robust covariance of its fixed effects and its tests.

            cov = f B (sum_i X_i' V_i^-1 A_i e_i e_i' A_i' V_i^-1 X_i) B    B = (X' V^-1 X)^-1

        Parameters
        ----------
        kind : {"CR0", "CR1", "CR1S", "CR2", "CR3"}
            CR2 is unbiased if the model is right; CR1 and CR1S are CR0 times f; CR3 is larger.
        cluster : array of length n or Series, optional
            Labels of clusters that contain the model's independent groups, which are the default.

        Returns
        -------
        LMMResults
            t tests with Satterthwaite's degrees of freedom, joint tests by HTZ
            (Pustejovsky & Tipton 2018, doi:10.1080/07350015.2016.1247004).

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.robust("CR2").bse_fe.round(3).to_dict()
        {'Intercept': 6.825, 'Days': 1.546}
        """
        design = self._need("robust" if cluster is None else "robust with cluster=")
        tests = robust_tests(design, self.estimates, kind, cluster)
        return replace(self, df_method=kind, df_methods={**self.df_methods, kind: tests})

    # ---- tables

    def augment(self) -> pd.DataFrame:
        """Response, fitted values, residuals and the fixed part of every row used."""
        design = self._need("augment")
        own = {"fitted": self.fittedvalues, "resid": self.resid, "fixed": self.predict()}
        response = unique([*own, design.endog_name])[-1]  # a response may be called `fitted`
        return pd.DataFrame({response: design.endog, **own}, index=design.index)

    def wald_test_terms(
        self, *, skip_single: bool = False, df_method: str | None = None
    ) -> pd.DataFrame:
        """Test every term of the fixed-effects formula: all of its coefficients are zero.

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
        """
        skip_single = flag(skip_single, "skip_single")
        design = self._known("wald_test_terms")
        return tables.term_tests(self.with_df(df_method), design, skip_single)

    def profile_re(
        self,
        re_ix: int | str,
        vtype: str,
        num_low: int = 5,
        dist_low: float = 1.0,
        num_high: int = 5,
        dist_high: float = 1.0,
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

        Returns
        -------
        ndarray, shape (num_low + 1 + num_high, 2)
            Variance of the data and log-likelihood maximized over everything else.

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
        return profile.profile_re(
            self, self._need("profile_re").compressed.layout, re_ix, vtype,
            num_low=num_low, dist_low=dist_low, num_high=num_high, dist_high=dist_high,
        )  # fmt: skip

    def without_data(self) -> LMMResults:
        """The parameters and their tests alone: the same result without a trace of its data."""
        return replace(self, design=None, kept=None)
