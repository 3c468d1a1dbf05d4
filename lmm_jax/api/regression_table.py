"""``regression_table``: several fits side by side, as papers have them."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DataError
from ..inputs.arguments import choice, flag, hinted, instance, items, probability, whole_number
from ..inputs.arguments import names as read_names
from ..inputs.names import unique
from ..results.lmm import LMMResults
from ..results.regression_table import BASIC, SHOWN, STATISTICS, side_by_side
from ..tables.page import Table


@hinted
def regression_table(
    res: LMMResults,
    *others: LMMResults,
    names: Sequence[str] | None = None,
    show: str = "std_error",
    level: float = 0.95,
    stars: bool = False,
    digits: int | None = None,
    statistics: Sequence[str] = BASIC,
) -> Table:
    """Several fits side by side: fixed effects, standard deviations and correlations, figures.

    Parameters
    ----------
    res : LMMResults
    *others : LMMResults
        One column each, in this order.
    names : sequence of str, optional
        What stands above the columns; by default (1), (2) and so on.
    show : {"std_error", "conf_int", "statistic", "p_value", "none"}
        What stands behind an estimate. Standard deviations and correlations have no statistics
        and p values; their limits are Wald's.
    level : float
        Coverage of the limits.
    stars : bool
        One, two or three stars for p values of fixed effects below 0.05, 0.01 and 0.001.
    digits : int, optional
        Decimals; if not given three, and more where these would leave a standard error less than
        two digits, or a number without one, sigma, less than three. What rounds to zero is zero.
    statistics : sequence of str
        Rows of the last block: "nobs", "n_groups", "r2_marginal", "r2_conditional", "icc",
        "loglik", "aic", "bic", "sigma", "df" (the number of parameters).

    Returns
    -------
    DataFrame
        Of strings, which shows itself as text and HTML; ``to_latex``, ``to_markdown``, ``to_html``
        and ``to_gt`` take ``caption``, ``rename`` and ``notes`` (:meth:`Summary.to_markdown`).
        The numbers are those of :meth:`LMMResults.tidy`. A parameter that a fit has not is left
        empty; one that fits spell differently, ``x:f[T.b]`` and ``C(f)[T.b]:x``, has one row.

    Raises
    ------
    DataError
        What is no fit, or an unknown figure.

    Warns
    -----
    UserWarning
        Log-likelihoods and criteria that do not compare: of fits of one response, or of functions
        of it, to other rows or with other weights; by REML where the columns of the fixed effects
        span other spaces or have other units; by REML and by ML.

    Notes
    -----
    P values and limits have the degrees of freedom of each fit (its ``df_method``), standard
    errors are robust where the fit is (:meth:`LMMResults.robust`) and Kenward and Roger's where its
    ``df_method`` is; the small print says so. Weights and offsets have a row where a fit has them.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> data = lmm.load_dataset("sleepstudy")
    >>> one = lmm.fit("Reaction ~ Days + (1 | Subject)", data)
    >>> two = lmm.fit("Reaction ~ Days + (Days | Subject)", data)
    >>> print(lmm.regression_table(one, two, names=["Intercepts", "Slopes"], stars=True))
    Linear mixed models of Reaction
    <BLANKLINE>
                                            Intercepts              Slopes
     Fixed effects
       Intercept                    251.405*** (9.747)  251.405*** (6.825)
       Days                          10.467*** (0.804)   10.467*** (1.546)
     Random effects
       sd(Intercept|Subject)            37.124 (6.812)      24.740 (5.836)
       sd(Days|Subject)                                      5.922 (1.248)
       cor(Intercept,Days|Subject)                           0.066 (0.325)
       sigma                            30.991 (1.727)      25.592 (1.508)
     Fit
       Observations                                180                 180
       Groups: Subject                              18                  18
       R2 (marginal)                             0.280               0.279
       R2 (conditional)                          0.704               0.799
       Log-likelihood                         -893.233            -871.814
       AIC                                    1794.465            1755.628
       BIC                                    1807.237            1774.786
    <BLANKLINE>
    Fitted by REML
    Standard errors in parentheses
    * p < 0.05, ** p < 0.01, *** p < 0.001
    Degrees of freedom: satterthwaite
    """
    if isinstance(res, list | tuple | dict):
        raise DataError(
            f"res is a {type(res).__name__}: fits stand one beside the other, "
            "lmm.regression_table(a, b)"
        )
    fits = [res, *others]
    for i, one in enumerate(fits):
        instance(one, "res" if i == 0 else f"the model {i + 1}", LMMResults, "a result of lmm.fit")
    called = [f"({i + 1})" for i in range(len(fits))]
    if names is not None:
        called = read_names(names, "names", len(fits))
    figures = [choice(key, "statistics", STATISTICS) for key in items(statistics, "statistics")]
    return side_by_side(
        dict(zip(unique(["term", *called])[1:], fits, strict=True)),
        show=choice(show, "show", SHOWN),
        level=probability(level, "level"),
        stars=flag(stars, "stars"),
        digits=None if digits is None else whole_number(digits, "digits", most=15),
        statistics=figures,
    )
