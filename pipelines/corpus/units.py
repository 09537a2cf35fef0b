"""A corpus is cut into units of work: byte ranges of files, row groups of Parquet, rows of a data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["jsonl", "gz", "zst", "parquet", "dataset", "run"]

Pace = Literal["quick", "slow", "model"]
"Whether a row takes microseconds, or a good part of a millisecond, or a model is asked for each."

SIZES: dict[Pace, tuple[int, int]] = {
    # A unit is some fifteen files that are brought safely to the disk: a smaller one would cost more than its rows.
    "quick": (16_000_000, 64_000_000),
    "slow": (1_000_000, 64_000_000),
    # A larger unit would take hours, and a kill would cost as much.
    "model": (1_000_000, 4_000_000),
}
"Smallest and largest unit, in bytes."
ROWS_AT_ONCE: dict[Pace, int] = {"quick": 2048, "slow": 1024, "model": 1024}
"""Rows judged at once: enough that a model can sort them by length; more where what is done once for all of them is a
good part of the work, and where nobody waits for the next step of the progress bar."""
UNITS_WANTED = 64
"Smaller corpora get smaller units, so that there are some for every worker."


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file, data set or earlier run.

    Attributes:
        name: how outputs name it.
        path: where workers find it: an absolute path, or the id of a data set.
        kind: how it is read.
        size: bytes of the file, or of all rows of a data set.
        parts: row groups of a Parquet file, rows of a data set, parts of a run; 0 where bytes are counted.
        identity: changes when the content changes.
        modified: when the file was last written, in nanoseconds; None where it is no file of the user's.
        split: of a data set.
    """

    name: str
    path: str
    kind: Kind
    size: int
    parts: int = 0
    identity: str = ""
    modified: int | None = None
    split: str = ""


@dataclass(frozen=True)
class Segment:
    """A part of one source: the lines that begin in a range of bytes, or a range of row groups, rows or parts.

    Attributes:
        source: number of the source.
        start: first byte, row group, row or part.
        end: the one after the last.
        weight: bytes, for progress.
    """

    source: int
    start: int
    end: int
    weight: int


@dataclass(frozen=True)
class Unit:
    """What one worker does at a time, and what a kill costs at most."""

    number: int
    segments: tuple[Segment, ...]

    @property
    def name(self) -> str:
        """The unit's place in names of files and folders."""
        return f"{self.number:05d}"

    @property
    def weight(self) -> int:
        """Bytes, for progress."""
        return sum(segment.weight for segment in self.segments)


def cut(sources: Sequence[Source], *, pace: Pace, unit_bytes: int | None = None) -> list[Unit]:
    """Cut sources into units of nearly equal weight, small files together in one.

    The cut depends on the sources alone, not on the number of workers, so that outputs do not either.

    Args:
        sources: in reading order.
        pace: of the filters.
        unit_bytes: the size of a unit; None: by the size of the corpus.
    """
    total = sum(source.size for source in sources)
    smallest, largest = SIZES[pace]
    size = unit_bytes or min(largest, max(smallest, -(-total // UNITS_WANTED)))
    units: list[Unit] = []
    waiting: list[Segment] = []
    for segment in _segments(sources, size):
        if waiting and sum(one.weight for one in waiting) + segment.weight > size:
            units.append(Unit(len(units), tuple(waiting)))
            waiting = []
        waiting.append(segment)
    if waiting:
        units.append(Unit(len(units), tuple(waiting)))
    return units


def _segments(sources: Sequence[Source], size: int) -> Iterator[Segment]:
    for number, source in enumerate(sources):
        if source.kind == "jsonl":
            for start in range(0, max(source.size, 1), size):
                end = min(start + size, source.size)
                yield Segment(number, start, end, end - start)
        elif source.kind in ("parquet", "dataset"):
            if not source.parts:
                yield Segment(number, 0, 0, 0)
            # As many row groups or rows as make up a unit.
            step = max(1, source.parts * size // max(source.size, 1))
            for start in range(0, source.parts, step):
                end = min(start + step, source.parts)
                yield Segment(number, start, end, source.size * (end - start) // source.parts)
        else:  # a compressed stream can only be read from its beginning
            yield Segment(number, 0, source.size, source.size)
