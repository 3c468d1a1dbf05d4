"""Draws of new responses from a fitted model or from given parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..capabilities import require
from ..covariance.params import Params, check_blocks, check_covariance, check_shapes
from ..covariance.residuals import ResidualStructure, arms_of
from ..designs.design import Design
from ..designs.labels import TermLabel, term_labels
from ..designs.related import related_draws
from ..designs.residual import residual_label
from ..errors import DataError
from ..inference.residuals.rows import noise_draws
from ..inputs.arguments import flag, generator, hinted, instance, number, numbers, whole_number
from ..numerics.memory import check_room
from ..results.lmm import LMMResults

# Numbers of the responses that are held at once (32 MiB).
_CHUNK = 1 << 22


@hinted
def simulate(
    model: LMMResults | Params,
    design: Design | LMMResults | None = None,
    *,
    seed: int | np.random.Generator,
    n: int = 1,
    scale: float | None = None,
    conditional: bool = False,
) -> pd.DataFrame:
    """Draw responses from a linear mixed model.

        y = offset + X beta + Z b + e     b ~ N(0, cov_re)     e ~ N(0, scale / w)

    Residuals with a covariance of their own are drawn with it, subject by subject.

    Parameters
    ----------
    model : LMMResults or Params
        A fit, or parameters with variances in the units of the data (those of
        ``LMMResults.cov_re`` and ``vcomp``); they may be singular. The terms of a fit are found
        by name, and so are those of ``Params.from_components(cov_re={"g": 1.0})``; without names
        they stand in the order of the design. A residual covariance needs a fit.
    design : Design or LMMResults, optional
        Where the rows come from; a fit's own design if not given.
    seed : int or numpy.random.Generator
    n : int
        Number of draws.
    scale : float, optional
        Residual variance; for ``Params`` only, which do not hold it, and a design that does not
        know it by ``sigma=``.
    conditional : bool
        Keep the random effects at their conditional means (BLUPs) instead of
        drawing them. For a fit and its own rows.

    Returns
    -------
    pandas.DataFrame, shape (rows, n)
        On the index of the design, a column a draw.

    Raises
    ------
    DataError
        Parameters that do not fit the design, or that are no covariance.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> y = simulate(res, seed=1, n=1000)
    >>> y.shape
    (180, 1000)
    >>> bool(abs(y.loc[0].mean() - res.fe_params["Intercept"]) < 4)
    True
    """
    n, rng = whole_number(n, "n", least=1), generator(seed)
    conditional = flag(conditional, "conditional")
    instance(model, "model", (LMMResults, Params), "a result of lmm.fit or a Params")
    target = _design_of(model, design)
    check_room(n, target.nobs, "draws")
    require(target, "simulate")
    if target.residual is not None:
        target.residual.check_settled()
    if conditional:
        if not isinstance(model, LMMResults) or target is not model.design:
            raise DataError("conditional=True needs a fit and its own rows: BLUPs belong to data")
        mean, factors = model.fittedvalues.to_numpy(), None
    else:
        mean, factors = _fixed_part(model, target), _factors(model, target)
    variance = residual_variance(model, scale, target)
    values = mean[:, None] + _noise(model, target, variance, n, rng)
    if factors is not None:
        values += draw_random_part(target, factors, n, rng)
    return pd.DataFrame(values, index=target.index)


def draws_in_chunks(
    res: LMMResults, n: int, rng: np.random.Generator, *, conditional: bool = False
) -> Iterator[np.ndarray]:
    """The draws of :func:`simulate`, (rows, some of n) at a time."""
    step = max(1, _CHUNK // res.nobs)
    for start in range(0, n, step):
        some = min(step, n - start)
        yield simulate(res, seed=rng, n=some, conditional=conditional).to_numpy()


def draw_random_part(
    design: Design, factors: Sequence[np.ndarray], n: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws of ``Z b``, (rows, n).

    Parameters
    ----------
    design : Design
    factors : sequence of ndarray, shape (k, k)
        ``F`` with ``F F'`` the covariance of a level's effects, in data units.
    n : int
    rng : numpy.random.Generator
    """
    total = np.zeros((design.nobs, n))
    for term, factor, root in zip(design.terms, factors, design.related_roots, strict=True):
        k = len(factor)
        z = rng.standard_normal((term.n_levels, k, n))
        if root is not None:
            z = related_draws(term, root, z)
        b = np.einsum("ab,lbn->lan", factor, z).reshape(term.n_levels * k, n)
        total += term.columns() @ b
    return total


def covariance_factor(covariance: np.ndarray) -> np.ndarray:
    """A square root F of a covariance, ``F F' = S``; S may be singular."""
    e, V = np.linalg.eigh(check_covariance(covariance, "covariance"))
    return V * np.sqrt(np.maximum(e, 0.0))


def _noise(
    model: LMMResults | Params, design: Design, scale: float, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws of the residuals, (rows, n)."""
    if design.residual is not None:
        return np.sqrt(scale) * noise_draws(design, residual_truth(model, design), n, rng)
    residual_truth(model, design)  # refuses a fit that has one
    return np.sqrt(scale / design.row_weights)[:, None] * rng.standard_normal((design.nobs, n))


def residual_truth(model: LMMResults | Params, design: Design) -> list[np.ndarray]:
    """Residual parameters of a fit in the coordinates of a design, (m_a,) an arm; none without.

    Raises
    ------
    DataError
        The design has another residual covariance than the fit; one that ``Params`` do not hold.
    """
    wanted = residual_label(design.residual, design.structures)
    if design.residual is None or wanted is None:
        if isinstance(model, LMMResults) and model.residual is not None:
            raise DataError(
                f"the fit has the residual covariance {model.residual}, and the design has none: "
                "make the design from the formula of the fit"
            )
        return []
    if isinstance(model, Params):
        raise DataError(
            f"Params hold no residual covariance, and the design has {wanted}: pass a fit, "
            "lmm.fit(...), of that model"
        )
    own = model.residual
    arms = [] if own is None else arms_of(own.theta_structures)
    same = own is not None and (own.visits, own.strata) == (wanted.visits, wanted.strata)
    if not same or [_kind_of(s) for s, _ in arms] != [
        _kind_of(s) for s in design.residual.structures
    ]:
        raise DataError(
            f"the design has the residual covariance {wanted}, which is not that of the fit "
            f"({own}) with the same visits, arms and strata"
        )
    thetas = [
        new.of_other(model.estimates.theta_layout[at], old)
        for new, (old, at) in zip(design.residual.structures, arms, strict=True)
    ]
    if not all(np.isfinite(theta).all() for theta in thetas):
        raise DataError(
            f"the correlation of {own} is negative, and subjects of as many rows as the design has "
            "cannot have it"
        )
    return thetas


def _kind_of(structure: ResidualStructure) -> tuple[Any, ...]:
    """What two residual covariances have in common whose parameters mean the same."""
    C = structure.correlation
    return type(C), C.levels, getattr(C, "nugget", False), structure.spread, structure.arm


def _design_of(model: LMMResults | Params, design: Any) -> Design:
    """The design to draw for."""
    if design is None and isinstance(model, LMMResults):
        design = model
    found = design.design if isinstance(design, LMMResults) else design
    if found is None:
        raise DataError("there are no rows to draw for: pass design=, a Design or a fit with data")
    return instance(found, "design", Design, "a Design (lmm.design) or a fit with its data")


def true_beta(model: LMMResults | Params, design: Design, what: str) -> np.ndarray:
    """Fixed effects to draw with, (p,)."""
    if isinstance(model, LMMResults):
        if model.fixed_names != design.exog_names:
            raise DataError(
                f"the fit has the coefficients {list(model.fixed_names)}, the design the columns "
                f"{list(design.exog_names)}"
            )
        return model.estimates.beta
    read = _read_truth(model, design, what)
    return numbers(read.fe_params, f"{what}.fe_params")


def _fixed_part(model: LMMResults | Params, design: Design) -> np.ndarray:
    """``offset + X beta``, (rows,)."""
    mean = design.exog @ true_beta(model, design, "model")
    return mean if design.offset is None else mean + design.offset


def _read_truth(params: Params, design: Design, what: str) -> Params:
    """Parameters of the shapes that the design needs."""
    sizes = design.correlated_sizes
    read = check_shapes(
        design.ordered(params), sizes, design.exog.shape[1], design.n_components, what
    )
    return check_blocks(read, sizes, what)


def _factors(model: LMMResults | Params, design: Design) -> list[np.ndarray]:
    """Square root of every term's covariance in data units."""
    return [covariance_factor(S) for S in term_covariances(model, design, "model")]


def term_covariances(model: LMMResults | Params, design: Design, what: str) -> list[np.ndarray]:
    """Covariance of every term of the design in data units, (k, k).

    Which term comes first depends on the numbers of levels, so that the same formula has other
    orders in other data: the terms of a fit are found by their names.
    """
    if isinstance(model, Params):
        return _blocks(model, design, what)
    wanted = _term_names(term_labels(design.terms))
    names, found = _term_names(model.term_labels), list(model.estimates.covariances)
    if sorted(names) != sorted(wanted):
        raise DataError(f"the fit has the random effects {names}, the design {wanted}")
    return [found[names.index(name)] for name in wanted]


def _term_names(labels: Sequence[TermLabel]) -> list[tuple[str, tuple[str, ...]]]:
    return [(label.group, tuple(label.names)) for label in labels]


def _blocks(params: Params, design: Design, what: str) -> list[np.ndarray]:
    """Diagonal blocks of ``cov_re``, then the components, in the order of the design."""
    read = _read_truth(params, design, what)
    cov_re, vcomp = np.asarray(read.cov_re), np.asarray(read.vcomp)
    blocks, start = [], 0
    for size in design.correlated_sizes:
        blocks.append(cov_re[start : start + size, start : start + size])
        start += size
    return blocks + [v.reshape(1, 1) for v in vcomp]


def residual_variance(model: LMMResults | Params, scale: Any, design: Design) -> float:
    """Residual variance: of a fit, of the design if it knows it, or as given."""
    if isinstance(model, LMMResults):
        if scale is not None:
            raise DataError("scale= goes with Params: a fit has its own residual variance")
        return model.scale
    if design.sigma is not None:
        if scale is not None:
            raise DataError(f"scale= beside a design with sigma={design.sigma:g}: leave it out")
        return design.sigma * design.sigma
    if scale is None:
        raise DataError("scale=None: pass the residual variance with Params")
    return number(scale, "scale (the residual variance)", least=0.0)
