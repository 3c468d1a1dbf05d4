"""From arrays to a :class:`lmm_jax.Design`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .arguments import hinted
from .checks import (
    check_numeric,
    finite_vector,
    optional_vector,
)
from .design import Design, assemble
from .errors import DataError
from .frames import complete_rows
from .terms import (
    RandomTerm,
    TermSource,
    coefficient_term,
    component_matrices,
    component_term,
    factor_codes,
)


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
    y = _response(endog)
    n = len(y)
    for name, other in {"exog": exog, "exog_re": exog_re}.items():
        indexed = isinstance(endog, pd.Series) and isinstance(other, pd.DataFrame | pd.Series)
        if indexed and not other.index.equals(endog.index):
            raise DataError(f"{name} has another index than endog: align them, or pass arrays")
    X, names = _matrix(exog, n, "exog", "x")
    Z, z_names = _matrix(np.ones((n, 1)) if exog_re is None else exog_re, n, "exog_re", "z")
    if exog_re is None:
        z_names = ("Intercept",)
    if exog_re is not None and not Z.shape[1] and not exog_vc:
        raise DataError("exog_re has no columns: the model has no random effects")
    gaps = {**_gaps(y.to_numpy(), "y"), **_gaps(X, "x"), **_gaps(Z, "z")}
    arrays = {"groups": groups, "weights": weights, "offset": offset}
    table = pd.DataFrame(index=y.index)
    table, arrays, keep = complete_rows(table, arrays, [], missing, gaps)
    rows = slice(None) if keep.all() else keep
    codes, levels = factor_codes(pd.Series(arrays["groups"], copy=False))
    none = TermSource(spec=None, columns=(), group=())
    terms: list[RandomTerm] = []
    if (exog_re is not None and Z.shape[1]) or not exog_vc:
        terms.append(coefficient_term(Z[rows], z_names, codes, levels, "groups", none))
    labels = np.asarray(groups)
    for name, part, columns in component_matrices(exog_vc, labels):
        terms.append(component_term(name, part[rows], columns, codes, levels, none))
    return assemble(
        y=finite_vector(y.to_numpy()[rows], "endog"),
        X=X[rows],
        names=names,
        endog_name=str(y.name) if y.name is not None else "y",
        terms=terms,
        group=codes,
        n_groups=len(levels),
        weights=optional_vector(arrays["weights"], "weights"),
        offset=optional_vector(arrays["offset"], "offset"),
        index=table.index,
        n_missing=int((~keep).sum()),
        source=None,
    )


def _response(endog: Any) -> pd.Series[Any]:
    """One column of numbers with an index."""
    if isinstance(endog, pd.DataFrame) and endog.shape[1] == 1:
        endog = endog.iloc[:, 0]
    if np.ndim(endog) != 1:
        raise DataError(f"endog has the shape {np.shape(endog)}: one dimension is needed")
    values = pd.Series(endog, copy=False)
    check_numeric(values.to_numpy(), "endog")
    return values


def _matrix(values: Any, n: int, what: str, prefix: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Two-dimensional float64 array and column names."""
    if isinstance(values, pd.Series):
        values = values.to_frame()
    names = [str(c) for c in values.columns] if isinstance(values, pd.DataFrame) else None
    check_numeric(np.asarray(values), what)
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be numeric: {error}") from error
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[0] != n:
        raise DataError(f"{what} has the shape {array.shape} but endog has {n} entries")
    return array, tuple(names or [f"{prefix}{j + 1}" for j in range(array.shape[1])])


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
