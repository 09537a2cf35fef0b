"""Lines of JSON become batches of texts, many at once; each that cannot be used is set aside with what is wrong."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from operator import itemgetter
from typing import Any

import ahocorasick_rs
import numpy as np
import orjson

from ...filters.row_text import RowReader, RowText
from ...toolkit.errors import DataError
from .batches import Bad, Batch, Integers
from .lines import Lines


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
        all_raws = lines.block.split(b"\n")
        all_raws.pop()  # nothing stands behind the last line feed
        ends = np.cumsum(np.fromiter(map(len, all_raws), np.int64, len(all_raws)) + 1)
        begins = np.concatenate(([0], ends[:-1]))
        # Even parts: none of a few rows, which would cost as much as many.
        n_parts = -(-len(ends) // self._at_once)
        step = -(-len(ends) // n_parts)
        for first in range(0, len(ends), step):
            raws = all_raws[first : first + step]
            block = lines.block[begins.item(first) : ends.item(first + len(raws) - 1)]
            offsets = lines.offset + begins[first : first + step]
            numbers = np.arange(self._n_lines + 1, self._n_lines + 1 + len(raws))
            self._n_lines += len(raws)
            texts = self._texts_of(raws, block)
            if texts is not None and self._column is not None:
                yield Batch(
                    texts=texts, raws=raws, block=block, column=self._column, lines=numbers, offsets=offsets,
                    n_lines=len(raws), n_bytes=len(block),
                )  # fmt: skip
            else:
                yield self._one_by_one(raws, numbers, offsets, len(block))

    def _texts_of(self, raws: list[bytes], block: bytes) -> list[str] | None:
        """The texts of rows that are all well and have one text each; None: they need a closer look."""
        column = self._column
        if column is None:
            return None
        try:
            texts = list(map(itemgetter(column), map(orjson.loads, raws)))
        except (orjson.JSONDecodeError, LookupError, TypeError):
            return None
        is_plain = set(map(type, texts)) <= {str} and not _may_spell(column, block)
        # A key that stands twice would be read as the last; other readers may take the first.
        return texts if is_plain and len(self._key.find_matches_as_indexes(block)) == len(raws) else None

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
            texts=[place.text for place in places], raws=[part[index] for index in good], places=places,
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
        try:
            doubled = _doubled_key(line, row, found)
        except RecursionError:
            return "too_deep", f"nests too deeply to be looked through for keys that stand twice: got {_shown(line)}"
        if doubled is not None:
            return "doubled_key", f"the key {doubled!r} stands there twice, so that readers differ on what the row says"
        return found

    def _unreadable(self, lines: Lines) -> Batch:
        self._n_lines += 1
        error = "line_too_long" if lines.skipped else "damaged_file"
        bad = Bad(line=self._n_lines, offset=lines.offset, error=error, detail=lines.fault or "", raw=lines.block)
        none = np.zeros(0, dtype=np.int64)
        n_bytes = len(lines.block) + lines.skipped
        return Batch(texts=[], raws=[], lines=none, offsets=none, bad=[bad], n_lines=1, n_bytes=n_bytes)


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
    suspects = [
        key
        for key, n in keys.items()
        if line.count(orjson.dumps(key)) > (1 if key in tops else n) or _may_spell(key, line)
    ]
    if not suspects:
        return None
    import json

    doubled: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        counts = Counter(key for key, _ in pairs)
        doubled.extend(key for key in suspects if counts[key] > 1)

    json.loads(line, object_pairs_hook=note)
    return doubled[0] if doubled else None


def _may_spell(key: str, raw: bytes) -> bool:
    """Whether a letter of a key is written as an escape somewhere, so that the key may stand there unseen."""
    return b"\\" in raw and _escaped(key).search(raw) is not None


@cache
def _escaped(key: str) -> re.Pattern[bytes]:
    units = key.encode("utf-16-be", "surrogatepass")
    escapes = {f"u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)} | ({"/"} & set(key))
    return re.compile(rb"\\(?:%b)" % "|".join(sorted(escapes)).encode(), re.IGNORECASE)


def _shown(line: bytes) -> str:
    text = line.strip().decode("utf-8", "replace")
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
