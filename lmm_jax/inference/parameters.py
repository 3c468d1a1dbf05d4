"""The parameters of a fit by name, as variances and covariances or as their roots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..designs.labels import TermLabel
from ..errors import DataError
from ..inputs.arguments import items, shown
from ..inputs.names import meant, suggestion, unique

SCALES = ("vcov", "sdcor")
# What stands for all fixed effects and for all others, and lme4's spelling.
_GROUPS = {"beta": True, "theta": False, "beta_": True, "theta_": False}


class Parameter(NamedTuple):
    """One parameter and where it stands."""

    name: str
    kind: str  # "beta", "sd", "cor", "cov" or "sigma"; variances are "sd" on the scale vcov
    term: int = -1  # of the random effects
    i: int = 0  # place of a fixed effect, or column ...
    j: int = 0  # ... and row in the covariance of the term


def parameters_of(
    fixed_names: Sequence[str], labels: Sequence[TermLabel], scale: str
) -> tuple[Parameter, ...]:
    """All parameters: fixed effects, lower triangles of the terms row by row, the residual.

    Parameters
    ----------
    fixed_names : sequence of str
    labels : sequence of TermLabel
    scale : {"vcov", "sdcor"}
        Variances, covariances and ``scale``, or standard deviations, correlations and
        ``sigma``.
    """
    roots = scale == "sdcor"
    out = [Parameter(name, "beta", i=i) for i, name in enumerate(fixed_names)]
    for t, label in enumerate(labels):
        lower = zip(*np.tril_indices(len(label.names)), strict=True)
        for (j, i), name in zip(lower, label.parameter_names(), strict=True):
            kind = "sd" if i == j else "cor" if roots else "cov"
            named = name.replace("var(", "sd(", 1).replace("cov(", "cor(", 1) if roots else name
            out.append(Parameter(named, kind, t, int(i), int(j)))
    out.append(Parameter("sigma" if roots else "scale", "sigma"))
    names = unique(parameter.name for parameter in out)
    return tuple(p._replace(name=name) for p, name in zip(out, names, strict=True))


def chosen(parameters: Sequence[Parameter], parm: Any) -> list[int]:
    """Places of the parameters that ``parm`` names, in their own order; None: of all.

    Raises
    ------
    DataError
        A name that is none.
    """
    if parm is None:
        return list(range(len(parameters)))
    names = [p.name for p in parameters]
    found: set[int] = set()
    for name in [parm] if isinstance(parm, str) else items(parm, "parm", "names are needed"):
        known = meant(name, names)
        if known is not None:
            found.add(names.index(known))
        elif isinstance(name, str) and name in _GROUPS:
            found |= {n for n, p in enumerate(parameters) if (p.kind == "beta") == _GROUPS[name]}
        else:
            raise DataError(
                f"parm={shown(name)}: 'beta', 'theta', or names among {', '.join(names)}"
                f"{suggestion(name, names)}"
            )
    return sorted(found)


def parameter_values(
    parameters: Sequence[Parameter],
    beta: np.ndarray,
    covariances: Sequence[np.ndarray],
    sigma: float,
    *,
    roots: bool,
) -> np.ndarray:
    """Their values, (K,); NaN for the correlation of something without variance."""
    out = np.empty(len(parameters))
    for n, (_, kind, t, i, j) in enumerate(parameters):
        if kind == "beta":
            out[n] = beta[i]
        elif kind == "sigma":
            out[n] = sigma if roots else sigma**2
        elif kind == "cor":
            S = covariances[t]
            with np.errstate(invalid="ignore", divide="ignore"):
                out[n] = S[j, i] / (np.sqrt(S[i, i]) * np.sqrt(S[j, j]))
        else:
            value = covariances[t][j, i]
            out[n] = np.sqrt(value) if roots and kind == "sd" else value
    return out
