"""Rows are read from files, folders and the hub, and written back as JSONL."""

import csv
import difflib
import gzip
import hashlib
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import orjson

from ..errors import DataError
from ..files import JSON_OPTIONS, atomic_writer
from .hh_dialogues import HHPairs, HHReason, hh_pair, parse_hh, parse_hh_rows
from .plain_values import columns_without_form, plain_value
from .row_shapes import RowShape, require_columns

__all__ = [
    "HHPairs", "HHReason", "RowShape", "hash_rows", "hh_pair", "parse_hh", "parse_hh_rows", "read_rows",
    "require_columns", "write_rows", "zstd_chunks",
]  # fmt: skip

Row = dict[str, Any]
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)?")
CHUNK = 1 << 20  # bytes
JSON_LIST_CURE = "jq -c '.[]' {name} > {name}l"


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
            rows = _read_folder(path, split, limit)
        elif path.exists():
            rows = list(islice(_rows_of_file(path), limit))
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


def _rows_of_file(path: Path) -> Iterator[Row]:
    kind = _kind_of(path)
    if kind is None:
        cure = f"Convert it: {JSON_LIST_CURE.format(name=path.name)}" if path.suffix == ".json" else "Convert it."
        raise DataError(f"{path}: got a {path.suffix or 'nameless'} file; wanted one of {', '.join(READERS)}. {cure}")
    return READERS[kind](path)


def _kind_of(path: Path) -> str | None:
    """The suffix that says how a file is read, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes = suffixes[:-1]
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else None


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue  # often the last line
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(_json_fault(path, number, line, error)) from error
        if not isinstance(row, dict):
            is_list = isinstance(row, list)
            cure = f" Convert a list of rows: {JSON_LIST_CURE.format(name=path.name)}" if is_list else ""
            raise DataError(f"{path}:{number}: got {_excerpt(line)}; wanted one JSON object a line.{cure}")
        yield row


def _json_fault(path: Path, number: int, line: str, error: orjson.JSONDecodeError) -> str:
    cure = "Mend or remove that line."
    if line.strip() in ("[", "{"):
        cure = f"A list or object over several lines is not JSONL. Convert it: {JSON_LIST_CURE.format(name=path.name)}"
    elif re.search(r"\b(NaN|Infinity)\b", line):
        cure = "JSON has no NaN or Infinity: write null."
    return f"{path}:{number}, column {error.colno}: bad JSON ({error.msg}): got {_excerpt(line)}. {cure}"


def _read_table(path: Path) -> Iterator[Row]:
    is_tsv = _kind_of(path) == ".tsv"
    before = csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 kB
    try:
        reader = csv.reader((line for _, line in _lines(path)), delimiter="\t" if is_tsv else ",", strict=True)
        header = next(reader, [])
        _check_header(path, header)
        for cells in reader:
            if not cells:
                continue  # an empty line
            if len(cells) != len(header):
                raise DataError(
                    f"{path}:{reader.line_num}: got {len(cells)} values; wanted {len(header)}, one for each column of "
                    "the first line. Text that holds the separator or a line break needs double quotes."
                )
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: {error}. Put text that holds quotes in double quotes, and double those inside."
        ) from error
    finally:
        csv.field_size_limit(before)


def _check_header(path: Path, header: list[str]) -> None:
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise DataError(f"{path}:1: the columns {doubled} stand there twice. Give every column a name of its own.")


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    done = 0
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from _rows_of_batch(batch, path, done)
                done += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of the disk
        raise DataError(f"{path} is damaged or not Parquet: {error}. Write or fetch it again.") from error


def _rows_of_batch(batch: Any, path: Path, done: int) -> list[Row]:
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError):  # text that is no UTF-8, or a time that Python does not know
        for index in range(batch.num_rows):
            try:
                batch.slice(index, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                raise DataError(
                    f"{path}, row {done + index + 1}: {error}. Mend the row; `tunewell filter {path} --out DIR` sets "
                    "such rows aside and keeps the others."
                ) from error
        raise


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line, with its end; decoded one by one, so that a bad byte has a place."""
    offset = 0  # bytes, after decompression
    for number, raw in enumerate(_raw_lines(path), start=1):
        line = raw
        if number == 1:
            line = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
            offset += len(raw) - len(line)
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: byte {offset + error.start} of the text is 0x{line[error.start]:02x}, which is not "
                f"UTF-8 ({error.reason}), after {_excerpt(line[: error.start].decode()[-40:])}. "
                "Save the file as UTF-8, or remove that line."
            ) from error
        offset += len(line)


def _raw_lines(path: Path) -> Iterator[bytes]:
    if path.suffix.lower() == ".zst":
        yield from _split_lines(zstd_chunks(path))
        return
    with _open(path) as file:
        try:
            yield from file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path} is cut short or not gzip: {error}. Write or fetch it again.") from error


def _open(path: Path) -> IO[bytes]:
    return io.BufferedReader(gzip.GzipFile(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def zstd_chunks(path: Path, size: int = CHUNK) -> Iterator[bytes]:
    """Unpack a zstd file, `size` bytes of it at a time.

    Yields:
        pieces of at least one byte: a frame that is empty, skippable or only begun gives none.

    Raises:
        DataError: the file is damaged or cut short; what could be unpacked has been yielded by then.
    """
    # The stream reader of the zstandard package takes the end of a file cut short for its end; this tells them apart.
    import zstandard

    frame = None  # the decompressor of a frame that has begun and not ended
    try:
        with path.open("rb") as file:
            while chunk := file.read(size):
                while chunk:
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    if piece := frame.decompress(chunk):
                        yield piece
                    chunk = frame.unused_data
                    frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise DataError(f"{path} is damaged or not zstd: {error}. Write or fetch it again.") from error
    if frame is not None:
        raise DataError(f"{path} is cut short: its last zstd frame has no end. Write or fetch it again.")


def _split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _read_folder(path: Path, split: str, limit: int | None) -> list[Row]:
    if not any(entry.is_file() for entry in path.rglob("*")):
        raise DataError(f"the folder {path} holds no files; wanted a data set. {nearest(path)}")
    is_saved = (path / "state.json").exists() or (path / "dataset_dict.json").exists()
    return _read_with_datasets(str(path), split, limit, is_saved=is_saved)


def _read_hub(name: str, split: str, limit: int | None) -> list[Row]:
    try:
        return _read_with_datasets(name, split, limit, is_saved=False)
    except DataError as error:
        raise DataError(f"{error} If a file was meant: {Path(name)} does not exist. {nearest(Path(name))}") from error


def _read_with_datasets(name: str, split: str, limit: int | None, *, is_saved: bool) -> list[Row]:
    import datasets

    try:
        if is_saved:
            loaded = datasets.load_from_disk(name)
            data = loaded[split] if isinstance(loaded, Mapping) else loaded
        else:
            data = datasets.load_dataset(name, split=split)
        return [dict(row) for row in (data if limit is None else islice(data, limit))]
    except Exception as error:  # the library raises all kinds, from its own to those of the network
        cause: BaseException = error  # what is wrong with the rows stands behind a DatasetGenerationError of no words
        while cause.__cause__ is not None:
            cause = cause.__cause__
        problem = f"{type(cause).__name__}: {cause}".strip()
        raise DataError(
            f"cannot read the split {split!r} of {name} ({problem}). Give a file, a folder, or the id of a data set of "
            "the hub, and one of its splits."
        ) from error


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
    readable = [name for name in names if _kind_of(Path(name))]
    return f"In its folder stand: {', '.join(readable[:5])}." if readable else "No file of rows stands in its folder."


def _excerpt(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
