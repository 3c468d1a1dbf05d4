"""The fitted model: immutable, labelled, made of NumPy arrays and pandas labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..designs.data_frames import as_pandas
from ..designs.from_batches import BatchDesign
from ..designs.labels import TermLabel
from ..errors import DataError
from ..inputs.arguments import flag, hinted
from ..inputs.names import unique
from ..reprs import public
from .designed import DesignedModel
from .effects import (
    LevelCovariances,
    covariance_tables,
    effect_frames,
    group_effects,
    joint_table,
    level_effects,
    random_part,
)
from .joint_effects import GroupEffects
from .kept import Kept, keep
from .predict import predict_new, residuals
from .saving import Saved

__all__ = ["LMMResults", "TermLabel"]


@public
@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LMMResults(Saved, DesignedModel):
    """A fitted linear mixed model.

    Variances are variances of the data, never divided by ``scale``. Everything
    that costs more than the parameters is computed when it is first asked for.
    A pickled result leaves the rows of the data out; it predicts new rows and keeps its
    random effects with their covariances, fitted values and tests. :meth:`save` can keep
    the rows as well.
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

    # ---- tables

    def augment(self) -> pd.DataFrame:
        """Response, fitted values, residuals and the fixed part of every row used."""
        design = self._need("augment")
        own = {"fitted": self.fittedvalues, "resid": self.resid, "fixed": self.predict()}
        response = unique([*own, design.endog_name])[-1]  # a response may be called `fitted`
        return pd.DataFrame({response: design.endog, **own}, index=design.index)

    def without_data(self) -> LMMResults:
        """The parameters and their tests alone: the same result without a trace of its data."""
        return replace(self, design=None, kept=None)
