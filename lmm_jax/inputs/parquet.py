"""Parquet files, one or those that a pattern matches, as one set of rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import glob
from os import PathLike
from typing import Any

from ..errors import DataError
from .packages import needed


def is_pattern(data: Any) -> bool:
    """Whether this is the name of several files."""
    return isinstance(data, str | PathLike) and "*" in os.fsdecode(data)


def parquet_dataset(path: str | PathLike[str]) -> Any:
    """A Parquet file, or those that a pattern matches, as a dataset of pyarrow.

    A column that is of integers in one file and of floats in another is one of floats, whichever
    file comes first.
    """
    name = os.path.expanduser(os.fsdecode(path))
    with needed("pyarrow", name, "arrow"):
        from pyarrow import ArrowException, dataset
    found: Any = sorted(glob(name, recursive=True)) if is_pattern(name) else name
    if not found:
        raise DataError(f"no file matches {name!r}")
    try:
        rows = dataset.dataset(found, format="parquet", partitioning="hive")
        joint = _joint_schema(rows)
        return dataset.dataset(found, joint, format="parquet", partitioning="hive")
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    except (ArrowException, ValueError) as error:
        if is_pattern(name):
            raise DataError(
                f"patterns are of Parquet files that have the same columns, and {name} is not: "
                f"{error}"
            ) from error
        raise DataError(f"{name} is not a Parquet file: {error}") from error


def same_types(rows: Any, names: Sequence[str]) -> bool:
    """Whether all Parquet files have one type for each of some columns.

    Raises
    ------
    DataError
        A file has no such column, or its values are of another kind.
    """
    files = [(fragment.path, fragment.physical_schema) for fragment in rows.get_fragments()]
    in_files = {name for _, there in files for name in there.names}
    alike = True
    for name in in_files.intersection(names):
        for path, there in files:
            if name not in there.names:
                raise DataError(f"{path} has no column `{name}`, which other files have")
            first, found = files[0][1].field(name), there.field(name)
            alike = alike and found.type == first.type
            if _joint_field(first, found) is None:
                raise DataError(
                    f"`{name}` holds {found.type} in {path} and {first.type} in the first file: "
                    "write the column with one type"
                )
    return alike


def _joint_schema(rows: Any) -> Any:
    """The schema of a dataset, with types that hold what every file has in a column."""
    schema = rows.schema
    for fragment in rows.get_fragments():
        for field in fragment.physical_schema:
            place = schema.get_field_index(field.name)
            if place < 0:
                schema = schema.append(field)
                continue
            joint = _joint_field(schema.field(place), field)
            if joint is not None:  # same_types refuses it, if the column is in use
                schema = schema.set(place, joint)
    return schema


def _joint_field(first: Any, second: Any) -> Any:
    """A column whose type holds the values of both; None where they are of different kinds."""
    import pyarrow as pa

    if first.type == second.type:
        return first
    parts = [pa.schema([field.remove_metadata()]) for field in (first, second)]
    try:
        return pa.unify_schemas(parts, promote_options="permissive").field(0)
    except pa.ArrowException:
        return None
