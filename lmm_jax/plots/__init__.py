"""Plots of results: each takes a result first and ``ax=``, and returns the Axes it has drawn on.

They need matplotlib, ``pip install "lmm-jax[plot]"``, which is imported when something is drawn.
"""

from .compared import comparisons
from .dependence import autocorrelation, variogram
from .forest import coefficients
from .influential import influence
from .levels import caterpillar, fits
from .many import pvalue_histogram, volcano
from .means import interaction, pwpp
from .page import overview
from .parameters import bootstrap, profile, variance_components
from .power_curves import power
from .predictions import predictions
from .residuals import (
    qq_random_effects,
    qq_residuals,
    residuals_by_group,
    residuals_fitted,
    scale_location,
)
from .separate_fits import shrinkage

__all__ = [
    "autocorrelation",
    "bootstrap",
    "caterpillar",
    "coefficients",
    "comparisons",
    "fits",
    "influence",
    "interaction",
    "overview",
    "power",
    "predictions",
    "profile",
    "pvalue_histogram",
    "pwpp",
    "qq_random_effects",
    "qq_residuals",
    "residuals_by_group",
    "residuals_fitted",
    "scale_location",
    "shrinkage",
    "variance_components",
    "variogram",
    "volcano",
]


def __dir__() -> list[str]:
    """Plots alone: completion offers no file of the folder."""
    return [*__all__, "__all__", "__doc__"]
