"""A page of four plots to check a model by."""

from __future__ import annotations

from typing import Any

from ..inputs.arguments import hinted
from . import canvas
from .dependence import autocorrelation
from .levels import caterpillar
from .residuals import qq_random_effects, qq_residuals, residuals_fitted, scale_location
from .sources import fitted, without_variance

# Levels up to which their random effects are shown one by one.
_FEW_LEVELS = 30


@hinted
@canvas.finished
def overview(res: Any, *, ax: Any = None) -> Any:
    """Four plots to check a model: ``res.plot()``.

    Residuals against fitted values with a smoother, normal quantiles of the residuals,
    scale-location, and the first random coefficient that has a variance: as a caterpillar up to 30
    levels, as normal quantiles beyond. Without random effects the fourth is the autocorrelation of
    the whitened residuals.

    Parameters
    ----------
    res : LMMResults
    ax : sequence of four Axes, optional

    Returns
    -------
    ndarray of Axes, shape (4,)

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> lmm.plots.overview(res).shape
    (4,)
    """
    labels = _varying(fitted(res))
    drawn = canvas.panels(ax, 4, columns=2, size=(4.6, 3.8))
    residuals_fitted(res, ax=drawn[0])
    qq_residuals(res, ax=drawn[1])
    scale_location(res, ax=drawn[2])
    if not labels:
        autocorrelation(res, kind="whitened", ax=drawn[3])
    else:
        label, name = labels[0]
        draw = caterpillar if label.n_levels <= _FEW_LEVELS else qq_random_effects
        draw(res, label.factor, coefficient=None if label.is_component else name, ax=drawn[3])
    return drawn


def _varying(res: Any) -> list[tuple[Any, str]]:
    """Terms and names of the random coefficients, those with a variance first."""
    zero = without_variance(res)
    known = [(label, name) for label in res.term_labels for name in label.names]
    return sorted(known, key=lambda one: (one[0].factor, one[1]) in zero)
