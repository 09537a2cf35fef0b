"""A batch holds rows as they stood and what filters judge of them, beside the lines that could not be used."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...filters.row_text import Place, RowText

Integers = NDArray[np.int64]

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
        texts: what filters judge of each row.
        raws: each row as JSON in bytes: as it stood in the file, or as written here where it was none.
        block: all rows as they stand in the file, each with its line feed; None: they do not stand side by side.
        places: where the parts of each text stand in its row; None: each text is the one column `column`.
        column: see `places`.
        lines: (rows,) number in the segment, the first is 1.
        offsets: (rows,) of the first byte.
        bad: lines that cannot be used.
        blank: lines without anything, which are no rows.
        n_lines: all lines.
        n_bytes: their bytes, for progress.
    """

    texts: list[str]
    raws: list[bytes]
    block: bytes | None = None
    places: list[RowText] | None = None
    column: str = "text"
    lines: Integers
    offsets: Integers
    bad: list[Bad] = field(default_factory=list)
    blank: int = 0
    n_lines: int
    n_bytes: int

    def locate(self, index: int, span: tuple[int, int]) -> tuple[Place, tuple[int, int]] | None:
        """Find the part of a row that a span of its text begins in, and the span inside it; None for an empty row."""
        return ((self.column,), span) if self.places is None else self.places[index].locate(span)

    def without(self, dropped: Sequence[int]) -> bytes:
        """Give the rows but some, whose numbers rise, each with its line feed."""
        if self.block is None:
            is_dropped = set(dropped)
            return b"".join([b"%b\n" % raw for index, raw in enumerate(self.raws) if index not in is_dropped])
        # A few long pieces are put together sooner than many rows.
        block, pieces, begin = memoryview(self.block), [], 0
        for index in dropped:
            end = self.offsets.item(index) - self.offsets.item(0)
            pieces.append(block[begin:end])
            begin = end + len(self.raws[index]) + 1
        return b"".join([*pieces, block[begin:]])

    def some(self, rows: Sequence[int]) -> "Batch":
        """The same with some of its rows; lines that cannot be used stay."""
        return replace(
            self, texts=[self.texts[index] for index in rows], raws=[self.raws[index] for index in rows], block=None,
            places=None if self.places is None else [self.places[index] for index in rows],
            lines=self.lines[list(rows)], offsets=self.offsets[list(rows)],
        )  # fmt: skip
