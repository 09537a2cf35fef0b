"""Lines are read as bytes, with their places, so that one bad byte costs one line."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...toolkit.data.rows import zstd_chunks
from ...toolkit.errors import DataError

BLOCK = 1 << 20
"Bytes read at once."
COMPRESSED_BLOCK = 128 << 10
"The same of a compressed stream, which grows when it is unpacked."
LONGEST = 256 << 20
"A longer line is not held in memory: its beginning goes to quarantine."
SHOWN_OF_LONGEST = 64 << 10
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Lines:
    """Some lines in a row.

    Attributes:
        lines: without their line feeds.
        offset: of the first one, in bytes of the file, or of the unpacked text where it is compressed.
        fault: why what these lines hold cannot be used; None for good lines.
        skipped: bytes that were read and are not in `lines`: a byte order mark, the rest of a line that is too long.
    """

    lines: list[bytes]
    offset: int
    fault: str | None = None
    skipped: int = 0


@dataclass
class _Rest:
    """The beginning of a line whose end has not been read."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, part: bytes) -> None:
        """Hold more of the line, as long as it is not too long."""
        if part and self.size <= LONGEST:
            self.parts.append(part)
        self.size += len(part)

    def take(self) -> bytes:
        """Give what is held, and begin anew."""
        line = b"".join(self.parts)
        self.parts, self.size = [], 0
        return line


def read_lines(path: Path, kind: str, start: int, end: int) -> Iterator[Lines]:
    """Read the lines of a file that begin in a range of bytes.

    Args:
        path: the file.
        kind: `jsonl`, or `gz` and `zst`, which are read whole whatever the range.
        start: first byte of the range; a line that began before belongs to the range before.
        end: the byte behind the range; a line that begins before it is read to its end.

    Yields:
        lines in order. A compressed file that is cut short or damaged ends with what is left of its last line, and the
        fault.
    """
    if kind == "jsonl":
        yield from _plain_lines(path, start, end)
    elif path.stat().st_size:
        yield from _stream_lines(_gzip_chunks(path) if kind == "gz" else zstd_chunks(path, COMPRESSED_BLOCK))


def _plain_lines(path: Path, start: int, end: int) -> Iterator[Lines]:
    with path.open("rb", buffering=0) as file:
        position = _first_line_from(file, start)
        file.seek(position)
        yield from _split(iter(lambda: file.read(BLOCK), b""), position, end)


def _first_line_from(file: Iterable[bytes], start: int) -> int:
    """Find the first line that begins at a byte or after it."""
    if start == 0:
        return 0
    position = start - 1  # the line begins at `start` when the byte before it is a line feed
    file.seek(position)  # type: ignore[attr-defined]
    while chunk := file.read(BLOCK):  # type: ignore[attr-defined]
        if (found := chunk.find(b"\n")) >= 0:
            return int(position + found + 1)
        position += len(chunk)
    return position


def _stream_lines(chunks: Iterator[bytes]) -> Iterator[Lines]:
    rest = _Rest()
    position = 0
    try:
        for lines in _split(chunks, 0, None, rest):
            yield lines
            position = lines.offset + lines.skipped + sum(map(len, lines.lines)) + len(lines.lines)
    except (EOFError, gzip.BadGzipFile, zlib.error, DataError) as error:
        fault = f"the file is cut short or damaged, what follows is lost: {error}"
        yield Lines([rest.take()[:SHOWN_OF_LONGEST]], position, fault)


def _split(chunks: Iterator[bytes], position: int, end: int | None, rest: _Rest | None = None) -> Iterator[Lines]:
    """Cut chunks at line feeds, up to the line that holds the byte before `end`."""
    rest = rest or _Rest()
    while end is None or position < end:
        chunk = next(chunks, b"")
        last = chunk.rfind(b"\n")
        if not chunk:
            if rest.size:
                yield _checked(rest.size, [rest.take()], position)
            return
        if last < 0:
            rest.add(chunk)
            continue
        size = rest.size + last
        if end is not None and position + size + 1 > end:
            # Lines that begin at the end or behind it belong to the next range.
            last = chunk.find(b"\n", max(0, end - 1 - position - rest.size))
        first = chunk.find(b"\n")
        long_size = rest.size + first
        behind = position + rest.size + last + 1
        rest.add(chunk[:first])
        head = rest.take()
        if long_size > LONGEST:
            yield _checked(long_size, [head], position)
            position += long_size + 1
            lines = chunk[first + 1 : last].split(b"\n") if last > first else []
        else:
            lines = [head, *chunk[first + 1 : last].split(b"\n")] if last > first else [head]
        if lines:
            yield _checked(0, lines, position)
        position = behind
        rest.add(chunk[last + 1 :])


def _checked(size: int, lines: list[bytes], position: int) -> Lines:
    """Take a byte order mark off the first line of a file, and the tail off a line that is too long."""
    if size > LONGEST:
        fault = f"the line has {size:,} bytes, wanted at most {LONGEST:,}; kept here are the first {SHOWN_OF_LONGEST:,}"
        shown = lines[0][:SHOWN_OF_LONGEST]
        return Lines([shown], position, fault, skipped=size - len(shown))
    if position == 0 and lines[0].startswith(BOM):
        return Lines([lines[0][len(BOM) :], *lines[1:]], len(BOM), skipped=0)
    return Lines(lines, position)


def _gzip_chunks(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        yield from iter(lambda: file.read(COMPRESSED_BLOCK), b"")
