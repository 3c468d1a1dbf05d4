"""Marginal means, trends and their contrasts: labelled tables that can be compared further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inference.comparisons import cld_letters
from ..inference.contrast_families import Contrasts, contrasts_of
from ..inference.df import DfMethod
from ..inference.joint import joint_test_of, tests_of_factors
from ..inference.linear_functions import (
    Comparison,
    LinearFunctions,
    compare,
    linear_functions,
)
from ..inference.multiplicity import ADJUSTMENTS
from ..inference.transformations import Transformation
from ..inputs.arguments import choice, hinted, items, number, probability, shown
from ..reprs import public
from .marginal_labels import Labels, combine, interaction, joined
from .marginal_table import shown_table

SIDES = {"two-sided": 0, "less": -1, "greater": 1}


@public
@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MarginalMeans:
    """Estimated marginal means, trends, or contrasts of them.

    Made by :func:`lmm_jax.emmeans` and :func:`lmm_jax.emtrends`. Every row is a linear function of
    the fixed effects; one that the data do not determine is NaN.
    """

    at: LinearFunctions
    labels: Labels
    by: tuple[str, ...]
    kind: str  # "emmean", "x.trend", "contrast"
    level: float
    df_method: str
    tests: DfMethod
    beta: np.ndarray  # (p,)
    scale: float
    adjust: str = "none"  # of p values and limits, unless a call says otherwise
    pairwise: bool = False
    means: int = 0  # compared in every family
    transformation: Transformation | None = None  # of the response, where estimates are of f(y)
    ratios: bool = False  # differences of logarithms
    notes: tuple[str, ...] = ()

    # ---- tables

    def to_frame(
        self,
        adjust: str | None = None,
        *,
        level: float | None = None,
        type: str = "link",
        bias_sigma: float | None = None,
    ) -> pd.DataFrame:
        """A row an estimate: labels, estimate, std_error, df, limits, statistic, p_value.

        Parameters
        ----------
        adjust : str, optional
            Adjustment of limits and p values for the size of each family (the rows of one group
            of ``by``): "none", "tukey", "sidak", "bonferroni", "holm", "hochberg", "fdr",
            "scheffe", "dunnett", "dunnettx" or "mvt". By default that of the contrasts, none
            for means.
        level : float, optional
            Coverage of the limits, by default that of the object.
        type : {"link", "response"}
            "response": estimates and limits of a transformed response carried back; those of
            differences of logarithms are ratios. Tests stay those of the scale of the fit.
        bias_sigma : float, optional
            With "response": standard deviation of the response around its mean on the scale of
            the fit, for which means are corrected, ``h(x) + sigma^2 h''(x) / 2``.

        Returns
        -------
        pandas.DataFrame
        """
        found = self._compared(adjust, level)
        columns = {
            "estimate": self.at.estimate,
            "std_error": self.at.std_error,
            "df": self.at.df,
            "conf_low": found.low,
            "conf_high": found.high,
            "statistic": found.statistic,
            "p_value": found.p_value,
        }
        if choice(type, "type", ("link", "response")) == "response":
            columns |= self._on_response(found, bias_sigma)
        elif bias_sigma is not None:
            raise DataError("bias_sigma belongs to type='response'")
        return self.labels.frame(columns, ratios=self.ratios and type == "response")

    def _on_response(self, found: Comparison, bias_sigma: float | None) -> dict[str, np.ndarray]:
        f = self.transformation
        if f is None:
            return {}
        if self.kind == "contrast" and not self.ratios:
            raise DataError(
                f"contrasts of {f.name} are no differences of the response: use regrid() of the "
                "means, and contrast these"
            )
        add = 0.0 if bias_sigma is None else 0.5 * number(bias_sigma, "bias_sigma", least=0.0) ** 2
        back = lambda x: f.inverse(x) + add * f.bend(x)  # noqa: E731
        return {
            "estimate": back(self.at.estimate),
            "std_error": np.abs(f.slope(self.at.estimate)) * self.at.std_error,
            "conf_low": back(found.low),
            "conf_high": back(found.high),
        }

    def confint(self, level: float | None = None, *, adjust: str | None = None) -> pd.DataFrame:
        """Estimates with their limits.

        Parameters
        ----------
        level : float, optional
            Coverage.
        adjust : str, optional
            As in :meth:`to_frame`.
        """
        return self.to_frame(adjust, level=level).drop(columns=["statistic", "p_value"])

    def test(
        self,
        null: float = 0.0,
        *,
        side: str = "two-sided",
        delta: float = 0.0,
        adjust: str | None = None,
    ) -> pd.DataFrame:
        """Tests against a value; of equivalence or non-inferiority with a margin.

        Parameters
        ----------
        null : float
        side : {"two-sided", "less", "greater"}
            The alternative.
        delta : float
            A margin above 0: two-sided tests are those of equivalence (the difference to ``null``
            is less than delta), "greater" of non-inferiority, "less" of non-superiority.
        adjust : str, optional
            As in :meth:`to_frame`.

        Returns
        -------
        pandas.DataFrame
            Labels, estimate, std_error, df, null, statistic, p_value.
        """
        found = self._compared(
            adjust,
            None,
            side=SIDES[choice(side, "side", SIDES)],
            null=number(null, "null"),
            delta=number(delta, "delta", least=0.0),
        )
        columns = {
            "estimate": self.at.estimate,
            "std_error": self.at.std_error,
            "df": self.at.df,
            "null": np.full(len(self.at.estimate), float(null)),
            "statistic": found.statistic,
            "p_value": found.p_value,
        }
        return self.labels.frame(columns)

    def _compared(self, adjust: str | None, level: float | None, **test: Any) -> Comparison:
        how = self.adjust if adjust is None else choice(adjust, "adjust", ADJUSTMENTS)
        chosen = self.level if level is None else probability(level, "level")
        return compare(
            self.at, self.labels.families(self.by), how, chosen,
            means=self.means, pairwise=self.pairwise, **test,
        )  # fmt: skip

    # ---- contrasts

    def contrast(
        self,
        method: Any = "eff",
        *,
        by: Any = "same",
        interaction: Any = None,
        ref: int | None = None,
        adjust: str | None = None,
    ) -> MarginalMeans:
        """Contrasts of the rows, in each group of ``by`` by themselves.

        Parameters
        ----------
        method : str, mapping or array
            "pairwise", "revpairwise", "trt.vs.ctrl" (reference ``ref``, the first), "trt.vs.ctrl1",
            "trt.vs.ctrlk", "consec", "mean_chg", "eff", "del.eff", "poly", "helmert";
            ``{label: weights}``; or a matrix with a row a contrast.
        by : str, list or None, optional
            Columns whose values divide the rows into families; those of the object if not given.
        interaction : str or list, optional
            In the place of ``method``: products of contrasts, one method for all factors or one
            for each.
        ref : int, optional
            Reference of "trt.vs.ctrl", from 0; -1 is the last.
        adjust : str, optional
            Adjustment of the new object; by default emmeans' of the family.

        Returns
        -------
        MarginalMeans
            With a column ``contrast``, or ``A_pairwise`` for every factor of an interaction.
        """
        groups = self.by if isinstance(by, str) and by == "same" else self._columns(by)
        if adjust is not None:
            choice(adjust, "adjust", ADJUSTMENTS)
        if interaction is not None:
            made = interaction_of(self, groups, interaction)
        else:
            made = combine(self.labels, groups, lambda labels: contrasts_of(method, labels, ref))
        return self._linear(*made, groups, adjust)

    def pairs(self, *, by: Any = "same", adjust: str | None = None) -> MarginalMeans:
        """All differences of two rows: ``contrast("pairwise")``."""
        return self.contrast("pairwise", by=by, adjust=adjust)

    def _columns(self, given: Any) -> tuple[str, ...]:
        names = [] if given is None else [given] if isinstance(given, str) else items(given, "by")
        for name in names:
            if name not in self.labels.columns:
                raise DataError(
                    f"by={shown(given)}: there are the columns {', '.join(self.labels.columns)}"
                )
        return tuple(names)

    def _linear(
        self,
        C: np.ndarray,
        labels: Labels,
        family: Contrasts,
        means: int,
        by: tuple[str, ...],
        adjust: str | None,
    ) -> MarginalMeans:
        """Rows ``C`` of these rows."""
        at = linear_functions(
            C @ self.at.L, C @ self.at.gap, C @ self.at.shift, self.beta, self.tests, self.scale
        )
        logs = self.transformation is not None and self.transformation.is_log
        return replace(
            self,
            at=at,
            labels=labels,
            by=tuple(name for name in by if name in labels.columns),
            kind="contrast",
            adjust=family.adjust if adjust is None else adjust,
            pairwise=family.pairwise,
            means=means,
            ratios=logs and bool(np.allclose(C.sum(axis=1), 0.0)) and self.kind != "contrast",
        )

    # ---- joint tests and groups

    def joint_tests(self, by: Any = "same") -> pd.DataFrame:
        """F tests of the main effects and interactions of the rows' factors.

        Parameters
        ----------
        by : str, list or None, optional
            Columns in whose groups the tests are made.

        Returns
        -------
        pandas.DataFrame
            A row a term (in each group of ``by``): df_num, df_denom, f, p_value. What empty cells
            mix is tested together as ``(confounded)``.
        """
        groups = self.by if isinstance(by, str) and by == "same" else self._columns(by)
        return tests_of_factors(
            self.at, self.labels.table, groups, self.labels.families(groups),
            self.tests, self.scale, self.beta,
        )  # fmt: skip

    def joint_test(self, null: float = 0.0) -> pd.DataFrame:
        """F test that all rows of each group of ``by`` have the value ``null``."""
        value = number(null, "null")
        rows = [
            joint_test_of(self.at, rows, self.tests, self.scale, self.beta, value)
            for rows in self.labels.families(self.by)
        ]
        table = pd.DataFrame(rows, columns=["df_num", "df_denom", "f", "p_value"])
        return pd.concat([self.labels.groups(self.by), table], axis=1)

    def cld(self, alpha: float = 0.05, *, adjust: str | None = None) -> pd.DataFrame:
        """The rows with letters: two that share one do not differ at the level alpha.

        Parameters
        ----------
        alpha : float
        adjust : str, optional
            Of the pairwise differences; Tukey's by default.

        References
        ----------
        Piepho (2004), doi:10.1198/1061860043515.
        """
        level, table = probability(alpha, "alpha"), self.confint()
        letters = np.empty(len(table), dtype=object)
        differences = self.pairs(adjust=adjust)
        p = differences.to_frame()["p_value"].to_numpy()
        start = 0
        for rows in self.labels.families(self.by):
            count = len(rows) * (len(rows) - 1) // 2
            own = p[start : start + count]
            start += count
            letters[rows] = cld_letters(self.at.estimate[rows], own > level)
        return table.assign(group=letters)

    # ---- transformed responses

    def regrid(self, *, bias_sigma: float | None = None) -> MarginalMeans:
        """Means of a transformed response as means of the response, by the delta method.

        Contrasts of the result are differences on the scale of the response.

        Parameters
        ----------
        bias_sigma : float, optional
            As in :meth:`to_frame`.
        """
        f = self.transformation
        if f is None or self.kind == "contrast":
            raise DataError("regrid is for means of a transformed response, such as log(y)")
        add = 0.0 if bias_sigma is None else 0.5 * number(bias_sigma, "bias_sigma", least=0.0) ** 2
        x = self.at.estimate
        slope = f.slope(x)[:, None]
        L = np.where(np.isnan(slope), self.at.L, slope * self.at.L)
        at = linear_functions(L, self.at.gap, self.at.shift, self.beta, self.tests, self.scale)
        value = f.inverse(x) + add * f.bend(x)
        shift = np.nan_to_num(value - L @ self.beta)
        at = at._replace(estimate=value, shift=shift)
        note = f"Estimates are on the scale of the response, from {f.name}"
        return replace(self, at=at, transformation=None, notes=(*self.notes, note))

    # ---- printing

    def summary(self) -> Any:
        """Printed table with notes: text, HTML and LaTeX."""
        return shown_table(self)

    def __str__(self) -> str:
        return str(self.summary())

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return str(self.summary().as_html())

    def __len__(self) -> int:
        return len(self.at.estimate)


def interaction_of(
    means: MarginalMeans, by: Sequence[str], methods: Any
) -> tuple[np.ndarray, Labels, Contrasts, int]:
    """Products of contrasts of the factors of the rows."""
    factors = [name for name in means.labels.factors if name not in by]
    chosen = (
        [methods] if isinstance(methods, str | Mapping) else list(items(methods, "interaction"))
    )
    if len(chosen) == 1:
        chosen = chosen * len(factors)
    if len(chosen) != len(factors):
        raise DataError(
            f"interaction has {len(chosen)} methods for the factors {', '.join(factors)}"
        )
    return interaction(means.labels, tuple(by), dict(zip(factors, chosen, strict=True)))


__all__ = ["MarginalMeans", "joined"]
