"""``fit_many``: one design and many responses. Orchestration only."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import inf
from typing import Any

import jax
import numpy as np

from ..batches.chunks import program_size, read_ahead, split_chunks
from ..batches.driver import take
from ..batches.lane_criterion import NUMPY_SECONDS, Lanes
from ..batches.lane_minimize import SMALLEST, join_lanes, pick_lanes
from ..batches.lane_rows import LaneRows
from ..capabilities import TABLE, require
from ..covariance.theta import theta_size
from ..designs.design import Design
from ..designs.labels import term_labels
from ..designs.residual import residual_label
from ..designs.responses import Responses, read_model, turned, turned_weights
from ..errors import ConvergenceWarning, DataError, warn_user
from ..inference.contrasts.lane_tests import adjusted_contrasts
from ..inference.df.kenward_roger import KenwardRoger
from ..inference.df.many_adjusted import many_adjusted
from ..inference.many_estimates import ManyEstimates, estimate_lanes, estimate_many
from ..inputs.arguments import choice, flag, hinted, whole_number
from ..numerics.devices import ByDevice
from ..numerics.namespace import NUMPY, namespace
from ..numerics.parts import PART
from ..numerics.processes import float64
from ..numerics.progress import progress_bar
from ..numerics.read_only import read_only
from ..numerics.tiers import RUNTIMES, Tier, compiling, running_on
from ..optimize.newton import DECREMENT_TOL, RUNNING, Solution
from ..results.many import ManyResults
from .one_by_one import Refit, fit_one_by_one
from .options import Options, read_options

# Where lanes run, and how many compilations of a small program those of the lanes take: 4.9 s of
# one parameter, 5.6 of two and 11 of three, where a small one takes 2.1, 2.7 and 3.3.
_LANES, _PROGRAMS = Tier(NUMPY_SECONDS), 3.0
# Of the host, for estimates and what is read ahead. NumPy's calls on a few thousand small matrices
# are too short to be side by side: two threads take as long for all parts as one, 20 on two cores
# nearly twice as long, and 20 on sixteen cores over 20 times.
_THREADS = 2
# Lanes of a batch from which their estimates are made where they are. It takes a program, and NumPy
# a quarter of a second for so many; next to a processor NumPy is as fast.
ESTIMATED_THERE = ByDevice[float](inf, 1 << 16)


@hinted
def fit_many(
    formula: str | Design,
    data: Any = None,
    responses: Any = None,
    *,
    groups: Any = None,
    re_formula: str | None = None,
    vc_formula: Mapping[str, str] | None = None,
    weights: Any = None,
    offset: Any = None,
    reml: bool = True,
    subset: Any = None,
    maxiter: int = 200,
    gtol: float = DECREMENT_TOL,
    df_method: str = "satterthwaite",
    chunk_size: int | None = None,
    progress: bool = False,
    context: Mapping[str, Any] | None = None,
    relatedness: Mapping[str, Any] | None = None,
    residual: str | None = None,
    responses_in: str = "columns",
    runtime: str = "auto",
    sigma: float | None = None,
) -> ManyResults:
    """Fit one linear mixed model to many responses, each with parameters of its own.

    Every response gets the estimates that :func:`lmm_jax.fit` gives it, in a
    small part of the time: what the responses share is computed once, and
    thousands of optimizations go side by side. Models with a covariance structure of a term,
    large crossed factors, and, with a residual covariance, responses that have missing values
    or weights of their own are fitted one response after another.

    Parameters
    ----------
    formula : str or Design
        As in :func:`lmm_jax.fit`; the left side may be left out and is not looked
        at. Or a design, whose response is not looked at.
    data : data frame, mapping of columns, or path of a file
        A frame of pandas, polars, pyarrow or another kind that narwhals reads, lazy frames and
        relations of DuckDB included; or a Parquet, Feather or CSV file. Of all but pandas' no
        more is read than the columns in use.
        With a design: the responses, in the place of ``responses``.
    responses : list of str, or array or DataFrame of shape (n, R)
        Columns of the data, or columns with a row for each row of the data
        (with a design: for each row that it uses). NaN is a missing value: the
        response is fitted to its other rows.
    groups, re_formula, vc_formula, offset, subset, context, relatedness, residual, sigma
        As in :func:`lmm_jax.fit`. Where levels are related, by one random term with one
        coefficient, the rows are rotated once for all responses, which must have no gaps.
    weights : str, array of length n, or array of shape (n, R), optional
        Prior weights: of the rows, or of every observation of every response. Columns of a frame
        belong to the responses of their names, or to all in their order where no name is one.
    reml : bool
        Restricted maximum likelihood or maximum likelihood.
    maxiter, gtol
        As in :func:`lmm_jax.fit`.
    df_method : {"satterthwaite", "kenward-roger", "normal"}
        Degrees of freedom of the tests of fixed effects; "normal" gives z tests. "kenward-roger",
        of fits by REML, adjusts the standard errors as well, response by response.
    chunk_size : int, optional
        Responses that are fitted side by side; by default as many as fit a
        quarter of the free memory, 4,096 at most on a CPU. Results do not depend on it, nor do
        responses that are fitted one after another.
    progress : bool
        Show a progress bar, if tqdm is installed.
    responses_in : {"columns", "rows"}
        "rows": the responses, and weights of every observation, are arrays or frames of shape
        (R, n), a row a response, as tables of genes by samples are.
    runtime : {"auto", "numpy", "jax"}
        Where the lanes run. "auto": in NumPy while that takes less time than to compile programs
        for them, compiled where there are programs, and once NumPy has spent on a model what
        compiling it costs. The two agree to eleven digits. Crossed factors and residual
        covariances have lanes in NumPy alone: "jax" fits their responses one after another.

    Returns
    -------
    ManyResults

    Raises
    ------
    FormulaError, DataError
        Before any computation, with what to change.

    Warns
    -----
    ConvergenceWarning
        Once, with the number of responses that have no maximum or cannot be fitted.

    Examples
    --------
    >>> import numpy as np, lmm_jax as lmm
    >>> data = lmm.load_dataset("sleepstudy")
    >>> noise = np.random.default_rng(1).normal(0, 20, (180, 3))
    >>> Y = data["Reaction"].to_numpy()[:, None] + noise
    >>> many = lmm.fit_many("~ Days + (Days | Subject)", data, Y)
    >>> many.fe_params.shape, bool(many.converged.all())
    ((3, 2), True)
    >>> one = many.select(1)
    >>> bool(abs(one.llf - many.llf[1]) < 1e-8)
    True
    """
    options = read_options(reml, maxiter, gtol, df_method, batches=True)
    progress = flag(progress, "progress")
    runtime = choice(runtime, "runtime", RUNTIMES)
    if chunk_size is not None:
        chunk_size = whole_number(chunk_size, "chunk_size", least=1)
    if choice(responses_in, "responses_in", ("columns", "rows")) == "rows":
        data, responses = turned(formula, data, responses)
        weights = turned_weights(weights)
    design, columns = read_model(
        formula, data, responses, groups=groups, re_formula=re_formula, vc_formula=vc_formula,
        weights=weights, offset=offset, subset=subset, context=context, relatedness=relatedness,
        residual=residual, sigma=sigma,
    )  # fmt: skip
    require(design, "fit_many")
    found, adjusted = _estimates(design, columns, chunk_size, progress, options, runtime)
    _warn(found)
    read_only((found, adjusted))
    return ManyResults(
        response_names=columns.names,
        fixed_names=design.exog_names,
        term_labels=term_labels(design.terms),
        residual=residual_label(design.residual, design.structures),
        reml=options.reml,
        output=design.output,
        df_method=options.df_method,
        adjusted=adjusted,
        source=Refit(design, columns, {**options._asdict(), "runtime": runtime}),
        **found._asdict(),
    )


def _estimates(
    design: Design,
    columns: Responses,
    chunk_size: int | None,
    progress: bool,
    options: Options,
    runtime: str,
) -> tuple[ManyEstimates, KenwardRoger | None]:
    """Estimates of all responses, as their tests want them, and Kenward and Roger's adjustment."""
    adjusts, adjusted = options.df_method == "kenward-roger", None
    if adjusts and not options.reml:
        raise DataError(TABLE["kenward-roger"].refuses["ml"])
    if _has_lanes(design, columns, runtime):
        with running_on(runtime):
            found = _fit_all(design, columns, chunk_size, progress, options)
        if adjusts:
            adjusted = many_adjusted(design, columns, found, progress=progress)
    else:
        if runtime == "jax":
            require(design, "a fit by runtime='jax' or first-order methods")
        found, adjusted = fit_one_by_one(design, columns, progress, options, runtime)
    if adjusted is not None:
        tests = adjusted_contrasts(np.eye(found.fe_params.shape[1]), found, adjusted)
        return found._replace(bse_fe=tests.std_error, df=tests.df), adjusted
    if options.df_method == "normal":
        found = found._replace(df=np.where(np.isnan(found.df), np.nan, np.inf))
    return found, None


def _has_lanes(design: Design, columns: Responses, runtime: str) -> bool:
    """Whether responses go side by side; crossed factors do in NumPy, while they are small."""
    if any(design._is_kind(kind) for kind in ("residual", "structured")):
        return False
    if not design._is_kind("core"):
        return True
    if design.is_related or runtime == "jax":
        return False
    own_rows = not columns.complete().all()
    return design.compressed.layout.gains_by_lanes(own_rows=own_rows)


def _fit_all(
    design: Design,
    columns: Responses,
    chunk_size: int | None,
    progress: bool,
    options: Options,
) -> ManyEstimates:
    """Estimates of all responses, chunk by chunk."""
    whole = columns.complete()
    if design.is_related:
        _check_complete(whole, columns)
    bar = progress_bar(columns.count, "fit", progress)
    with float64(), bar as tick, _workers() as pool:
        rows = LaneRows.of(design)
        how = dict(grid=rows.grid, reml=options.reml, maxiter=options.maxiter, tol=options.gtol)
        run = _Run(rows, how, design.held, pool)
        counts = int(whole.sum()), int((~whole).sum())
        sizes = tuple(map(program_size, counts, (False, True)))
        with _one_runtime(rows, counts, (options.reml, chunk_size, sizes)) as compiled:
            rows = rows.placed() if compiled else rows
            for masked in (False, True):
                which, numbers = np.flatnonzero(whole != masked), rows.numbers(masked)
                how_large: dict[str, Any] = dict(masked=masked, on_host=not compiled)
                chunks = split_chunks(which, numbers, chunk_size, **how_large)
                for i, (chunk, Y) in enumerate(read_ahead(chunks, columns, pool)):
                    lanes = rows.lanes(chunk, Y, columns)
                    lanes = jax.device_put(lanes) if compiled else lanes
                    defer = compiled and len(chunks) > 1 and chunk.size >= 8 * SMALLEST.here()
                    run.minimize(lanes, chunk.which, defer=defer)
                    run.finish(lanes, everything=i + 1 == len(chunks))
                    tick(chunk.which.size)
        return run.joined()


def _one_runtime(
    rows: LaneRows, counts: tuple[int, int], shapes: Hashable
) -> AbstractContextManager[bool]:
    """Context in which lanes stay where they are for; its value is whether they are compiled."""
    if rows.on_host:
        return nullcontext(False)
    price = _PROGRAMS * compiling(theta_size(rows.design.structures))
    return _LANES.one_runtime((rows.key(), shapes), rows.work(*counts), price)


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Threads for the host's part; what still waits for one when a call is interrupted is gone."""
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_complete(whole: np.ndarray, columns: Responses) -> None:
    """Related levels are rotated once, for responses with all rows and the same weights."""
    if whole.all():
        return
    finite = columns.finite()
    gaps = not finite.all()
    name = columns.names[int(np.argmin(finite)) if gaps else 0]
    what = "missing or infinite values" if gaps else "weights of its own"
    raise DataError(
        f"response {name!r} has {what}: where levels are related, "
        "all responses of a call need the same rows and weights. Fit it by lmm.fit, or those with "
        "the same rows together, with subset="
    )


@dataclass(slots=True, eq=False)
class _Run:
    """Estimates so far, and the lanes that were put off until they fill a batch; it grows."""

    rows: LaneRows
    options: dict[str, Any]
    held: np.ndarray | None
    pool: ThreadPoolExecutor  # the host's part of the work, while the device goes on
    parts: list[Future[ManyEstimates]] = field(default_factory=list)
    order: list[np.ndarray] = field(default_factory=list)  # responses of each part
    waiting: list[tuple[Any, np.ndarray]] = field(default_factory=list)  # lanes, responses

    def minimize(self, lanes: Any, which: np.ndarray, *, defer: bool) -> None:
        """Fit a batch; its last few lanes may be put off."""
        best = self.rows.minimize(lanes, defer=defer, **self.options)
        slow = np.flatnonzero(best.status[: which.size] == RUNNING)
        if slow.size:
            self.waiting.append((pick_lanes(lanes, slow), which[slow]))
        done, maps = np.flatnonzero(best.status[: which.size] != RUNNING), self.rows.maps(lanes)
        if self._are_there(maps, best.status.size):
            found = estimate_lanes(best, maps, reml=self.options["reml"])
            self.parts.append(self.pool.submit(_fetched, found, done))
            self.order.append(which[done])
            return
        best, maps = jax.device_get((best, maps))
        for start in range(0, done.size, PART):
            at = done[start : start + PART]
            self.parts.append(self.pool.submit(self._estimates, best, maps, at))
            self.order.append(which[at])

    def _are_there(self, maps: Any, lanes: int) -> bool:
        """Whether the estimates of a batch are made by a program of the device that has it."""
        there = namespace(maps) is not NUMPY and self.held is None
        return there and lanes >= ESTIMATED_THERE.here()

    def _estimates(self, best: Solution, lanes: Lanes, at: np.ndarray) -> ManyEstimates:
        """Estimates of some lanes of a batch."""
        R = best.status.size
        best, lanes = jax.tree.map(
            lambda a: a[..., at] if a.shape[-1:] == (R,) else a, (best, lanes)
        )
        return estimate_many(best, lanes, reml=self.options["reml"], held=self.held)

    def joined(self) -> ManyEstimates:
        """Estimates of all responses in their order."""
        count = sum(at.size for at in self.order)
        out = jax.tree.map(
            lambda a: np.empty((count, *a.shape[1:]), a.dtype), self.parts[0].result()
        )
        for at, part in zip(self.order, self.parts, strict=True):
            for leaf, values in zip(*map(jax.tree.leaves, (out, part.result())), strict=True):
                leaf[at] = values
        return out

    def finish(self, like: Any, *, everything: bool) -> None:
        """Fit the lanes that were put off, if they fill a batch or nothing comes after them."""
        batch = max(like.usable.shape[0] // 8, 1)
        count = sum(which.size for _, which in self.waiting)
        if not count or not (everything or count >= batch):
            return
        which = np.concatenate([which for _, which in self.waiting])
        size = -(-count // batch) * batch
        joined = join_lanes([lanes for lanes, _ in self.waiting], like, size)
        self.waiting.clear()
        for start in range(0, size, batch):
            part = which[start : start + batch]
            if part.size:
                index = np.arange(start, start + batch)
                own = like.S_yy.shape[0]
                lanes = jax.tree.map(
                    lambda a, b, i=index, n=own: b[..., i] if a.shape[-1:] == (n,) else b,
                    like,
                    joined,
                )
                compiled = namespace(like) is not NUMPY
                self.minimize(jax.device_put(lanes) if compiled else lanes, part, defer=False)


def _fetched(found: ManyEstimates, at: np.ndarray) -> ManyEstimates:
    """Estimates of some lanes of a batch, from the device."""
    return take(jax.device_get(found), at, axis=0)


def _warn(found: ManyEstimates) -> None:
    """One warning for all responses that have no maximum."""
    bad = int((~found.converged).sum())
    if not bad:
        return
    void = int(np.isnan(found.scale).sum())
    why = f", {void} of them because they cannot be fitted (NaN in the results)" if void else ""
    warn_user(
        f"{bad} of {found.converged.size} responses did not converge{why}: "
        "see converged; select(i) says more of one",
        ConvergenceWarning,
    )
