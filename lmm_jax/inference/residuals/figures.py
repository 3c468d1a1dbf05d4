"""What a fit says of the covariance of its residuals: parameters, intervals, matrices."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from ...designs.residual import ResidualLabel
from ...errors import DataError
from ...inputs.arguments import hinted, probability, shown
from ...tables.cells import of_users
from ...tables.page import table
from ..estimates import Estimates
from .parameters import covariance_frame, intervals, reported


@lru_cache(maxsize=256)  # pandas takes longer to make an index of strings than a fit's arithmetic
def labels_of(names: tuple[str, ...]) -> pd.Index[Any]:
    """An index of names, made once."""
    return pd.Index(list(names))


@hinted
class ResidualFigures:
    """Parameters of the residual covariance and what follows from them, of a record of a fit."""

    estimates: Estimates
    residual: ResidualLabel | None

    @property
    def residual_params(self) -> pd.Series[float]:
        """Parameters of the residual covariance: standard deviations, correlations, ranges.

        ``sd[level]``, ``rho``, ``corr[a,b]``, ``range``, ``power``, ...; empty where residuals
        are independent with one variance. ``sigma`` is the standard deviation of the first level
        (at ``|x| = 1`` of ``power(x)``, at ``x = 0`` of ``expo(x)``).
        """
        return self._residual_series(errors=False)

    @property
    def residual_params_se(self) -> pd.Series[float]:
        """Standard errors of ``residual_params``, by the delta method."""
        return self._residual_series(errors=True)

    def residual_intervals(self, level: float = 0.95) -> pd.DataFrame:
        """Wald intervals of ``residual_params``.

        Parameters
        ----------
        level : float

        Returns
        -------
        DataFrame
            Columns estimate, std_error, lower, upper. Limits are taken on the log scale (standard
            deviations, ranges) or of the logit of where a correlation or nugget stands in its
            range, Fisher's z from -1 to 1. NaN of what is at the end of its range.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> data = lmm.load_dataset("orthodont")
        >>> res = lmm.fit("distance ~ age + ar1(row | Subject)", data)
        >>> res.residual_intervals()
        Residual covariance ar1(row | Subject), Wald intervals of level 0.95
        <BLANKLINE>
              estimate  std_error   lower   upper
         rho    0.6984     0.0671  0.5423  0.8079
        """
        level = probability(level, "level")
        values, errors = self.residual_params, self.residual_params_se
        structures = () if self.residual is None else self.residual.theta_structures
        limits = intervals(values, errors, level, structures)
        columns = {"estimate": values, "std_error": errors}
        made = pd.DataFrame({**columns, "lower": limits[:, 0], "upper": limits[:, 1]})
        how = f"Wald intervals of level {level:g}"
        return table(made, f"{self._title('covariance')}, {how}", method=how)

    def residual_cov(
        self,
        levels: Any = None,
        *,
        arm: str | None = None,
        stratum: Any = None,
        covariate: Any = None,
    ) -> pd.DataFrame:
        """Covariance of the residuals of a subject at some visits, times or coordinates.

        Parameters
        ----------
        levels : sequence, optional
            Visits; all of them if not given. Times, or one row of coordinates a place, where the
            structure has no visits.
        arm : str, optional
            Where arms have covariances of their own.
        stratum, covariate : optional
            Level of ``diag()``, or the covariate of ``power()`` and ``expo()``, where the
            structure has one beside its visits; one, or one for each of ``levels``. If not given,
            a visit whose rows are all in one stratum has that one.

        Returns
        -------
        DataFrame
            In the squared unit of the response, for rows of weight one.

        Raises
        ------
        DataError
            The residuals are independent with one variance, or something is missing above.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> data = lmm.load_dataset("orthodont").astype({"age": int})
        >>> res = lmm.fit("distance ~ age + us(age | Subject)", data)
        >>> res.residual_cov([8, 14])
        Residual covariance us(age | Subject)
        <BLANKLINE>
                  8      14
         8   5.9334  4.0491
         14  4.0491  7.6591
        """
        if self.residual is None:
            raise DataError("the residuals are independent with one variance, `scale`")
        asked = {"arm": arm, "stratum": stratum, "covariate": covariate}
        R = covariance_frame(self.estimates, self.residual, levels, **asked)
        return table(R, self._title("covariance", **asked), **of_users(R))

    def residual_corr(self, levels: Any = None, **options: Any) -> pd.DataFrame:
        """Correlations of the residuals of a subject: SAS's ``rcorr``.

        Parameters
        ----------
        levels, **options
            As in :meth:`residual_cov`.
        """
        R = self.residual_cov(levels, **options)
        sd = np.sqrt(np.diagonal(R))
        between = R.div(sd, axis=0).div(sd, axis=1)
        return table(between, self._title("correlations", **options), **of_users(R))

    def _title(self, what: str, **options: Any) -> str:
        """What of the residuals a table has, and of which of them."""
        of = "" if self.residual is None else f" {self.residual}"
        single = {k: v for k, v in options.items() if not pd.api.types.is_list_like(v)}
        given = [f", {k} {shown(v)}" for k, v in single.items() if v is not None]
        return f"Residual {what}{of}{''.join(given)}"

    def _residual_series(self, *, errors: bool) -> pd.Series[float]:
        if self.residual is None:
            return pd.Series(dtype=np.float64)
        found, sd = reported(self.estimates, self.residual.theta_structures)
        values = sd if errors else np.asarray(found.values.value)
        return pd.Series(values, index=labels_of(found.names))
