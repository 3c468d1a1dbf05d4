"""Fit a linear mixed model from the command line: ``python -m lmm_jax FORMULA FILE.csv``."""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd

from .datasets import load_dataset
from .errors import ConvergenceWarning, DataError, FormulaError, RankWarning
from .fit import fit

_EXAMPLE = "Reaction ~ Days + (Days | Subject)"


def main(argv: Sequence[str] | None = None) -> int:
    """Fit one model and print it.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        0 after a fit, converged or not (a warning and the JSON say which); 2 if the
        formula or the data cannot be used, with one line on the standard error.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.formula is not None and args.file is None:
        parser.error("give a CSV file after the formula, or - for the standard input")
    with warnings.catch_warnings(record=True) as caught:
        for category in (ConvergenceWarning, RankWarning):
            warnings.simplefilter("always", category)
        try:
            results = _fit(args)
        except (DataError, FormulaError, NotImplementedError, OSError) as error:
            print(f"{parser.prog}: error: {_one_line(error)}", file=sys.stderr)
            return 2
    for warning in caught:
        print(f"warning: {_one_line(warning.message)}", file=sys.stderr)
    if args.json:
        print(json.dumps(as_json(results), indent=2))
    else:
        print(results.summary())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lmm_jax",
        description="Fit a linear mixed model to the rows of a CSV file and print its summary. "
        f"Without arguments: the bundled sleepstudy data, {_EXAMPLE}.",
    )
    parser.add_argument("formula", nargs="?", help='lme4\'s syntax, such as "y ~ x + (1 + x | g)"')
    parser.add_argument("file", nargs="?", help="CSV file with a header; - reads standard input")
    parser.add_argument("--ml", action="store_true", help="maximum likelihood instead of REML")
    parser.add_argument(
        "--groups", metavar="COLUMN", help="grouping factor of a formula without bars"
    )
    parser.add_argument(
        "--re-formula", metavar="FORMULA", help="random coefficients per group (default: intercept)"
    )
    parser.add_argument(
        "--weights", metavar="COLUMN", help="prior weights w: the residual variance is sigma^2 / w"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--version", action="version", version=f"lmm_jax {_version()}")
    return parser


def _version() -> str:
    try:
        return version("lmm-jax")
    except PackageNotFoundError:  # run from its sources
        return "(not installed)"


def _fit(args: argparse.Namespace) -> Any:
    formula = args.formula or _EXAMPLE
    data = _read(args.file) if args.formula else load_dataset("sleepstudy")
    return fit(
        formula,
        data,
        groups=args.groups,
        re_formula=args.re_formula,
        weights=args.weights,
        reml=not args.ml,
    )


def _read(path: str) -> pd.DataFrame:
    """CSV to a frame; a file that is no table is a DataError."""
    try:
        return pd.read_csv(sys.stdin if path == "-" else path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV table: {error}") from error


def _one_line(error: Exception | str) -> str:
    """Message without line breaks; a formula's caret becomes a character number."""
    if isinstance(error, FormulaError):
        text = error.message
        if error.formula is not None:
            at = "" if error.position is None else f"at character {error.position + 1} of "
            text += f" ({at}{error.formula})"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error)
    return " ".join(text.split())


def as_json(results: Any) -> dict[str, Any]:
    """What ``--json`` prints: numbers in full precision, those that do not exist are null.

    Parameters
    ----------
    results : LMMResults

    Returns
    -------
    dict
        ``formula, criterion, converged, singular, nobs, llf, aic, bic, sigma``, and lists of
        rows under ``fixed`` (``results.tidy()``) and ``varcorr``.
    """
    tidy = results.tidy()
    if "effect" in tidy:
        tidy = tidy[tidy["effect"] == "fixed"]
    head = {
        "formula": results.formula,
        "criterion": "REML" if results.reml else "ML",
        "converged": results.converged,
        "singular": results.singular,
        "nobs": results.nobs,
        "llf": results.llf,
        "aic": results.aic,
        "bic": results.bic,
        "sigma": results.sigma,
    }
    rows = {"fixed": tidy.to_dict("records"), "varcorr": results.varcorr.to_dict("records")}
    out: dict[str, Any] = {name: _plain(value) for name, value in head.items()}
    for name, table in rows.items():
        out[name] = [{str(key): _plain(value) for key, value in row.items()} for row in table]
    return out


def _plain(value: Any) -> Any:
    """JSON's own types; NaN, infinities and missing values become None."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (bool, int, float)) else str(value)


if __name__ == "__main__":
    sys.exit(main())
