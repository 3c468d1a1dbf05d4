"""The reference cases of ``tests/data`` (linear mixed models fitted by an R script)."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from helpers import Array, Term

import lmm_jax as lmm

ROOT = Path(__file__).parent
Case = dict[str, Any]
# Cases of fits, and those with the tables of inference on top of a fit.
FITS, INFERENCE = ROOT / "data" / "cases", ROOT / "data" / "inference" / "cases"


@cache
def load(name: str) -> Case:
    """One case; shared by all callers, so nobody writes to it."""
    found = next(path for path in (FITS, INFERENCE) if (path / f"{name}.json").is_file())
    return json.loads((found / f"{name}.json").read_text(encoding="utf-8"))


def names(keep: Callable[[Case], bool] = lambda case: True, folder: Path = FITS) -> list[str]:
    """Names of the cases that satisfy a condition, in alphabetical order."""
    stems = sorted(path.stem for path in folder.glob("*.json"))
    return [stem for stem in stems if keep(load(stem))]


def frame(case: Case) -> pd.DataFrame:
    """All rows of the data set, missing values included; the index is R's row number less 1."""
    columns = case["data"]["columns"]
    data = _read(case["data"]["file"], columns)
    for column, spec in columns.items():
        if spec["type"] == "factor" and spec.get("levels"):
            data[column] = pd.Categorical(data[column], categories=spec["levels"])
    return data


def newdata(case: Case) -> pd.DataFrame:
    """Rows to predict; a factor that holds a label unknown to the fit stays a string."""
    columns = case["data"]["columns"]
    data = _read(case["predict"]["newdata"], columns)
    for column in data.columns:
        levels = columns[column].get("levels")
        if levels and set(data[column]) <= set(levels):
            data[column] = pd.Categorical(data[column], categories=levels)
    return data


def _read(file: str, columns: dict[str, Any]) -> pd.DataFrame:
    labels = {name: str for name, spec in columns.items() if spec["type"] in ("factor", "string")}
    places = (folder / Path(file).name for folder in (ROOT / "data", INFERENCE.parent / "data"))
    at = next(place for place in places if place.is_file())
    return pd.read_csv(at, dtype=labels, keep_default_na=False, na_values=[""])


def used(case: Case) -> pd.DataFrame:
    """The rows that enter the fit."""
    return frame(case).drop(index=np.array(case["data"]["rows_dropped_na"], dtype=int) - 1)


@cache
def inference_fit(name: str, **options: Any) -> lmm.LMMResults:
    """The fit of a case of inference, by the library."""
    case = load(name)
    options = {"reml": case["model"]["REML"], "weights": case["model"]["weights"], **options}
    return lmm.fit(formula(case), frame(case), **options)


@cache
def supported(name: str) -> str:
    """``"nested"`` if the factor with fewest levels contains all others, else ``"crossed"``."""
    labels = [term.groups for term in design_columns(load(name))[1]]
    outer = min(labels, key=lambda g: len(np.unique(g)))
    return "nested" if all(_is_nested(inner, outer) for inner in labels) else "crossed"


def _is_nested(inner: np.ndarray, outer: np.ndarray) -> bool:
    pairs = pd.DataFrame({"inner": inner, "outer": outer}).drop_duplicates()
    return not pairs["inner"].duplicated().any()


def formula(case: Case) -> str:
    """lme4's formula, with a case's contrasts written into it."""
    text = case["model"]["formula"]
    for factor, contrast in (case["model"]["contrasts"] or {}).items():
        left, bar, right = text.partition("(")  # the fixed part stands before the first bar term
        text = left.replace(factor, f"C({factor}, {contrast})") + bar + right
    return text


def design_columns(case: Case) -> tuple[Array, list[Term]]:
    """X, (n, p), and the random terms, built from the products of columns in the case."""
    data = used(case)
    X = _matrix(data, case["model"]["fixed_columns"])
    terms = [
        Term(_matrix(data, term["columns"]), group_labels(data, term["group"]))
        for term in case["model"]["random_terms"]
    ]
    return X, terms


def group_labels(data: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """Labels of a grouping factor, those of an interaction joined by ``:``."""
    return np.array([":".join(map(str, row)) for row in data[columns].itertuples(index=False)])


def _matrix(data: pd.DataFrame, columns: list[dict[str, Any]]) -> Array:
    return np.column_stack([_column(data, column["product"]) for column in columns])


def _column(data: pd.DataFrame, product: list[dict[str, Any]]) -> Array:
    out = np.ones(len(data))
    for factor in product:
        out = out * _factor(data[factor["var"]], factor)
    return out


def _factor(values: pd.Series, factor: dict[str, Any]) -> Array:
    if "level" in factor:
        return (values.astype(str) == factor["level"]).to_numpy(float)
    if "coding" in factor:
        return values.astype(str).map(factor["coding"]).to_numpy(float)
    return values.to_numpy(float) ** factor.get("power", 1)


def response(case: Case) -> Array:
    """y less the constant that the reference fit left out (``data.y_shift_used_in_fit``)."""
    y = used(case)[case["model"]["response"]].to_numpy(float)
    return y - case["data"]["y_shift_used_in_fit"]


def column_or_none(case: Case, role: str) -> Array | None:
    """Prior weights (``role = "weights"``) or offset of the rows used."""
    column = case["model"][role]
    return None if column is None else used(case)[column].to_numpy(float)


def coefficient_scales(case: Case) -> list[Array]:
    """Natural scale of each term's coefficients, (k,): sigma over the column's root mean square.

    A change of this size in a coefficient moves y by about sigma, in whatever units the column is.
    """
    terms = design_columns(case)[1]
    return [case["sigma"] / np.sqrt(np.mean(term.Z**2, axis=0)) for term in terms]
