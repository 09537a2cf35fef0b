"""Segments of a corpus are read as batches of texts; what cannot be read is set aside with its place and bytes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import ahocorasick_rs
import numpy as np
import orjson
from numpy.typing import NDArray

from ...filters.row_text import RowReader, RowText
from ...toolkit.errors import DataError
from .inputs import open_dataset
from .lines import Lines, read_lines
from .units import ROWS_AT_ONCE, Pace, Segment, Source

Integers = NDArray[np.int64]

LINE_FEED = ord("\n")
NO_OFFSET = -1
"Byte offset of rows that have none: those of Parquet and of data sets."


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One line that cannot be used.

    Attributes:
        line: its number in the segment, the first is 1.
        offset: of its first byte, see `Lines`.
        error: the kind of fault, one of a few words.
        detail: what is wrong, for people.
        raw: its bytes; of rows that are no lines, how Python writes them.
    """

    line: int
    offset: int
    error: str
    detail: str
    raw: bytes


@dataclass(kw_only=True)
class Batch:
    """Rows that can be judged, and lines that cannot.

    Attributes:
        raws: each row as JSON in bytes: as it stood in the file, or as written here where it was none.
        block: all rows as they stand in the file, each with its line feed; None: they do not stand side by side.
        texts: what filters judge of each.
        places: where the parts of each text stand in its row; None: each text is the one column `column`.
        column: see `places`.
        lines: (rows,) number in the segment, the first is 1.
        offsets: (rows,) of the first byte.
        bad: lines that cannot be used.
        blank: lines without anything, which are no rows.
        n_lines: all lines.
        n_bytes: their bytes, for progress.
    """

    raws: list[bytes]
    block: bytes | None = None
    texts: list[str]
    places: list[RowText] | None = None
    column: str = "text"
    lines: Integers
    offsets: Integers
    bad: list[Bad] = field(default_factory=list)
    blank: int = 0
    n_lines: int
    n_bytes: int

    def place(self, index: int) -> RowText:
        """Where the parts of a text stand in its row."""
        if self.places is not None:
            return self.places[index]
        text = self.texts[index]
        return RowText(text, (((self.column,), 0, len(text)),))

    def without(self, dropped: Sequence[int]) -> bytes:
        """Give the rows but some, whose numbers rise, each with its line feed."""
        if self.block is None:
            is_dropped = set(dropped)
            return b"".join([b"%b\n" % raw for index, raw in enumerate(self.raws) if index not in is_dropped])
        # A few long pieces are put together sooner than many rows.
        block, pieces, begin = memoryview(self.block), [], 0
        for index in dropped:
            end = int(self.offsets[index] - self.offsets[0])
            pieces.append(block[begin:end])
            begin = end + len(self.raws[index]) + 1
        return b"".join([*pieces, block[begin:]])


def read_segment(source: Source, segment: Segment, reader: RowReader, pace: Pace = "model") -> Iterator[Batch]:
    """Read one segment, in order, in batches as large as suits the pace of the filters."""
    at_once = ROWS_AT_ONCE[pace]
    if source.kind == "parquet":
        yield from _tables(_parquet_rows(source, segment, at_once), reader, segment)
    elif source.kind == "dataset":
        yield from _tables(_dataset_rows(source, segment, at_once), reader, segment)
    else:
        parser = LineParser(reader, at_once)
        for lines in read_lines(Path(source.path), source.kind, segment.start, segment.end):
            yield from parser.batches(lines)


class LineParser:
    """Turns lines into batches, counting lines as it goes."""

    def __init__(self, reader: RowReader, at_once: int) -> None:
        self._reader, self._at_once = reader, at_once
        self._n_lines = 0
        # The column that is judged alone in most corpora, which then needs no row by row care.
        columns = reader.columns or ("text",)
        self._column = columns[0] if len(columns) == 1 else None

    def batches(self, lines: Lines) -> Iterator[Batch]:
        """Parse lines that stand in a row."""
        if lines.fault is not None:
            yield self._unreadable(lines)
            return
        offset = lines.offset
        # Even parts: none of a few rows, which would cost as much as many.
        n_parts = -(-len(lines.lines) // self._at_once)
        step = -(-len(lines.lines) // n_parts)
        for first in range(0, len(lines.lines), step):
            part = lines.lines[first : first + step]
            block = b"\n".join([*part, b""])
            line_feeds = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == LINE_FEED)
            offsets = offset + np.concatenate(([0], line_feeds[:-1] + 1))
            numbers = np.arange(self._n_lines + 1, self._n_lines + 1 + len(part))
            self._n_lines += len(part)
            texts = self._texts_of(part, block)
            if texts is not None and self._column is not None:
                yield Batch(
                    raws=part, block=block, texts=texts, column=self._column, lines=numbers, offsets=offsets,
                    n_lines=len(part), n_bytes=len(block),
                )  # fmt: skip
            else:
                yield self._one_by_one(part, numbers, offsets, len(block))
            offset += len(block)

    def _texts_of(self, part: list[bytes], block: bytes) -> list[str] | None:
        """The texts of rows that are all well and have one text each; None: they need a closer look."""
        column = self._column
        if column is None:
            return None
        try:
            texts = list(map(itemgetter(column), map(orjson.loads, part)))
        except (orjson.JSONDecodeError, LookupError, TypeError):
            return None
        is_plain = set(map(type, texts)) <= {str}
        # A key that stands twice would be read as the last; other readers may take the first.
        return texts if is_plain and len(self._key.find_matches_as_indexes(block)) == len(part) else None

    @cached_property
    def _key(self) -> ahocorasick_rs.BytesAhoCorasick:
        """Finds the key of the column in the bytes of rows, in a third of the time of `bytes.count`."""
        return ahocorasick_rs.BytesAhoCorasick([orjson.dumps(self._column)])

    def _one_by_one(self, part: list[bytes], numbers: Integers, offsets: Integers, n_bytes: int) -> Batch:
        good: list[int] = []
        places: list[RowText] = []
        bad: list[Bad] = []
        blank = 0
        for index, line in enumerate(part):
            if not line.strip():
                blank += 1
                continue
            found = self._row_text(line)
            if isinstance(found, RowText):
                good.append(index)
                places.append(found)
            else:
                error, detail = found
                bad.append(
                    Bad(line=int(numbers[index]), offset=int(offsets[index]), error=error, detail=detail, raw=line)
                )
        return Batch(
            raws=[part[index] for index in good], texts=[place.text for place in places], places=places,
            lines=numbers[good], offsets=offsets[good], bad=bad, blank=blank, n_lines=len(part), n_bytes=n_bytes,
        )  # fmt: skip

    def _row_text(self, line: bytes) -> RowText | tuple[str, str]:
        """Read a line, or say what is wrong with it."""
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return _json_fault(line, error)
        if not isinstance(row, dict):
            return "not_an_object", f"got {_shown(line)}, wanted one JSON object a line"
        try:
            found = self._reader.read(row)
        except DataError as error:
            return "nothing_to_judge", str(error)
        doubled = _doubled_key(line, row, found)
        if doubled is not None:
            return "doubled_key", f"the key {doubled!r} stands there twice, so that readers differ on what the row says"
        return found

    def _unreadable(self, lines: Lines) -> Batch:
        self._n_lines += 1
        raw = lines.lines[0]
        error = "line_too_long" if lines.skipped else "damaged_file"
        bad = Bad(line=self._n_lines, offset=lines.offset, error=error, detail=lines.fault or "", raw=raw)
        none = np.zeros(0, dtype=np.int64)
        n_bytes = len(raw) + lines.skipped
        return Batch(raws=[], texts=[], lines=none, offsets=none, bad=[bad], n_lines=1, n_bytes=n_bytes)


def _json_fault(line: bytes, error: orjson.JSONDecodeError) -> tuple[str, str]:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as bad:
        return "not_utf8", f"byte {bad.start} of the line is 0x{line[bad.start]:02x}, which is not UTF-8: {bad.reason}"
    return "bad_json", f"column {error.colno}: {error.msg}: got {_shown(line)}"


def _doubled_key(line: bytes, row: Mapping[str, Any], found: RowText) -> str | None:
    """Find a key of what is judged that stands twice in one object; most lines need no second parsing to tell."""
    keys = Counter(str(key) for place, _, _ in found.parts for key in place if isinstance(key, str))
    tops = {str(place[0]) for place, _, _ in found.parts}
    suspects = [key for key, n in keys.items() if line.count(orjson.dumps(key)) > (1 if key in tops else n)]
    if not suspects:
        return None
    import json

    doubled: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        counts = Counter(key for key, _ in pairs)
        doubled.extend(key for key in suspects if counts[key] > 1)

    json.loads(line, object_pairs_hook=note)
    return doubled[0] if doubled else None


def _tables(rows: Iterator[list[dict[str, Any]]], reader: RowReader, segment: Segment) -> Iterator[Batch]:
    """Write rows that are no lines as JSON, and read them as if they were."""
    number = 0
    for part in rows:
        raws: list[bytes] = []
        places: list[RowText] = []
        numbers: list[int] = []
        bad: list[Bad] = []
        for row in part:
            number += 1
            try:
                raw = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
                places.append(reader.read(row))
            except (DataError, TypeError) as error:
                kind = "nothing_to_judge" if isinstance(error, DataError) else "not_json"
                detail = str(error) if isinstance(error, DataError) else f"cannot be written as JSON: {error}"
                bad.append(Bad(line=number, offset=NO_OFFSET, error=kind, detail=detail, raw=repr(row).encode()))
                continue
            raws.append(raw)
            numbers.append(number)
        yield Batch(
            raws=raws, texts=[place.text for place in places], places=places, lines=np.array(numbers, dtype=np.int64),
            offsets=np.full(len(numbers), NO_OFFSET, dtype=np.int64), bad=bad, n_lines=len(part),
            n_bytes=sum(map(len, raws)),
        )  # fmt: skip


def _parquet_rows(source: Source, segment: Segment, at_once: int) -> Iterator[list[dict[str, Any]]]:
    from pyarrow import parquet

    with parquet.ParquetFile(source.path) as file:
        groups = list(range(segment.start, segment.end))
        for batch in file.iter_batches(batch_size=at_once, row_groups=groups):
            yield batch.to_pylist()


def _dataset_rows(source: Source, segment: Segment, at_once: int) -> Iterator[list[dict[str, Any]]]:
    data = open_dataset(source.path, source.split)
    for first in range(segment.start, segment.end, at_once):
        columns = data[first : min(first + at_once, segment.end)]
        yield [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _shown(line: bytes) -> str:
    text = line.strip().decode("utf-8", "replace")
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
