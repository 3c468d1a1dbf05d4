"""What marginal means are asked for: variables, groups, and the values that variables take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..designs.variables import Covariate, Variables, days_given
from ..errors import DataError
from ..formulas.expressions import masked
from ..inference.means.grid import check_nested, grid_values, parents_of
from ..inputs.arguments import choice, items, mapping, numbers, shown
from ..inputs.matching import label_shown
from ..inputs.names import unquoted


class Asked(NamedTuple):
    """Specs read: variables that stay, those that divide, and a family of contrasts."""

    specs: tuple[str, ...]
    by: tuple[str, ...]
    method: str | None
    at: tuple[str, ...] = ()  # variables whose values were given


def names_of(given: Any, what: str) -> tuple[str, ...]:
    """Names of variables: one, or a list of them."""
    if given is None:
        return ()
    found = [given] if isinstance(given, str) else items(given, what)
    if not all(isinstance(name, str) for name in found):
        raise DataError(f"{what}={shown(given)}: names of variables are needed")
    return tuple(dict.fromkeys(map(unquoted, found)))


def read_specs(specs: Any, by: Any, known: Variables) -> Asked:
    """A name, a list of them, or a formula; a name that looks like one where it is a variable."""
    asked = _read_specs(specs, by)
    named = isinstance(specs, str) and specs in known
    if named and any(name not in known for name in (*asked.specs, *asked.by)):
        return _read_specs([specs], by)
    return asked


def _read_specs(specs: Any, by: Any) -> Asked:
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
            found = _numbers(_in_days(found, known.covariates[name]), name)
        given[name] = found
        if not found:
            raise DataError(f"at has no values for {shown(name)}")
    if not callable(cov_reduce):
        others = "pass a function of a column, np.median"
        choice(cov_reduce, "cov_reduce", ("mean", "range"), others=others)
    values = grid_values(known, given, cov_reduce, rows)
    check_nested(values, given, known)
    return values


def _numbers(values: Any, name: str) -> list[Any]:
    """Values of a covariate."""
    found = numbers(values, f"at[{name!r}]")
    if found.ndim != 1:
        raise DataError(f"at[{name!r}] has the shape {found.shape}: a list of numbers is needed")
    return list(found)


def _in_days(values: list[Any], known: Covariate) -> Any:
    """Values of a covariate as numbers, where they are dates."""
    if known.dtype is None or all(isinstance(value, Real) for value in values):
        return values
    try:
        return days_given(values, known.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        number = next((v for v in values if isinstance(v, Real)), values[0])
        what, zone = "span of time", getattr(known.dtype, "tz", None)
        if known.dtype.kind == "M":
            dated = pd.Series(values).dtype.kind == "M"
            apart = f" in a time zone, as of {zone}" if zone else " without a time zone"
            what = "date" + apart * dated
        raise DataError(f"at has {label_shown(number)}, which is no {what}") from error


def listed(known: Variables) -> str:
    """The variables that there are, for a message."""
    return ", ".join([*known.factors, *known.covariates]) or "none"


def check_variables(names: Sequence[str], values: dict[str, list[Any]], known: Variables) -> None:
    """Refuse names of no variables of the fixed effects."""
    for name in names:
        if name not in values:
            parts = [part.strip() for part in re.split("[:*]", name)]
            cells = f"; means of cells are those of {parts}" if {*parts} <= {*values} else ""
            raise DataError(
                f"{name!r} is no variable of the fixed effects: there are {listed(known)}{cells}"
            )


def with_parents(asked: Asked, values: dict[str, list[Any]], known: Variables) -> Asked:
    """What is nested by the formula beside what it is nested in: its labels alone do not tell."""
    parents, by_labels = parents_of(values, known)
    none: frozenset[str] = frozenset()

    def above(names: tuple[str, ...]) -> list[str]:
        return [outer for name in names for outer in values
                if outer in parents.get(name, none) - by_labels.get(name, none)]  # fmt: skip

    by = dict.fromkeys((*asked.by, *(n for n in above(asked.by) if n not in asked.specs)))
    specs = dict.fromkeys((*asked.specs, *(n for n in above(asked.specs) if n not in by)))
    return asked._replace(specs=tuple(specs), by=tuple(by))
