"""Names of parameters, terms and factors: one thing each, whatever the columns are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from ..errors import UnknownLabel
from ..inputs.matching import shown

if TYPE_CHECKING:
    from .terms import RandomTerm

V = TypeVar("V")
# Labels that a message lists before it stops.
_LISTED = 12


def suggestion(name: Any, known: Iterable[Any]) -> str:
    """``; did you mean 'Days'?``, or nothing where no name resembles what was given."""
    if not isinstance(name, str):
        same = [k for k in known if str(k) == str(name)]
    else:
        folded = {str(k).lower(): k for k in known}
        same = [folded[k] for k in get_close_matches(name.lower(), list(folded), 3)]
    return f"; did you mean {' or '.join(shown(k) for k in same)}?" if same else ""


def refuse(name: Any, known: Sequence[Any], what: str) -> NoReturn:
    """Raise for a label that is not among those known."""
    some = ", ".join(shown(k) for k in known[:_LISTED])
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    raise UnknownLabel(
        f"{what} has no {shown(name)}: it has {some or 'no entries'}{more}{suggestion(name, known)}"
    )


class Labelled(dict[str, V]):
    """A dictionary that says which keys it has where it is asked for another."""

    def __missing__(self, key: Any) -> NoReturn:
        refuse(key, list(self), "the result")


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Names of which none occurs twice: a repeated one gets ``.1``, ``.2``, as in R.

    Examples
    --------
    >>> unique(["a", "b", "a", "a", "a.1"])
    ('a', 'b', 'a.2', 'a.3', 'a.1')
    """
    given = tuple(names)
    taken = set(given)
    if len(taken) == len(given):
        return given
    out: list[str] = []
    seen: set[str] = set()
    for name in given:
        label, i = name, 0
        while label in seen or (i and label in taken):
            i += 1
            label = f"{name}.{i}"
        seen.add(label)
        out.append(label)
    return tuple(out)


@dataclass(frozen=True, kw_only=True, slots=True)
class TermLabel:
    """Names of one random-effects term."""

    group: str  # of the factor or component; "g.1" where a term of g has a coefficient before
    names: tuple[str, ...]
    n_levels: int
    is_component: bool
    factor: str  # key in ``random_effects``

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
            )
        )
    return tuple(out)


@lru_cache(maxsize=256)  # a summary asks for them a dozen times
def parameter_names(fixed_names: tuple[str, ...], labels: tuple[TermLabel, ...]) -> tuple[str, ...]:
    """Names of ``params``: fixed effects, then the covariances of every term."""
    return unique([*fixed_names, *(name for label in labels for name in label.parameter_names())])
