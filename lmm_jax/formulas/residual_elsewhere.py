"""What other packages call residual covariances, and what is written here."""

from __future__ import annotations

import re

# In power() and expo(): the means of the rows, as in nlme's varPower().
MEANS = "fitted(.)"
# What nlme, SAS and others call residual covariances, and what is written here.
ELSEWHERE = {
    "corAR1": "ar1(visit | id)", "AR1": "ar1(visit | id)", "AR": "ar1(visit | id)",
    "corARMA": "arma(visit | id, p=2, q=1)", "ARMA": "arma(visit | id, p=2, q=1)",
    "corCAR1": "car1(time | id)", "corCompSymm": "cs(visit | id)", "CS": "cs(visit | id)",
    "corSymm": "symm(visit | id)", "UN": "us(visit | id)", "corExp": "sp_exp(x + y | id)",
    "corGaus": "sp_gau(x + y | id)", "corRatio": "sp_rat(x + y | id)",
    "corSpher": "sp_sph(x + y | id)",
    "varIdent": "diag(f)", "varPower": "power(x)", "varExp": "expo(x)", "sp_pow": "car1(time | id)",
    "varComb": "diag(f) * power(x)", "varFixed": "lmm.fit(…, weights=)",
    "varConstProp": "(0 + x | row)",
}  # fmt: skip
# Those that are not there, and what is nearest.
NOT_HERE = {
    "varConstPower": "power(x)",
    **dict.fromkeys(("corLin", "sp_lin", "lin"), "sp_sph(x + y | id)"),
}  # fmt: skip
_THEIRS = re.compile(rf"\s*({'|'.join((*NOT_HERE, *ELSEWHERE))})\(")


def written_here(text: str) -> str | None:
    """What a residual covariance of another package is here; None if the call is none.

    Examples
    --------
    >>> written_here("corAR1(form = ~ 1 | id)")
    'ar1(visit | id)'
    >>> written_here("varPower()")
    'power(fitted(.))'
    """
    match = _THEIRS.match(text)
    if match is None or not (match[1][:3] in ("cor", "var") or "|" in text):
        return None  # a function of the caller's may have a short name
    instead = {**NOT_HERE, **ELSEWHERE}[match[1]]
    of_means = "~" not in text or "fitted" in text  # nlme's default
    if of_means and match[1] == "varConstProp":
        instead = "power(x)"
    return instead.replace("(x)", f"({MEANS})") if of_means else instead


def is_nearest(name: str, here: str) -> bool:
    """Whether what is written here is not the same as what another package has by a name."""
    return name in NOT_HERE or (name == "varConstProp" and MEANS in here)
