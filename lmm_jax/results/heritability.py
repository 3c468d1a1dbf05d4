"""The share of additive variance, with what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..capabilities import require
from ..designs.column_moments import known
from ..errors import DataError
from ..inference.diagnostics.explained import Moments, parts_of, share
from ..inputs.arguments import items
from ..inputs.names import refuse
from ..reprs import public
from ..tables.page import Summary, table
from ..tables.shown import Shown
from .designed import DesignedModel


@public
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Heritability(Shown):
    """Additive variance over phenotypic variance, with its interval.

    Attributes
    ----------
    estimate, std_error, conf_low, conf_high : float
    additive : tuple of str
        Factors whose variance stands above the line.
    table : pandas.DataFrame
        A row a part of the phenotypic variance: variance, share, std_error and limits of the share.
    level : float
    """

    estimate: float
    std_error: float
    conf_low: float
    conf_high: float
    additive: tuple[str, ...]
    table: pd.DataFrame
    level: float

    def __float__(self) -> float:
        return self.estimate

    def _page(self) -> Summary:
        limits = f"[{self.conf_low:.3g}, {self.conf_high:.3g}]"
        title = f"Heritability of {', '.join(self.additive)}: {self.estimate:.3g} {limits}"
        notes = (f"Limits of level {self.level:g}; those of the table are the shares'",)
        return Summary(title=title, sheets=(table(self.table, ""),), notes=notes)


def heritability(
    fit: DesignedModel, additive: Any, leave_out: Any, fixed: bool, level: float
) -> Heritability:
    """Shares of the phenotypic variance: :mod:`lmm_jax.inference.diagnostics.explained`."""
    require(fit, "heritability")
    names = [label.factor for label in fit.term_labels]
    related = [label.factor for label in fit.term_labels if label.related]
    chosen = _factors(additive, names, "additive") if additive is not None else related
    if not chosen:
        raise DataError(
            "no levels of this fit are related: fit with relatedness={'animal': A}, or name the "
            "additive factors by additive="
        )
    left_out = _factors(leave_out, names, "leave_out")
    if set(left_out) & set(chosen):
        raise DataError(f"leave_out and additive both name {sorted(set(left_out) & set(chosen))}")
    parts = parts_of(fit, _base_moments(fit, related))
    kept = [t for t, name in enumerate(names) if name not in left_out]
    below = [*([0] if fixed else []), *(t + 1 for t in kept), len(names) + 1]
    above = [t + 1 for t in kept if names[t] in chosen]
    labels = ["fixed", *names, "residual"]
    one = [share(parts, [i], [j for j in below if j != i], level) for i in below]
    shares = pd.DataFrame(
        {
            "variance": parts.total * parts.values[below],
            "share": [own.estimate for own in one],
            "std_error": [own.std_error for own in one],
            "conf_low": [own.conf_low for own in one],
            "conf_high": [own.conf_high for own in one],
        },
        index=pd.Index([labels[i] for i in below], name="part", dtype=object),
    )
    found = share(parts, above, [j for j in below if j not in above], level)
    return Heritability(
        estimate=found.estimate,
        std_error=found.std_error,
        conf_low=found.conf_low,
        conf_high=found.conf_high,
        additive=tuple(dict.fromkeys(names[i - 1] for i in above)),
        table=shares,
        level=level,
    )


def _factors(given: Any, names: Sequence[str], what: str) -> list[str]:
    """Factors by their names, one or several."""
    found = [given] if isinstance(given, str) else items(given, what)
    for name in found:
        if not isinstance(name, str) or name not in names:
            refuse(name, list(dict.fromkeys(names)), "the result")
    return list(found)


def _base_moments(fit: DesignedModel, related: Sequence[str]) -> Moments:
    """Moments with related levels as in the base population: one on the diagonal of A."""
    moments = known(fit._moments, "heritability")
    products = list(moments.products)
    for t, label in enumerate(fit.term_labels):
        if label.factor not in related:
            continue
        if label.names != ("Intercept",):
            raise DataError(
                f"the effects of {label.factor!r} are {', '.join(label.names)}: their variance "
                "depends on the covariates, and heritability needs an intercept alone; see "
                "lmm.delta_method"
            )
        products[t] = np.ones((1, 1))
    return moments._replace(products=tuple(products))
