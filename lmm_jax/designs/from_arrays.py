"""From arrays to a :class:`lmm_jax.Design`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inputs.arguments import hinted
from ..inputs.arrays import first_index, matrix, numbers, vector
from ..inputs.names import unique
from .assembled import assemble
from .checks import finite_vector, optional_vector, read_sigma
from .components import component_matrices
from .design import Design
from .rows import complete_rows
from .terms import RandomTerm, TermSource, coefficient_term, component_term, factor_codes


@hinted
def design_from_arrays(
    endog: Any,
    exog: Any,
    groups: Any,
    exog_re: Any = None,
    exog_vc: Any = None,
    *,
    weights: Any = None,
    offset: Any = None,
    missing: str = "none",
    sigma: float | None = None,
) -> Design:
    """Build the design of a model with one grouping factor from arrays.

    Parameters
    ----------
    endog : array, shape (n,)
    exog : array or DataFrame, shape (n, p)
        No intercept is added.
    groups : array, shape (n,)
        Group label of each row.
    exog_re : array or DataFrame, shape (n, k), optional
        Columns with correlated random coefficients. Not given: a random
        intercept, or none if there are components.
    exog_vc : mapping or object with names, colnames and mats, optional
        Variance components: name to an array or sparse matrix of shape (n, K),
        or name to a mapping from group to the matrix of the group's rows
        (statsmodels' ``VCSpec`` is read as well). A column that is zero
        throughout a group does not exist in it.
    weights, offset : array, shape (n,), optional
    missing : {"none", "drop", "raise"}
    sigma : float, optional
        Residual standard deviation where it is known; by default it is estimated.

    Returns
    -------
    Design
        It holds the arrays themselves where no row is dropped: do not change them.

    Examples
    --------
    >>> import numpy as np
    >>> d = design_from_arrays([1.0, 2, 4, 3], np.ones((4, 1)), ["a", "a", "b", "b"])
    >>> d.nobs, d.n_groups
    (4, 2)
    """
    index = first_index(endog, exog, groups, exog_re, weights, offset)
    y, y_name = _response(endog, index)
    n = len(y)
    index = pd.RangeIndex(n) if index is None else index
    X, names = _covariates(exog, "exog", "x", n, index)
    if groups is None:
        raise DataError("groups is None: pass the group label of each row")
    given = {"groups": groups, "weights": weights, "offset": offset}
    arrays = {
        name: None if v is None else vector(v, name, n=n, index=index) for name, v in given.items()
    }
    components = component_matrices(exog_vc, arrays["groups"], index)
    Z, z_names = _coefficients(exog_re, n, index, alone=not components)
    gaps = {**_gaps(y, "y"), **_gaps(X, "x"), **_gaps(Z, "z")}
    complete = complete_rows(pd.DataFrame(index=index), arrays, [], missing, gaps)
    arrays, keep = complete.arrays, complete.keep
    rows = slice(None) if keep.all() else keep
    codes, levels = factor_codes(pd.Series(arrays["groups"], copy=False))
    none = TermSource(spec=None, columns=(), group=())
    terms: list[RandomTerm] = []
    if z_names:
        terms.append(coefficient_term(Z[rows], z_names, codes, levels, "groups", none))
    for name, part, columns in components:
        terms.append(component_term(name, part[rows], columns, codes, levels, none))
    return assemble(
        y=finite_vector(y[rows], "endog", complete.data.index),
        X=X[rows],
        names=names,
        endog_name=y_name,
        terms=terms,
        group=codes,
        n_groups=len(levels),
        weights=optional_vector(arrays["weights"], "weights", complete.data.index),
        offset=optional_vector(arrays["offset"], "offset", complete.data.index),
        index=complete.data.index,
        n_missing=int((~keep).sum()),
        gaps=complete.gaps,
        source=None,
        sigma=read_sigma(sigma),
    )


def _response(endog: Any, index: pd.Index[Any] | None) -> tuple[np.ndarray, str]:
    """One column of numbers, and its name."""
    values = numbers(vector(endog, "endog", index=index), "endog")
    name = endog.columns[0] if isinstance(endog, pd.DataFrame) else getattr(endog, "name", None)
    return values, "y" if name is None else str(name)


def _covariates(
    values: Any, what: str, prefix: str, n: int, index: pd.Index[Any]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Two-dimensional float64 array and column names."""
    array, names = matrix(values, what, index=index)
    if len(array) != n:
        raise DataError(f"{what} has the shape {array.shape} but endog has {n} entries")
    return array, unique(names or [f"{prefix}{j + 1}" for j in range(array.shape[1])])


def _coefficients(
    exog_re: Any, n: int, index: pd.Index[Any], *, alone: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Covariates of the correlated term; none beside components if none are given."""
    if exog_re is None:
        return np.ones((n, int(alone))), ("Intercept",) if alone else ()
    Z, names = _covariates(exog_re, "exog_re", "z", n, index)
    if alone and not names:
        raise DataError("exog_re has no columns: the model has no random effects")
    return Z, names


def _gaps(values: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Missing entries of every column that has any."""
    if values.dtype.kind == "f":
        with np.errstate(all="ignore"):
            total = values.sum()  # one pass; NaN stays in it
        if np.isfinite(total):
            return {}
    gaps = np.asarray(pd.isna(values))
    if values.ndim == 1:
        return {name: gaps}
    return {f"{name}{j}": gaps[:, j] for j in range(values.shape[1])}
