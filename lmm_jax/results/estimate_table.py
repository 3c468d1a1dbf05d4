"""Tables of linear functions of the fixed effects: estimates, tests, limits, adjusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inference.contrasts.linear_functions import Comparison, LinearFunctions, compare
from ..inference.contrasts.multiplicity import ADJUSTMENTS, ALTERNATIVES, ELSEWHERE, SIDES
from ..inference.df.methods import DfMethod
from ..inference.means.transformations import Transformation, no_way_back
from ..inputs.arguments import choice, flag, hinted, number, numbers, probability
from ..inputs.by_label import in_order
from ..tables.frames import as_frame
from ..tables.page import Summary, Table
from ..tables.shown import Shown
from .marginal_labels import Labels
from .marginal_table import labelled_table, shown_table, table_notes, title_of

# Alternatives with a margin too; the words are emmeans'.
_WITH_MARGIN = {**SIDES, "equivalence": 0, "nonsuperiority": -1, "noninferiority": 1}
# What they are called with a margin.
_MARGINS = {-1: "non-superiority", 0: "equivalence", 1: "non-inferiority"}


@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EstimateTable(Shown):
    """Linear functions of the fixed effects with labels: their tables, tests and limits."""

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
    changed: str = ""  # the response, where it is an expression that nothing is known of
    response: str = ""  # as the formula has it, or what the scale was made from it
    ratios: bool = False  # differences of logarithms
    notes: tuple[str, ...] = ()
    output: str = "pandas"  # kind of frame that tables come in: that of the data

    # ---- tables

    def to_frame(
        self,
        adjust: str | None = None,
        *,
        level: float | None = None,
        type: str = "link",
        bias_sigma: float | None = None,
        side: str = "two-sided",
        output: str | None = None,
    ) -> Any:
        """A row an estimate: labels, estimate, std_error, df, limits, statistic, p_value.

        Parameters
        ----------
        adjust : str, optional
            Adjustment of limits and p values for the size of each family (the rows of one group
            of ``by``): "none", "tukey", "sidak", "bonferroni", "holm", "hochberg", "hommel",
            "fdr", "scheffe", "dunnett", "dunnettx" or "mvt". By default that of the contrasts, none
            for means.
        level : float, optional
            Coverage of the limits, by default that of the object.
        type : {"link", "response"}
            "response": estimates and limits of a transformed response carried back; those of
            differences of logarithms are ratios, of logits odds ratios. Tests stay those of the
            scale of the fit.
        bias_sigma : float, optional
            With "response": standard deviation of the response around its mean on the scale of
            the fit, for which means are corrected, ``h(x) + sigma^2 h''(x) / 2``.
        side : {"two-sided", "less", "greater"}
            The alternative, ``"<"`` and ``">"`` for short. "greater": the lower limit alone is
            finite, "less": the upper one.
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given.

        Returns
        -------
        DataFrame

        Raises
        ------
        DataError
            An unknown adjustment; a response that cannot be carried back.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> lmm.emmeans(res, "Nf").to_frame()["estimate"].round(2).tolist()
        [79.39, 98.89, 114.22, 123.39]
        """
        sign = SIDES[choice(side, "side", SIDES)]
        found = self._compared(adjust, level, side=sign)
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
        made = self.labels.frame(columns, ratios=self.ratios and type == "response")
        return as_frame(made, output, self.output)

    def _on_response(self, found: Comparison, bias_sigma: float | None) -> dict[str, np.ndarray]:
        f = self.transformation
        if f is None:
            if self.changed:
                raise no_way_back(self.changed)
            return {}
        if self.kind == "contrast" and not self.ratios:
            raise DataError(
                f"contrasts of {f.name} are no differences of the response: use regrid() of the "
                "means, and contrast these"
            )
        half = 0.0 if bias_sigma is None else 0.5 * number(bias_sigma, "bias_sigma", least=0.0) ** 2
        if self.ratios and f.of_differences is not None:
            f = f.of_differences
        at = self.at
        return f.carried(at.estimate, at.std_error, found.low, found.high, half)._asdict()

    def confint(
        self, level: float | None = None, *, adjust: str | None = None, side: str = "two-sided"
    ) -> pd.DataFrame:
        """Estimates with their limits.

        Parameters
        ----------
        level : float, optional
            Coverage.
        adjust, side : str
            As in :meth:`to_frame`.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> lmm.emmeans(res, "Nf").confint()[["conf_low", "conf_high"]].round(1).iloc[0].tolist()
        [62.3, 96.5]
        """
        return self._estimates(adjust, level=level, side=side)

    def _estimates(self, adjust: str | None = None, **how: Any) -> pd.DataFrame:
        """The table without tests."""
        frame: pd.DataFrame = self.to_frame(adjust, output="pandas", **how)
        return frame.drop(columns=["statistic", "p_value"])

    def test(
        self,
        null: Any = 0.0,
        *,
        side: str = "two-sided",
        delta: float = 0.0,
        adjust: str | None = None,
    ) -> Table:
        """Tests against a value; of equivalence or non-inferiority with a margin.

        Parameters
        ----------
        null : float or array, shape (r,)
            A value for all rows, or one each.
        side : {"two-sided", "less", "greater"}
            The alternative; ``"<"`` and ``">"`` for short, and with a margin "equivalence",
            "nonsuperiority", "noninferiority".
        delta : float
            A margin above 0: two-sided tests are those of equivalence (the difference to ``null``
            is less than delta), "greater" of non-inferiority, "less" of non-superiority.
        adjust : str, optional
            As in :meth:`to_frame`.

        Returns
        -------
        pandas.DataFrame
            Labels, estimate, std_error, df, null, statistic, p_value.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> pairs = lmm.emmeans(res, "Variety").pairs()
        >>> pairs.test(delta=30, adjust="none")["p_value"].round(3).tolist()
        [0.003, 0.004, 0.015]
        """
        values, delta = self._values(null), number(delta, "delta", least=0.0)
        found = self._compared(
            adjust,
            None,
            side=_WITH_MARGIN[choice(side, "side", _WITH_MARGIN)],
            null=values,
            delta=delta,
        )
        columns = {
            "estimate": self.at.estimate,
            "std_error": self.at.std_error,
            "df": self.at.df,
            "null": values,
            "statistic": found.statistic,
            "p_value": found.p_value,
        }
        meant = (_MARGINS if delta else ALTERNATIVES)[_WITH_MARGIN[side]]
        what = f"Alternative: {meant}" + f", margin {delta:g}" * bool(delta)
        how = sorted(set(found.adjust) - {"none"})
        adjusted = f"P values adjusted by {', '.join(how)} within each family"
        notes = [*[what] * (meant != "two-sided"), *[adjusted] * bool(how)]
        of = title_of(self)
        title = f"Tests of {of[0].lower()}{of[1:]}"
        frame = self.labels.frame(columns)
        return labelled_table(self, frame, title, [*notes, *table_notes(self)])

    def _values(self, null: Any) -> np.ndarray:
        """A tested value for every row."""
        rows = self.labels.names(np.arange(len(self)), ())
        values = numbers(in_order(null, rows, "null", whole=True), "null")
        if values.shape not in ((), (len(self),)):
            raise DataError(f"null has the shape {values.shape}: one value, or {len(self)}")
        return np.broadcast_to(values, len(self)).astype(np.float64)

    def _compared(self, adjust: str | None, level: float | None, **test: Any) -> Comparison:
        how = self.adjust
        if adjust is not None:
            how = choice(adjust, "adjust", ADJUSTMENTS, elsewhere=ELSEWHERE)
        chosen = self.level if level is None else probability(level, "level")
        return compare(
            self.at, self.labels.families(self.by), how, chosen,
            means=self.means, pairwise=self.pairwise, **test,
        )  # fmt: skip

    # ---- printing

    def summary(
        self,
        infer: bool | None = None,
        *,
        type: str = "link",
        adjust: str | None = None,
        level: float | None = None,
        side: str = "two-sided",
    ) -> Summary:
        """Printed table with notes: text, HTML, LaTeX and Markdown.

        Parameters
        ----------
        infer : bool, optional
            Both limits and tests, or neither; by default means have limits and contrasts tests.
        type, adjust, level, side
            As in :meth:`to_frame`.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
        >>> print(lmm.emmeans(res, "Variety").pairs().summary(infer=True).as_text(100))
        Contrasts
        <BLANKLINE>
         contrast                  estimate  std_error  df  conf_low  conf_high       t  p_value
         Golden Rain - Marvellous   -5.2917     7.0789  10  -24.6970    14.1137  -0.748    0.742
         Golden Rain - Victory       6.8750     7.0789  10  -12.5304    26.2804   0.971    0.610
         Marvellous - Victory       12.1667     7.0789  10   -7.2387    31.5720   1.719    0.246
        <BLANKLINE>
        Averaged over the levels of Nf
        Averaged over the interaction Variety:Nf: the means may mislead
        Degrees of freedom: satterthwaite
        P values and limits of level 0.95 adjusted by tukey within each family
        """
        infer = None if infer is None else flag(infer, "infer")
        return shown_table(self, infer, type=type, adjust=adjust, level=level, side=side)

    def _page(self) -> Summary:
        return self.summary()

    def __len__(self) -> int:
        return len(self.at.estimate)
