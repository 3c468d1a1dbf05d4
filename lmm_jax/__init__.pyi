# The public names and where they live: for type checkers, and for __init__.py, which imports each
# one when it is first asked for.

from . import penalties, plots
from .api.anova import anova
from .api.bootstrap import bootstrap
from .api.drop1 import drop1
from .api.emmeans import emmeans, emtrends, joint_tests
from .api.fit import fit
from .api.fit_many import fit_many
from .api.fit_regularized import fit_regularized
from .api.heritability import heritability
from .api.measures import caic, icc, r2, variance_components, vif
from .api.mmrm import mmrm
from .api.power import power
from .api.ranova import ranova
from .api.regression_table import regression_table
from .api.schema import schema
from .api.simulate import simulate
from .api.simulate_residuals import simulate_residuals
from .api.step import step
from .api.summarize import summarize
from .covariance.params import Params, pack, unpack
from .datasets import load_dataset
from .designs.design import Design
from .designs.from_arrays import design_from_arrays
from .designs.from_batches import design_from_batches
from .designs.from_formula import design
from .designs.from_labels import row_index
from .designs.pedigree import relationship
from .designs.row_sums import RowSums
from .designs.schema import Schema
from .errors import (
    ConvergenceWarning,
    DataError,
    ForkError,
    FormulaError,
    IdentificationWarning,
    OrderWarning,
    RankWarning,
    TextWarning,
)
from .inference.contrasts.delta import DeltaResults, delta_method, hypotheses
from .inference.diagnostics.influence import Influence, influence
from .inference.profiles.curves import ProfileResults
from .inference.profiles.profile_likelihood import profile
from .layouts.compress import compress
from .layouts.crossed.layout import CrossedLayout
from .layouts.grouped import GroupedLayout
from .layouts.matrix_free.layout import MatrixFreeLayout
from .layouts.plan import LayoutInfo
from .layouts.residual.fields import FieldLayout
from .layouts.residual.layout import ResidualLayout
from .layouts.residual.markov import MarkovLayout
from .layouts.residual.subjects import SubjectLayout
from .layouts.sharding import shard
from .layouts.sparse.layout import SparseLayout
from .likelihood.effects import get_random_effects
from .likelihood.profile import (
    get_fe_params,
    get_scale,
    get_theta,
    hessian,
    loglike,
    profile_loglike,
    score,
)
from .likelihood.woodbury import woodbury_logdet, woodbury_solver
from .numerics.programs import compiler_options, use_cache
from .optimize.implicit import FittedParams, fit_params
from .results.bootstrap import BootstrapResults
from .results.elimination import StepResults
from .results.heritability import Heritability
from .results.lmm import LMMResults
from .results.many import ManyResults
from .results.many_means import ManyMeans
from .results.many_tests import ManyTests
from .results.marginal import MarginalMeans
from .results.measures import ConditionalAIC, ICCResults, R2Results
from .results.regularized import RegularizedPath, RegularizedResults
from .results.residuals import Residuals
from .results.saving import load
from .results.simulated_residuals import SimulatedResiduals

__version__: str

__all__ = [
    "BootstrapResults",
    "ConditionalAIC",
    "ConvergenceWarning",
    "CrossedLayout",
    "DataError",
    "DeltaResults",
    "Design",
    "FieldLayout",
    "FittedParams",
    "ForkError",
    "FormulaError",
    "GroupedLayout",
    "Heritability",
    "ICCResults",
    "IdentificationWarning",
    "Influence",
    "LMMResults",
    "LayoutInfo",
    "ManyMeans",
    "ManyResults",
    "ManyTests",
    "MarginalMeans",
    "MarkovLayout",
    "MatrixFreeLayout",
    "OrderWarning",
    "Params",
    "ProfileResults",
    "R2Results",
    "RankWarning",
    "RegularizedPath",
    "RegularizedResults",
    "ResidualLayout",
    "Residuals",
    "RowSums",
    "Schema",
    "SimulatedResiduals",
    "SparseLayout",
    "StepResults",
    "SubjectLayout",
    "TextWarning",
    "anova",
    "bootstrap",
    "caic",
    "compiler_options",
    "compress",
    "delta_method",
    "design",
    "design_from_arrays",
    "design_from_batches",
    "drop1",
    "emmeans",
    "emtrends",
    "fit",
    "fit_many",
    "fit_params",
    "fit_regularized",
    "get_fe_params",
    "get_random_effects",
    "get_scale",
    "get_theta",
    "heritability",
    "hessian",
    "hypotheses",
    "icc",
    "influence",
    "joint_tests",
    "load",
    "load_dataset",
    "loglike",
    "mmrm",
    "pack",
    "penalties",
    "plots",
    "power",
    "profile",
    "profile_loglike",
    "r2",
    "ranova",
    "regression_table",
    "relationship",
    "row_index",
    "schema",
    "score",
    "shard",
    "simulate",
    "simulate_residuals",
    "step",
    "summarize",
    "unpack",
    "use_cache",
    "variance_components",
    "vif",
    "woodbury_logdet",
    "woodbury_solver",
]
