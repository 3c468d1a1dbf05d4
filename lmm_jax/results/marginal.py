"""Marginal means, trends and their contrasts: labelled tables that can be compared further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inference.contrasts.linear_functions import linear_functions, without_rounding
from ..inference.contrasts.multiplicity import ADJUSTMENTS, ELSEWHERE
from ..inference.means.comparisons import cld_letters
from ..inference.means.contrast_families import Contrasts, contrasts_of
from ..inference.means.joint import FactorTests, joint_test_of, table_of_tests, tests_of_factors
from ..inference.means.transformations import TRANSFORMATIONS
from ..inference.tails.student import two_sided_quantile
from ..inputs.arguments import choice, flag, hinted, items, number, probability, shown
from ..inputs.names import unquoted
from ..reprs import inside, public
from ..tables.page import Table
from .estimate_table import EstimateTable
from .marginal_labels import Labels, combine, interaction_of
from .marginal_scales import regridded
from .marginal_table import labelled_table, table_notes, title_of
from .simple_contrasts import SimpleContrasts


@inside(
    "at",
    "labels",
    "tests",
    "beta",
    "scale",
    "means",
    "pairwise",
    "transformation",
    "changed",
    "response",
    "ratios",
)
@public
@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MarginalMeans(EstimateTable):
    """Estimated marginal means, trends, or contrasts of them.

    Made by :func:`lmm_jax.emmeans` and :func:`lmm_jax.emtrends`. Every row is a linear function of
    the fixed effects; one that the data do not determine is NaN.

    - Tables: to_frame, summary, confint, cld, eff_size, to_latex, to_html, to_markdown, to_gt
    - Tests: test, joint_test, joint_tests
    - Contrasts: contrast, pairs
    - Another scale: regrid
    - How they were made: kind, by, level, df_method, adjust, notes,
      output
    """

    # ---- contrasts

    def contrast(
        self,
        method: Any = "eff",
        *,
        by: Any = "same",
        simple: Any = None,
        interaction: Any = None,
        ref: Any = None,
        max_degree: int | None = None,
        adjust: str | None = None,
    ) -> Any:
        """Contrasts of the rows, in each group of ``by`` by themselves.

        Parameters
        ----------
        method : str, mapping or array
            "pairwise", "revpairwise", "trt.vs.ctrl" (reference ``ref``, the first), "trt.vs.ctrl1",
            "trt.vs.ctrlk", "consec", "mean_chg", "eff", "del.eff", "poly", "helmert", "identity";
            ``{label: weights}``; or a matrix with a row a contrast; labelled weights go by label.
        by : str, list or None, optional
            Columns whose values divide the rows into families; those of the object if not given.
        simple : str or list of str, optional
            In the place of ``by``: columns that are compared, within every combination of the
            others; "each" for a table of each of them.
        interaction : str, list, mapping or bool, optional
            In the place of ``method``: products of contrasts, one for all factors or for each;
            True takes ``method`` for all.
        ref : int, str or list, optional
            Reference of "trt.vs.ctrl": its label, or where no level is called so its number from
            0 (-1 is the last); of several the mean.
        max_degree : int, optional
            Highest degree of "poly"; all up to the sixth if not given.
        adjust : str, optional
            Adjustment of the new object; by default emmeans' of the family.

        Returns
        -------
        MarginalMeans
            With a column ``contrast``, or ``A_pairwise`` for every factor of an interaction; of
            ``simple="each"`` a dictionary of them, by the names of the columns.

        Raises
        ------
        DataError
            An unknown method, column or adjustment; weights of another length, or of other labels.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> lmm.emmeans(res, "Nf").contrast("consec").to_frame()["estimate"].round(2).tolist()
        [19.5, 15.33, 9.17]
        """
        if isinstance(simple, str) and simple == "each" and simple not in self.labels.columns:
            how = {"interaction": interaction, "ref": ref, "max_degree": max_degree}
            return SimpleContrasts({
                name: self.contrast(method, by=by, simple=name, **how, adjust=adjust)
                for name in self.labels.varying
            })  # fmt: skip
        if isinstance(interaction, bool | np.bool_):  # as in emmeans: the method of every factor
            interaction = method if interaction else None
        groups = self._groups(by, simple)
        if adjust is not None:
            choice(adjust, "adjust", ADJUSTMENTS, elsewhere=ELSEWHERE)
        if ref is not None and (interaction is not None or not isinstance(method, str)):
            raise DataError(
                f"ref={shown(ref)} is that of contrast('trt.vs.ctrl', ref=): products of contrasts "
                "and weights of your own have none"
            )
        if max_degree is not None and (interaction is not None or not isinstance(method, str)):
            raise DataError(f"max_degree={shown(max_degree)} is that of contrast('poly')")
        if interaction is not None:
            made = interaction_of(self.labels, groups, interaction)
        else:
            made = combine(
                self.labels,
                groups,
                lambda labels, called: contrasts_of(method, labels, ref, called, max_degree),
            )
        return self._linear(*made, groups, adjust)

    def pairs(
        self,
        *,
        by: Any = "same",
        simple: Any = None,
        adjust: str | None = None,
        reverse: bool = False,
    ) -> Any:
        """All differences of two rows: ``contrast("pairwise")``, or the other way round.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> lmm.emmeans(res, "Variety").pairs().to_frame()["contrast"].tolist()
        ['Golden Rain - Marvellous', 'Golden Rain - Victory', 'Marvellous - Victory']
        """
        method = "revpairwise" if flag(reverse, "reverse") else "pairwise"
        return self.contrast(method, by=by, simple=simple, adjust=adjust)

    def _groups(self, by: Any, simple: Any = None) -> tuple[str, ...]:
        """Columns that divide the rows: those of ``by``, or all others than ``simple``."""
        same = isinstance(by, str) and by == "same"
        if simple is None:
            return self.by if same else self._columns(by, "by")
        if not same:
            raise DataError("by= and simple= both say what divides the rows: pass one of them")
        compared = self._columns(simple, "simple")
        return tuple(name for name in self.labels.columns if name not in compared)

    def _columns(self, given: Any, what: str) -> tuple[str, ...]:
        names = [] if given is None else [given] if isinstance(given, str) else items(given, what)
        for i, name in enumerate(names):
            names[i] = unquoted(name) if isinstance(name, str) else None
            if names[i] not in self.labels.columns:
                raise DataError(
                    f"{what}={shown(given)}: there are the columns {', '.join(self.labels.columns)}"
                )
        return tuple(dict.fromkeys(names))

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
        L, gap, shift = (without_rounding(C, A) for A in (self.at.L, self.at.gap, self.at.shift))
        at = linear_functions(L, gap, shift, self.beta, self.tests, self.scale)
        logs = self.transformation is not None and self.transformation.of_differences is not None
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

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> means = lmm.emmeans(res, ["Variety", "Nf"])
        >>> means.joint_tests()["f"].round(3).tolist()
        [1.485, 37.686, 0.303]
        """
        groups = self._groups(by)
        return table_of_tests(
            [self._tests_of_factors(groups)], groups, self.labels.factors,
            self.tests, self.scale, self.beta,
        )  # fmt: skip

    def _tests_of_factors(self, groups: Sequence[str]) -> FactorTests:
        return tests_of_factors(
            self.at, self.labels.table, groups, self.labels.families(groups),
            self.labels.parents, self.tests, self.scale, self.beta,
        )  # fmt: skip

    def joint_test(self, null: Any = 0.0) -> pd.DataFrame:
        """F test that all rows of each group of ``by`` have the value ``null``, or one each.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> lmm.emmeans(res, "Nf").pairs().joint_test()["f"].round(3).tolist()
        [37.686]
        """
        values = self._values(null)
        rows = [
            joint_test_of(self.at, rows, self.tests, self.scale, self.beta, values[rows])
            for rows in self.labels.families(self.by)
        ]
        table = pd.DataFrame(rows, columns=["df_num", "df_denom", "f", "p_value"])
        return pd.concat([self.labels.groups(self.by), table], axis=1)

    def cld(self, alpha: float = 0.05, *, adjust: str | None = None, type: str = "link") -> Table:
        """The rows with letters: two that share one do not differ at the level alpha.

        A data frame with the exports of all tables (``to_latex(caption=..)``).

        Parameters
        ----------
        alpha : float
        adjust : str, optional
            Of the pairwise differences, Tukey's if not given; given, of the limits as well.
        type : {"link", "response"}
            Scale of the estimates and limits, as in :meth:`to_frame`; means are compared on that
            of the fit.

        References
        ----------
        Piepho (2004), doi:10.1198/1061860043515.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> lmm.emmeans(res, "Nf").cld()["group"].tolist()
        ['a', 'b', 'c', 'c']
        """
        level, table = probability(alpha, "alpha"), self._estimates(adjust, type=type)
        letters = np.empty(len(table), dtype=object)
        differences = self.pairs(adjust=adjust)
        p = differences.to_frame(output="pandas")["p_value"].to_numpy()
        start = 0
        for rows in self.labels.families(self.by):
            count = len(rows) * (len(rows) - 1) // 2
            own = p[start : start + count]
            start += count
            alike = ~(own <= level)  # a difference of zero has no p value
            letters[rows] = cld_letters(self.at.estimate[rows], alike)
        how = sorted(set(differences._compared(None, None).adjust) - {"none"})
        adjusted = f", adjusted by {', '.join(how)} within each family" if how else ""
        notes = (
            f"Two of one family that share a letter do not differ at the level {level:g}{adjusted}",
            *table_notes(self, limits=True, type=type, adjust=adjust),
        )
        shown = table.columns[len(self.labels.columns) :]
        columns = {name: table[name].to_numpy() for name in shown}
        frame = self.labels.frame(columns | {"group": letters})
        return labelled_table(self, frame, title_of(self), notes, type=type)

    def eff_size(self, sigma: float, edf: float) -> Table:
        """Cohen's d: differences over a standard deviation of the population, with limits.

            d = c / sigma        Var(d) = Var(c) / sigma^2 + d^2 / (2 edf)

        Parameters
        ----------
        sigma : float
            Standard deviation of the population, in units of the response (of the scale of the
            fit, where that is transformed). For observations of new groups the square root of the
            sum of the variances, ``np.sqrt(frame["variance"].sum())`` with the random and the
            residual rows of :func:`lmm_jax.variance_components`.
        edf : float
            Degrees of freedom of sigma: its relative standard error is ``1 / sqrt(2 edf)``. Groups
            less one where most of the variance is between groups, rows where it is within; numpy's
            inf for a sigma that is known.

        Returns
        -------
        DataFrame
            Labels, estimate, std_error, df, conf_low, conf_high: of all pairs of means, or of the
            contrasts themselves. Limits are those of t with the degrees of freedom of each
            contrast, not adjusted.

        Raises
        ------
        DataError
            A sigma or degrees of freedom that are not positive.

        Notes
        -----
        Estimates and standard errors are those of emmeans' ``eff_size``, whose degrees of freedom
        are the fewest of the means.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety + Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> sizes = lmm.emmeans(res, "Variety").eff_size(sigma=22.06183, edf=5)
        >>> sizes[["estimate", "std_error"]].round(3).to_numpy().tolist()
        [[-0.24, 0.33], [0.312, 0.336], [0.551, 0.365]]
        """
        of = self if self.kind == "contrast" else self.pairs()
        scale = number(sigma, "sigma")
        edf = np.inf if isinstance(edf, float) and edf == np.inf else number(edf, "edf")
        for what, value in {"sigma": scale, "edf": edf}.items():
            if not value > 0:
                raise DataError(f"{what}={value:g}: a positive number is needed")
        d = of.at.estimate / scale
        error = np.sqrt((of.at.std_error / scale) ** 2 + d * d / (2.0 * edf))
        half = two_sided_quantile(of.level, of.at.df) * error
        columns = {"estimate": d, "std_error": error, "df": of.at.df}
        frame = of.labels.frame(columns | {"conf_low": d - half, "conf_high": d + half})
        known = "is known" if edf == np.inf else f"has {edf:g} degrees of freedom"
        what = f"Differences over sigma = {scale:.4g}, which {known}"
        notes = [what, *table_notes(of), f"Limits of level {of.level:g}, not adjusted"]
        return labelled_table(of, frame, "Effect sizes", notes)

    # ---- other scales

    def regrid(
        self, transform: str = "response", *, bias_sigma: float | None = None
    ) -> MarginalMeans:
        """Means of a transformed response as means of the response, by the delta method.

        Contrasts of the result are differences on the scale of the response; or on another:
        of its logarithms, whose differences are carried back as ratios.

        Parameters
        ----------
        transform : {"response", "log", "log2", "log10", "log1p", "sqrt", "logit", "probit", \
            "cloglog", "asinh", "atanh"}
            The new scale. Any but the first is also one of a response that is not transformed.
        bias_sigma : float, optional
            As in :meth:`to_frame`.

        Raises
        ------
        DataError
            Contrasts or slopes; a response that is on its own scale already; means that have no
            logarithm.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("log(yld) ~ Nf + (1 | Block)", lmm.load_dataset("oats"))
        >>> lmm.emmeans(res, "Nf").regrid().to_frame()["estimate"].round(1).tolist()
        [77.3, 96.6, 112.2, 121.4]
        """
        scale = choice(transform, "transform", ("response", *TRANSFORMATIONS))
        half = None
        if bias_sigma is not None:
            half = 0.5 * np.square(number(bias_sigma, "bias_sigma", least=0.0))
        return regridded(self, scale, half)
