"""Joint tests of the factors of a design: a reference grid for what interactions join."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..designs.variables import Variables
from ..errors import DataError
from ..inference.contrasts.linear_functions import ESTIMABLE
from ..inference.means.grid import make_grid, nesting_of
from ..inference.means.joint import table_of_tests
from ..inputs.arguments import mapping
from .marginal_basis import Basis
from .marginal_rows import means_on, rows_of_grids, used_by
from .marginal_specs import Asked, check_variables, names_of, read_values


def joint_tests_of(fit: Basis, by: Any, at: Any) -> pd.DataFrame:
    """Tests of :func:`lmm_jax.joint_tests`, covariates at their mean +- 1.

    Where the model is not defined there, as near to their mean as the data are.
    Contrasts of variables do not depend on others that no interaction joins with them: every set
    of joined ones has a grid of its own, of few rows, at one value of the others.
    """
    known = fit.reference.variables
    given = {} if at is None else mapping(at, "at")
    free = {n: c for n, c in known.covariates.items() if n not in given and c.few is None}
    try:
        return _tests_around(fit, by, given, {n: (1.0, c.mean) for n, c in free.items()})
    except DataError:  # one less than the mean of a small number has no logarithm
        inside = {n: (min(1.0, c.mean - c.low, c.high - c.mean), c.mean) for n, c in free.items()}
        if all(step == 1.0 for step, _ in inside.values()):
            raise
    return _tests_around(fit, by, given, inside)


def _tests_around(
    fit: Basis, by: Any, given: Mapping[str, Any], free: Mapping[str, tuple[float, float]]
) -> pd.DataFrame:
    """The tests with covariates a step below and above their means."""
    known = fit.reference.variables
    around = {name: [mean - step, mean + step] for name, (step, mean) in free.items()}
    values = read_values(known, {**given, **around}, "mean", fit.rows)
    groups = names_of(by, "by")
    check_variables(groups, values, known)
    asked, grids = [], []
    for joined in _joined(fit, known):
        specs = tuple(name for name in values if name in joined and name not in groups)
        if specs:
            held = [name for name in values if name not in (*specs, *groups)]
            own = {n: v[:1] if n in held else v for n, v in values.items()}
            grids.append(make_grid(own, [*specs, *groups], known, held))
            asked.append(Asked(specs, groups, None))
    parts = [
        means_on(fit, grid, one, "equal", 0.95, None, rows)._tests_of_factors(groups)
        for grid, one, rows in zip(grids, asked, rows_of_grids(fit, grids), strict=True)
    ]
    return table_of_tests(parts, groups, list(values), fit.tests, fit.scale, fit.beta)


def _joined(fit: Basis, known: Variables) -> list[set[str]]:
    """Variables by the interactions, dependent columns and nesting that join them."""
    spec, kept = fit.source.spec, np.asarray(fit.source.kept)
    terms = [used_by(term) for term in spec.formula]
    term_of = np.repeat(
        np.arange(len(terms)), [s.stop - s.start for s in spec.term_slices.values()]
    )
    links = [set(term) for term in terms]
    dropped = np.setdiff1d(np.arange(len(term_of)), kept)
    for column, aliases in zip(dropped, fit.reference.aliases.T, strict=True):
        others = term_of[kept[np.abs(aliases) > ESTIMABLE]]
        links.append(set().union(terms[term_of[column]], *(terms[t] for t in others)))
    links += [{inner, *outer} for inner, outer in nesting_of(known).items()]
    parts: list[set[str]] = []
    for link in [*links, *({name} for name in known.names)]:
        apart = [part for part in parts if not part & link]
        parts = [*apart, link.union(*(part for part in parts if part & link))]
    return parts
