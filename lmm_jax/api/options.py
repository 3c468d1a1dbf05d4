"""What a fit may be told, checked and carried to the layout: start values, masks, penalties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from ..capabilities import require
from ..covariance.params import (
    Params,
    check_blocks,
    check_covariance,
    check_shapes,
    cov_indices,
    unpack_array,
)
from ..designs.design import Design
from ..errors import DataError
from ..inference.df.methods import read_df_method
from ..inference.record import FitRecord
from ..inputs.arguments import choice, flag, function, iterations, number, numbers, shown
from ..layouts.contract import Layout
from ..likelihood.coordinates import covariance_blocks, inner_beta, theta_of
from ..numerics.programs import spelled
from ..optimize.constrained import Mask, Problem, column_scales, free_entries, full_masks

METHODS = ("newton", "lbfgs", "bfgs")
# Those that power() has, and those of fit_many().
DF_METHODS = ("satterthwaite", "normal")
MANY_METHODS = (*DF_METHODS, "kenward-roger")


class Options(NamedTuple):
    """What a fit may be told in plain values."""

    reml: bool
    maxiter: int
    gtol: float
    df_method: str


def read_options(
    reml: Any, maxiter: Any, gtol: Any, df_method: Any, *, batches: bool = False
) -> Options:
    """Options that mean something, in their plain types."""
    df_method = read_df_method(df_method)
    return Options(
        reml=flag(reml, "reml"),
        maxiter=iterations(maxiter),
        gtol=number(gtol, "gtol", least=0.0),
        df_method=choice(df_method, "df_method", MANY_METHODS) if batches else df_method,
    )


def method_names(method: Any) -> tuple[str, ...]:
    """Names of the optimizers to try in turn."""
    if isinstance(method, str):
        if method.upper() in ("ML", "REML"):
            likelihood = f"reml={method.upper() == 'REML'}"
            raise DataError(f"method={method!r}: method is the optimizer, pass {likelihood}")
        return (choice(method, "method", METHODS),)
    if not isinstance(method, list | tuple):
        raise DataError(f"method={shown(method)}: choose from {', '.join(METHODS)}, or a list")
    if not method:
        raise DataError("method is empty: name at least one of " + ", ".join(METHODS))
    return tuple(choice(name, "method", METHODS) for name in method)


def read_params(given: Any, design: Design, what: str) -> Params | None:
    """``Params`` of the right shapes from a ``Params`` or a packed vector."""
    if given is None:
        return None
    sizes, p = design.correlated_sizes, design.exog.shape[1]
    if isinstance(given, Params):
        params = design.ordered(given)
    elif isinstance(given, FitRecord):
        params = _params_of(given)
    elif all(hasattr(given, name) for name in ("fe_params", "cov_re", "vcomp")):
        named = {name: getattr(given, name) for name in ("fe_params", "cov_re", "vcomp")}
        params = Params.from_components(**named)  # as statsmodels' MixedLMParams has them
    else:
        params = _unpacked(given, sizes, p, design.n_components, what)
    n_fixed = p if np.size(params.fe_params) else 0
    params = check_shapes(params, sizes, n_fixed, design.n_components, what)
    leaves: dict[str, Any] = {
        name: numbers(getattr(params, name), f"{what}.{name}")
        for name in ("fe_params", "cov_re", "vcomp")
    }
    return Params(**leaves)


def read_start(given: Any, design: Design) -> Params | None:
    """Start values, whose covariances are covariances."""
    if given is not None:
        require(design, "start_params")
    params = read_params(given, design, "start_params")
    if params is not None:
        check_blocks(params, design.correlated_sizes, "start_params")
        check_covariance(np.asarray(params.cov_re), "start_params.cov_re")
        check_covariance(np.diag(np.asarray(params.vcomp)), "start_params.vcomp")
    return params


def _params_of(fit: FitRecord) -> Params:
    """Estimates of a fit, covariances relative to its residual variance."""
    leaves: dict[str, Any] = {
        "fe_params": fit.fe_params.to_numpy(),
        "cov_re": fit.cov_re_unscaled.to_numpy(),
        "vcomp": fit.vcomp.to_numpy() / fit.scale,
    }
    return Params(**leaves)


def _unpacked(given: Any, sizes: tuple[int, ...], p: int, n_components: int, what: str) -> Params:
    """``Params`` from a packed vector, with or without the fixed effects."""
    labels = given.index.map(str) if isinstance(given, pd.Series) else ()
    if any(label.startswith(("var(", "cov(")) for label in labels):
        raise DataError(
            f"{what} has the labels of res.params, whose variances are those of the data, and "
            f"those of a start are relative to the residual variance: pass the fit, {what}=res"
        )
    vector = numbers(given, what)
    short = cov_indices(sizes)[0].size + n_components
    if vector.shape not in ((short,), (p + short,)):
        raise DataError(
            f"{what} has the shape {vector.shape}: pass {p + short} values (fixed effects first), "
            f"{short} without the fixed effects, or a Params"
        )
    return unpack_array(vector, sizes, vector.size - short)


def read_free(given: Any, design: Design) -> Params | None:
    """Which parameters are free, of a design that can hold the others."""
    free = read_params(given, design, "free")
    if free is not None and _holds_effects(free):
        require(design, "free")
    return free


def _holds_effects(free: Params) -> bool:
    return free.fe_params.size > 0 and not bool((free.fe_params != 0).all())


def hold_fixed_effects(design: Design, free: Params | None, start: Params | None) -> Design:
    """The design with the fixed effects that ``free`` marks held at their start values.

    What the design holds already stays held.
    """
    if free is None or not _holds_effects(free):
        return design
    p = design.exog.shape[1]
    values = np.zeros(p) if start is None or start.fe_params.size == 0 else start.fe_params
    before = np.full(p, np.nan) if design.held is None else design.held
    return replace(design, held=np.where(free.fe_params != 0, before, values))


def with_approximation(design: Design, approximate: Any) -> Design:
    """The design with what the user says of approximate fits; nothing said, as it is."""
    if approximate is None:
        return design
    if flag(approximate, "approximate"):
        require(design, "approximate=True")
    if design.approximate == approximate:
        return design
    return replace(design, approximate=approximate)


def covariance_masks(design: Design, free: Params | None) -> tuple[Mask, ...] | None:
    """Free entries of the covariance of every term; None if all are free."""
    if free is None:
        return None
    masks: list[Mask] = []
    offset = 0
    for k in design.correlated_sizes:
        block = free.cov_re[offset : offset + k, offset : offset + k] != 0
        if (block != block.T).any():
            raise DataError("free.cov_re must be symmetric")
        masks.append(tuple(tuple(bool(v) for v in row) for row in block))
        offset += k
    masks += [((bool(v != 0),),) for v in free.vcomp]
    return None if tuple(masks) == full_masks(design.sizes) else tuple(masks)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _WithHeld:
    """A penalty of all fixed effects as one of those that are free."""

    penalty: Any
    values: Any  # (p,)  the held ones, zero elsewhere
    places: Any  # (free,)  where the free ones stand

    def __call__(self, beta: Array) -> Array:
        return self.penalty(self.values.at[self.places].set(beta))


def fixed_penalty(design: Design, penalty: Any) -> Any:
    """``fe_pen`` as a pytree that is called with the fixed effects that are free."""
    if penalty is None:
        return None
    p = design.exog.shape[1]
    made = _as_pytree(penalty, "fe_pen", (p,))
    if design.held is None:
        return made
    held, free = jnp.asarray(np.nan_to_num(design.held)), np.flatnonzero(np.isnan(design.held))
    return _WithHeld(penalty=made, values=held, places=jnp.asarray(free))


def covariance_penalty(design: Design, penalty: Any) -> Any:
    """``cov_pen`` as a pytree that is called with the relative ``cov_re``."""
    k = sum(design.correlated_sizes)
    return None if penalty is None else _as_pytree(penalty, "cov_pen", (k, k))


def _as_pytree(penalty: Any, what: str, shape: tuple[int, ...]) -> Any:
    """A penalty as a pytree, so that compiled programs can be shared between calls."""
    function(penalty, what)
    if hasattr(penalty, "check"):
        penalty.check()
    leaves = jax.tree.leaves([penalty])
    opaque = len(leaves) == 1 and leaves[0] is penalty
    try:
        at = jax.ShapeDtypeStruct(shape, np.dtype(np.float64))
        if opaque:
            out = jax.eval_shape(lambda x: penalty(x), at)
        else:  # its numbers will be arguments of the program
            out = jax.eval_shape(lambda called, x: called(x), penalty, at)
    except Exception as error:  # whatever the caller's function may raise
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(
            f"{what} cannot be called with a JAX array of shape {shape} ({said}): see "
            "lmm_jax.penalties"
        ) from error
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise DataError(f"{what} gives {out}: one real number is needed, the penalty")
    return spelled(penalty, shape) if opaque else penalty


def start_theta(design: Design, start: Params) -> Array:
    """Start values in the layout's theta."""
    layout = design.compressed.layout
    with np.errstate(all="ignore"):  # of a covariance of zero
        theta = theta_of(covariance_blocks(start, layout), layout)
    candidates = layout.start_candidates()
    if design.residual is None or candidates is None:
        return theta
    return jnp.append(theta, candidates[len(candidates) // 2][theta.size :])


def held_covariances(design: Design, start: Params | None) -> tuple[Any, ...]:
    """Relative covariance of every term at the start values (identity if there are none)."""
    if start is None:
        return tuple(np.eye(k) for k in design.sizes)
    return covariance_blocks(jax.tree.map(np.asarray, start), design.compressed.layout)


def start_points(design: Design, problem: Problem, start: Params | None) -> np.ndarray:
    """Starts in the coordinates of a constrained or penalized problem, (K, d).

    Without start values a few common scales of the covariances. NumPy: nothing is compiled.
    """
    layout = jax.tree.map(np.asarray, design.compressed.of_fit)
    if start is None:
        scales = column_scales(layout)
        starts: list[Any] = [
            tuple(np.diag((relative * scale) ** 2) for scale in scales)
            for relative in np.geomspace(0.03, 30.0, 7)
        ]
    else:
        starts = [problem.held]
    beta = _start_beta(design, problem, start, layout)
    with np.errstate(all="ignore"):  # of a covariance of zero
        entries = [free_entries(blocks, layout, problem.masks) for blocks in starts]
    return np.stack([np.concatenate([beta, x]) for x in entries])


def _start_beta(design: Design, problem: Problem, start: Params | None, layout: Layout) -> Any:
    """Explicit fixed effects of the start: as given, or zero in the layout (the OLS fit)."""
    if problem.fe_pen is None:
        return np.zeros(0)
    if start is None or start.fe_params.size == 0:
        return np.zeros(layout.beta_origin.size)
    beta: Any = np.asarray(start.fe_params)
    return inner_beta(beta if design.held is None else beta[np.isnan(design.held)], layout)


def read_problem(
    model: Design,
    free: Params | None,
    start: Params | None,
    fe_pen: Callable[[Any], Any] | None,
    cov_pen: Callable[[Any], Any] | None,
) -> Problem | None:
    """The criterion with what is held and penalized; None for the plain one."""
    masks = covariance_masks(model, free)
    if masks is None and fe_pen is None and cov_pen is None:
        return None
    require(model, "fit with cov_re held or a penalty")
    return Problem(
        layout=model.compressed.merged,
        held=held_covariances(model, start),
        fe_pen=fixed_penalty(model, fe_pen),
        cov_pen=covariance_penalty(model, cov_pen),
        masks=masks,
    )
