"""Results in files and pickles: without the rows of the data, unless these are asked for."""

from __future__ import annotations

import copy
import io
import json
import pickle
import platform
import zlib
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, Self

from ..errors import DataError
from ..formulas.contexts import supplying
from ..inputs.arguments import flag, hinted, mapping
from ..version import __version__

# The first line of a file, and the number of the format: raised when what is in it changes.
_MAGIC = b"lmm_jax result\n"
FORMAT = 2
# A result is restored by these packages, whose own formats may change.
_PACKAGES = ("numpy", "pandas", "formulaic")


@hinted
class Saved:
    """A result that can be saved, pickled and copied.

    A copy by ``copy.copy`` or ``copy.deepcopy`` is the same result. A pickle or a file
    leaves the rows of the data out and keeps what it takes to go on without them.
    """

    def _state(self, *, keep_data: bool) -> dict[str, Any]:
        """Fields to be kept."""
        del keep_data
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        # one that grows is copied: another thread may add to it
        return {name: dict(v) if type(v) is dict else v for name, v in values.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self._state(keep_data=False), "format": FORMAT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        check_format(state.get("format"), "the pickle")
        self.__dict__.update({name: v for name, v in state.items() if name != "format"})

    def __copy__(self) -> Self:
        out = _bare(type(self))
        out.__dict__.update(self.__dict__)
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        out = _bare(type(self))
        memo[id(self)] = out
        for name, value in self._state(keep_data=True).items():
            out.__dict__[name] = copy.deepcopy(value, memo)
        return out

    def save(self, path: str | PathLike[str], *, keep_data: bool = False) -> None:
        """Write the result to a file that :func:`lmm_jax.load` reads.

        The file is a pickle behind a line that says what wrote it: load files only from
        people whose code you would run.

        Parameters
        ----------
        path : str or path
            An existing file is overwritten.
        keep_data : bool
            Keep the rows of the data, so that everything works as before. Without them the
            result has its parameters, tests, random effects with their covariances and
            fitted values, and predicts new rows.

        Examples
        --------
        >>> import tempfile, lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     res.save(f"{folder}/sleep.lmm")
        ...     again = lmm.load(f"{folder}/sleep.lmm")
        >>> again.predict({"Days": [3], "Subject": ["308"]}, conditional=True).round(1).tolist()
        [312.7]
        """
        keep_data = flag(keep_data, "keep_data")
        buffer = io.BytesIO()
        pickler = (_WithData if keep_data else pickle.Pickler)(buffer)
        pickler.dump(self)
        body = buffer.getvalue()
        header = {"format": FORMAT, "bytes": len(body), "crc32": zlib.crc32(body), **_versions()}
        _path(path).write_bytes(_MAGIC + json.dumps(header).encode() + b"\n" + body)


@hinted
def load(path: str | PathLike[str], *, context: Mapping[str, Any] | None = None) -> Any:
    """Read a result that was written by its method ``save``.

    The file is a pickle, which can run any code: load files only from people whose code you
    would run.

    Parameters
    ----------
    path : str or path
    context : mapping, optional
        Functions and variables of the formula that could not be saved, such as lambdas.

    Returns
    -------
    LMMResults, ManyResults, BootstrapResults, RegularizedResults or RegularizedPath
        As it was saved.

    Raises
    ------
    DataError
        The file is no such result, is damaged, or was written in another format.

    Examples
    --------
    >>> import tempfile, lmm_jax as lmm
    >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     res.save(f"{folder}/dyestuff.lmm")
    ...     lmm.load(f"{folder}/dyestuff.lmm")
    <LMMResults by REML: Yield ~ 1 + (1 | Batch), llf -159.8271>
    """
    if context is not None:
        mapping(context, "context")
    name, content = str(path), _path(path).read_bytes()
    header, body = _header(content, name)
    check_format(header.get("format"), name, header.get("lmm_jax", ""))
    if len(body) != header.get("bytes") or zlib.crc32(body) != header.get("crc32"):
        raise DataError(
            f"{name} is cut off or damaged: it holds {len(body)} of {header.get('bytes')} bytes; "
            "copy or save it again"
        )
    try:
        with supplying(context):
            out = pickle.loads(body)
    except Exception as error:  # whatever a class that has changed since raises
        saved = ", ".join(f"{k} {header.get(k)}" for k in _versions())
        here = ", ".join(f"{k} {v}" for k, v in _versions().items())
        raise DataError(
            f"{name} cannot be restored ({type(error).__name__}: {error}); it was written with "
            f"{saved}, and here are {here}: load it with those, or fit the model again"
        ) from error
    if not isinstance(out, Saved):
        raise DataError(f"{name} holds a {type(out).__name__}, no result of lmm_jax")
    return out


def check_format(given: Any, name: str, by: str = "") -> None:
    """Refuse what another version of the package has written."""
    if given != FORMAT:
        raise DataError(
            f"{name} was written by another version of lmm_jax"
            f"{f' ({by})' if by else ''}: it has the format {given}, and {__version__} "
            f"reads the format {FORMAT}. Load it with that version, or fit the model again"
        )


def _header(content: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    """What wrote a file, and the pickle behind it."""
    line, newline, body = content.removeprefix(_MAGIC).partition(b"\n")
    if not content.startswith(_MAGIC):
        kind = "; it looks like a pickle, which pickle.load reads" if content[:1] == b"\x80" else ""
        raise DataError(f"{name} is no result that was saved by lmm_jax{kind}")
    try:
        header = json.loads(line) if newline else None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise DataError(f"{name} is cut off or damaged in its first lines: copy or save it again")
    return header, body


def _versions() -> dict[str, str]:
    others = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "lmm_jax": __version__, **others}


def _path(path: Any) -> Path:
    if not isinstance(path, str | PathLike):
        raise DataError(f"path is a {type(path).__name__}: the name of a file is needed")
    return Path(path)


def _bare(cls: type[Any]) -> Any:
    """An instance without its fields."""
    return object.__new__(cls)


class _WithData(pickle.Pickler):
    """Pickles results with the rows of their data."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Saved):
            return NotImplemented
        return _bare, (type(obj),), {**obj._state(keep_data=True), "format": FORMAT}
