"""The table of an analysis of variance: a test for every term of the fixed effects."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..capabilities import require
from ..designs.fixed_terms import fixed_terms
from ..inference.contrasts.anova import conjugate, hypotheses
from ..inference.contrasts.contrasts import wald_test
from ..inference.record import FitRecord
from ..tables.page import table
from .summary import warnings_of


def term_table(results: FitRecord, kind: int, *, whose: str = "lmertest") -> pd.DataFrame:
    """Tests of all terms by the fit's method of degrees of freedom.

    Parameters
    ----------
    results : FitRecord
    kind : {1, 2, 3}
        Type of the hypotheses.
    whose : {"lmertest", "car", "nlme"}
        Rules of car for type II, of nlme for type I.
    """
    design = require(results, "anova").design
    if whose == "lmertest":
        rows = hypotheses(design, kind)
    else:
        at = fixed_terms(design)
        rows = conjugate(results.tests.cov_beta, at.columns, at.terms, kind)
    how = f"type {'I' * kind}, {results.df_method}"
    return hypothesis_table(results, rows, f"Analysis of variance, {how}", how)


def hypothesis_table(
    results: FitRecord, rows: Mapping[str, np.ndarray], title: str, method: str = ""
) -> pd.DataFrame:
    """A row a hypothesis: F with the sum of squares that it stands for, or chi-square.

    ``sum_sq = sigma^2 chi2`` with the Wald statistic chi2, before Kenward and Roger's scale of F.
    Of a hypothesis without rows nothing can be tested.
    """
    columns = _F if results.tests.uses_t else _CHI2
    tests = [_test(results, L) if len(L) else _nothing(columns) for L in rows.values()]
    names = pd.Index(list(rows), name="term")
    made = pd.DataFrame(tests, index=names, columns=columns)
    return table(made, title, warnings_of(results), method=method)


_F = ["sum_sq", "mean_sq", "df_num", "df_denom", "f", "p_value"]
_CHI2 = ["chisq", "df", "p_value"]


def _nothing(columns: list[str]) -> list[float]:
    return [0 if name in ("df_num", "df") else np.nan for name in columns]


def _test(results: FitRecord, L: np.ndarray) -> list[float]:
    test = wald_test(results, L, None)
    if test.distribution == "chi2":
        return [float(test.statistic), test.df_num, float(test.pvalue)]
    chi2 = float(wald_test(results, L, False).statistic)
    squares = results.scale * chi2
    return [squares, squares / test.df_num, test.df_num,
            float(test.df_denom), float(test.statistic), float(test.pvalue)]  # fmt: skip
