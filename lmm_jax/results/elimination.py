"""What backward elimination has left out, and the model that is left."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ..reprs import public
from ..tables.cells import Kind
from ..tables.page import Summary, table
from ..tables.shown import Shown
from .lmm import LMMResults
from .summary import method_name


@public
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StepResults(Shown):
    """Terms left out one after another, and the fit without them.

    Attributes
    ----------
    random : DataFrame
        Rows ``<none>``, the parts of the random effects that are gone in the order in which they
        went, and those that stay: eliminated (1, 2, ...; 0 of what stays) and the columns of
        :func:`lmm_jax.ranova`, each row from the fit that it was tested in.
    fixed : DataFrame
        Terms of the fixed effects, likewise, with the columns of :func:`lmm_jax.drop1`; those that
        are part of an interaction that stays were not tested and are not there.
    fit : LMMResults
        The model that is left.
    formula : str or None
        Its formula; None where no formula says all of it: of variance components, and of a single
        column of a factor that `||` has left.
    """

    random: pd.DataFrame
    fixed: pd.DataFrame
    fit: LMMResults
    formula: str | None

    def _page(self) -> Summary:
        kinds: dict[str, Kind] = {"eliminated": "count"}
        notes = () if self.formula is None else (f"Model: {self.formula}",)
        tables = (
            table(self.random, f"Random effects, {method_name(self.fit.reml)}", kinds=kinds),
            table(self.fixed, f"Fixed effects, {self.fit.df_method}", kinds=kinds),
        )
        return Summary(title="Backward elimination", sheets=tables, notes=notes)
