"""Residuals as a series that also gives the other kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..designs.design import Design
from ..errors import DataError
from ..inference.effects.prediction import BlupErrors, leverages
from ..inference.estimates import Estimates
from ..inference.residuals.residuals import marginal_residuals, pearson, standardized
from ..inference.residuals.rows import row_noise
from ..inference.residuals.whitening import normalized, whitened
from ..inputs.arguments import choice
from ..reprs import public
from .predict import own_rows

if TYPE_CHECKING:  # a class of pandas takes no parameters when it runs
    _Floats = pd.Series[float]
else:
    _Floats = pd.Series

KINDS = ("response", "pearson", "standardized", "normalized", "marginal", "whitened")


@public
class Residuals(_Floats):
    """Raw residuals, a Series of pandas; called with a kind it gives the residuals of that kind.

        response       e = y - X beta - Z b - offset, the values of the series itself
        pearson        sqrt(w) e                               lme4's type "pearson"
        standardized   sqrt(w) e / (sigma sqrt(1 - h))         h: leverages of the fitted values
        normalized     sqrt(w) e / sigma                       nlme's type "normalized"
        marginal       r = y - X beta - offset
        whitened       L^-1 r,  L L' = Cov(y)                  independent, of variance one

    With a residual covariance, R that of the residuals e in units of sigma^2 (weights included):

        pearson        e / (sigma sqrt(R_ii))                  of nlme, mmrm and SAS: no units
        standardized   e / (sigma sqrt((R P R)_ii))            SAS's studentized, if without b
        normalized     K^-1 e,  K K' = sigma^2 R               rows of a subject in their order
        whitened       rows in their order, L lower triangular, within each independent group

    What pandas computes from it (slices, sums) is a plain Series; copies can be called too. A
    pickle keeps the type and the raw values; the other kinds need the fit, ``res.resid(kind)``.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> res.resid.head(3).round(2).tolist()
    [-4.1, -14.63, -42.2]
    >>> res.resid("standardized").head(3).round(2).tolist()
    [-0.18, -0.63, -1.76]
    """

    _metadata = ["_name", "_of"]  # noqa: RUF012  as in pandas
    _of: Callable[[str], pd.Series[float]] | None = None

    @property
    def _constructor(self) -> Any:
        return pd.Series

    def copy(self, deep: bool = True) -> Residuals:  # type: ignore[misc]  # final in the stubs
        """A copy that can be called as well."""
        out = Residuals(super().copy(deep=deep))
        out._of = self._of
        return out

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {**state, "_of": None}

    def __call__(self, kind: str = "response") -> pd.Series[float]:
        """Residuals of one kind, on the index of the rows.

        Parameters
        ----------
        kind : {"response", "pearson", "standardized", "normalized", "marginal", "whitened"}

        Returns
        -------
        pandas.Series
            NaN where a row is fitted exactly (standardized).

        Raises
        ------
        DataError
            Whitened or normalized residuals of very many rows that depend on each other; a copy
            without a fit.
        """
        if isinstance(kind, pd.DataFrame | pd.Series):  # frame.assign(r=res.resid) calls it so
            return pd.Series(self)
        choice(kind, "kind", KINDS)
        if kind == "response":
            return pd.Series(self)
        if self._of is None:
            raise DataError(f"a pickle of residuals keeps the raw ones: ask res.resid({kind!r})")
        return self._of(kind)


def residual_series(
    design: Design, estimates: Estimates, zb: np.ndarray, errors: Callable[[], BlupErrors]
) -> Residuals:
    """Residuals of the rows of a fit; ``zb`` is what the random effects give to the means."""

    def values(kind: str) -> np.ndarray:
        marginal = marginal_residuals(design, estimates)
        if kind == "marginal":
            return marginal
        if kind == "whitened":
            return whitened(design, estimates, marginal)
        if kind == "normalized":
            return normalized(design, estimates, marginal - zb)
        noise, sigma = row_noise(design, estimates), float(np.sqrt(estimates.scale))
        scaled = pearson(marginal - zb, noise)
        if kind == "pearson":
            return scaled if design.residual is None else scaled / sigma
        rows, Phi = own_rows(design), estimates.cov_beta
        h = leverages(errors(), rows.X, rows.terms, Phi, noise)
        return standardized(scaled, h, sigma)

    raw = marginal_residuals(design, estimates) - zb
    out = Residuals(raw, index=design.index, name="resid")
    out._of = lambda kind: pd.Series(values(kind), index=design.index, name=f"resid_{kind}")
    return out
