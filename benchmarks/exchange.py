"""A problem in a folder: raw columns that Python and R read in the same way.

``problem.json`` describes the model and ``model.txt`` says it in R's spelling; ``columns.txt``
lists the columns of the frame (name and kind, one a line), ``NAME.bin`` holds a column and
``NAME.levels`` the strings of a factor; ``array-NAME.bin`` holds an array.
Factors are integers or strings for Python and factors for R: what their users have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def write_problem(
    folder: Path,
    frame: pd.DataFrame,
    arrays: dict[str, np.ndarray],
    factors: set[str],
    about: dict[str, Any],
) -> None:
    """Write frame, arrays and description."""
    kinds = {name: _write_column(folder, frame[name], name in factors) for name in frame}
    lines = [f"{name} {kind}\n" for name, kind in kinds.items()]
    (folder / "columns.txt").write_text("".join(lines), encoding="utf-8")
    shapes = {}
    for name, array in arrays.items():
        array.tofile(folder / f"array-{name}.bin")
        shapes[name] = [str(array.dtype), *array.shape]
    about = {**about, "kinds": kinds, "arrays": shapes}
    model = [about["formula"], about["fixed_formula"]]
    for term in about["terms"]:
        coefficients = " + ".join(("1", *term["slopes"]))
        model.append(f"{':'.join(term['factor'])}\t~ {coefficients}")
    (folder / "model.txt").write_text("\n".join(model) + "\n", encoding="utf-8")
    (folder / "problem.json").write_text(json.dumps(about), encoding="utf-8")


def _write_column(folder: Path, column: pd.Series[Any], is_factor: bool) -> str:
    """Store one column and return its kind: double, integer, group or string."""
    path = folder / f"{column.name}.bin"
    if pd.api.types.is_float_dtype(column.dtype):
        column.to_numpy(dtype=np.float64).tofile(path)
        return "double"
    if pd.api.types.is_integer_dtype(column.dtype) and not is_factor:
        column.to_numpy(dtype=np.int32).tofile(path)
        return "integer"
    codes, levels = pd.factorize(column, sort=True)
    codes.astype(np.int32).tofile(path)
    text = "".join(f"{level}\n" for level in levels)
    (folder / f"{column.name}.levels").write_text(text, encoding="utf-8")
    return "group" if pd.api.types.is_integer_dtype(column.dtype) else "string"


def read_about(folder: Path) -> dict[str, Any]:
    """Read the description of the problem."""
    return json.loads((folder / "problem.json").read_text(encoding="utf-8"))


def read_columns(folder: Path) -> dict[str, np.ndarray]:
    """Columns of the frame as arrays; strings as objects."""
    columns = {}
    for name, kind in read_about(folder)["kinds"].items():
        dtype = np.float64 if kind == "double" else np.int32
        values = np.fromfile(folder / f"{name}.bin", dtype=dtype)
        if kind in ("group", "string"):
            levels = (folder / f"{name}.levels").read_text(encoding="utf-8").splitlines()
            labels = np.array(levels, dtype=np.int64 if kind == "group" else object)
            columns[name] = labels[values]
        else:
            columns[name] = values if kind == "double" else values.astype(np.int64)
    return columns


def read_frame(folder: Path) -> pd.DataFrame:
    """Read the data frame."""
    return pd.DataFrame(read_columns(folder))


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Read ``y``, ``X``, ``groups`` and ``Z``."""
    found = {}
    for name, (dtype, *shape) in read_about(folder)["arrays"].items():
        found[name] = np.fromfile(folder / f"array-{name}.bin", dtype=dtype).reshape(shape)
    return found
