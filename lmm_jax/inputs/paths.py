"""Files that are named in the place of a frame: the name says how one is read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import DataError
from .files import read_table
from .packages import needed
from .parquet import is_pattern, parquet_dataset

# How files are read, by the ends of their names; those of CSV may be packed.
_COLUMNAR = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".feather", ".arrow"), "feather"),
}
_SEPARATED = {".csv": ",", ".tsv": "\t"}
_PACKED = (".gz", ".bz2", ".xz", ".zip")
# Where the advice of a message is for the command line.
_OPTION = re.compile(r": pass --| \(for UTF-16")


def is_path(data: Any) -> bool:
    """Whether this names a file."""
    return isinstance(data, str | os.PathLike)


def read_file(path: str | os.PathLike[str], wanted: Callable[[Any], bool]) -> Any:
    """A file that a caller names in the place of a frame.

    Parameters
    ----------
    path : str or path
        ``.parquet``, ``.pq`` (also a folder of such files, or a pattern), ``.feather``,
        ``.arrow``; ``.csv`` or ``.tsv``, which may be packed (``.csv.gz``) or an address.
    wanted : callable
        Whether a column is in use, by its name: of Parquet and Feather no others are read.

    Returns
    -------
    DataFrame or pyarrow.Table

    Raises
    ------
    DataError
        No such file, another kind of file, or one that cannot be read or has no rows.
    ImportError
        Parquet and Feather without pyarrow.
    """
    name = os.path.expanduser(os.fsdecode(path))
    end = _ending(name)
    if end not in _COLUMNAR and end not in _SEPARATED:
        folder = f", or the Parquet files of a folder, {name}/*.parquet" if _is_folder(name) else ""
        raise DataError(
            f"data={name!r} is not the name of a file that is read here: pass a data frame, or a "
            f"path that ends in {', '.join([*_COLUMNAR, *_SEPARATED])}{folder}"
        )
    local = "://" not in name
    if is_pattern(name):
        return _of_pattern(name, end, wanted)
    if (local or end in _COLUMNAR) and not _exists(name):
        raise DataError(f"there is no file {name!r}{'' if local else ': copy it here first'}")
    try:
        found = _columnar(name, end, wanted) if end in _COLUMNAR else _separated(name, end)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    if len(found) == 0:
        raise DataError(f"{name} has no rows")
    return found


def is_columnar(path: str) -> bool:
    """Whether a name says that a file is Parquet or Feather."""
    return _ending(path) in _COLUMNAR


def _ending(name: str) -> str:
    """What says how a file is read, ``.csv`` of ``data.csv.gz``."""
    ends = [end.lower() for end in Path(name).suffixes[-2:]] or [""]
    return ends[0] if ends[-1] in _PACKED else ends[-1]


def _exists(name: str) -> bool:
    try:
        return os.path.exists(name)
    except ValueError:  # a NUL in the name
        return False


def _is_folder(name: str) -> bool:
    return _exists(name) and os.path.isdir(name)


def _columnar(name: str, end: str, wanted: Callable[[Any], bool]) -> Any:
    """Columns of a Parquet or Feather file, and the first one where none is in use."""
    with needed("pyarrow", name, "arrow"):
        from pyarrow import ArrowException, dataset
    try:
        found = dataset.dataset(name, format=_COLUMNAR[end], partitioning="hive")
        return _in_use(found, wanted)
    except ArrowException as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def _of_pattern(name: str, end: str, wanted: Callable[[Any], bool]) -> Any:
    """Columns of all Parquet files that a pattern matches."""
    if _COLUMNAR.get(end) != "parquet":
        raise DataError(f"{name!r} matches files of the kind {end}: patterns are of Parquet files")
    return _in_use(parquet_dataset(name), wanted)


def _in_use(found: Any, wanted: Callable[[Any], bool]) -> Any:
    names = found.schema.names
    return found.to_table(columns=[name for name in names if wanted(name)] or names[:1])


def _separated(name: str, end: str) -> pd.DataFrame:
    """A CSV file; how to read one that is written otherwise."""
    try:
        return read_table(name, sep=_SEPARATED[end])
    except DataError as error:
        found, *options = _OPTION.split(str(error))
        advice = ": pass the frame that pandas.read_csv makes of it" if options else ""
        raise DataError(f"{found}{advice}") from error
