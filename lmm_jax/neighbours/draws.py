"""Replicates of a bootstrap as ArviZ takes draws: an array a kind of parameter, with names."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from itertools import combinations
from typing import Any

import numpy as np

from ..designs.labels import TermLabel
from ..inputs.packages import needed


def draws_of(boot: Any, scales: str) -> Any:
    """The replicates that converged, as the group ``posterior`` of one chain.

    Parameters
    ----------
    boot : BootstrapResults
    scales : {"vcov", "sdcor"}
    """
    with needed("arviz", "to_arviz()", "neighbours"):
        own_class = version("arviz").startswith("0.")
        if own_class:
            from arviz import InferenceData
        import xarray

    kept = boot.replicates.converged
    columns: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    coords: dict[str, list[str]] = {}

    def add(name: str, values: np.ndarray, dim: str = "", labels: Sequence[str] = ()) -> None:
        columns[name] = (("chain", "draw", dim) if dim else ("chain", "draw"), values[kept][None])
        if dim:
            coords[dim] = list(labels)

    add("fe_params", boot.replicates.beta, "effect", boot.fixed_names)
    for label, S in zip(boot.term_labels, boot.replicates.covariances, strict=True):
        for kind, values, dim, labels in _of_term(label, S, scales):
            add(f"{kind}_{label.group}", values, dim and f"{label.group}_{dim}", labels)
    add("sigma", np.sqrt(boot.replicates.scale))
    if boot.replicates.residual is not None:
        add("residual_params", boot.replicates.residual, "residual_param", boot.residual_names)
    attributes = {"sampling": "parametric bootstrap", "seed": boot.seed}
    draws = xarray.Dataset(columns, coords=coords, attrs=attributes)
    if own_class:
        return InferenceData(posterior=draws)
    return xarray.DataTree.from_dict({"posterior": draws})


def _of_term(
    label: TermLabel, S: np.ndarray, scales: str
) -> list[tuple[str, np.ndarray, str, list[str]]]:
    """Kind, draws, dimension and names of what a term has: its variances, what is between them."""
    variances = np.diagonal(S, axis1=1, axis2=2)
    roots = scales == "sdcor"
    kind, own = ("sd", np.sqrt(variances)) if roots else ("var", variances)
    if label.is_component:
        return [(kind, own[:, 0], "", [])]
    out = [(kind, own, "term", list(label.names))]
    pairs = list(combinations(range(len(label.names)), 2))
    if pairs:
        i, j = np.array(pairs).T
        between = S[:, j, i]
        if roots:
            with np.errstate(divide="ignore", invalid="ignore"):  # of a term at zero
                between = between / (own[:, i] * own[:, j])
        names = [f"{label.names[a]},{label.names[b]}" for a, b in pairs]
        out.append(("cor" if roots else "cov", between, "pair", names))
    return out
