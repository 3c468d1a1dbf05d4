"""Parameters by name, put in the order in which a design has its terms and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..covariance.params import Params
from ..errors import DataError
from ..inputs.names import meant
from .labels import TermLabel, term_labels
from .terms import RandomTerm


def in_order(params: Params, terms: Sequence[RandomTerm], columns: Sequence[str]) -> Params:
    """Parameters as a design with these terms and columns has them, without names.

    A covariance is found by the grouping factor of its term, as ``var(Intercept|g)`` has it, or
    by the term as the formula does, ``"x | g"``. What has no names stays as it is.

    Raises
    ------
    DataError
        Names that the design does not have, or has more than once; others that are missing.
    """
    names = params.names
    if names is None:
        return params
    beta, cov_re, vcomp = params.fe_params, params.cov_re, params.vcomp
    if names.fixed is not None:
        found = [meant(name, columns) or name for name in names.fixed]
        beta = beta[np.array(_places(found, [(name,) for name in columns], "fe_params"), int)]
    pairs = list(zip(terms, term_labels(terms), strict=True))
    if names.terms is not None:
        spellings = [(at.group, term.label) for term, at in pairs if not at.is_component]
        places = _places([term[0] for term in names.terms], spellings, "cov_re")
        own = [at for _, at in pairs if not at.is_component]
        cov_re = _reordered(cov_re, names.terms, places, own)
    if names.components is not None:
        groups = [(at.group,) for _, at in pairs if at.is_component]
        vcomp = vcomp[np.array(_places(names.components, groups, "vcomp"), int)]
    leaves: dict[str, Any] = {"fe_params": beta, "cov_re": cov_re, "vcomp": vcomp}
    return Params(**leaves)


def _plain(name: str) -> str:
    return "".join(name.split()).removeprefix("(").removesuffix(")")


def _places(given: Sequence[str], wanted: Sequence[tuple[str, ...]], what: str) -> list[int]:
    """Where each of the wanted stands among those that were given."""
    plain = [_plain(name) for name in given]
    found = []
    for spellings in wanted:
        fits = [i for i, name in enumerate(plain) if name in map(_plain, spellings)]
        found.append(fits[0] if len(fits) == 1 else -1)
    if -1 in found or sorted(found) != list(range(len(given))):
        once = len({w[0] for w in wanted}) == len(wanted)
        names = [w[0] if once else w[-1] for w in wanted]
        raise DataError(f"{what} has the names {list(given)}, the design {names}: one value each")
    return found


def _reordered(
    S: Any,
    given: Sequence[tuple[str, int, tuple[str, ...]]],
    places: Sequence[int],
    wanted: Sequence[TermLabel],
) -> Any:
    """Blocks of the diagonal in another order, and coefficients in each where they have names."""
    stops = np.cumsum([k for _, k, _ in given], dtype=int)
    index = [np.zeros(0, int)]
    for i, label in zip(places, wanted, strict=True):
        name, k, inside = given[i]
        if k != len(label.names) or sorted(inside or label.names) != sorted(label.names):
            has = f"has {list(inside)}" if inside else f"is {k} by {k}"
            raise DataError(
                f"cov_re[{name!r}] {has}, and the term has the coefficients {list(label.names)}"
            )
        order = [inside.index(one) for one in label.names] if inside else np.arange(k)
        index.append(stops[i] - k + np.asarray(order, int))
    at = np.concatenate(index)
    return S[np.ix_(at, at)]
