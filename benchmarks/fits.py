"""One function per Python system and interface: prepared data in, a call to be timed out.

A call ends with standard errors of the fixed effects ("arrays") or with the printed summary
("frame"), and hands back what was reached. Imports and conversions into the system's own
frame or codes are done before the clock starts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from exchange import read_about, read_arrays, read_columns, read_frame

# Rows of crossed factors from which this library is left to choose its runtime.
_LARGE = 10_000


class Outcome(NamedTuple):
    criterion: float  # -2 log-likelihood, restricted unless method says "ML"
    converged: bool
    method: str = "REML"
    iterations: int | None = None


class Prepared(NamedTuple):
    call: Callable[[], Outcome]
    input_bytes: int


def _single(about: dict[str, Any]) -> tuple[str, str | None]:
    """Grouping column and formula of the random coefficients of the first term."""
    term = about["terms"][0]
    slopes = " + ".join(term["slopes"])
    return term["factor"][0], f"~ {slopes}" if slopes else None


def _frame_bytes(frame: Any) -> int:
    return int(frame.memory_usage(index=False).sum())


def _size(arrays: dict[str, np.ndarray]) -> int:
    """Bytes of the arrays; Z repeats columns of X, so that it is counted once."""
    return sum(a.nbytes for name, a in arrays.items() if name != "Z")


def ours_arrays(folder: Path) -> Prepared:
    import lmm_jax as lmm

    data, about = read_arrays(folder), read_about(folder)
    groups, Z = data["groups"][:, 0].copy(), data["Z"]
    components = _indicators(data["groups"][:, 1:], about["terms"][1:]) or None

    def call() -> Outcome:
        design = lmm.design_from_arrays(data["y"], data["X"], groups, exog_re=Z, exog_vc=components)
        result = lmm.fit(design, runtime="jax")
        result.bse_fe.to_numpy()
        return Outcome(-2 * result.llf, bool(result.converged), "REML", int(result.n_iter))

    return Prepared(call, _size(data))


def _indicators(codes: np.ndarray, terms: list[dict[str, Any]]) -> dict[str, Any]:
    """Variance components of nested factors: a sparse column for each level."""
    from scipy.sparse import csr_array

    n = len(codes)
    return {
        "_".join(term["factor"]): csr_array((np.ones(n), column, np.arange(n + 1)))
        for column, term in zip(codes.T, terms, strict=True)
    }


def ours_frame(folder: Path) -> Prepared:
    import lmm_jax as lmm

    about, frame = read_about(folder), read_frame(folder)
    formula = about["formula"]
    # large crossed factors: no program is faster on a CPU, and sparse ones have none
    left_alone = about["structure"] == "crossed" and len(frame) >= _LARGE
    runtime = "auto" if left_alone else "jax"

    def call() -> Outcome:
        result = lmm.fit(formula, frame, runtime=runtime)
        str(result.summary())
        return Outcome(-2 * result.llf, bool(result.converged), "REML", int(result.n_iter))

    return Prepared(call, _frame_bytes(frame))


def ours_ml(folder: Path) -> float:
    """-2 log-likelihood at the unrestricted maximum: the measure of systems without REML."""
    import lmm_jax as lmm

    return -2 * lmm.fit(read_about(folder)["formula"], read_frame(folder), reml=False).llf


def _marginal_arrays(folder: Path, model: Any) -> Prepared:
    """Arrays in the interface that statsmodels and mixedlm-rs share."""
    data = read_arrays(folder)
    groups, Z = data["groups"][:, 0].copy(), data["Z"]

    def call() -> Outcome:
        result = model(data["y"], data["X"], groups=groups, exog_re=Z).fit(reml=True)
        np.asarray(result.bse_fe)
        return Outcome(-2 * float(result.llf), bool(result.converged))

    return Prepared(call, _size(data))


def _marginal_frame(folder: Path, model: Any) -> Prepared:
    """Formula and frame in the interface that statsmodels and mixedlm-rs share.

    A nested factor is a variance component; crossed ones are components of one group.
    """
    frame, about = read_frame(folder), read_about(folder)
    group, re_formula = _single(about)
    more: dict[str, Any] = {"groups": group, "re_formula": re_formula}
    terms = about["terms"] if about["structure"] == "crossed" else about["terms"][1:]
    if terms:
        more["vc_formula"] = {
            "_".join(t["factor"]): "0 + " + ":".join(f"C({name})" for name in t["factor"])
            for t in terms
        }
    if about["structure"] == "crossed":
        more |= {"groups": np.ones(len(frame)), "re_formula": None}

    def call() -> Outcome:
        result = model.from_formula(about["fixed_formula"], frame, **more).fit(reml=True)
        str(result.summary())
        return Outcome(-2 * float(result.llf), bool(result.converged))

    return Prepared(call, _frame_bytes(frame))


def statsmodels_arrays(folder: Path) -> Prepared:
    from statsmodels.regression.mixed_linear_model import MixedLM

    return _marginal_arrays(folder, MixedLM)


def statsmodels_frame(folder: Path) -> Prepared:
    from statsmodels.regression.mixed_linear_model import MixedLM

    return _marginal_frame(folder, MixedLM)


def mixedlm_rs_arrays(folder: Path) -> Prepared:
    from mixedlm_rs import MixedLM

    return _marginal_arrays(folder, MixedLM)


def mixedlm_rs_frame(folder: Path) -> Prepared:
    from mixedlm_rs import MixedLM

    return _marginal_frame(folder, MixedLM)


def mixedlm_frame(folder: Path) -> Prepared:
    import mixedlm

    frame, formula = read_frame(folder), read_about(folder)["formula"]

    def call() -> Outcome:
        result = mixedlm.lmer(formula, frame)
        str(result.summary())
        return Outcome(float(result.REMLcrit()), bool(result.converged))

    return Prepared(call, _frame_bytes(frame))


def lme_python_frame(folder: Path) -> Prepared:
    import lme_python
    import polars

    formula = read_about(folder)["formula"]
    columns = {
        name: values.tolist() if values.dtype == object else values
        for name, values in read_columns(folder).items()
    }
    frame = polars.DataFrame(columns)  # the frame it reads without conversion

    def call() -> Outcome:
        result = lme_python.lmer(formula, data=frame, reml=True)
        result.summary()
        return Outcome(float(result.reml_criterion), bool(result.converged))

    return Prepared(call, int(frame.estimated_size()))


def gpboost_arrays(folder: Path) -> Prepared:
    import gpboost

    data = read_arrays(folder)

    def call() -> Outcome:
        model = gpboost.GPModel(group_data=data["groups"], likelihood="gaussian")
        model.fit(y=data["y"], X=data["X"])
        model.get_coef(std_err=True)
        criterion = 2 * float(model.get_current_neg_log_likelihood())
        # what its own summary() consults before it warns that the fit did not converge
        return Outcome(criterion, model._get_convergence_status() == 0, "ML")

    return Prepared(call, _size(data))


FITS: dict[str, Callable[[Path], Prepared]] = {
    "lmm_jax-arrays": ours_arrays,
    "lmm_jax-frame": ours_frame,
    "statsmodels-arrays": statsmodels_arrays,
    "statsmodels-frame": statsmodels_frame,
    "mixedlm-rs-arrays": mixedlm_rs_arrays,
    "mixedlm-rs-frame": mixedlm_rs_frame,
    "mixedlm-frame": mixedlm_frame,
    "lme-python-frame": lme_python_frame,
    "gpboost-arrays": gpboost_arrays,
}
