"""Rows of Parquet and of data sets, read in batches: what cannot be read costs a row, or the rest of a row group."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .inputs import open_dataset
from .units import Segment, Source

Row = dict[str, Any]


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be read: the kind of fault, what is wrong, and how Python writes what could be read of it."""

    error: str
    detail: str
    raw: bytes


Part = list[Row | Unreadable]


def table_rows(source: Source, segment: Segment, at_once: int) -> Iterator[Part]:
    """Read the rows of a segment in order, at most so many at once.

    Args:
        source: of the kind `parquet` (the segment counts row groups) or `dataset` (it counts rows).
        segment: what is read.
        at_once: rows in memory.
    """
    return (_parquet if source.kind == "parquet" else _dataset)(source, segment, at_once)


def part_at(source: Source, place: float, at_once: int) -> tuple[Part, int]:
    """Read some rows around a place, from 0, the beginning of the source, to 1, its end.

    Returns:
        The rows, and how many stand before them.
    """
    if source.kind == "dataset":
        first = int(place * source.parts) // at_once * at_once
        segment = Segment(0, first, min(first + at_once, source.parts), 0)
        return next(_dataset(source, segment, at_once), []), first
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetFile(source.path, page_checksum_verification=True) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(source.parts)]
        wanted, before = int(place * sum(sizes)), 0
        for group, size in enumerate(sizes):
            if wanted >= before + size:
                before += size
                continue
            done = 0
            try:
                for batch in file.iter_batches(batch_size=at_once, row_groups=[group]):
                    if wanted < before + done + batch.num_rows:
                        return _rows(batch), before + done
                    done += batch.num_rows
            except (pyarrow.ArrowException, OSError) as error:
                return next(_lost(group, done, size, error, at_once), []), before + done
    return [], 0


def _parquet(source: Source, segment: Segment, at_once: int) -> Iterator[Part]:
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetFile(source.path, page_checksum_verification=True) as file:
        for group in range(segment.start, segment.end):
            done, n = 0, file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(batch_size=at_once, row_groups=[group]):
                    yield _rows(batch)
                    done += batch.num_rows
            except (pyarrow.ArrowException, OSError) as error:
                yield from _lost(group, done, n, error, at_once)


def _lost(group: int, done: int, n: int, error: Exception, at_once: int) -> Iterator[Part]:
    """One record for each row that the metadata promise, so that nothing is lost without being counted."""
    if getattr(error, "errno", None) is not None:
        raise error  # of the disk, which may do better next time
    why = " ".join(str(error).split())
    for first in range(done, n, at_once):
        yield [
            Unreadable("damaged_file", f"row {row + 1} of {n} in row group {group} cannot be read: {why}", b"")
            for row in range(first, min(first + at_once, n))
        ]


def _rows(batch: Any) -> Part:
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError):  # text that is no UTF-8, or a time that Python does not know
        return [_row(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _row(batch: Any) -> Row | Unreadable:
    """The only row of a batch."""
    try:
        return dict(batch.to_pylist()[0])
    except (ValueError, OverflowError) as error:
        values = {name: _loose(column[0]) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        kind = "not_utf8" if isinstance(error, UnicodeDecodeError) else "bad_value"
        return Unreadable(kind, f"column {_worst(batch)!r}: {error}", repr(values).encode())


def _worst(batch: Any) -> str:
    """The first column that cannot be read."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.to_pylist()
        except (ValueError, OverflowError):
            return str(name)
    return ""


def _loose(scalar: Any) -> Any:
    """A value with bytes in place of text that cannot be decoded, however deep it lies."""
    import pyarrow as pa

    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        if isinstance(scalar, pa.StructScalar):
            return {name: _loose(value) for name, value in scalar.items()}
        if isinstance(scalar, pa.ListScalar):
            return [_loose(value) for value in scalar.values]
        if isinstance(scalar, pa.StringScalar):
            return scalar.as_buffer().to_pybytes()
        value = getattr(scalar, "value", None)  # of a time the number that it is kept as
        return _loose(value) if isinstance(value, pa.Scalar) else value


def _dataset(source: Source, segment: Segment, at_once: int) -> Iterator[Part]:
    data = open_dataset(source.path, source.split)
    for first in range(segment.start, segment.end, at_once):
        last = min(first + at_once, segment.end)
        try:
            columns = data[first:last]
        except Exception:  # pictures and sounds are decoded by libraries that raise all kinds
            yield [_dataset_row(data, index) for index in range(first, last)]
        else:
            yield [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _dataset_row(data: Any, index: int) -> Row | Unreadable:
    try:
        return dict(data[index])
    except Exception as error:
        found = _row(data.with_format("arrow")[index].combine_chunks().to_batches()[0])
        if isinstance(found, Unreadable):
            return found
        return Unreadable("bad_value", f"{type(error).__name__}: {error}", repr(found).encode())
