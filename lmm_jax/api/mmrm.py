"""``mmrm``: the analysis of a trial with repeated measures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConvergenceWarning, FormulaError, warn_user
from ..formulas.parse import parse, parse_residual
from ..formulas.residual import OF_VISITS, ResidualTerm, with_correlation
from ..inputs.arguments import choice, flag, hinted, instance, items
from ..results.lmm import LMMResults
from .fit import fit


@hinted
def mmrm(
    formula: str,
    data: Any,
    *,
    residual: str | None = None,
    fallback: Sequence[str] = (),
    reml: bool = True,
    df_method: str | None = None,
    weights: Any = None,
    offset: Any = None,
    missing: str = "drop",
    subset: Any = None,
    context: Mapping[str, Any] | None = None,
) -> LMMResults:
    """Mixed model for repeated measures: :func:`lmm_jax.fit` with the defaults of trials.

    REML, the residual covariance of the formula, and Kenward and Roger's tests without second
    derivatives of the covariance: SAS's ``ddfm=kr(linear)``, and what the R package mmrm calls
    "Kenward-Roger-Linear".

    Parameters
    ----------
    formula : str
        With a residual covariance over visits, ``y ~ base + arm * visit + us(visit | id)``.
    residual : str, optional
        That covariance, where it is not in the formula.
    data : data frame, mapping of columns, or path of a file
        As in :func:`lmm_jax.fit`.
    fallback : sequence of str
        Structures to try in turn, ``["toeph", "ar1h", "cs"]``, where the formula's own does not
        converge; none by default. Which one was fitted is said by a warning and stands in
        ``res.formula``.
    df_method : str, optional
        "kenward-roger-linear" if not given, and "satterthwaite" under ML.
    reml, weights, offset, missing, subset, context
        See :func:`lmm_jax.fit`.

    Returns
    -------
    LMMResults

    Raises
    ------
    FormulaError
        No residual covariance over visits in the formula.
    DataError
        As :func:`lmm_jax.fit`.

    Warns
    -----
    ConvergenceWarning
        Every structure that did not converge.

    References
    ----------
    Mallinckrodt, Lane, Schnell, Peng & Mancuso (2008), doi:10.1177/009286150804200402.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> data = lmm.load_dataset("orthodont")
    >>> res = lmm.mmrm("distance ~ Sex * C(age) + us(age | Subject)", data)
    >>> print(res.residual_params.iloc[:4].round(3).to_dict())
    {'sd[8]': 2.327, 'sd[10]': 2.046, 'sd[12]': 2.541, 'sd[14]': 2.233}
    """
    if not isinstance(formula, str):
        raise FormulaError(f"the formula is a {type(formula).__name__}: pass a string")
    if residual is not None:
        instance(residual, "residual", str, "a string such as 'us(visit | id)'")
    reml = flag(reml, "reml")
    term = parse(formula).residual if residual is None else parse_residual(residual)
    if term is None or not term.correlation:
        raise FormulaError(
            "no residual covariance over visits: add `us(visit | id)`, one row a visit and subject",
            formula if residual is None else residual,
        )
    if df_method is None:
        df_method = "kenward-roger-linear" if reml else "satterthwaite"
    options = dict(
        reml=reml, df_method=df_method, weights=weights, offset=offset, missing=missing,
        subset=subset, context=context,
    )  # fmt: skip
    spelled = [term.text, *_instead(term, fallback)]
    for i, text in enumerate(spelled):
        last = i + 1 == len(spelled)
        with warnings.catch_warnings():
            if not last:
                warnings.simplefilter("ignore", ConvergenceWarning)
            if residual is None:
                res = fit(formula.replace(term.text, text), data, **options)
            else:
                res = fit(formula, data, residual=text, **options)
        if res.converged or last:
            break
        warn_user(
            f"{text} did not converge ({res.message}): trying {spelled[i + 1]}",
            ConvergenceWarning,
        )
    return res


def _instead(term: ResidualTerm, fallback: Sequence[str]) -> list[str]:
    """Covariances to try in the place of one, as formulas have them."""
    known = [name for name in OF_VISITS if name != "arma"]  # which would need its orders
    names = [choice(name, "fallback", known) for name in items(fallback, "fallback")]
    if names and term.in_space:
        raise FormulaError(
            f"fallback= has structures over visits, and {term.text} is one over times or "
            "coordinates",
            term.text,
        )
    return [with_correlation(term, name) for name in names]
