"""A fit as marginaleffects takes it: rows, coefficients, and X of new rows by the fit's formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..capabilities import require
from ..errors import DataError
from ..inference.df.robust import KINDS
from ..inputs.arguments import number
from ..inputs.names import unique
from ..inputs.packages import needed


def marginal_model(res: Any, df: float | None) -> Any:
    """The fixed part of a fit as a model of marginaleffects.

    Parameters
    ----------
    res : LMMResults
    df : float, optional
        Degrees of freedom of all of its t statistics; normal quantiles if not given.
    """
    require(res, "to_marginaleffects")
    if res.design.source.offset_array:
        raise DataError(
            "marginaleffects makes rows of its own, for which the array offset= has no values: "
            "let the offset be a column, offset='name' or offset(name) in the formula"
        )
    quantiles = float("inf") if df is None else number(df, "df", above=0)
    with needed("marginaleffects", "to_marginaleffects()", "neighbours"):
        import polars as pl
        from marginaleffects.classes import ModelAbstract, ModelVault

    model = _model_class(res, quantiles, ModelAbstract, pl)(res, ModelVault(**_vault(res, pl)))
    rows, texts = res.basis.rows, texts_of(res)
    for name in factors_of(res):
        if name not in texts and rows[name].dtype.kind != "b":
            model.set_variable_type(name, "character")  # numbers that are levels
    return model


def _model_class(res: Any, quantiles: float, base: Any, pl: Any) -> Any:
    """The model of a fit; which class is its base is known where the package is imported."""
    rows, texts = res.basis.rows, texts_of(res)
    has_offset = bool(res.design.source.offsets)

    class MixedModel(base):  # type: ignore[misc]
        """``x' beta`` and the offset of rows that the formula of the fit reads."""

        df_resid = quantiles

        def find_predictors(self) -> list[str] | None:
            """Variables of the fixed effects; None where there are none."""
            return list(rows.columns) or None

        def get_vcov(self, vcov: Any = True) -> np.ndarray | None:
            """Of the fixed effects: the fit's own, or that of a method by its name."""
            return None if vcov in (False, None) else covariance(res, vcov)

        def get_exog(self, newdata: Any) -> np.ndarray:
            """X, with the offset in a column behind it where the model has one."""
            columns = {
                name: newdata[name].to_list() if name in texts else newdata[name].to_numpy()
                for name in rows.columns
            }
            part = fixed_part(res, as_read(columns, texts, len(newdata)))
            return part if has_offset else part[:, :-1]

        def get_predict(self, params: np.ndarray, newdata: np.ndarray) -> Any:
            """Means of rows that :meth:`get_exog` gave."""
            p = len(params)
            means = newdata[:, :p] @ np.asarray(params) + newdata[:, p:].sum(axis=1)
            rowid = np.arange(len(means), dtype=np.int32)
            return pl.DataFrame({"rowid": rowid, "estimate": means})

        def get_autodiff_args(self) -> dict[str, Any] | str:
            """Exact derivatives in place of difference quotients; it knows of no offset."""
            linear = {"model_type": "linear", "family": None, "link": None}
            return "an offset" if has_offset else linear

    return MixedModel


def _vault(res: Any, pl: Any) -> dict[str, Any]:
    """What the package keeps of a fit: coefficients, and the rows with their response."""
    rows, texts = res.basis.rows, texts_of(res)
    response = unique([*rows.columns, res.endog_name])[-1]
    columns = {name: _column(pl, rows[name], texts.get(name)) for name in rows.columns}
    return dict(
        coef=res.fe_params.to_numpy(),
        coefnames=np.array(res.fixed_names),
        # as text it would be read by the rules of formulaic alone
        formula=lambda newdata: (None, None),
        modeldata=pl.DataFrame({response: res.design.endog, **columns}),
        variable_names=[response, *rows.columns],
        package="lmm_jax",
    )


def factors_of(res: Any) -> Mapping[str, pd.Index[Any]]:
    """Levels of the variables that have some."""
    return res.basis.reference.variables.factors


def texts_of(res: Any) -> dict[str, pd.Index[Any]]:
    """Levels that are no numbers: polars holds them by their texts.

    A number that polars casts to a list of texts is taken for a place in it.
    """
    rows = res.basis.rows
    return {n: levels for n, levels in factors_of(res).items() if rows[n].dtype.kind not in "biuf"}


def _column(pl: Any, values: pd.Series[Any], levels: pd.Index[Any] | None) -> Any:
    """A variable of the rows of the fit as a column of polars."""
    if levels is None:
        return pl.Series(values.to_numpy())
    return pl.Series(values.map(str).tolist(), dtype=pl.Enum(list(map(str, levels))))


def as_read(
    columns: Mapping[str, Any], texts: Mapping[str, pd.Index[Any]], n_rows: int
) -> pd.DataFrame:
    """Columns of new rows with levels as the data of the fit had them."""
    out = pd.DataFrame(index=range(n_rows))
    for name, values in columns.items():
        if name in texts:
            known = dict(zip(map(str, texts[name]), texts[name], strict=True))
            values = [known.get(value, value) for value in values]
        out[name] = values
    return out


def fixed_part(res: Any, data: pd.DataFrame) -> np.ndarray:
    """X and the offset of new rows, (n, p + 1)."""
    X = res.model_matrix(data)
    offset = res.predict(data) - X @ res.fe_params
    return np.column_stack([X.to_numpy(), offset.to_numpy()])


def covariance(res: Any, method: bool | str) -> np.ndarray:
    """Covariance of the fixed effects, (p, p): that of a method by its name, or the fit's own."""
    if isinstance(method, str):
        res = res.robust(method) if method.upper() in KINDS else res.with_df(method)
    p = len(res.fixed_names)
    return res.cov_params().to_numpy()[:p, :p]
