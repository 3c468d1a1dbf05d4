"""Exceptions and warnings that a user of the package meets."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .reprs import public


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the line of the caller outside this package."""
    package = __name__.split(".")[0]
    level = 1
    frame: FrameType | None = sys._getframe(0)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@public
class FormulaError(ValueError):
    """A formula that cannot be read, or that asks for something the data does not have.

    Parameters
    ----------
    message : str
        What is wrong and what to write instead.
    formula : str, optional
        The formula, shown below the message.
    position : int, optional
        Offset of the offending character, counted from 0; a caret marks it.

    Attributes
    ----------
    message, formula, position
        The parameters.

    Examples
    --------
    >>> print(FormulaError("nothing follows `+`", "y ~ x +", 6))
    nothing follows `+`
        y ~ x +
              ^
    """

    def __init__(
        self, message: str, formula: str | None = None, position: int | None = None
    ) -> None:
        super().__init__(message, formula, position)  # args as given: the exception pickles
        self.message = message
        self.formula = formula
        self.position = position

    def __str__(self) -> str:
        """Message, formula and caret, each on a line of its own."""
        lines = [self.message]
        if self.formula is not None:
            # One blank for each white-space character keeps the caret in its column.
            lines.append("    " + "".join(" " if c.isspace() else c for c in self.formula))
            if self.position is not None:
                lines.append("    " + " " * self.position + "^")
        return "\n".join(lines)


@public
class DataError(ValueError):
    """Data that a model cannot be fitted to or predicted for; the message names the column."""


@public
class ForkError(RuntimeError):
    """A computation in a process that was forked from one in which JAX had computed."""


class UnknownLabel(DataError, KeyError):
    """A key that a table of labels does not have; the message names those that it has."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr


@contextmanager
def of_new_data() -> Iterator[None]:
    """A formula that a model was fitted with is right: what it does not find, the data lack."""
    try:
        yield
    except FormulaError as error:
        raise DataError(error.message) from error


@public
class ConvergenceWarning(UserWarning):
    """The optimizer stopped at a point that does not pass the tests of a maximum."""


@public
class RankWarning(UserWarning):
    """Columns of the design add nothing (constant, duplicated, collinear) and are dropped."""


@public
class OrderWarning(UserWarning):
    """Visits were read in a way that may not be meant: an order of text, numbers as visits."""


@public
class TextWarning(UserWarning):
    """Text was taken for labels, and all but a few of them are numbers."""


@public
class IdentificationWarning(UserWarning):
    """Variances that rows hardly tell: as many random coefficients as rows, terms that overlap."""
