"""Segments of a corpus are read as batches of texts; what cannot be read is set aside with its place and bytes."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ...filters.row_text import RowReader, RowText
from ...toolkit.data.plain_values import columns_without_form, plain_value
from ...toolkit.errors import DataError
from .batches import NO_OFFSET, Bad, Batch
from .line_parser import LineParser
from .lines import read_lines
from .tables import Part, Unreadable, part_at, table_rows
from .units import ROWS_AT_ONCE, Pace, Segment, Source


def read_segment(source: Source, segment: Segment, reader: RowReader, pace: Pace = "model") -> Iterator[Batch]:
    """Read one segment, in order, in batches as large as suits the pace of the filters."""
    at_once = ROWS_AT_ONCE[pace]
    if source.kind in ("parquet", "dataset"):
        yield from _as_lines(table_rows(source, segment, at_once), reader)
    else:
        yield from _lines(source, segment.start, segment.end, reader, at_once)


def _lines(source: Source, start: int, end: int, reader: RowReader, at_once: int) -> Iterator[Batch]:
    parser = LineParser(reader, at_once)
    for lines in read_lines(Path(source.path), source.kind, start, end):
        yield from parser.batches(lines)


def batch_at(source: Source, place: float, reader: RowReader, at_once: int, last: int) -> tuple[Batch, int] | None:
    """Read one batch somewhere in a source that can be entered anywhere.

    Args:
        source: of the kind `jsonl`, `parquet` or `dataset`.
        place: from 0, the beginning, to 1, the end.
        reader: what is judged of a row.
        at_once: rows of a batch.
        last: bytes before the end of a file of lines behind which is not begun.

    Returns:
        The batch, and how many rows stand before its line 0 (lines tell by their offsets); None: there are no rows.
    """
    if source.kind == "jsonl":
        # Behind the last line feed no line begins; a file of one long line is read from its beginning.
        for start in (min(int(place * source.size), max(0, source.size - last)), 0):
            if batches := [*islice(_lines(source, start, source.size, reader, at_once), 1)]:
                return batches[0], 0
        return None
    part, first = part_at(source, place, at_once)
    return (next(_as_lines([part], reader)), first) if part else None


def _as_lines(parts: Iterable[Part], reader: RowReader) -> Iterator[Batch]:
    """Write rows that are no lines as JSON, and read them as if they were."""
    number = 0
    for part in parts:
        raws: list[bytes] = []
        places: list[RowText] = []
        numbers: list[int] = []
        bad: list[Bad] = []
        for row in part:
            number += 1
            found = row if isinstance(row, Unreadable) else _read(row, reader)
            if isinstance(found, Unreadable):
                bad.append(Bad(line=number, offset=NO_OFFSET, error=found.error, detail=found.detail, raw=found.raw))
                continue
            raws.append(found[0])
            places.append(found[1])
            numbers.append(number)
        yield Batch(
            texts=[place.text for place in places], raws=raws, places=places, lines=np.array(numbers, dtype=np.int64),
            offsets=np.full(len(numbers), NO_OFFSET, dtype=np.int64), bad=bad, n_lines=len(part),
            n_bytes=sum(map(len, raws)),
        )  # fmt: skip


def _read(row: Mapping[str, Any], reader: RowReader) -> tuple[bytes, RowText] | Unreadable:
    try:
        return orjson.dumps(row, default=plain_value, option=orjson.OPT_SERIALIZE_NUMPY), reader.read(row)
    except DataError as error:
        fault, detail = "nothing_to_judge", str(error)
    except TypeError:
        fault, detail = "not_json", f"cannot be written as JSON: {', '.join(columns_without_form(row))}"
    return Unreadable(fault, detail, repr(row).encode())
