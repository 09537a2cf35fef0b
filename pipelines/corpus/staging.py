"""What was made of one unit is written into a folder that appears whole, by one rename, or not at all."""

import base64
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ...filters.base import CorpusFilter, Filter, Verdict
from ...toolkit.errors import DataError
from ...toolkit.files import JSON_OPTIONS, unfinished_folder
from .batches import NO_OFFSET, Bad, Batch
from .columns import column
from .scores import KEPT, ScoreColumns, write_staged

RECORD = "unit.json"
EXAMPLES = 6
"Rows shown for each reason, drawn by a hash of the row: the same ones however the corpus is cut."
SHOWN = 1500
"Characters of an example on either side of what the filter objected to."
COUNTS = ("lines", "read", "kept", "dropped", "quarantined", "blank", "bytes")


@dataclass(frozen=True)
class _Places:
    """Where the rows of one batch came from, and the number of the filter that dropped each."""

    segment: int
    lines: NDArray[np.int64]
    offsets: NDArray[np.int64]
    by: NDArray[np.int8]


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of `target` when the block ends without an error."""
    with unfinished_folder(target) as working:
        yield working
        if not target.is_dir():  # another worker may have been faster, with the same result
            os.rename(working, target)


class UnitWriter:
    """Writes kept, dropped and unreadable rows of one unit, with their scores and sums.

    Lines are numbered within their segment: how many came before is only known when all units are done. So each
    record is written as the number of its segment, its line, and the JSON that follows.
    """

    def __init__(self, folder: Path, filters: Mapping[str, Filter], comparing: Mapping[str, CorpusFilter]) -> None:
        self._folder, self._filters, self._comparing = folder, tuple(filters), comparing
        self._limits = {name: getattr(one, "limits", ()) for name, one in filters.items()}
        self._kept = (folder / "kept.jsonl").open("wb")
        self._dropped = (folder / "dropped.txt").open("wb")
        self._quarantine = (folder / "quarantine.txt").open("wb")
        self._counts: list[Counter[str]] = []
        self._sources: list[int] = []
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._errors: Counter[str] = Counter()
        self._first_bad: list[dict[str, Any]] = []
        self._examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._scores = {name: ScoreColumns() for name in filters}
        self._places: list[_Places] = []
        self._summaries: dict[str, list[NDArray[np.uint64]]] = {name: [] for name in comparing}

    def begin(self, source: int) -> None:
        """Start with a segment of a source."""
        self._sources.append(source)
        self._counts.append(Counter(dict.fromkeys(COUNTS, 0)))

    def add(self, batch: Batch, verdicts: Mapping[str, Sequence[Verdict]], failed: Sequence[Bad] = ()) -> None:
        """Write one batch, with the verdict of each filter on each of its rows."""
        n = len(batch.texts)
        by = np.full(n, KEPT, dtype=np.int8)
        drops = [self._scores[name].add(verdicts[name]) for name in self._filters]
        for number in range(len(drops) - 1, -1, -1):  # the first filter has the last word
            by[drops[number]] = number
        self._places.append(_Places(len(self._sources) - 1, batch.lines, batch.offsets, by))
        dropped = np.flatnonzero(by != KEPT).tolist()
        self._kept.write(batch.without(dropped))
        if self._comparing and len(dropped) < n:
            texts = list(compress(batch.texts, (by == KEPT).tolist()))
            for name, one in self._comparing.items():
                self._summaries[name].append(one.summarise(texts))
        for index, number in zip(dropped, by[dropped].tolist(), strict=True):
            self._drop(batch, index, self._filters[number], self._filters[number + 1 :], verdicts)
        for bad in (*batch.bad, *failed):
            self._set_aside(bad)
        counts = self._counts[-1]
        n_bad = len(batch.bad) + len(failed)
        counts.update(
            lines=batch.n_lines, read=batch.n_lines - batch.blank, kept=n - len(dropped), dropped=len(dropped),
            quarantined=n_bad, blank=batch.blank, bytes=batch.n_bytes,
        )  # fmt: skip

    def _drop(
        self, batch: Batch, index: int, name: str, later: Sequence[str], verdicts: Mapping[str, Sequence[Verdict]]
    ) -> None:
        verdict = verdicts[name][index]
        place = batch.locate(index, verdict.span) if verdict.span else None
        raw, line, offset = batch.raws[index], batch.lines.item(index), batch.offsets.item(index)
        tail = {
            "filter": name,
            "reason": verdict.reason,
            "score": verdict.score,
            "span": place[1] if place else None,
            "place": place[0] if place else None,
            "matched": verdict.matched or None,
            "marks": verdict.marks,
            "also": [other for other in later if not verdicts[other][index].keep],
        }
        head = b"%d\t%d\t" % (len(self._sources) - 1, line)
        self._dropped.write(head + dropped_tail(None if offset == NO_OFFSET else offset, tail, raw))
        self._reasons[name, verdict.reason] += 1
        self._show(batch.texts[index], raw, line, name, verdict)

    def _show(self, text: str, raw: bytes, line: int, name: str, verdict: Verdict) -> None:
        """Keep a row as an example of its reason, if its hash is among the smallest."""
        shown = self._examples.setdefault((name, verdict.reason), [])
        key = hashlib.blake2b(raw, digest_size=8).hexdigest()
        if len(shown) == EXAMPLES and key >= shown[-1]["key"]:
            return
        text, span, note = _excerpt(text, verdict.span)
        where = {"segment": len(self._sources) - 1, "line": line}
        example = {"key": key, "text": text, "span": span, "note": note, "score": verdict.score, **where}
        shown.append(example | {"matched": verdict.matched})
        shown.sort(key=lambda one: str(one["key"]))
        del shown[EXAMPLES:]

    def _set_aside(self, bad: Bad) -> None:
        head = b"%d\t%d\t" % (len(self._sources) - 1, bad.line)
        tail = {"error": bad.error, "detail": bad.detail, "raw": base64.b64encode(bad.raw).decode("ascii")}
        offset = None if bad.offset == NO_OFFSET else bad.offset
        self._quarantine.write(head + b',"offset":' + _json(offset) + b"}," + _json(tail)[1:] + b"\n")
        self._errors[bad.error] += 1
        if len(self._first_bad) < EXAMPLES:
            where = {"segment": len(self._sources) - 1, "line": bad.line}
            self._first_bad.append({"error": bad.error, "detail": bad.detail[:300], **where})

    def finish(self) -> dict[str, Any]:
        """Write scores and sums; returns the unit's record.

        Raises:
            DataError: the sums do not add up, which would be a fault of tunewell's.
        """
        for file in (self._kept, self._dropped, self._quarantine):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for counts in self._counts:
            check_sum(counts, "a unit")
        write_staged(self._folder / "scores.arrow", self._columns())
        for name, pieces in self._summaries.items():
            width = self._comparing[name].width
            joined = np.concatenate(pieces) if pieces else np.zeros((0, width), dtype=np.uint64)
            np.save(self._folder / f"{name}.npy", joined, allow_pickle=False)
        record = {
            "segments": [
                {"source": source, **counts} for source, counts in zip(self._sources, self._counts, strict=True)
            ],
            "reasons": [[*key, count] for key, count in sorted(self._reasons.items())],
            "errors": dict(sorted(self._errors.items())),
            "first_bad": self._first_bad,
            "examples": [[*key, shown] for key, shown in sorted(self._examples.items())],
            "filters": list(self._filters),
            "comparing": list(self._comparing),
            "limits": {
                # A bound that is infinite never drops, and JSON has no word for it.
                name: [[one.measure, one.drops, one.bound, one.reason] for one in limits if math.isfinite(one.bound)]
                for name, limits in self._limits.items()
            },
            "measures": {name: columns.measures for name, columns in self._scores.items()},
            "ranges": {name: columns.ranges() for name, columns in self._scores.items()},
        }
        (self._folder / RECORD).write_bytes(orjson.dumps(record, option=JSON_OPTIONS))
        return record

    def close(self) -> None:
        """Close the files, of a unit too that was not finished."""
        for file in (self._kept, self._dropped, self._quarantine):
            file.close()

    def _columns(self) -> dict[str, Any]:
        none = np.zeros(0, dtype=np.int64)
        segments = np.array([place.segment for place in self._places], dtype=np.int32)
        columns = {
            "segment": column(np.repeat(segments, [len(place.lines) for place in self._places])),
            "line": column(np.concatenate([none, *(place.lines for place in self._places)])),
            "offset": column(np.concatenate([none, *(place.offsets for place in self._places)])),
            "by": column(np.concatenate([np.zeros(0, dtype=np.int8), *(place.by for place in self._places)])),
        }
        for name, scores in self._scores.items():
            columns |= {f"{name}.{own}": values for own, values in scores.columns().items()}
        return columns


def dropped_tail(offset: int | None, tail: Mapping[str, Any], raw: bytes) -> bytes:
    """Write what follows the line number in a record of a dropped row; the row stands last, as it came."""
    row = raw.rstrip(b"\r")
    where = b"null" if offset is None else b"%d" % offset
    return b',"offset":%b},%b,"row":%b}\n' % (where, _json(tail)[1:-1], row)


def check_sum(counts: Mapping[str, int], where: str) -> None:
    """Check that every row that was read is accounted for.

    Raises:
        DataError: it is not.
    """
    if counts["read"] != counts["kept"] + counts["dropped"] + counts["quarantined"]:
        raise DataError(
            f"the rows of {where} do not add up: {counts['read']} read, {counts['kept']} kept, {counts['dropped']} "
            f"dropped, {counts['quarantined']} quarantined. This is a fault of tunewell; please report it."
        )


def _excerpt(text: str, span: tuple[int, int] | None) -> tuple[str, list[int] | None, str]:
    start, end = span or (0, 0)
    first, last = max(0, start - SHOWN), min(len(text), min(end, start + SHOWN) + SHOWN)
    note = f"{last - first:,} of {len(text):,} characters are shown" if last - first < len(text) else ""
    # Half a surrogate pair cannot be written to a page; no row that was read holds one, but other sources may.
    shown = text[first:last].encode("utf-8", "replace").decode("utf-8")
    return shown, [start - first, min(end, last) - first] if span else None, note


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=JSON_OPTIONS)
