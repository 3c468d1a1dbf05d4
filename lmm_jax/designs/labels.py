"""Names of parameters, terms and factors: one thing each, whatever the columns are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..inputs.names import unique
from .terms import RandomTerm


@dataclass(frozen=True, kw_only=True, slots=True)
class TermLabel:
    """Names of one random-effects term."""

    group: str  # of the factor or component; "g.1" where a term of g has a coefficient before
    names: tuple[str, ...]
    n_levels: int
    is_component: bool
    factor: str  # key in ``random_effects``
    related: bool = False  # levels have a known relationship

    def parameter_names(self) -> list[str]:
        """Names of its covariance parameters, lower triangle row by row."""
        if self.is_component:
            return [f"var({self.group})"]
        out = []
        for i, j in zip(*np.tril_indices(len(self.names)), strict=True):
            if i == j:
                out.append(f"var({self.names[i]}|{self.group})")
            else:
                out.append(f"cov({self.names[j]},{self.names[i]}|{self.group})")
        return out


def factor_names(terms: Sequence[RandomTerm]) -> tuple[str, ...]:
    """Name of each term's grouping factor or component, the same for terms of one factor.

    A component that is called like a factor, or an interaction like a column, gets
    a name of its own.
    """
    keys = [
        (term.group, t if term.is_component else term.source.group) for t, term in enumerate(terms)
    ]
    distinct = list(dict.fromkeys(keys))
    names = dict(zip(distinct, unique([name for name, _ in distinct]), strict=True))
    return tuple(names[key] for key in keys)


def term_labels(terms: Sequence[RandomTerm]) -> tuple[TermLabel, ...]:
    """Labels of the terms of a design, such that no two parameters have one name.

    The second term of a factor with a coefficient of the same name belongs to
    ``g.1``, as in lme4.
    """
    factors = factor_names(terms)
    taken: dict[str, set[str]] = {}  # coefficients under each label
    out = []
    for term, factor in zip(terms, factors, strict=True):
        group, i = factor, 0
        while (i and group in factors) or taken.get(group, set()) & set(term.names):
            i += 1
            group = f"{factor}.{i}"
        taken.setdefault(group, set()).update(term.names)
        out.append(
            TermLabel(
                group=group,
                names=term.names,
                n_levels=term.n_levels,
                is_component=term.is_component,
                factor=factor,
                related=term.relationship is not None,
            )
        )
    return tuple(out)


@lru_cache(maxsize=256)  # a summary asks for them a dozen times
def parameter_names(fixed_names: tuple[str, ...], labels: tuple[TermLabel, ...]) -> tuple[str, ...]:
    """Names of ``params``: fixed effects, then the covariances of every term."""
    return unique([*fixed_names, *(name for label in labels for name in label.parameter_names())])
