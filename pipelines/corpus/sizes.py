"""How much larger the rows of a corpus are than its files: an estimate, for progress bars and dry runs."""

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from .units import Kind, Source


class Readable(Protocol):
    """What unpacks a file."""

    def read(self, size: int, /) -> bytes:
        """Give at most so many bytes, none at the end."""


LOOKED_AT = 4  # files of a kind
UNPACKED = 4_000_000  # bytes of a file


def growth(sources: Sequence[Source]) -> dict[Kind, float]:
    """Measure, on the first files of each kind, the bytes of rows for each byte of a file; 1 where none is packed."""
    found: dict[Kind, float] = {}
    for kind, look in LOOKS.items():
        sizes = [look(Path(one.path)) for one in [one for one in sources if one.kind == kind and one.size][:LOOKED_AT]]
        packed, unpacked = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
        found[kind] = unpacked / packed if packed and unpacked else 1.0
    return found


def rows_in(source: Source, grows: float, bytes_of_a_row: float) -> float:
    """Estimate the rows of one source; Parquet and data sets know theirs."""
    if source.kind == "dataset":
        return source.parts
    if source.kind == "parquet":
        from pyarrow import parquet

        return int(parquet.read_metadata(source.path).num_rows)
    return source.size * grows / max(bytes_of_a_row, 1)


def _gzip(path: Path) -> tuple[int, int]:
    return _stream(path, lambda file: gzip.GzipFile(fileobj=file))


def _zstd(path: Path) -> tuple[int, int]:
    import zstandard

    return _stream(path, lambda file: zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))


def _stream(path: Path, unpack: Callable[[BinaryIO], Readable]) -> tuple[int, int]:
    """Unpack the beginning of a file; gives the bytes read and those unpacked, none of a file that is damaged there."""
    unpacked = 0
    with path.open("rb") as file:
        try:
            stream = unpack(file)
            while unpacked < UNPACKED and (chunk := stream.read(1 << 16)):
                unpacked += len(chunk)
        except Exception:  # each library has its own; the run will say what is wrong with the file
            pass
        return file.tell(), unpacked


def _parquet(path: Path) -> tuple[int, int]:
    from pyarrow import parquet

    told = parquet.read_metadata(path)
    groups = [told.row_group(number) for number in range(told.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(one.total_compressed_size for one in columns), sum(one.total_uncompressed_size for one in columns)


LOOKS: dict[Kind, Callable[[Path], tuple[int, int]]] = {"gz": _gzip, "zst": _zstd, "parquet": _parquet}
