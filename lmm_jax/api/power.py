"""``power``: power of a test of fixed effects by simulation. Orchestration only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from ..batches.streams import Stream
from ..capabilities import require
from ..covariance.params import Params, check_covariance
from ..designs.design import Design
from ..designs.fixed_terms import term_coefficients
from ..designs.labels import term_labels
from ..errors import DataError
from ..inference.contrasts.lane_tests import lane_pvalues
from ..inference.df.methods import read_df_method
from ..inference.hypotheses import Restriction, read_restriction
from ..inference.replicates import replicate_estimates
from ..inputs.arguments import (
    choice,
    flag,
    hinted,
    instance,
    items,
    numbers,
    probability,
    shown,
    whole_number,
)
from ..inputs.arguments import seed as read_seed
from ..layouts.matrix_free.layout import MatrixFreeLayout
from ..layouts.sparse.layout import SparseLayout
from ..likelihood.coordinates import theta_of
from ..numerics.processes import float64
from ..numerics.progress import progress_bar
from ..optimize.newton import CONVERGED
from ..results.lmm import LMMResults
from ..tables.page import table
from .options import DF_METHODS
from .simulate import residual_truth, residual_variance, term_covariances, true_beta

# Confidence of the interval for a power.
_CONFIDENCE = 0.95


@hinted
def power(
    design: Design | Sequence[Design] | Callable[[Any], Design],
    params: Params | LMMResults,
    n_sim: int = 1000,
    *,
    test: Any,
    seed: int,
    scale: float | None = None,
    effects: Iterable[float] | None = None,
    sizes: Iterable[Any] | None = None,
    alpha: float = 0.05,
    df_method: str = "satterthwaite",
    reml: bool = True,
    progress: bool = False,
) -> pd.DataFrame:
    """Power of a test of fixed effects: simulate, fit, test, count.

    For every size responses are drawn and fitted once; all effects are tested in the same
    fits, since an estimate moves along with its true value and nothing else of a fit does.

    Parameters
    ----------
    design : Design, sequence of Design, or callable
        What will be observed; the response of a design is a placeholder, any numbers that vary.
        Several designs give a grid of sizes, a callable makes one from each of ``sizes``.
    params : Params or LMMResults
        True parameters with variances in the units of the data, as :func:`lmm_jax.simulate`
        takes them. Covariances by name, ``Params.from_components(cov_re={"g": 1.0})``, are found
        in every design; without names they have the order of its terms, those of most levels
        first, which must be one for all designs. A design with a residual covariance needs a fit.
    n_sim : int
        Simulated data sets a size.
    test : str or array
        Name of a coefficient, or of a term, whose coefficients are tested together, an equation
        such as ``"x1 = x2"``, a contrast of shape (p,), or a matrix of shape (r, p) whose rows are
        tested together by an F test.
    seed : int
    scale : float, optional
        Residual variance, with ``Params``, of a design that does not know it by ``sigma=``.
    effects : sequence of float, optional
        True values of the coefficient (of the contrast) to look at; that of ``params`` if not
        given.
    sizes : sequence, optional
        Arguments for ``design`` where that is a callable.
    alpha : float
        Level of the test.
    df_method : {"satterthwaite", "normal"}
        t and F tests with Satterthwaite's degrees of freedom, or z and chi-square tests.
    reml : bool
    progress : bool
        Show a progress bar over the sizes, if tqdm is installed.

    Returns
    -------
    pandas.DataFrame
        A row for every size and effect: ``effect``, ``size`` (as given, or the number of
        groups), ``n_obs``, ``power``, its Monte-Carlo standard error ``mc_error``, an exact 95 %
        interval ``conf_low``, ``conf_high``, and ``n_failed``, the fits that did not converge
        and are left out.

    Raises
    ------
    DataError
        Designs and parameters that do not fit each other, covariances without names for designs
        with other orders of their terms, or crossed factors too large for batches.

    References
    ----------
    Green & MacLeod (2016), SIMR, doi:10.1111/2041-210X.12504.

    Examples
    --------
    >>> import numpy as np, pandas as pd, lmm_jax as lmm
    >>> def trial(groups):
    ...     g, t = np.repeat(np.arange(groups), 6), np.tile(np.arange(6.0), groups)
    ...     data = pd.DataFrame({"y": np.sin(np.arange(g.size)), "t": t, "g": g})
    ...     return lmm.design("y ~ t + (1 | g)", data)
    >>> truth = lmm.Params.from_components(fe_params=[10, 0.3], cov_re=[[1.0]])
    >>> table = lmm.power(trial, truth, 200, scale=4.0, test="t", sizes=[10, 40], seed=1)
    >>> table["size"].tolist(), bool(table["power"].is_monotonic_increasing)
    ([10, 40], True)
    """
    n_sim, seed = whole_number(n_sim, "n_sim", least=2), read_seed(seed)
    alpha, reml = probability(alpha, "alpha"), flag(reml, "reml")
    df_method = choice(read_df_method(df_method), "df_method", DF_METHODS)
    instance(params, "params", (Params, LMMResults), "a Params or a result of lmm.fit")
    rows: list[dict[str, Any]] = []
    progress = flag(progress, "progress")
    cases = _designs(design, sizes)
    _check_order(params, [one for _, one in cases])
    with float64(), progress_bar(len(cases), "size", progress) as tick:
        for i, (size, one) in enumerate(cases):
            case = _case(one, params, scale, test, effects)
            p, failed = _pvalues(case, Stream(seed, (i,)), n_sim, df_method == "normal", reml)
            for effect, values in zip(case.effects, p, strict=True):
                rows.append({"effect": effect, "size": size, "n_obs": one.nobs,
                             **rejection_rate(values, alpha), "n_failed": failed})  # fmt: skip
            tick(1)
    notes = (
        f"{n_sim} simulated data sets a size, tests at the level {alpha:g}, {df_method}",
        f"Limits of level {_CONFIDENCE:g}: of the share in that many data sets",
    )
    return table(pd.DataFrame(rows), "Power by simulation", notes)


def _check_order(params: Params | LMMResults, designs: Sequence[Design]) -> None:
    """Refuse covariances that have a place alone where designs order their terms differently."""
    if isinstance(params, LMMResults) or (params.names and params.names.terms is not None):
        return
    orders = {tuple(at.group for at in term_labels(design.terms)): None for design in designs}
    if len(orders) > 1:
        first, other, *_ = map(list, orders)
        names = ", ".join(f"{name!r}: ..." for name in sorted(first))
        raise DataError(
            f"the designs have their terms in different orders, {first} and {other}: name the "
            f"covariances, lmm.Params.from_components(..., cov_re={{{names}}})"
        )


class _Case(NamedTuple):
    """One design with the truth and the question."""

    design: Design
    theta: np.ndarray  # (m,)  in the layout's coordinates
    scale: float
    restriction: Restriction
    effects: np.ndarray  # (E,)  true value of R beta - q + q, NaN for a joint test
    gaps: np.ndarray  # (E, r)  true R beta - q


def _designs(
    design: Design | Sequence[Design] | Callable[[Any], Design], sizes: Iterable[Any] | None
) -> list[tuple[Any, Design]]:
    """Sizes and their designs."""
    if callable(design):
        called = "design is a function, say by sizes= a list of the sizes to call it for"
        pairs = [(size, require(design(size), "power")) for size in items(sizes, "sizes", called)]
    else:
        several = isinstance(design, Sequence) and not isinstance(design, str)
        every: Any = design if several else [design]
        given = [require(one, "power") for one in every]
        if sizes is not None:
            raise DataError("sizes= goes with a function that makes designs, not with designs")
        pairs = [(one.n_groups, one) for one in given]
    if not pairs:
        raise DataError("there is no design to look at: design or sizes is empty")
    return pairs


def _case(
    design: Design,
    params: Params | LMMResults,
    scale: float | None,
    test: Any,
    effects: Iterable[float] | None,
) -> _Case:
    """Check the parts against each other and bring the truth to the layout's coordinates."""
    variance = residual_variance(params, scale, design)
    if variance <= 0:
        raise DataError(f"scale={variance!r}: a positive residual variance is needed")
    at_data = term_covariances(params, design, "params")
    for S in at_data:
        check_covariance(S, "params")
    relative: list[Any] = [S / variance for S in at_data]
    terms = np.asarray(theta_of(relative, design.compressed.layout))
    theta = np.concatenate([terms, *residual_truth(params, design)])
    beta = true_beta(params, design, "params")
    _check_held(beta, design)
    at = _restriction(test, design)
    gap = at.R @ beta - at.q
    if len(at.R) > 1:
        if effects is not None:
            raise DataError("effects= goes with one coefficient or contrast, not with a matrix: "
                            "give the fixed effects by params")  # fmt: skip
        return _Case(design, theta, variance, at, np.array([np.nan]), gap[None])
    grid = gap + at.q if effects is None else _effects(effects)
    return _Case(design, theta, variance, at, grid, (grid - at.q)[:, None])


def _effects(given: Any) -> np.ndarray:
    """True values of the contrast."""
    values = list(given) if isinstance(given, Iterator) else given
    grid = numbers(values, "effects")
    if grid.ndim != 1 or not grid.size:
        raise DataError(f"effects={shown(given)}: a list of finite numbers is needed")
    return grid


def _restriction(test: Any, design: Design) -> Restriction:
    """Rows of the test over the fixed effects; a coefficient by its name."""
    names = list(design.exog_names)
    if isinstance(test, str) and test in names:
        at = Restriction(np.eye(len(names))[[names.index(test)]], np.zeros(1))
    else:
        at = read_restriction(test, names, terms=term_coefficients(design, names))
    held = np.zeros(len(names), bool) if design.held is None else ~np.isnan(design.held)
    known = ~at.R[:, ~held].any(axis=1)
    if known.any():
        raise DataError(
            f"test={shown(test)}: the design holds {_named(names, held & at.R[known].any(axis=0))} "
            "fixed, so that there is nothing to test: name a coefficient that is free"
        )
    return at


def _check_held(beta: np.ndarray, design: Design) -> None:
    """Refuse a truth that the design holds at another value: its fits would all be wrong."""
    if design.held is None:
        return
    wrong = ~np.isnan(design.held) & (design.held != beta)
    if wrong.any():
        raise DataError(
            f"params gives {_named(design.exog_names, wrong)} other values than those at which "
            "the design holds them fixed: give the same ones"
        )


def _named(names: Sequence[str], which: np.ndarray) -> str:
    return ", ".join(repr(name) for name, there in zip(names, which, strict=True) if there)


def _pvalues(
    case: _Case, stream: Stream, n_sim: int, normal: bool, reml: bool
) -> tuple[np.ndarray, int]:
    """P values of every effect in the fits that converged, (E, R), and how many did not."""
    layout = case.design.compressed.layout
    assert not isinstance(layout, SparseLayout | MatrixFreeLayout)  # a large core, which is refused
    solution, found = replicate_estimates(
        layout, case.theta, case.scale, stream=stream, n=n_sim, reml=bool(reml)
    )
    good = np.asarray(solution.status) == CONVERGED
    held = case.design.held
    restriction = case.restriction
    if held is not None:  # the fits have the free fixed effects only
        restriction = restriction._replace(R=restriction.R[:, np.isnan(held)])
    with np.errstate(all="ignore"):  # of fits that have failed, which are left out
        values = lane_pvalues(restriction, case.gaps, found, normal=normal)[:, good]
    return values, int(np.sum(~good))


def rejection_rate(pvalues: np.ndarray, alpha: float) -> dict[str, float]:
    """Share of p values below alpha with its Monte-Carlo error.

    The interval is Clopper and Pearson's, from quantiles of the beta distribution.
    """
    n, hits = pvalues.size, int(np.sum(pvalues < alpha))
    if n == 0:
        return dict.fromkeys(("power", "mc_error", "conf_low", "conf_high"), float("nan"))
    rate, tail = hits / n, (1 - _CONFIDENCE) / 2
    low = 0.0 if hits == 0 else float(special.betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(special.betaincinv(hits + 1, n - hits, 1 - tail))
    error = float(np.sqrt(rate * (1 - rate) / n))
    return {"power": rate, "mc_error": error, "conf_low": low, "conf_high": high}
