"""Text where numbers may be meant: what there is of it, and how it becomes numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..errors import TextWarning, warn_user
from ..inputs.matching import label_shown

# Text of a number, with a decimal point or comma; the share of a factor's levels that makes it
# numbers, and levels with decimals that are too many for doses.
_NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*")
_MOST_NUMBERS, _MANY_DECIMALS = 0.8, 12
_THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(,\d{3})+\s*")  # or three decimals
# Names in an expression.
_NAME = re.compile(r"[^\W\d]\w*")
_COMMAS, _TO_NUMERIC = "pd.read_csv(…, decimal=',')", "pd.to_numeric(…)"
_COERCED = "pd.to_numeric(…, errors='coerce')"


def _is_number(label: Any) -> bool:
    return _NUMBER.fullmatch(str(label)) is not None


def needs_numbers(values: pd.Series[Any], name: str, otherwise: str = "") -> str:
    """What to say of a column of text that is computed with, and could be otherwise."""
    labels = pd.unique(values.dropna()).tolist()
    other = [label for label in labels if not _is_number(label)]
    what = f"{name} is text, {label_shown((other or labels)[0])} for example"
    if len(other) == len(labels):
        return f"{what}: numbers are needed, without units{otherwise}"
    commas = [str(label) for label in labels if _is_number(label) and "," in str(label)]
    return f"{what}: {_reading(commas, bool(other))}"


def _reading(commas: Sequence[str], rest: bool) -> str:
    """How text becomes numbers, of which some have commas, and where some of it is none."""
    how = [_COMMAS] if commas else []
    if commas and all(map(_THOUSANDS.fullmatch, commas)):
        how = [f"{_COMMAS} or thousands=','"]
    if rest:
        how.append(f"{_COERCED}, which makes a missing value of what is no number")
    return " and ".join(how) or _TO_NUMERIC


def text_in(expr: str, columns: Mapping[str, Any]) -> str:
    """What to say of the first column of text that an expression computes with; "" without one."""
    for name in dict.fromkeys(_NAME.findall(expr)):
        values = columns.get(name)
        if isinstance(values, pd.Series) and is_text(_labels(values)):
            factor = f", or a factor, `C({name})` or `C({name}, poly)`"
            return needs_numbers(values, f"`{name}`", factor)
    return ""


def _labels(values: pd.Series[Any]) -> pd.Series[Any]:
    """The labels of a categorical; another column as it is."""
    categories = getattr(values.dtype, "categories", None)
    return values if categories is None else pd.Series(categories)


def is_text(values: pd.Series[Any]) -> bool:
    """Whether a column holds text, as a type of its own or as objects."""
    dtype = values.dtype
    return isinstance(dtype, pd.StringDtype) or (
        dtype.kind == "O" and pd.api.types.infer_dtype(values, skipna=True) == "string"
    )


def are_numbers(levels: Sequence[Any], *, many: bool, measured: bool) -> tuple[bool, str]:
    """Whether labels are numbers that became text, and how to read them as numbers.

    Parameters
    ----------
    levels : sequence
    many : bool
        Whether they are more than half of the rows.
    measured : bool
        Whether more than a dozen of them are numbers with decimals.
    """
    found, decimal = _numbers_among(levels)
    how = f"{_COMMAS} or thousands=','" if any("," in level for level in decimal) else _TO_NUMERIC
    return bool(found) and (many or (measured and len(decimal) > _MANY_DECIMALS)), how


def warn_of_numbers(levels: Sequence[Any], name: str) -> None:
    """Warn of labels that are numbers but for a few, or numbers with decimal commas."""
    found, decimal = _numbers_among(levels)
    rest = [level for level in levels if level not in found]
    commas = [level for level in decimal if "," in level]
    if not found or not (rest or commas):
        return
    what = (
        f"all but {', '.join(map(label_shown, rest[:3]))} are numbers"
        if rest
        else "they are numbers"
    )
    warn_user(
        f"`{name}` is text and a factor of {len(levels)} levels, and {what}: as a covariate, "
        f"{_reading(commas, bool(rest))}; as a factor, C({name}), without this warning",
        TextWarning,
    )


def _numbers_among(levels: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Labels that are numbers, where most of three or more are, and those with decimals."""
    if len(levels) <= 2 or not all(isinstance(level, str) for level in levels):
        return [], []
    found = [level for level in levels if _is_number(level)]
    if len(found) < _MOST_NUMBERS * len(levels):
        return [], []
    return found, [level for level in found if "." in level or "," in level]
