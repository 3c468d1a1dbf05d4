"""Fits side by side: what maketables and statsmodels' summary_col ask of every column."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from ..inference.parameter_rows import parameter_rows
from ..inputs.arguments import hinted

_FIGURES = {"std_error": "se", "statistic": "t", "p_value": "p"}
# Statistics of a fit: those that maketables has a name for, then others with theirs.
_LABELS = {"r2_marginal": "R² (marginal)", "r2_conditional": "R² (conditional)"}


@hinted
@dataclass(frozen=True, eq=False)
class MakeTablesModel:
    """A fit by maketables' protocol for models of other packages.

    It has nothing else: maketables takes what has params and bse for a result of statsmodels.
    """

    result: Any

    @property
    def __maketables_coef_table__(self) -> pd.DataFrame:
        rows = parameter_rows(self.result).rename(columns={"estimate": "b", **_FIGURES})
        tenth = parameter_rows(self.result, 0.9)
        rows = rows.rename(columns={"conf_low": "ci95l", "conf_high": "ci95u"})
        return rows.assign(ci90l=tenth["conf_low"], ci90u=tenth["conf_high"])

    def __maketables_stat__(self, key: str) -> Any:
        res = self.result
        figures = {"N": res.nobs, "ll": res.llf, "aic": res.aic, "bic": res.bic}
        figures |= {"df_resid": res.df_resid, "deviance": -2 * res.llf, "se_type": res.df_method}
        figures |= {_of_levels(factor): int(n) for factor, n in res.n_groups.items()}
        if key in _LABELS:
            return float(res.glance(output="pandas")[key].iloc[0])
        return figures.get(key)

    @property
    def __maketables_stat_labels__(self) -> dict[str, str]:
        return _LABELS

    @property
    def __maketables_default_stat_keys__(self) -> list[str]:
        groups = map(_of_levels, self.result.n_groups.index)
        return ["N", *groups, *_LABELS, "ll", "aic", "bic"]

    @property
    def __maketables_depvar__(self) -> str:
        return str(self.result.endog_name)

    @property
    def __maketables_vcov_info__(self) -> dict[str, Any]:
        return {"vcov_type": self.result.df_method, "clustervar": None}


def _of_levels(factor: Any) -> str:
    """Key and label of the number of levels of a factor."""
    return f"Groups: {factor}"


@hinted
@dataclass(frozen=True, eq=False)
class SummaryColModel:
    """A fit as statsmodels' ``summary_col`` reads one: all parameters with a figure each.

    What else ``info_dict`` asks for is the fit's own.
    """

    result: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "result":  # while it is copied or restored
            raise AttributeError(name)
        return getattr(self.result, name)

    @property
    def model(self) -> SimpleNamespace:
        """Names of the response and of the parameters."""
        names = list(self.params.index)
        return SimpleNamespace(endog_names=self.result.endog_name, exog_names=names)

    @property
    def params(self) -> pd.Series[float]:
        """Fixed effects, standard deviations and correlations."""
        return parameter_rows(self.result)["estimate"]

    @property
    def bse(self) -> pd.Series[float]:
        """Their standard errors."""
        return parameter_rows(self.result)["std_error"]

    @property
    def tvalues(self) -> pd.Series[float]:
        """Statistics of the fixed effects, NaN for the others."""
        return parameter_rows(self.result)["statistic"]

    @property
    def pvalues(self) -> pd.Series[float]:
        """Their p values, NaN for the others."""
        return parameter_rows(self.result)["p_value"]

    def conf_int(self, alpha: float = 0.05) -> np.ndarray:
        """Limits of all parameters, (k, 2)."""
        return parameter_rows(self.result, 1 - alpha)[["conf_low", "conf_high"]].to_numpy()
