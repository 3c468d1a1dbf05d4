"""``heritability``: the share of additive variance in a fit with related levels."""

from __future__ import annotations

from collections.abc import Sequence

from ..inputs.arguments import flag, hinted, instance, probability
from ..results import heritability as shares
from ..results.heritability import Heritability
from ..results.lmm import LMMResults


@hinted
def heritability(
    res: LMMResults,
    additive: str | Sequence[str] | None = None,
    *,
    leave_out: str | Sequence[str] = (),
    fixed: bool = False,
    level: float = 0.95,
) -> Heritability:
    """Heritability: the additive variance over the variance of the phenotype.

        h2 = sum_a sigma2_a / (sum_t sigma2_t + sigma2)

    with sigma2_a the variances of the effects of related levels, and all random effects and the
    residual below the line: the variance of unrelated, not inbred individuals of the base
    population, whose A has ones on its diagonal.

    Parameters
    ----------
    res : LMMResults
        Of a fit with ``relatedness=``, or any with ``additive=``: a share of the variance.
    additive : str or sequence of str, optional
        Grouping factors above the line, as in ``res.random_effects``; those with a relationship
        matrix if not given.
    leave_out : str or sequence of str
        Grouping factors that are no part of the phenotypic variance, such as that of a batch or
        a year in which records were made.
    fixed : bool
        Count the variance of ``X beta`` over the rows in the phenotypic variance
        (Wilson 2008, doi:10.1111/j.1420-9101.2008.01500.x).
    level : float
        Coverage of the interval.

    Returns
    -------
    Heritability
        ``estimate``, ``std_error``, ``conf_low``, ``conf_high``; ``table``, every part of the
        phenotypic variance with its share.

    Raises
    ------
    DataError
        No related levels; a factor that the fit has not; related coefficients other than an
        intercept, whose variance depends on their covariates.

    Notes
    -----
    The delta method with exact derivatives (:func:`lmm_jax.delta_method`), the interval on the
    scale of ``asin(sqrt(share))``, and ``estimate +- z std_error`` within 0 and 1 where the error
    is the larger one. At a variance of zero there is no interval. A term of random slopes below
    the line counts with its mean variance over the rows.

    Examples
    --------
    >>> import pandas as pd, lmm_jax as lmm
    >>> ids = list("abcdefgh")
    >>> pedigree = pd.DataFrame({"id": ids, "sire": list("  aaaacc"), "dam": list("  bbbbdd")})
    >>> A = lmm.relationship(pedigree)
    >>> y = [3.4, 2.2, 4.6, 0.8, 4.5, 4.0, 4.6, 1.1, 2.1, 3.4, 3.5, 2.2, 2.3, 4.6, 3.9, 2.2]
    >>> data = pd.DataFrame({"y": y, "id": ids * 2})
    >>> res = lmm.fit("y ~ 1 + (1 | id)", data, relatedness={"id": A})
    >>> round(lmm.heritability(res).estimate, 3)
    0.684
    """
    instance(res, "res", LMMResults, "a result of lmm.fit")
    return shares.heritability(
        res, additive, leave_out, flag(fixed, "fixed"), probability(level, "level")
    )
