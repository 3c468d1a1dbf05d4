"""Linear mixed models on JAX: lme4's formulas, statsmodels' names, pure functions below.

>>> import lmm_jax as lmm
>>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
>>> print(f"{res.llf:.4f}")
-871.8141
"""

from . import penalties
from .array_design import design_from_arrays
from .batch_design import design_from_batches
from .bootstrap import bootstrap
from .bootstrap_results import BootstrapResults
from .datasets import load_dataset
from .design import Design
from .errors import (
    ConvergenceWarning,
    DataError,
    ForkError,
    FormulaError,
    IdentificationWarning,
    RankWarning,
)
from .fit import fit
from .fit_params import FittedParams, fit_params
from .formula_design import design
from .inference.influence import Influence, influence
from .layouts.compress import compress
from .layouts.crossed import CrossedLayout
from .layouts.grouped import GroupedLayout
from .layouts.plan import LayoutInfo
from .likelihood import get_fe_params, get_scale, hessian, loglike, profile_loglike, score
from .many import fit_many
from .many_results import ManyResults
from .params import Params, pack, unpack
from .power import power
from .programs import use_cache
from .regularized import fit_regularized
from .regularized_results import RegularizedPath, RegularizedResults
from .results import LMMResults
from .row_index import row_index
from .saving import load
from .sharding import shard
from .simulate import simulate
from .woodbury import woodbury_logdet, woodbury_solver

__version__ = "0.1.0"

__all__ = [
    "BootstrapResults",
    "ConvergenceWarning",
    "CrossedLayout",
    "DataError",
    "Design",
    "FittedParams",
    "ForkError",
    "FormulaError",
    "GroupedLayout",
    "IdentificationWarning",
    "Influence",
    "LMMResults",
    "LayoutInfo",
    "ManyResults",
    "Params",
    "RankWarning",
    "RegularizedPath",
    "RegularizedResults",
    "bootstrap",
    "compress",
    "design",
    "design_from_arrays",
    "design_from_batches",
    "fit",
    "fit_many",
    "fit_params",
    "fit_regularized",
    "get_fe_params",
    "get_scale",
    "hessian",
    "influence",
    "load",
    "load_dataset",
    "loglike",
    "pack",
    "penalties",
    "power",
    "profile_loglike",
    "row_index",
    "score",
    "shard",
    "simulate",
    "unpack",
    "use_cache",
    "woodbury_logdet",
    "woodbury_solver",
]
