"""Files of text to data frames; what is no such table is a `DataError` of one line.

The content decides: archives and files of other programs are known by their first bytes.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import http.client
import io
import lzma
import os
import re
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from .series import integers

# What files of other programs begin with; a mark of plain letters may be the name of a column,
# and counts only where the file is not text.
_FOREIGN = {
    b"PAR1": "Parquet",
    b"ARROW1": "Feather",
    b"\xd0\xcf\x11\xe0": "Excel",
    b"<stata_dta>": "Stata",
    **{bytes([version, order, 1]): "Stata" for version in (113, 114, 115) for order in (1, 2)},
    b"$FL2": "SPSS",
    b"\x89HDF": "HDF5",
    b"RDX": "R",
    b"X\n\x00": "R",
    b"SQLite format 3": "SQLite",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"7z\xbc\xaf": "7-Zip",
    b"%PDF": "PDF",
    b"\x89PNG": "PNG",
}
_HTML = (b"<!doctype html", b"<html")
_TAR_MARK = slice(257, 262)  # where a tar archive says `ustar`
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_WEB = ("http", "https", "ftp", "file")
_SECONDS = 60.0  # until a server that does not answer is given up
_PACKINGS = 3  # a table inside a tar archive inside a gzip file has two
_BROKEN = (
    *(OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error),
    *(lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError),
)
# Separators as a message calls them and as the command line takes them, the likeliest first.
_SEPARATORS = {
    ";": ("semicolons", "';'"),
    "\t": ("tabs", "tab"),
    "|": ("bars", "'|'"),
    ",": ("commas", "','"),
    " ": ("blanks", "space"),
}
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
# Integers as they are written.
_INTEGER = re.compile(r"\s*[-+]?\d+\s*")
# Missing among labels.
_MISSING = ["", "NA", "NaN", "nan", "<NA>"]
_SAMPLE = 1000  # values of a column of text that are looked at


def read_table(
    path: str, *, sep: str = ",", decimal: str | None = None, encoding: str | None = None
) -> pd.DataFrame:
    """A CSV file with a header, as a frame whose columns have the names of the header.

    Parameters
    ----------
    path : str
        A file, an address (http, https, ftp), or ``-`` for the standard input; may be
        packed by gzip, bzip2, xz, or be the only file in a zip or tar archive.
    sep : str
        Character between the fields.
    decimal : str, optional
        Character in front of the decimals. Not given: a point, and a column of
        numbers with a comma is refused where fields are not separated by commas.
    encoding : str, optional
        Not given: UTF-8, or UTF-16 where the file begins with its mark.

    Returns
    -------
    DataFrame
        Names that the header repeats are repeated.

    Raises
    ------
    DataError
        There is no such table, in one sentence.
    OSError
        The file cannot be opened.

    Examples
    --------
    >>> import lmm_jax.datasets, os
    >>> from lmm_jax.inputs.files import read_table
    >>> folder = os.path.join(os.path.dirname(lmm_jax.datasets.__file__), "data")
    >>> read_table(os.path.join(folder, "sleepstudy.csv")).shape
    (180, 3)
    """
    _check_marks(sep, decimal)
    name = "standard input" if path == "-" else path
    content = _unpacked(_content(path), name)
    _check_kind(content, name)
    encoding = encoding or _encoding(content)
    try:
        _check_text(content, encoding, name)
        header = _header(content, sep, encoding, name)
        frame = _parsed(content, sep, decimal or ".", encoding)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise DataError(f"{name} is not a CSV table: {error}") from error
    except UnicodeError as error:
        raise DataError(
            f"{name} is not a CSV table in {encoding.upper()} ({error}): pass --encoding latin-1 "
            "or what it was written in"
        ) from error
    frame.columns = pd.Index([h or str(c) for h, c in zip(header, frame.columns, strict=True)])
    _check_rows(frame, content, sep, encoding, name)
    if decimal is None and sep != ",":
        _check_decimals(frame, name)
    return frame


def _check_marks(sep: str, decimal: str | None) -> None:
    for what, mark in {"separator": sep, "decimal mark": decimal or "."}.items():
        if len(mark) != 1 or mark in '"\r\n\0':
            raise DataError(f"the {what} {mark!r} is no single character")
    if decimal == sep:
        raise DataError(f"the separator and the decimal mark are both {sep!r}: pass --sep ';'")


def _content(path: str) -> bytes:
    """Bytes of a file, an address or the standard input."""
    if path == "-":
        return _standard_input()
    if not path.strip():
        raise DataError("the name of the file is empty: pass a CSV file, or - for standard input")
    scheme = re.match(r"([A-Za-z][\w+.-]+)://", path)
    if scheme is None:
        try:
            with open(os.path.expanduser(path), "rb") as file:
                return file.read()
        except ValueError as error:  # a NUL in the name
            raise DataError(f"{path!r} is no name of a file: {error}") from error
    if scheme[1].lower() not in _WEB:
        raise DataError(f"{path}: cannot read {scheme[1]}:// addresses: copy the file here first")
    try:
        with urllib.request.urlopen(path, timeout=_SECONDS) as answer:
            return bytes(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{path} cannot be read: {reason}") from error


def _standard_input() -> bytes:
    if sys.stdin is None or sys.stdin.closed:
        raise DataError("there is no standard input: pass a CSV file")
    try:
        buffer = getattr(sys.stdin, "buffer", None)
        return buffer.read() if buffer is not None else sys.stdin.read().encode()
    except OSError as error:
        raise DataError(f"standard input cannot be read: {error}") from error


def _unpacked(content: bytes, name: str) -> bytes:
    """What lies in a compressed file or in an archive of one file."""
    for _ in range(_PACKINGS):
        unpack = _packing(content)
        if unpack is None:
            break
        try:
            content = unpack(content)
        except DataError as error:
            raise DataError(f"{name} {error}") from error
        except _BROKEN as error:
            raise DataError(f"{name} cannot be unpacked ({error}): is it whole?") from error
    return content


def _packing(content: bytes) -> Callable[[bytes], bytes] | None:
    for mark, unpack in _UNPACK.items():
        if content.startswith(mark):
            return unpack
    return _tar_member if content[_TAR_MARK] == b"ustar" else None


def _zip_member(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and "__MACOSX" not in n]
        if "[Content_Types].xml" in names:
            raise DataError("is a file of Excel: save the sheet as CSV first")
        return archive.read(_only(names))


def _tar_member(content: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.extractfile(_only([m.name for m in archive.getmembers() if m.isfile()]))
        assert member is not None  # it is a file
        return member.read()


def _only(names: list[str]) -> str:
    if len(names) != 1:
        raise DataError(f"is an archive of {len(names)} files: extract the table first")
    return names[0]


_UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
    b"PK\x03\x04": _zip_member,
    b"PK\x05\x06": _zip_member,  # an empty one
}


def _check_kind(content: bytes, name: str) -> None:
    """Refuse nothing at all and files of other programs."""
    if not content.strip():
        raise DataError(f"{name} is not a CSV table: it is empty")
    binary = b"\x00" in content
    for mark, program in _FOREIGN.items():
        if content.startswith(mark) and (binary or not mark.isascii()):
            raise DataError(f"{name} is a file of {program}: write the table to a CSV file first")
    if content[:64].lstrip().lower().startswith(_HTML):
        raise DataError(f"{name} is an HTML page: fetch the table itself")


def _encoding(content: bytes) -> str:
    return next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")


def _check_text(content: bytes, encoding: str, name: str) -> None:
    wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32", "utf16", "utf32"))
    if b"\x00" in content and not wide:
        raise DataError(
            f"{name} is not a CSV table: it holds bytes of zero, as binary files do "
            "(for UTF-16 without its mark pass --encoding utf-16-le)"
        )


def _records(content: bytes, sep: str, encoding: str) -> Any:
    """Rows as lists of fields, without the empty lines that pandas skips."""
    try:
        text = io.TextIOWrapper(io.BytesIO(content), encoding=encoding, newline="")
    except (LookupError, ValueError) as error:
        raise DataError(f"there is no encoding {encoding!r}: pass utf-8 or latin-1") from error
    rows = csv.reader(text, delimiter=sep, skipinitialspace=sep == " ")
    return (row for row in rows if len(row) > 1 or "".join(row).strip())


def _header(content: bytes, sep: str, encoding: str, name: str) -> list[str]:
    """Names as they stand in the file; pandas renames those that come twice."""
    records = _records(content, sep, encoding)
    header: list[str] = next(records, [])
    if not header:
        raise DataError(f"{name} is not a CSV table: it has no header")
    other = next((mark for mark in _SEPARATORS if mark != sep and mark in header[0]), None)
    if len(header) == 1 and other is not None:
        called, option = _SEPARATORS[other]
        raise DataError(f"{name} seems to be separated by {called}: pass --sep {option}")
    first: list[str] = next(records, [])
    if not first:
        raise DataError(f"{name} has a header only: there are no rows")
    if len(first) > len(header):  # pandas would take the first fields for labels of the rows
        raise DataError(
            f"{name}: the header has {len(header)} names, the first row has {len(first)} fields: "
            "name every column, and end no row in a separator"
        )
    return header


def _parsed(content: bytes, sep: str, decimal: str, encoding: str) -> pd.DataFrame:
    """The table; "None" and "N/A" are labels among labels, as in R, and missing among numbers."""
    how: dict[str, Any] = dict(
        sep=sep, decimal=decimal, encoding=encoding, skipinitialspace=sep == " ", index_col=False
    )
    frame = pd.read_csv(io.BytesIO(content), low_memory=False, **how)  # one type a column
    gaps = [i for i, dtype in enumerate(frame.dtypes) if _is_text(dtype)]
    gaps = [i for i in gaps if frame.iloc[:, i].isna().any() and not _is_logical(frame.iloc[:, i])]
    if gaps:
        how |= dict(usecols=gaps, dtype=str, keep_default_na=False, na_values=_MISSING)
        labels = pd.read_csv(io.BytesIO(content), **how)
        for place, i in enumerate(gaps):
            frame[frame.columns[i]] = labels.iloc[:, place].astype(frame.dtypes.iloc[i])
    return _with_integers(frame, content, how)


def _with_integers(frame: pd.DataFrame, content: bytes, how: dict[str, Any]) -> pd.DataFrame:
    """The table with integers where pandas made floats of them, as beside gaps: ids keep digits."""
    likely = [i for i, dtype in enumerate(frame.dtypes) if _may_be_rounded(frame.iloc[:, i], dtype)]
    if not likely:
        return frame
    how = {name: how[name] for name in ("sep", "encoding", "skipinitialspace", "index_col")}
    written = pd.read_csv(io.BytesIO(content), usecols=likely, dtype=str, **how)
    for place, i in enumerate(likely):
        text = written.iloc[:, place].astype(object)
        if text.dropna().map(_INTEGER.fullmatch).notna().all():
            frame[frame.columns[i]] = integers(text.tolist())
    return frame


def _may_be_rounded(column: pd.Series[Any], dtype: Any) -> bool:
    """Whether floats are whole numbers beside gaps, or so large that they may have lost digits."""
    if dtype != np.float64:
        return False
    values = column.to_numpy()
    there = values[~np.isnan(values)]
    whole = bool(there.size) and bool((there == np.trunc(there)).all())
    return whole and (there.size < values.size or bool(np.abs(there).max() >= 2.0**53))


def _is_text(dtype: Any) -> bool:
    return bool(dtype.kind == "O" or isinstance(dtype, pd.StringDtype))


def _is_logical(column: pd.Series[Any]) -> bool:
    """Whether a column with gaps holds true and false."""
    return pd.api.types.infer_dtype(column, skipna=True) == "boolean"


def _check_rows(frame: pd.DataFrame, content: bytes, sep: str, encoding: str, name: str) -> None:
    """Refuse rows that end early, which pandas fills with missing values."""
    if not frame.iloc[:, -1].isna().any():
        return
    for number, row in enumerate(_records(content, sep, encoding)):
        if len(row) < frame.shape[1]:
            raise DataError(
                f"{name}: row {number} has {len(row)} of {frame.shape[1]} fields: complete it "
                "(two separators with nothing between them are a missing value)"
            )


def _check_decimals(frame: pd.DataFrame, name: str) -> None:
    """Refuse numbers with a decimal comma, which would make a factor of a covariate."""
    for column, dtype in enumerate(frame.dtypes):
        if not _is_text(dtype):
            continue
        values = frame.iloc[:, column].dropna().astype(str).head(_SAMPLE)
        if len(values) and values.map(_DECIMAL_COMMA.fullmatch).notna().all():
            raise DataError(
                f"{name}: the numbers of `{frame.columns[column]}` have a decimal comma, such as "
                f"{values.iloc[0]}: pass --decimal ,"
            )
