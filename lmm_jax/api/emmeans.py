"""``emmeans``, ``emtrends``, ``joint_tests``: marginal means of a fit and their comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..capabilities import require
from ..errors import DataError
from ..inputs.arguments import hinted, instance
from ..results.joint_tests import joint_tests_of
from ..results.lmm import LMMResults
from ..results.marginal_basis import Basis
from ..results.marginal_rows import marginal_means
from ..tables.page import table


@hinted
def emmeans(
    res: LMMResults,
    specs: Any,
    *,
    by: Any = None,
    at: Mapping[str, Any] | None = None,
    weights: Any = "equal",
    cov_reduce: Any = "mean",
    df_method: str | None = None,
    level: float = 0.95,
) -> Any:
    """Estimated marginal means.

    The fixed effects' mean at every combination of the levels of the factors, covariates at
    their means, averaged over the factors that ``specs`` does not name.

    Parameters
    ----------
    res : LMMResults
    specs : str or list of str
        Variables whose combinations get a mean; ``"1"`` for the mean over everything; or a formula
        ``"~ A | B"``, ``"pairwise ~ A * B | C"``: variables after ``|`` are those of ``by``, and a
        family of contrasts on the left gives these as well.
    by : str or list of str, optional
        Variables in whose groups means are compared.
    at : mapping, optional
        Values of variables: ``{"x": [0, 10], "A": ["a", "b"]}``.
    weights : {"equal", "proportional", "outer", "cells", "flat"} or array
        How levels are averaged: equally; by how often the combinations occur in the data; by
        products of how often each occurs; by the rows of the cell; equally over cells that
        have rows; or with a number for each combination, the first variable fastest; a series
        whose labels are the levels goes by these. But for "cells" and numbers nested factors go
        first, within the levels of what they are nested in.
    cov_reduce : {"mean", "range"}, callable, or formula
        Value, or values, of covariates; those of at most two values keep both. Of a covariate
        that the factors move (a mediator) a formula ``"x ~ A"``: x is what least squares of it on
        the rows of the fit predict at every combination. A list has several, one after another,
        and the word or function for all others: ``["x ~ A", "z ~ x + A", np.median]``.
    df_method : str, optional
        As in :func:`lmm_jax.fit`; that of the fit if not given.
    level : float
        Coverage of the limits.

    Returns
    -------
    MarginalMeans
        Or, with contrasts on the left of ``specs``, the pair ``emmeans``, ``contrasts``.

    Raises
    ------
    DataError
        Unknown variables or levels, a fit without what it takes.

    References
    ----------
    Searle, Speed & Milliken (1980), doi:10.1080/00031305.1980.10483031.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("yld ~ Variety + Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    >>> means = lmm.emmeans(res, "Nf")
    >>> print(means.to_frame()[["Nf", "estimate", "std_error", "df"]].round(2))
        Nf  estimate  std_error    df
    0  n00     79.39       7.13  6.64
    1  n20     98.89       7.13  6.64
    2  n40    114.22       7.13  6.64
    3  n60    123.39       7.13  6.64
    >>> means.pairs().to_frame()["p_value"].round(4).tolist()[:3]
    [0.0002, 0.0, 0.0]
    """
    return marginal_means(
        _basis(res, df_method), specs,
        by=by, at=at, weights=weights, cov_reduce=cov_reduce, level=level,
    )  # fmt: skip


@hinted
def emtrends(
    res: LMMResults,
    specs: Any,
    var: str,
    *,
    max_degree: int = 1,
    by: Any = None,
    at: Mapping[str, Any] | None = None,
    weights: Any = "equal",
    cov_reduce: Any = "mean",
    df_method: str | None = None,
    level: float = 0.95,
) -> Any:
    """Estimated marginal slopes of a covariate.

    The difference quotient of the mean with a step of a thousandth of the covariate's range,
    upwards, as emmeans': exact where the mean is linear in it. Of degree d that of d steps, the
    d-th derivative over d!: the coefficient of the d-th power where the mean is a polynomial of
    that degree.

    Parameters
    ----------
    res : LMMResults
    specs, by, at, weights, cov_reduce, df_method, level
        As in :func:`emmeans`.
    var : str
        The covariate, or an expression of one, per unit of which the slope is: "log(dose)".
    max_degree : int
        1: slopes; from 2 to 5 trends of all degrees up to it, which a column ``degree`` tells
        ("linear", "quadratic", "cubic", "quartic", "quintic"). It is one of ``by``, unless
        ``specs`` or ``by`` say where it stands. Each degree loses three digits of the sixteen.

    Returns
    -------
    MarginalMeans
        Estimates are slopes; or the pair with contrasts.

    Raises
    ------
    DataError
        As :func:`emmeans`; ``var`` is no covariate, or does not change with it; with degrees, a
        variable of the model that is called ``degree``.

    Notes
    -----
    With ``max_degree=2`` and above the quotient of degree 1 is one around the covariate's value,
    not upwards from it, as in emmeans.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> data = lmm.load_dataset("orthodont")
    >>> res = lmm.fit("distance ~ age * Sex + (age | Subject)", data)
    >>> lmm.emtrends(res, "Sex", "age").to_frame()["estimate"].round(3).tolist()
    [0.784, 0.48]
    >>> bent = lmm.fit("distance ~ poly(age, 2) * Sex + (1 | Subject)", data)
    >>> lmm.emtrends(bent, "Sex", "age", max_degree=2).to_frame().round(3).iloc[:, :3]
          Sex     degree  estimate
    0    Male     linear     0.784
    1  Female     linear     0.480
    2    Male  quadratic     0.051
    3  Female  quadratic    -0.003
    """
    if var is None:
        raise DataError("var=None: the name of a covariate is needed")
    return marginal_means(
        _basis(res, df_method), specs,
        by=by, at=at, weights=weights, cov_reduce=cov_reduce, level=level, var=var,
        max_degree=max_degree,
    )  # fmt: skip


@hinted
def joint_tests(
    res: LMMResults,
    by: Any = None,
    *,
    at: Mapping[str, Any] | None = None,
    df_method: str | None = None,
) -> pd.DataFrame:
    """F tests of the main effects and interactions of all variables, on a reference grid.

    Hypotheses are those of equally weighted means, so that they agree with an analysis of
    variance of type III. A covariate stands at its mean less one and plus one, which tests
    its slope. Of a factor nested in another, ``f / b``, the tests are ``f`` and ``f:b``, its
    levels within those of f. What empty cells mix is tested together as ``(confounded)``.

    Parameters
    ----------
    res : LMMResults
    by : str or list of str, optional
        Variables in whose groups the others are tested: simple effects.
    at : mapping, optional
        Values of variables, as in :func:`emmeans`.
    df_method : str, optional
        As in :func:`lmm_jax.fit`; that of the fit if not given.

    Returns
    -------
    pandas.DataFrame
        term (and the columns of ``by``), df_num, df_denom, f, p_value. The denominator is the
        least of the degrees of freedom of orthogonal rows, and F is not scaled, as in emmeans.

    Raises
    ------
    DataError
        As :func:`emmeans`.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    >>> lmm.joint_tests(res)[["term", "f"]].round(3).to_numpy().tolist()
    [['Variety', 1.485], ['Nf', 37.686], ['Variety:Nf', 0.303]]
    """
    basis = _basis(res, df_method)
    found, df_method = joint_tests_of(basis, by, at), basis.df_method
    return table(found, f"Joint tests, {df_method}", method=f"Degrees of freedom: {df_method}")


def _basis(res: Any, df_method: str | None) -> Basis:
    own = " (many responses have many.emmeans(...))" if hasattr(res, "emmeans") else ""
    instance(res, "res", LMMResults, f"a result of lmm.fit{own}")
    return require(res, "emmeans").with_df(df_method).basis  # type: ignore[no-any-return]
