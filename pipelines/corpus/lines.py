"""Lines are read as bytes, with their places, so that one bad byte costs one line."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...toolkit.data.row_files import zstd_chunks
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
        block: the lines, each with its line feed; the last one of a file is given one.
        offset: of the first one, in bytes of the file, or of the unpacked text where it is compressed.
        fault: why a line cannot be used, of which `block` is the beginning; None for good lines.
        skipped: bytes of that line that were read and are not in `block`.
    """

    block: bytes
    offset: int
    fault: str | None = None
    skipped: int = 0


@dataclass
class _Rest:
    """The beginning of a line whose end has not been read.

    Attributes:
        offset: where it begins, as in `Lines`.
        size: how long it is; of one that is too long not all is held.
    """

    offset: int = 0
    size: int = 0
    _parts: list[bytes] = field(default_factory=list)

    def add(self, part: bytes) -> None:
        """Hold more of the line, as long as it is not too long."""
        if part and self.size <= LONGEST:
            self._parts.append(part)
        self.size += len(part)

    def take(self, end: bytes | memoryview = b"") -> bytes:
        """Give what is held, and what ends it, and begin anew."""
        taken = b"".join([*self._parts, end])
        self._parts, self.size = [], 0
        return taken


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
        yield from _split(iter(lambda: file.read(BLOCK), b""), _Rest(position), end)


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
    try:
        yield from _split(chunks, rest, None)
    except (EOFError, zlib.error, DataError) as error:
        fault = f"the file is cut short or damaged, what follows is lost: {error}"
        yield Lines(rest.take()[:SHOWN_OF_LONGEST], rest.offset, fault)


def _split(chunks: Iterator[bytes], rest: _Rest, end: int | None) -> Iterator[Lines]:
    """Cut chunks behind line feeds, up to the line that holds the byte before `end`."""
    while end is None or rest.offset < end:
        chunk = next(chunks, b"")
        if not chunk:
            if rest.size:
                yield _too_long(rest) if rest.size > LONGEST else _good(rest.take(b"\n"), rest.offset)
            return
        last = chunk.rfind(b"\n")
        if last < 0:
            rest.add(chunk)
            continue
        if end is not None and rest.offset + rest.size + last + 1 > end:
            # Lines that begin at the end or behind it belong to the next range.
            last = chunk.find(b"\n", max(0, end - 1 - rest.offset - rest.size))
        behind = rest.offset + rest.size + last + 1
        begin, first = 0, chunk.find(b"\n")
        if rest.size + first > LONGEST:
            rest.add(chunk[:first])
            begin = first + 1
            size = rest.size
            yield _too_long(rest)
            rest.offset += size + 1
        if block := rest.take(memoryview(chunk)[begin : last + 1]):
            yield _good(block, rest.offset)
        rest.offset = behind
        rest.add(chunk[last + 1 :])


def _good(block: bytes, offset: int) -> Lines:
    """Take a byte order mark off the first line of a file."""
    if offset == 0 and block.startswith(BOM):
        return Lines(block[len(BOM) :], len(BOM))
    return Lines(block, offset)


def _too_long(rest: _Rest) -> Lines:
    size = rest.size
    shown = rest.take()[:SHOWN_OF_LONGEST]
    fault = f"the line has {size:,} bytes, wanted at most {LONGEST:,}; kept here are the first {SHOWN_OF_LONGEST:,}"
    return Lines(shown, rest.offset, fault, skipped=size - len(shown))


def _gzip_chunks(path: Path) -> Iterator[bytes]:
    """Unpack a gzip file. The module gzip gives nothing of the block that holds a damage; this gives all before it.

    Raises:
        EOFError: the file is cut short; what could be unpacked has been yielded by then.
        zlib.error: it is damaged, or goes on with something else; as before.
    """
    member: Any = None  # the decompressor of a member that has begun and not ended
    is_first = True
    with path.open("rb") as file:
        while packed := file.read(COMPRESSED_BLOCK):
            while packed:
                if member is None:
                    # Zeros may fill up the place behind a member.
                    packed = packed if is_first else packed.lstrip(b"\0")
                    if not packed:
                        break
                    member, is_first = zlib.decompressobj(wbits=31), False
                before = member.copy()
                try:
                    piece = member.decompress(packed, COMPRESSED_BLOCK)
                except zlib.error:
                    # Byte by byte it fails at the damage, and not at the beginning of the block.
                    pieces = (before.decompress(packed[index : index + 1]) for index in range(len(packed)))
                    yield from filter(None, pieces)
                    raise
                if piece:
                    yield piece
                packed = member.unused_data if member.eof else member.unconsumed_tail
                member = None if member.eof else member
    if member is not None:
        if piece := member.flush():
            yield piece
        if not member.eof:
            raise EOFError("Compressed file ended before the end-of-stream marker was reached")
