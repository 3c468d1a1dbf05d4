"""Packages that only some callers have: imported when something asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed(package: str, what: str, extra: str) -> Iterator[None]:
    """Around imports: what is missing is told with the extra that brings it.

    Parameters
    ----------
    package : str
        What is imported.
    what : str
        What needs it.
    extra : str
        Of this package.

    Raises
    ------
    ImportError
        Where the package cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} needs {package}: pip install 'lmm-jax[{extra}]'") from error
