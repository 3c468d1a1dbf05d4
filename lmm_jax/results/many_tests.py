"""Tests of fixed effects in many fits: a row a response, a column a hypothesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..designs.fixed_terms import term_coefficients
from ..errors import DataError
from ..inference.contrasts.lane_tests import (
    LaneJoint,
    LaneTests,
    adjusted_contrasts,
    adjusted_joint,
    lane_contrasts,
    lane_joint,
)
from ..inference.contrasts.moderation import moderated_estimates
from ..inference.contrasts.stepwise import false_discovery
from ..inference.hypotheses import Restriction, read_restriction
from ..inference.tails.student import f_tail, student_tail, two_sided_quantile
from ..inputs.arguments import coverage, hinted
from ..reprs import public
from ..tables.cells import Kind
from ..tables.frames import as_frame
from ..tables.page import Summary
from ..tables.shown import Shown, first_rows


@public
@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ManyTests(Shown):
    """Hypotheses tested in every response.

    Attributes
    ----------
    response_names : tuple of str, length R
    names : tuple of str, length r
        The hypotheses.
    estimate, std_error : ndarray, shape (R, r), or None
        Of t and z tests.
    statistic, pvalue : ndarray, shape (R, r)
    df_num : ndarray, shape (R, r)
    df_denom : ndarray, shape (R, r)
        Infinite for z and chi-square.
    distribution : {"t", "norm", "F", "chi2"}
    converged : ndarray of bool, shape (R,)
        Whether the fit of the response has converged.
    """

    response_names: tuple[str, ...]
    names: tuple[str, ...]
    estimate: np.ndarray | None
    std_error: np.ndarray | None
    statistic: np.ndarray
    pvalue: np.ndarray
    df_num: np.ndarray
    df_denom: np.ndarray
    distribution: str
    converged: np.ndarray
    output: str = "pandas"  # kind of frame that tables come in: that of the data

    def __repr__(self) -> str:
        found = int((self.pvalue < 0.05).sum())
        return (
            f"<ManyTests ({self.distribution}): {len(self.response_names)} responses, "
            f"{len(self.names)} hypotheses, {found} p values below 0.05>"
        )

    def _page(self) -> Summary:
        kinds: dict[str, Kind] = {"response": "label", "hypothesis": "label"}
        found = int((self.pvalue < 0.05).sum())
        title = f"Tests in {len(self.response_names)} responses, {found} p values below 0.05"
        return first_rows(self.to_frame(output="pandas"), title, "to_frame()", kinds)

    def fdr(self) -> pd.DataFrame:
        """P values of every hypothesis adjusted over the responses by Benjamini and Hochberg.

        References
        ----------
        Benjamini & Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> many.t_test("Machine[T.B], Machine[T.C]").fdr().shape
        (4, 2)
        """
        adjusted = np.column_stack([false_discovery(p) for p in self.pvalue.T])
        return pd.DataFrame(adjusted, index=list(self.response_names), columns=list(self.names))

    def to_frame(
        self, *, conf_level: float = 0.95, level: float | None = None, output: str | None = None
    ) -> Any:
        """One row a response and hypothesis; ``q_value`` is adjusted over the responses.

        Parameters
        ----------
        conf_level, level : float
            Coverage, by either of both words, of the intervals of t and z tests.
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> many.t_test("Machine[T.B]").to_frame()["response"].tolist() == list(many.response_names)
        True
        """
        level = coverage(level, conf_level=conf_level)
        R, r = self.statistic.shape
        columns: dict[str, Any] = {
            "response": np.repeat(np.array(self.response_names, dtype=object), r),
            "hypothesis": np.tile(np.array(self.names, dtype=object), R),
        }
        if self.estimate is not None and self.std_error is not None:
            half = two_sided_quantile(level, self.df_denom) * self.std_error
            columns |= {
                "estimate": self.estimate.ravel(),
                "std_error": self.std_error.ravel(),
                "conf_low": (self.estimate - half).ravel(),
                "conf_high": (self.estimate + half).ravel(),
            }
        else:
            columns["df_num"] = self.df_num.ravel()
        columns |= {
            "statistic": self.statistic.ravel(),
            "df": self.df_denom.ravel(),
            "p_value": self.pvalue.ravel(),
            "q_value": self.fdr().to_numpy().ravel(),
            "converged": np.repeat(self.converged, r),
        }
        return as_frame(pd.DataFrame(columns), output, self.output)


def many_t_test(many: Any, hypothesis: Any, moderate: bool) -> ManyTests:
    """Test each row on its own."""
    at = _restriction(many, hypothesis)
    return contrast_tests(many, at, np.zeros(len(at.R)), moderate)


def _restriction(many: Any, hypothesis: Any) -> Restriction:
    """A hypothesis over the fixed effects, which may name terms of the design."""
    terms = term_coefficients(many.source and many.source.design, many.fixed_names)
    return read_restriction(hypothesis, many.fixed_names, terms=terms)


def contrast_tests(many: Any, at: Restriction, shift: np.ndarray, moderate: bool) -> ManyTests:
    """Tests of ``R beta + shift = q`` row by row."""
    tested = _tested(many, moderate)
    found: LaneTests = (
        lane_contrasts(at.R, tested)
        if many.adjusted is None
        else adjusted_contrasts(at.R, many, many.adjusted)
    )
    se, df = found.std_error, _at_most(found.df, many) if moderate else found.df
    if many.df_method == "normal":
        df = np.where(np.isnan(df), np.nan, np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = (found.estimate + shift - at.q) / np.where(se > 0, se, np.nan)
    return ManyTests(
        response_names=many.response_names,
        names=at.labels,
        estimate=found.estimate + shift,
        std_error=se,
        statistic=statistic,
        pvalue=student_tail(statistic, df, two_sided=True),
        df_num=np.ones(statistic.shape, dtype=int),
        df_denom=df,
        distribution="norm" if many.df_method == "normal" else "t",
        converged=many.converged,
        output=many.output,
    )


def _tested(many: Any, moderate: bool) -> Any:
    """What is tested: the fits, or the fits with moderated residual variances."""
    if moderate and many.adjusted is not None:
        raise DataError(
            "moderate=True: tests of moderated variances have Satterthwaite's degrees of freedom. "
            "Fit with df_method='satterthwaite'"
        )
    return moderated_estimates(many, many.moderation) if moderate else many


def _at_most(df: np.ndarray, many: Any) -> np.ndarray:
    """Degrees of freedom, no more than all responses have together."""
    own = np.where(many.converged, many.nobs - len(many.fixed_names), 0)
    return np.asarray(np.minimum(df, float(own.sum())))


def many_wald_test(many: Any, hypothesis: Any, moderate: bool) -> ManyTests:
    """Test all rows together."""
    at = _restriction(many, hypothesis)
    tested = _tested(many, moderate)
    found: LaneJoint = (
        lane_joint(at.R, at.q, tested)
        if many.adjusted is None
        else adjusted_joint(at, many, many.adjusted)
    )
    chi2, q, df = found.chi2, found.df_num, found.df_denom
    normal = many.df_method == "normal"
    if moderate:
        df = _at_most(df, many)
    if normal:
        df = np.where(np.isnan(df), np.nan, np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        f = chi2 / q
    return ManyTests(
        response_names=many.response_names,
        names=("; ".join(at.labels),),
        estimate=None,
        std_error=None,
        statistic=(chi2 if normal else f)[:, None],
        pvalue=f_tail(f, q, df)[:, None],
        df_num=q[:, None],
        df_denom=df[:, None],
        distribution="chi2" if normal else "F",
        converged=many.converged,
        output=many.output,
    )
