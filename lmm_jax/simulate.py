"""Draws of new responses from a fitted model or from given parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse

from .design import Design
from .errors import DataError
from .labels import term_labels
from .params import Params
from .results import LMMResults
from .terms import RandomTerm

# Negative eigenvalues of a covariance up to this, relative to the largest, are rounding.
_NEGATIVE_TOL = 1e-10


def simulate(
    model: LMMResults | Params,
    design: Design | LMMResults | None = None,
    *,
    seed: int | np.random.Generator,
    n: int = 1,
    scale: float | None = None,
    conditional: bool = False,
) -> pd.DataFrame:
    """Draw responses from a linear mixed model.

        y = offset + X beta + Z b + e     b ~ N(0, cov_re)     e ~ N(0, scale / w)

    Parameters
    ----------
    model : LMMResults or Params
        A fit, or parameters with variances in the units of the data (those of
        ``LMMResults.cov_re`` and ``vcomp``); they may be singular.
    design : Design or LMMResults, optional
        Where the rows come from; a fit's own design if not given.
    seed : int or numpy.random.Generator
    n : int
        Number of draws.
    scale : float, optional
        Residual variance; for ``Params`` only, which do not hold it.
    conditional : bool
        Keep the random effects at their conditional means (BLUPs) instead of
        drawing them. For a fit and its own rows.

    Returns
    -------
    pandas.DataFrame, shape (rows, n)
        On the index of the design, a column a draw.

    Raises
    ------
    DataError
        Parameters that do not fit the design, or that are no covariance.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> y = simulate(res, seed=1, n=1000)
    >>> y.shape
    (180, 1000)
    >>> bool(abs(y.loc[0].mean() - res.fe_params["Intercept"]) < 4)
    True
    """
    if n < 1:
        raise DataError(f"n={n!r}: at least one draw")
    target = _design_of(model, design)
    target.need_rows()
    rng = np.random.default_rng(seed)
    if conditional:
        if not isinstance(model, LMMResults) or target is not model.design:
            raise DataError("conditional=True needs a fit and its own rows: BLUPs belong to data")
        mean, factors = model.fittedvalues.to_numpy(), None
    else:
        mean, factors = _fixed_part(model, target), _factors(model, target)
    variance = residual_variance(model, scale)
    values = mean[:, None] + _noise(target, variance, n, rng)
    if factors is not None:
        values += draw_random_part(target.terms, factors, n, rng)
    return pd.DataFrame(values, index=target.index)


def draw_random_part(
    terms: Sequence[RandomTerm], factors: Sequence[np.ndarray], n: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws of ``Z b``, (rows, n).

    Parameters
    ----------
    terms : sequence of RandomTerm
    factors : sequence of ndarray, shape (k, k)
        ``F`` with ``F F'`` the covariance of a level's effects, in data units.
    n : int
    rng : numpy.random.Generator
    """
    total = np.zeros((terms[0].codes.shape[0], n))
    for term, factor in zip(terms, factors, strict=True):
        k = len(factor)
        z = rng.standard_normal((term.n_levels, k, n))
        b = np.einsum("ab,lbn->lan", factor, z).reshape(term.n_levels * k, n)
        total += random_columns(term) @ b
    return total


def random_columns(term: RandomTerm) -> scipy.sparse.csr_array:
    """Z of one term, levels by coefficients in the columns, (rows, L k)."""
    rows, S, k = term.values.shape
    columns = (term.codes[:, :, None] * k + np.arange(k)).ravel()
    index = np.repeat(np.arange(rows), S * k)
    shape = (rows, term.n_levels * k)
    return scipy.sparse.csr_array((term.values.ravel(), (index, columns)), shape=shape)


def covariance_factor(covariance: np.ndarray) -> np.ndarray:
    """A square root F of a covariance, ``F F' = S``; S may be singular."""
    S = np.asarray(covariance, dtype=np.float64)
    if not np.isfinite(S).all() or not np.allclose(S, S.T, rtol=1e-8, atol=0.0):
        raise DataError(f"a covariance must be finite and symmetric, not {S.tolist()}")
    e, V = np.linalg.eigh(S)
    if e[0] < -_NEGATIVE_TOL * max(abs(e[-1]), np.finfo(float).tiny):
        raise DataError(f"a covariance cannot have the negative eigenvalue {e[0]:.3g}")
    return V * np.sqrt(np.maximum(e, 0.0))


def _noise(design: Design, scale: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draws of the residuals, (rows, n)."""
    w = np.ones(design.nobs) if design.weights is None else design.weights
    return np.sqrt(scale / w)[:, None] * rng.standard_normal((design.nobs, n))


def _design_of(model: LMMResults | Params, design: Design | LMMResults | None) -> Design:
    """The design to draw for."""
    if design is None and isinstance(model, LMMResults):
        design = model
    found = design.design if isinstance(design, LMMResults) else design
    if found is None:
        raise DataError("there are no rows to draw for: pass design=, a Design or a fit with data")
    return found


def _fixed_part(model: LMMResults | Params, design: Design) -> np.ndarray:
    """``offset + X beta``, (rows,)."""
    if isinstance(model, LMMResults):
        if model.fixed_names != design.exog_names:
            raise DataError(
                f"the fit has the coefficients {list(model.fixed_names)}, the design the columns "
                f"{list(design.exog_names)}"
            )
        beta = model.estimates.beta
    else:
        beta = np.asarray(model.fe_params, dtype=np.float64)
    if beta.shape != (design.exog.shape[1],) or not np.isfinite(beta).all():
        raise DataError(f"fe_params needs {design.exog.shape[1]} finite values, not {beta}")
    mean = design.exog @ beta
    return mean if design.offset is None else mean + design.offset


def _factors(model: LMMResults | Params, design: Design) -> list[np.ndarray]:
    """Square root of every term's covariance in data units."""
    return [covariance_factor(S) for S in term_covariances(model, design)]


def term_covariances(model: LMMResults | Params, design: Design) -> list[np.ndarray]:
    """Covariance of every term in data units, (k, k)."""
    if isinstance(model, LMMResults):
        fitted = [(label.group, label.names) for label in model.term_labels]
        wanted = [(label.group, label.names) for label in term_labels(design.terms)]
        if fitted != wanted:
            raise DataError(f"the fit has the random effects {fitted}, the design {wanted}")
        return list(model.estimates.covariances)
    return _blocks(model, design)


def _blocks(params: Params, design: Design) -> list[np.ndarray]:
    """Covariance of every term out of ``cov_re`` and ``vcomp``."""
    correlated = [len(term.names) for term in design.terms if not term.is_component]
    cov_re, vcomp = np.asarray(params.cov_re, float), np.asarray(params.vcomp, float)
    k = sum(correlated)
    if cov_re.shape != (k, k) or vcomp.shape != (design.n_components,):
        raise DataError(
            f"cov_re has the shape {cov_re.shape} and vcomp {vcomp.shape}: the design needs "
            f"{(k, k)} and {(design.n_components,)}"
        )
    blocks, start = [], 0
    for size in correlated:
        blocks.append(cov_re[start : start + size, start : start + size])
        start += size
    return blocks + [v.reshape(1, 1) for v in vcomp]


def residual_variance(model: LMMResults | Params, scale: float | None) -> float:
    """Residual variance."""
    if isinstance(model, LMMResults):
        if scale is not None:
            raise DataError("scale= goes with Params: a fit has its own residual variance")
        return model.scale
    if scale is None or not np.isfinite(scale) or scale < 0:
        raise DataError(f"scale={scale!r}: pass the residual variance with Params")
    return float(scale)
