"""Rows of one file, read as its name says: JSONL, CSV, TSV (each also packed by gzip or zstd), Parquet."""

import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import orjson

from ..errors import DataError

Row = dict[str, Any]
CHUNK = 1 << 20  # bytes
JSON_LIST_CURE = "jq -c '.[]' {name} > {name}l"


def rows_of_file(path: Path) -> Iterator[Row]:
    """Read the rows of a file in the way that its name says.

    Raises:
        DataError: it is of a kind that is not read, or damaged; with the line where there is one.
        OSError: it cannot be opened.
    """
    kind = kind_of(path)
    if kind is None:
        cure = f"Convert it: {JSON_LIST_CURE.format(name=path.name)}" if path.suffix == ".json" else "Convert it."
        raise DataError(f"{path}: got a {path.suffix or 'nameless'} file; wanted one of {', '.join(READERS)}. {cure}")
    return READERS[kind](path)


def kind_of(path: Path) -> str | None:
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
    is_tsv = kind_of(path) == ".tsv"
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


def zstd_chunks(path: Path, size: int | None = None) -> Iterator[bytes]:
    """Unpack a zstd file, `size` bytes of it (or `CHUNK`) at a time.

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
            while chunk := file.read(size or CHUNK):
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


def _excerpt(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
