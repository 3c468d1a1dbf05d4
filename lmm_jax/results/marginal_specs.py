"""What marginal means are asked for: variables, groups, and the values that variables take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..designs.variables import Covariate, Variables
from ..errors import DataError
from ..formulas.expressions import masked
from ..formulas.functions import days_of
from ..inference.means.grid import check_nested, grid_values, parents_of
from ..inputs.arguments import choice, items, mapping, numbers, shown
from ..inputs.names import unquoted


class Asked(NamedTuple):
    """Specs read: variables that stay, those that divide, and a family of contrasts."""

    specs: tuple[str, ...]
    by: tuple[str, ...]
    method: str | None


def names_of(given: Any, what: str) -> tuple[str, ...]:
    """Names of variables: one, or a list of them."""
    if given is None:
        return ()
    found = [given] if isinstance(given, str) else items(given, what)
    if not all(isinstance(name, str) for name in found):
        raise DataError(f"{what}={shown(given)}: names of variables are needed")
    return tuple(dict.fromkeys(map(unquoted, found)))


def read_specs(specs: Any, by: Any) -> Asked:
    """A name, a list of them, or a formula."""
    groups = names_of(by, "by")
    if isinstance(specs, str) and re.search(r"[~|]", plain := masked(specs)):
        tilde = plain.rfind("~") + 1
        bar = plain.find("|", tilde) if "|" in plain[tilde:] else len(specs)
        method = specs[:tilde].rstrip("~ ").strip() or None
        return Asked(_split(specs[tilde:bar]), (*_split(specs[bar + 1 :]), *groups), method)
    found = names_of(specs, "specs")
    if not found:
        raise DataError(f"specs={shown(specs)}: name a variable, or '1' for the overall mean")
    return Asked(tuple(n for n in found if n != "1" and n not in groups), groups, None)


def _split(text: str) -> tuple[str, ...]:
    parts = re.findall(r"`[^`]*`|[^\s*+:]+", text)
    return tuple(dict.fromkeys(unquoted(part) for part in parts if part != "1"))


def read_values(
    known: Variables, at: Any, cov_reduce: Any, rows: pd.DataFrame | None
) -> dict[str, list[Any]]:
    """Values of every variable; ``rows`` are those of the fit, for functions of them."""
    given = {}
    for key, wanted in ({} if at is None else mapping(at, "at")).items():
        name = unquoted(key)
        if name not in known:
            raise DataError(f"at has {shown(name)}: the variables are {listed(known)}")
        one = isinstance(wanted, str) or not np.iterable(wanted)
        found = [wanted] if one else list(wanted)
        if name not in known.factors:
            found = list(numbers(_in_days(found, known.covariates[name]), f"at[{name!r}]"))
        given[name] = found
        if not found:
            raise DataError(f"at has no values for {shown(name)}")
    if not callable(cov_reduce):
        others = "pass a function of a column, np.median"
        choice(cov_reduce, "cov_reduce", ("mean", "range"), others=others)
    values = grid_values(known, given, cov_reduce, rows)
    check_nested(values, given, known)
    return values


def _in_days(values: list[Any], known: Covariate) -> Any:
    """Values of a covariate as numbers, where they are dates."""
    if known.dtype is None or all(isinstance(value, Real) for value in values):
        return values
    try:
        return days_of(pd.Series(values).astype(known.dtype))
    except (TypeError, ValueError) as error:
        raise DataError(f"at has {shown(values[0])}, which is no date: {error}") from error


def listed(known: Variables) -> str:
    """The variables that there are, for a message."""
    return ", ".join([*known.factors, *known.covariates]) or "none"


def check_variables(names: Sequence[str], values: dict[str, list[Any]], known: Variables) -> None:
    """Refuse names of no variables of the fixed effects."""
    for name in names:
        if name not in values:
            raise DataError(
                f"{name!r} is no variable of the fixed effects: there are {listed(known)}"
            )


def with_parents(asked: Asked, values: dict[str, list[Any]], known: Variables) -> Asked:
    """What is nested by the formula beside what it is nested in: its labels alone do not tell."""
    parents, by_labels = parents_of(values, known)
    none: frozenset[str] = frozenset()
    more = [outer for name in asked.specs for outer in values
            if outer in parents.get(name, none) - by_labels.get(name, none)]  # fmt: skip
    specs = dict.fromkeys((*asked.specs, *(name for name in more if name not in asked.by)))
    return asked._replace(specs=tuple(specs))
