"""``mmrm``: the analysis of a trial with repeated measures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConvergenceWarning, FormulaError, warn_user
from ..formulas.parse import parse
from ..formulas.residual import OF_VISITS
from ..inputs.arguments import choice, hinted, items
from ..results.lmm import LMMResults
from .fit import fit


@hinted
def mmrm(
    formula: str,
    data: Any,
    *,
    fallback: Sequence[str] = (),
    reml: bool = True,
    df_method: str = "kenward-roger-linear",
    weights: Any = None,
    offset: Any = None,
    missing: str = "drop",
    subset: Any = None,
    context: Mapping[str, Any] | None = None,
) -> LMMResults:
    """Mixed model for repeated measures: :func:`lmm_jax.fit` with the defaults of trials.

    REML, the residual covariance of the formula, and tests of Kenward and Roger without second
    derivatives of the covariance, as SAS's ``ddfm=kr(linear)`` and the R package mmrm.

    Parameters
    ----------
    formula : str
        With a residual covariance over visits, ``y ~ base + arm * visit + us(visit | id)``.
    data : pandas.DataFrame, mapping of columns, or a frame that narwhals reads
    fallback : sequence of str
        Structures to try in turn, ``["toeph", "ar1h", "cs"]``, where the formula's own does not
        converge; none by default. Which one was fitted is said by a warning and stands in
        ``res.formula``.
    reml, df_method, weights, offset, missing, subset, context
        See :func:`lmm_jax.fit`; under ML (``reml=False``) choose another ``df_method``, such as
        "satterthwaite".

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
    term = parse(formula).residual
    if term is None or not term.correlation:
        raise FormulaError(
            "no residual covariance over visits: add `us(visit | id)`, one row a visit and subject",
            formula,
        )
    options = dict(
        reml=reml, df_method=df_method, weights=weights, offset=offset, missing=missing,
        subset=subset, context=context,
    )  # fmt: skip
    name, _, inside = term.text.partition("(")
    names = [name, *(choice(n, "fallback", OF_VISITS) for n in items(fallback, "fallback"))]
    for i, name in enumerate(names):
        spelled = f"{name}({inside}"
        last = i + 1 == len(names)
        with warnings.catch_warnings():
            if not last:
                warnings.simplefilter("ignore", ConvergenceWarning)
            res = fit(formula.replace(term.text, spelled), data, **options)
        if res.converged or last:
            break
        warn_user(
            f"{spelled} did not converge ({res.message}): trying {names[i + 1]}({inside}",
            ConvergenceWarning,
        )
    return res
