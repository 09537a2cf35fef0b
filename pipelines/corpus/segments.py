"""Segments of a corpus are read as batches of texts; what cannot be read is set aside with its place and bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ...filters.row_text import RowReader, RowText
from ...toolkit.errors import DataError
from .batches import NO_OFFSET, Bad, Batch
from .inputs import open_dataset
from .line_parser import LineParser
from .lines import read_lines
from .units import ROWS_AT_ONCE, Pace, Segment, Source


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
            texts=[place.text for place in places], raws=raws, places=places, lines=np.array(numbers, dtype=np.int64),
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
