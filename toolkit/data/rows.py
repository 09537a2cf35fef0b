"""Rows are read from files, folders and the hub, and written back as JSONL."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from ..errors import DataError
from ..files import JSON_OPTIONS, atomic_writer
from .dataset_rows import rows_of_dataset, rows_of_folder
from .hh_dialogues import HHPairs, HHReason, hh_pair, parse_hh, parse_hh_rows
from .plain_values import columns_without_form, plain_value
from .row_files import kind_of, rows_of_file
from .row_shapes import RowShape, require_columns

__all__ = [
    "HHPairs", "HHReason", "RowShape", "hash_rows", "hh_pair", "parse_hh", "parse_hh_rows", "read_rows",
    "require_columns", "write_rows",
]  # fmt: skip

Row = dict[str, Any]
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)?")


def read_rows(source: str | Path, *, split: str = "train", limit: int | None = None) -> list[Row]:
    """Read all rows, or the first few, of a data set.

    Args:
        source: a file (.jsonl, .csv, .tsv, each also .gz or .zst; .parquet), a folder or an id of the hub. The last
            two are read by `datasets`; a file on this machine comes before an id of the hub.
        split: which part of a folder or hub data set is read; files have none.
        limit: the largest number of rows to read; None reads all.

    Returns:
        at least one row. The values of CSV and TSV files are text.

    Raises:
        DataError: the source is missing, damaged, empty, or of a kind that is not read; with file and line where
            there are any.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit: got {limit}; wanted at least 1 row, or none for all rows")
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            rows = rows_of_folder(path, split, limit)
        elif path.exists():
            rows = list(islice(rows_of_file(path), limit))
        elif isinstance(source, str) and is_hub_id(source):
            rows = _read_hub(source, split, limit)
        else:
            raise DataError(f"{path} does not exist. {nearest(path)}")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}. Give the path of a readable file.") from error
    if not rows:
        raise DataError(f"{source} holds no rows; wanted at least one. Check that it is the file you meant.")
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSONL, whole or not at all; a number that is not finite becomes null.

    What has no form in JSON is written as `plain_values.plain_value` tells.

    Args:
        path: a plain .jsonl file; one that exists is replaced once the new one is complete.
        rows: may be a generator: rows are written as they come.

    Returns:
        the number of rows written.

    Raises:
        DataError: a row cannot be written as JSON, or the name asks for something other than JSONL.
        RunError: the disk is full or the folder cannot be written.
    """
    if path.suffix != ".jsonl":
        raise DataError(f"cannot write rows to {path}: wanted a name that ends in .jsonl")
    count = 0
    with atomic_writer(path) as file:
        for row in rows:
            try:
                file.write(_line(row))
            except orjson.JSONEncodeError as error:
                raise DataError(f"row {count} (counting from 0) cannot be written to {path}: {_why(row)}") from error
            count += 1
    return count


def hash_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of rows as `write_rows` would write them, the order of their columns apart.

    Raises:
        DataError: a row cannot be written as JSON.
    """
    found = hashlib.sha256()
    for count, row in enumerate(rows):
        try:
            found.update(_line(row, orjson.OPT_SORT_KEYS))
        except orjson.JSONEncodeError as error:
            raise DataError(f"row {count} (counting from 0) cannot be written as JSON: {_why(row)}") from error
    return found.hexdigest()


def _line(row: Mapping[str, Any], more: int = 0) -> bytes:
    return orjson.dumps(dict(row), default=plain_value, option=JSON_OPTIONS | orjson.OPT_APPEND_NEWLINE | more)


def _why(row: Mapping[str, Any]) -> str:
    return f"{', '.join(columns_without_form(row))}. Leave such columns out."


def is_hub_id(source: str) -> bool:
    """Whether a name that is no file here can be one of the hub, and not a mistyped file."""
    path = Path(source)
    looks_local = path.parent.is_dir() if "/" in source else bool(path.suffix)
    return HUB_ID.fullmatch(source) is not None and not looks_local


def _read_hub(name: str, split: str, limit: int | None) -> list[Row]:
    try:
        return rows_of_dataset(name, split, limit, is_saved=False)
    except DataError as error:
        raise DataError(f"{error} If a file was meant: {Path(name)} does not exist. {nearest(Path(name))}") from error


def nearest(path: Path) -> str:
    """Where one could have meant to go: the nearest name in the folder, or what stands there."""
    folder = path.parent
    if not folder.is_dir():
        existing = next(parent for parent in folder.absolute().parents if parent.is_dir())
        return f"Its folder does not exist either; the nearest one that does is {existing}."
    names = sorted(entry.name for entry in folder.iterdir() if entry.name != path.name)
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f"Did you mean {path.with_name(near[0])}?"
    readable = [name for name in names if kind_of(Path(name))]
    return f"In its folder stand: {', '.join(readable[:5])}." if readable else "No file of rows stands in its folder."
