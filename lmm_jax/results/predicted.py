"""What a fit says of rows, its own and new ones: fitted values, residuals, predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..designs.data_frames import as_pandas
from ..designs.new_rows import expressions
from ..errors import DataError, warn_user
from ..formulas.expressions import quoted
from ..inference.effects.prediction import BlupErrors
from ..inference.effects.random_effects import random_part
from ..inference.means.transformations import Transformation, way_back
from ..inference.residuals.residuals import marginal_residuals
from ..inputs.arguments import choice, hinted, shown
from ..inputs.frames import kind_of
from ..inputs.names import unquoted
from ..tables.frames import as_column, as_frame
from .intervals import carried_table, prediction_table, read_request, row_means, row_noise_of
from .levels import ModelOfLevels
from .predict import (
    Chosen,
    Rows,
    chosen_terms,
    fixed_rows,
    new_rows,
    own_rows,
)
from .residuals import Residuals, residual_series


@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PredictedModel(ModelOfLevels):
    """A fit and what it says of rows."""

    @cached_property
    def _blup_errors(self) -> BlupErrors:
        design = self._need("conditional standard errors")
        return BlupErrors(design, self._effects, self._effect_slopes)

    @cached_property
    def _zb(self) -> np.ndarray:
        rows = own_rows(self._need("predict without newdata"))
        return random_part(rows.terms, self._level_effects, len(rows.X))

    def _residuals(self) -> np.ndarray:
        """``y - X beta - Z b - offset`` of the rows of the fit, (n,)."""
        return marginal_residuals(self._need("resid"), self.estimates) - self._zb

    @property
    def resid(self) -> Residuals:
        """``y`` less fitted values, a Series; ``resid(kind)`` gives other kinds of residuals.

        See :class:`lmm_jax.Residuals`.
        """
        design = self._need("resid")
        return residual_series(design, self.estimates, self._zb, lambda: self._blup_errors)

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
        conditional: bool | str | Sequence[str] = False,
        groups: Any = None,
        offset: Any = None,
        new_levels: str = "error",
        se: bool = False,
        interval: str | None = None,
        type: str = "link",
        level: float = 0.95,
        df_method: str | None = None,
        weights: Any = None,
        output: str | None = None,
    ) -> Any:
        """Predicted means, with standard errors and intervals if these are asked for.

            population     Var = x' Phi x
            conditional    Var = z' C z + (x + D' z)' Phi (x + D' z)

        with Phi the covariance of the fixed effects, C that of the random effects given y and
        ``D = d b_hat / d beta``: the variance of ``x' (beta_hat - beta) + z' (b_hat - b)``.

        Parameters
        ----------
        newdata : data frame, mapping or path of a file, optional
            New rows, of any kind that ``data`` may be; the rows of the fit if not given.
        conditional : bool, str or list of str
            Add the random effects of each row's levels (lme4's default), leave them out
            (statsmodels'), or add those of some grouping factors and components (lme4's
            ``re.form``, nlme's ``level``). With a residual covariance also what the residuals
            of a subject's other visits say of a visit at which it was not seen.
        groups : array or str, optional
            Group of each new row, or the name of their column, where the model was fitted to an
            array of groups; otherwise the new rows have their groups in the column of the fit. A
            label is looked up whatever its type: 350, 350.0 and "350" are one.
        offset : array or str, optional
            Likewise, where the model was fitted to an array of offsets.
        new_levels : {"error", "population", "nan"}
            A level that the fit has not seen: refuse; leave its random effect out of the mean
            and add ``z' Sigma z`` to the variance; or predict NaN. A label of a grouping
            factor that is missing is nobody's either: with "population" such a row has the
            population's mean, as lme4's with ``allow.new.levels=TRUE``, and NaN otherwise. (A
            variable of a component that is missing is a covariate that is missing: NaN.)
        se : bool
            Standard errors; limits are those of ``interval="confidence"`` if none is chosen.
        interval : {"confidence", "prediction"}, optional
            Of the mean, or of a new observation: the variance grows by ``scale / weights`` (by
            that of its visit or stratum, given the subject's other visits if ``conditional``), and
            by ``z' Sigma z`` of all terms whose effects are not added, as of groups not seen
            (of related levels, one that is not inbred).
        type : {"link", "response"}
            "response": predictions and limits of a transformed response, ``log(y)``, carried back,
            with standard errors by the delta method, as marginal means in
            :meth:`MarginalMeans.to_frame`. What is predicted is then the inverse at the mean, of a
            logarithm the median of the response.
        level : float
            Coverage of the interval.
        df_method : str, optional
            As in :func:`lmm_jax.fit`; that of the fit if not given.
        weights : array or str, optional
            Prior weights of new observations, or the name of their column; if not given that of
            the fit's, where new rows have it, otherwise 1, with a warning if the fit is weighted.
            The rows of the fit, without ``newdata``, have their own.
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of series or frame; that of ``newdata``, or of the data, if not given.

        Returns
        -------
        Series or DataFrame
            On the index of ``newdata``, or in the order of its rows; NaN (null outside pandas) in
            rows with missing values (of groups see ``new_levels``). The frame has the columns fit,
            std_error (of the mean, for either interval), lower and upper.

        Raises
        ------
        DataError
            Rows that lack a variable or have a level that the fit does not know; a result without
            what it takes; a response that cannot be carried back.

        Notes
        -----
        Population confidence intervals take t quantiles with the degrees of freedom that
        ``df_method`` gives to each row's ``x' beta``. All others take the t quantile with the
        residual degrees of freedom, rows less fixed effects: their variances are mostly those of
        the residuals and of the random effects given y, and no method for fixed effects speaks of
        them. For ``df_method="normal"`` all quantiles are normal. Variances of the random effects
        are taken as known, so that intervals of a few groups are short.

        With a residual covariance R (weights included) a new row of a subject that the fit has
        seen, at a visit at which it has not, has the conditional mean

            x' beta + z' b + A (y - X beta - Z b)        A = R_new,seen R_seen^-1

        with the subject's rows of the fit in ``y, X, Z``: its expectation given all that was seen,
        without random effects ``x' beta + V_new,seen V_seen^-1 (y - X beta)``. The standard error
        is that of this mean; a prediction interval adds the variance ``R_new - A R_seen,new`` of
        the observation itself, and half its width over the quantile is what SAS calls the standard
        error of the prediction. A row at a visit at which its subject was seen carries its fitted
        value, as in mmrm and SAS (``outpred``), and has the whole variance of another observation;
        a subject that was not seen is as a level that was not, ``new_levels``. A visit, an arm or
        a stratum of which the fit knows no variance is an error.

        The covariance of the fixed effects is that of ``df_method`` (Kenward-Roger's, a robust
        one), the rest that of the model. Where a covariate of a random effect has a category that
        the fit has not seen, the standard error is NaN.

        References
        ----------
        Henderson (1975), doi:10.2307/2529430.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> new = {"Days": [0, 9], "Subject": ["308", "new"]}
        >>> print(res.predict(new, se=True).round(1))
             fit  std_error  lower  upper
        0  251.4        6.8  237.0  265.8
        1  345.6       14.6  314.7  376.5
        >>> print(res.predict(new, conditional=True, new_levels="population", se=True).round(1))
             fit  std_error  lower  upper
        0  253.7       12.3  229.5  277.8
        1  345.6       62.0  223.3  467.9

        On the scale of a response whose logarithm was fitted:

        >>> logs = lmm.fit("log(Reaction) ~ Days + (1 | Subject)", lmm.load_dataset("sleepstudy"))
        >>> print(logs.predict({"Days": [0, 9]}, interval="prediction", type="response").round(1))
             fit  std_error  lower  upper
        0  252.2        8.3  182.4  348.6
        1  341.4       11.3  246.9  472.0
        """
        back = self._way_back(type)
        chosen = chosen_terms(conditional, self.term_labels)
        carries = self.residual is not None and self.residual.correlates
        # without random effects residuals alone may be what is known of a subject
        some = any(chosen) or (isinstance(conditional, bool | np.bool_) and bool(conditional))
        if carries and some and not all(chosen):
            raise DataError(
                f"conditional={shown(conditional)}: residuals that are correlated are known beside "
                "all random effects only, conditional=True"
            )
        request = read_request(se, interval, level, some, new_levels, weights, carries=carries)
        tested = self.with_df(df_method)
        own = self.output if newdata is None else kind_of(newdata)
        if some and request is not None:
            self._need("conditional standard errors")
        elif some and carries and newdata is not None:
            self._need("conditional prediction beside correlated residuals")
        if newdata is None:
            if groups is not None or offset is not None or weights is not None:
                raise DataError("groups=, offset= and weights= are of new rows: pass newdata")
            if some and all(chosen) and request is None and back is None:
                return as_column(self.fittedvalues, output, own)
            rows = own_rows(self._need("predict without newdata"), chosen)
        else:
            noise = request is not None and request.interval == "prediction"
            rows = self._new_rows(
                newdata, chosen, conditional=some,
                noise=noise,
                groups=groups, offset=offset, weights=weights, new_levels=new_levels,
            )  # fmt: skip
        effects = self._level_effects if some else None
        if request is None:
            known = row_noise_of(self, rows, effects, conditional=some)
            means = row_means(self, rows, effects, new_levels, known, self._residuals)
            values = rows.column(means if back is None else back.back(means))
            made = pd.Series(values, index=rows.labels, name="predicted")
            return as_column(made, output, own)
        table = prediction_table(
            tested, rows, effects, lambda: self._blup_errors, self._residuals, request
        )
        return as_frame(table if back is None else carried_table(back, table), output, own)

    def _way_back(self, scale: Any) -> Transformation | None:
        """By what predictions are carried back to a scale; None if they stay as they are."""
        asked = choice(scale, "type", ("link", "response"))
        return way_back(self.endog_name) if asked == "response" else None

    def _new_rows(
        self, newdata: Any, chosen: Chosen, *, conditional: bool, noise: bool, **options: Any
    ) -> Rows:
        """Rows of new data, with the levels of the terms that are chosen."""
        design = self._known("predict")
        used = expressions(design, chosen, conditional=conditional, noise=noise)
        named = [options.get(what) for what in ("groups", "offset", "weights")]
        weighs = noise or (conditional and self.residual is not None and self.residual.correlates)
        if weighs and options.get("weights") is None and design.source is not None:
            named.append(design.source.weights)
        columns = [quoted(unquoted(name)) for name in named if isinstance(name, str)]
        frame = as_pandas(newdata, [*used, *columns])
        if weighs and options.get("weights") is None:
            options["weights"] = self._named_weights(frame, noise)
        return new_rows(design, frame, chosen, conditional=conditional, noise=noise, **options)

    def _named_weights(self, frame: pd.DataFrame, noise: bool) -> str | None:
        """The column that the weights of the fit came from, where new rows have it."""
        source = self._known("predict").source
        name = None if source is None else source.weights
        if name is not None and unquoted(name) in frame.columns:
            return name
        if name is not None or self._is_kind("weighted"):  # fits of sums know the name alone
            if noise and self.sigma_known:
                raise DataError(
                    "a new observation has the variance sigma^2 / w, and no w: pass weights= of "
                    "the new rows; effects of new levels lie in the interval of conditional=True, "
                    "new_levels='population', se=True"
                )
            warn_user(
                "the fit has weights, and the new rows have none: they are taken as observations "
                "of weight one. Pass weights=",
                UserWarning,
            )
        return None

    def model_matrix(self, newdata: Any = None) -> pd.DataFrame:
        """Columns of the fixed effects: X of the rows of the fit, or of new ones.

        Parameters
        ----------
        newdata : data frame, mapping or path of a file, optional
            New rows, of any kind that ``data`` may be; the rows of the fit if not given.

        Returns
        -------
        pandas.DataFrame, shape (n, p)
            Columns are named as ``fe_params``, without those left out for linear dependence;
            NaN in rows with missing values.

        Raises
        ------
        DataError
            Rows that lack a variable; a result without its data.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> X = res.model_matrix({"Days": [0, 3]})
        >>> X.to_numpy().tolist()
        [[1.0, 0.0], [1.0, 3.0]]
        >>> (X @ res.fe_params).equals(res.predict({"Days": [0, 3]}))
        True
        """
        if newdata is None:
            rows = own_rows(self._need("model_matrix without newdata"))
        else:
            rows = fixed_rows(self._known("model_matrix"), newdata)
        values = np.full((len(rows.labels), len(self.fixed_names)), np.nan)
        values[rows.complete] = rows.X
        return pd.DataFrame(values, index=rows.labels, columns=list(self.fixed_names))
