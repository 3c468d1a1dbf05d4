"""Marginal means and contrasts of many fits of one design."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..capabilities import require
from ..designs.variables import reference_of
from ..inference.df.methods import Fixed
from ..inference.hypotheses import Restriction
from ..inputs.arguments import flag, hinted
from ..reprs import inside, public
from ..tables.page import Summary
from ..tables.shown import Shown
from .many_tests import ManyTests, contrast_tests
from .marginal import MarginalMeans
from .marginal_basis import Basis
from .marginal_rows import MeansAndContrasts, marginal_means
from .simple_contrasts import SimpleContrasts


@inside("many", "means")
@public
@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ManyMeans(Shown):
    """Marginal means, or contrasts of them, of every response.

    Attributes
    ----------
    means : MarginalMeans
        Labels and linear functions, the same for all responses.
    """

    means: MarginalMeans
    many: Any  # ManyResults

    def contrast(
        self,
        method: Any = "eff",
        *,
        by: Any = "same",
        simple: Any = None,
        interaction: Any = None,
        ref: Any = None,
        max_degree: int | None = None,
    ) -> Any:
        """Contrasts of the rows, as :meth:`MarginalMeans.contrast`.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> many.emmeans("Machine").contrast("trt.vs.ctrl").tests().names
        ('B - A', 'C - A')
        """
        found = self.means.contrast(
            method, by=by, simple=simple, interaction=interaction, ref=ref, max_degree=max_degree
        )
        if isinstance(found, SimpleContrasts):
            return SimpleContrasts({name: replace(self, means=m) for name, m in found.items()})
        return replace(self, means=found)

    def pairs(self, *, by: Any = "same", simple: Any = None) -> Any:
        """All differences of two rows.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> many.emmeans("Machine").pairs()
        <ManyMeans: 3 rows of contrast, 4 responses>
        """
        return self.contrast("pairwise", by=by, simple=simple)

    def tests(self, *, moderate: bool = False) -> ManyTests:
        """Estimates and tests of every row in every response; a row that is not determined is NaN.

        P values are of single rows, not adjusted for their number, as ``fdr`` adjusts each row
        over the responses; :meth:`MarginalMeans.pairs` of one response are adjusted by Tukey.

        Parameters
        ----------
        moderate : bool
            As in :meth:`ManyResults.t_test`.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> many.emmeans("Machine").tests().estimate.shape
        (4, 3)
        """
        at, labels = self.means.at, self.means.labels
        names = labels.names(np.arange(len(labels.table)), ())
        known = ~np.isnan(at.estimate)
        L = np.where(known[:, None], at.L, np.nan)
        rows = Restriction(L, np.zeros(len(L)), tuple(names))
        return contrast_tests(self.many, rows, at.shift, flag(moderate, "moderate"))

    def to_frame(self, *, level: float = 0.95, output: str | None = None) -> Any:
        """One row a response and mean or contrast: that of :meth:`tests`."""
        return self.tests().to_frame(level=level, output=output)

    def _page(self) -> Summary:
        return self.tests()._page()

    def __repr__(self) -> str:
        return (
            f"<ManyMeans: {len(self.means.labels.table)} rows of {self.means.kind}, "
            f"{len(self.many)} responses>"
        )


def means_of_many(many: Any, design: Any, specs: Any, **options: Any) -> MarginalMeans:
    """Labels and linear functions of the means; their numbers stand for nothing."""
    design = require(design, "emmeans of many")
    reference, p = reference_of(design), len(many.fixed_names)
    assert reference is not None  # require has looked
    fit = Basis(
        source=design.source,
        reference=reference,
        rows=design.source.rows,
        beta=np.zeros(p),
        tests=Fixed(np.eye(p), float("inf"), False),
        scale=1.0,
        df_method="normal",
        output=many.output,
    )
    found = marginal_means(fit, specs, **options)
    return found.contrasts if isinstance(found, MeansAndContrasts) else found
