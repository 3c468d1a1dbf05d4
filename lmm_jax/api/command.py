"""Fit a linear mixed model from the command line: ``lmm FORMULA FILE``.

``python -m lmm_jax`` is the same. Whatever goes wrong ends in one line on the standard
error and a status other than 0.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from ..datasets import load_dataset
from ..errors import ConvergenceWarning, DataError, FormulaError, RankWarning
from ..formulas.parse import parse
from ..inputs.files import read_table
from ..inputs.paths import is_columnar
from ..version import __version__
from .fit import fit

_EXAMPLE = "Reaction ~ Days + (Days | Subject)"
_REFUSED = 2
_INTERRUPTED = 130  # as shells report SIGINT and SIGPIPE
_NO_READER = 141
_WORDS = {"tab": "\t", "\\t": "\t", "space": " "}  # separators that are hard to type


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
        formula or the data cannot be used, with one line on the standard error; 130
        when interrupted, 141 when nobody reads what is printed.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    _check(parser, args)
    try:
        with warnings.catch_warnings(record=True) as caught:
            for category in (ConvergenceWarning, RankWarning):
                warnings.simplefilter("always", category)
            text = _report(args)
        for warning in caught:
            print(f"warning: {_one_line(warning.message)}", file=sys.stderr)
        _write(text)
    except (DataError, FormulaError, ImportError, NotImplementedError) as error:
        return _refuse(parser, _one_line(error))
    except BrokenPipeError:
        _close_output()
        return _NO_READER
    except OSError as error:
        _close_output()
        return _refuse(parser, _one_line(error))
    except MemoryError:
        return _refuse(parser, "the memory is not enough for this table and model")
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


class _Parser(argparse.ArgumentParser):
    """One line for every error, with the option that was perhaps meant."""

    def error(self, message: str) -> NoReturn:
        words = message.partition("unrecognized arguments: ")[2].split()
        options = [option for option in self._option_string_actions if option.startswith("--")]
        for word in words:
            near = get_close_matches(word.partition("=")[0], options, n=1)
            if near:
                message += f"; did you mean {near[0]}?"
                break
        self.exit(_REFUSED, f"{self.prog}: error: {' '.join(message.split())}\n")


def _refuse(parser: argparse.ArgumentParser, message: str) -> int:
    print(f"{parser.prog}: error: {message}", file=sys.stderr)
    return _REFUSED


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Arguments that no model can be made of."""
    if args.formula is None:
        return
    if args.file is None:
        parser.error("give a CSV file after the formula, or - for the standard input")
    if "~" in args.file[1:] and "~" not in args.formula:
        parser.error("the formula comes first, then the file")


def _write(text: str) -> None:
    """Print and flush, so that what goes wrong goes wrong here."""
    try:
        print(text)
    except UnicodeEncodeError:  # a terminal without the characters of some name
        print(text.encode("ascii", "backslashreplace").decode())
    if sys.stdout is not None:
        sys.stdout.flush()


def _close_output() -> None:
    """Point the standard output at nothing: the interpreter flushes it once more at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):
        return  # replaced by an object without a file behind it


def _parser() -> argparse.ArgumentParser:
    script = Path(sys.argv[0]).stem == "lmm"
    parser = _Parser(
        prog="lmm" if script else "python -m lmm_jax",
        description="Fit a linear mixed model to the rows of a CSV or Parquet file and print its "
        "summary. "
        f"Without arguments: the bundled sleepstudy data, {_EXAMPLE}.",
    )
    parser.add_argument("formula", nargs="?", help='lme4\'s syntax, such as "y ~ x + (1 + x | g)"')
    parser.add_argument(
        "file", nargs="?", help="CSV file with a header, or Parquet; - reads standard input"
    )
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
    parser.add_argument(
        "--sep", metavar="C", default=",", help="character between fields, or the words tab, space"
    )
    parser.add_argument("--decimal", metavar="C", help="character in front of decimals")
    parser.add_argument("--encoding", metavar="NAME", help="of the file (default: UTF-8)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--version", action="version", version=f"lmm_jax {__version__}")
    return parser


def _report(args: argparse.Namespace) -> str:
    """The fit, as text."""
    results = _fit(args)
    return json.dumps(as_json(results), indent=2) if args.json else str(results.summary())


def _fit(args: argparse.Namespace) -> Any:
    if args.formula is not None:
        parse(args.formula)  # before a large file is read for nothing
    return fit(
        _EXAMPLE if args.formula is None else args.formula,
        load_dataset("sleepstudy") if args.formula is None else _read(args),
        groups=args.groups,
        re_formula=args.re_formula,
        weights=args.weights,
        reml=not args.ml,
        context={},  # a formula from outside calls the functions of formulas and no others
    )


def _read(args: argparse.Namespace) -> pd.DataFrame | str:
    """The rows, or the name of a file of which ``fit`` reads the columns in use."""
    if is_columnar(args.file):
        return str(args.file)
    return read_table(
        args.file,
        sep=_WORDS.get(args.sep, args.sep),
        decimal=args.decimal,
        encoding=args.encoding,
    )


def _one_line(error: Exception | str) -> str:
    """Message without line breaks; a formula's caret becomes a character number."""
    if isinstance(error, FormulaError):
        text = error.message
        if error.formula and error.formula.strip():
            at = "" if error.position is None else f"at character {error.position + 1} of "
            text += f" ({at}{error.formula})"
    elif isinstance(error, OSError) and error.strerror:
        named = "" if error.filename is None else f"{error.filename}: "
        text = f"{named}{error.strerror}"
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
    tidy = results.tidy(output="pandas")
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
