"""Tests of linear hypotheses ``R params = q``: t, z, F and chi-square."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ...designs.fixed_terms import term_coefficients
from ...errors import DataError
from ...inputs.arguments import choice, coverage, flag, hinted, instance, shown
from ...inputs.arguments import names as read_names
from ...tables.page import Summary, table
from ...tables.shown import Shown
from ..df.robust import TESTS, Robust, robust_of
from ..df.wald import correlation, joint_test, rank
from ..hypotheses import Restriction, read_restriction
from ..record import FitRecord, relative_covariance
from ..tails.student import f_tail
from .multiplicity import Family, adjusted_p_values, critical_values, needs_correlation

# Hypotheses up to which a repr shows all of a test, and lines of one of more.
_FEW, _LINES = 6, 8


@hinted
@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ContrastResults(Shown):
    """A test of linear hypotheses, with the attributes of statsmodels' class of that name.

    ``effect`` and ``sd`` belong to tests row by row (t, z) and are None for joint
    ones (F, chi-square).
    """

    distribution: str  # "t", "norm", "F" or "chi2"
    statistic: np.ndarray  # (r,), or () for a joint test
    pvalue: np.ndarray  # (r,), or ()
    df_num: int  # restrictions tested together: 1 for t and z
    df_denom: np.ndarray  # (r,), or (); infinite for z and chi-square
    effect: np.ndarray | None = None  # (r,)  R params
    sd: np.ndarray | None = None  # (r,)  its standard error
    c_names: tuple[str, ...] = ()  # (r,)  the hypotheses as they were asked for
    null_value: np.ndarray | None = None  # (r,)  value that the effect is tested against
    adjust: str = "none"  # of p values and intervals, for the number of rows
    family: Family | None = None  # what the adjustment knows of the rows
    level: float = 0.95  # coverage of the intervals, where none is asked for

    @property
    def tvalue(self) -> np.ndarray:
        """The statistic, by statsmodels' name for t and z tests."""
        return self.statistic

    @property
    def fvalue(self) -> np.ndarray:
        """The statistic of an F test."""
        if self.distribution != "F":
            raise AttributeError(f"fvalue belongs to an F test; this is {self.distribution}")
        return self.statistic

    def conf_int(self, alpha: float | None = None, *, level: float | None = None) -> np.ndarray:
        """Wald intervals of the effects, lower and upper limit in the columns.

        Parameters
        ----------
        alpha : float, optional
            One less the coverage; by default that of ``level`` of the test.
        level : float, optional
            The coverage, in the place of ``alpha``.

        Returns
        -------
        ndarray, shape (r, 2)
        """
        effect, sd = self._rows()
        level = self._coverage(alpha, level)
        family = Family(contrasts=len(sd)) if self.family is None else self.family
        half = critical_values(self.df_denom, self.adjust, level, family) * sd
        return np.column_stack([effect - half, effect + half])

    def _coverage(self, alpha: float | None, level: float | None) -> float:
        if alpha is None and level is None:
            return self.level
        return coverage(level, alpha=0.05 if alpha is None else alpha)

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        if self.effect is None or self.sd is None:
            raise DataError("a joint test has no effects of its own: use t_test for single rows")
        return self.effect, self.sd

    def summary_frame(
        self,
        xname: Sequence[str] | None = None,
        alpha: float | None = None,
        *,
        level: float | None = None,
    ) -> pd.DataFrame:
        """One row a hypothesis: tested value, estimate, standard error, test and interval.

        Parameters
        ----------
        xname : sequence of str, optional
            Names of the hypotheses; as they were asked for if not given.
        alpha : float, optional
            One less the coverage of the interval; by default that of ``level`` of the test.
        level : float, optional
            The coverage, in the place of ``alpha``.
        """
        effect, sd = self._rows()
        names = list(self.c_names) if xname is None else read_names(xname, "xname", effect.size)
        interval = self.conf_int(alpha, level=level)
        columns = {
            "null_value": np.zeros(effect.size) if self.null_value is None else self.null_value,
            "estimate": effect,
            "std_error": sd,
            "statistic": self.statistic,
            "df": self.df_denom,
            "p_value": self.pvalue,
            "conf_low": interval[:, 0],
            "conf_high": interval[:, 1],
        }
        return pd.DataFrame(columns, index=names)

    def summary(
        self,
        xname: Sequence[str] | None = None,
        alpha: float | None = None,
        title: str | None = None,
        *,
        level: float | None = None,
    ) -> Summary:
        """The test as it is printed, a row a hypothesis for t and z tests.

        Parameters
        ----------
        xname : sequence of str, optional
            Names of the hypotheses.
        alpha : float, optional
            One less the coverage of the intervals; by default that of ``level`` of the test.
        title : str, optional
        level : float, optional
            The coverage, in the place of ``alpha``.
        """
        heading = None if title is None else instance(title, "title", str, "a string")
        if self.effect is None:
            return self._joint(heading)
        level = self._coverage(alpha, level)
        frame = self.summary_frame(xname, level=level)
        normal = self.distribution == "norm"
        shown = table(
            frame.drop(columns="df") if normal else frame,
            "",
            headings={"null_value": "null", "statistic": "z" if normal else "t"},
            kinds={"statistic": "statistic"},
        )
        notes = [f"Limits of level {level:g}"]
        if self.adjust != "none":
            notes.append(f"P values and limits adjusted by {self.adjust}")
        title = "Test for Constraints" if heading is None else heading
        return Summary(title=title, sheets=(shown,), notes=tuple(notes))

    def _joint(self, heading: str | None) -> Summary:
        """The one row of a joint test; its hypotheses below."""
        f = self.distribution == "F"
        df = (
            {"df_num": [self.df_num], "df_denom": [float(self.df_denom)]}
            if f
            else {"df": [self.df_num]}
        )
        row = {"statistic": [float(self.statistic)], **df, "p_value": [float(self.pvalue)]}
        shown = table(
            pd.DataFrame(row),
            "",
            headings={"statistic": "F" if f else "chisq"},
            kinds={"statistic": "statistic"},
        )
        title = f"{'F' if f else 'Chi-square'} test" if heading is None else heading
        return Summary(title=title, sheets=(shown,), notes=(f"Tested: {', '.join(self.c_names)}",))

    def _page(self) -> Summary:
        return self.summary()

    def __repr__(self) -> str:
        if len(self.c_names) <= _FEW:
            return str(self)
        more = f"... {len(self.c_names)} hypotheses, print() shows them all"
        return "\n".join([*str(self).splitlines()[:_LINES], more])


def t_test(
    results: FitRecord, hypothesis: Any, use_t: bool | None, adjust: str = "none"
) -> ContrastResults:
    """Test each row on its own; p values and intervals may be adjusted for the number of rows."""
    use_t = None if use_t is None else flag(use_t, "use_t")
    at, _ = _read(results, hypothesis, use_t)
    p = len(results.fixed_names)
    on_fixed = ~at.R[:, p:].any(axis=1)  # variances have normal theory only
    if use_t is None:
        use_t = results.tests.uses_t and bool(on_fixed.any())
    effect = at.R @ results.params.to_numpy()
    rows, relative, unit = _relative_rows(results, at.R)
    variance = np.sum((rows @ relative) * rows, axis=1)
    sd = np.sqrt(np.maximum(variance, 0.0)) * unit  # rounding may leave less than nothing
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (effect - at.q) / np.where(sd > 0, sd, np.nan)  # what is held has no test
    df = np.full(len(at.R), np.inf)
    if use_t:
        df[on_fixed] = _with_t(results).tests.of_contrasts(at.R[on_fixed, :p])
    family = Family(contrasts=len(at.R))
    if adjust == "scheffe" or needs_correlation(adjust, len(at.R)):
        family = family._replace(correlation=correlation(rows @ relative @ rows.T))
    return ContrastResults(
        distribution="t" if use_t else "norm",
        statistic=statistic,
        pvalue=adjusted_p_values(statistic, df, adjust, family=family),
        df_num=1,
        df_denom=df,
        effect=effect,
        sd=sd,
        c_names=at.labels,
        null_value=at.q,
        adjust=adjust,
        family=family,
    )


def wald_test(
    results: FitRecord, hypothesis: Any, use_f: bool | None, test_name: str | None = None
) -> ContrastResults:
    """Test all rows together."""
    use_f = None if use_f is None else flag(use_f, "use_f")
    if test_name is not None:
        results, use_f = _by_name(results, test_name, use_f)
    at, on_fixed = _read(results, hypothesis, use_f)
    if use_f is None:
        use_f = results.tests.uses_t and on_fixed
    V, unit = _covariance(results, at.R)
    _check_clusters(results, at, V)
    test = joint_test(Restriction(at.R, at.q / unit), results.params.to_numpy() / unit, V)
    chi2, q = test.chi2, test.rank
    if not use_f:
        return ContrastResults(
            distribution="chi2",
            statistic=np.asarray(chi2),
            pvalue=f_tail(chi2 / q, q, np.inf),
            df_num=q,
            df_denom=np.asarray(np.inf),
            c_names=at.labels,
        )
    df, scale = float("nan"), 1.0
    if np.isfinite(chi2):
        rows = test.contrasts[:, : len(results.fixed_names)]
        df, scale = _with_t(results).tests.of_joint(rows)
    value = scale * chi2 / q
    return ContrastResults(
        distribution="F",
        statistic=np.asarray(value),
        pvalue=f_tail(value, q, df),
        df_num=q,
        df_denom=np.asarray(df),
        c_names=at.labels,
    )


def _by_name(results: FitRecord, test: str, use_f: bool | None) -> tuple[FitRecord, bool]:
    """The fit with one of the joint tests of a robust covariance, and whether that is an F test."""
    tests = results.tests
    if not isinstance(tests, Robust):
        raise DataError(
            f"test={shown(test)}: there is a choice of tests for robust covariances only, "
            "res.robust().wald_test(...); use_f= chooses between F and chi-square"
        )
    test = choice(test, "test", TESTS)
    if use_f is not None and use_f != (test != "chi2"):
        raise DataError(f"test={test!r} and use_f={use_f} contradict each other: pass one of them")
    methods = {**results.df_methods, results.df_method: replace(tests, test=test)}
    return replace(results, df_methods=methods), test != "chi2"


def _check_clusters(results: FitRecord, at: Restriction, V: np.ndarray) -> None:
    """Refuse restrictions of more dimensions than a robust covariance has in them."""
    tests = robust_of(results.tests)
    if tests is None or not np.isfinite(V).all():
        return
    needed = rank(_covariance(results, at.R, results.estimates.cov_beta)[0])
    if np.diagonal(V).all() and rank(V) < needed:
        raise DataError(
            f"the robust covariance of these restrictions has rank {rank(V)}, and they have rank "
            f"{needed}: {tests.n_clusters} clusters are too few to test them together, or one "
            "cluster determines a combination of them alone"
        )


def _read(results: FitRecord, hypothesis: Any, use_t: bool | None) -> tuple[Restriction, bool]:
    """The restriction, and whether it concerns fixed effects only."""
    p, names = len(results.fixed_names), results.fixed_names
    terms = term_coefficients(results._what_is_known, names)
    try:
        at = read_restriction(hypothesis, names, tuple(results.params.index[p:]), terms=terms)
    except DataError as error:
        known = results._what_is_known
        dropped = () if known is None else known.dropped
        text = hypothesis if isinstance(hypothesis, str) else ""
        gone = [n for n in dropped if re.search(rf"(?<![\w.]){re.escape(n)}(?![\w.])", text)]
        if not gone:
            raise
        raise DataError(
            f"{gone[0]!r} was left out, since it depends linearly on other columns: it has no "
            "coefficient to test"
        ) from error
    on_fixed = not at.R[:, p:].any()
    if use_t and not on_fixed:
        raise DataError(
            "variance parameters have normal theory only: leave use_t and use_f at their default"
        )
    return at, on_fixed


def _covariance(
    results: FitRecord, R: np.ndarray, cov_beta: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """``R cov R' / unit^2`` and the unit; NaN in rows that use a variance without an error."""
    rows, relative, unit = _relative_rows(results, R, cov_beta)
    return rows @ relative @ rows.T, unit


def _relative_rows(
    results: FitRecord, R: np.ndarray, cov_beta: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows in a unit of theirs, the covariance that goes with them, and the unit."""
    cov_beta = results.tests.cov_beta if cov_beta is None else cov_beta
    units, relative = relative_covariance(results.estimates, cov_beta)
    rows, relative = R * units[:-1], relative[:-1, :-1]
    unit = float(np.abs(rows).max()) or 1.0  # squares of it may leave the range of floats
    unknown = (R[:, np.isnan(results.bse.to_numpy())] != 0).any(axis=1)
    return np.where(unknown[:, None], np.nan, rows / unit), relative, unit


def _with_t(results: FitRecord) -> FitRecord:
    """The fit, with the residual degrees of freedom where its method has none."""
    return results if results.tests.uses_t else results.with_df("residual")
