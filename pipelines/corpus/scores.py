"""The score store: every value that filters measured on every row, in columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...filters.base import Verdict
from .columns import column, texts

Floats = NDArray[np.float64]

KEPT = -1
"In place of the number of the filter that dropped a row."
SPARSE = ("span_start", "span_end", "matched", "marks")


class ScoreColumns:
    """Gathers the verdicts of one filter as columns; what few verdicts have is kept for those rows alone."""

    def __init__(self) -> None:
        self.n = 0
        self._pieces: dict[str, list[tuple[int, Floats]]] = {}
        self._rare: list[tuple[int, Verdict]] = []

    def add(self, verdicts: Sequence[Verdict]) -> list[int]:
        """Take the verdicts on the next rows; returns the numbers of those that the filter drops."""
        if not verdicts:
            return []
        common = _usual(verdicts)
        others = [index for index, verdict in enumerate(verdicts) if verdict is not common]
        names = {name for verdict in (common, *(verdicts[index] for index in others)) for name in verdict.measures}
        # None, which is "not measured", becomes NaN here.
        self._put("score", common.score, others, [verdicts[index].score for index in others], len(verdicts))
        for name in names:
            values = [verdicts[index].measures.get(name) for index in others]
            self._put(name, common.measures.get(name), others, values, len(verdicts))
        rare = range(len(verdicts)) if _says_more(common) else others
        self._rare += [(self.n + index, verdicts[index]) for index in rare if _says_more(verdicts[index])]
        self.n += len(verdicts)
        return [index for index in (others if common.keep else range(len(verdicts))) if not verdicts[index].keep]

    def _put(
        self, name: str, common: float | None, others: Sequence[int], values: Sequence[float | None], n: int
    ) -> None:
        piece = np.full(n, np.nan if common is None else common)
        piece[others] = np.array(values, dtype=np.float64)
        self._pieces.setdefault(name, []).append((self.n, piece))

    def columns(self) -> dict[str, Any]:
        """Arrow columns by name: `score`, each measure (NaN: not measured), and what a verdict says beside them."""
        found = {name: column(self._filled(name)) for name in ("score", *self.measures)}
        spans = [(row, verdict.span) for row, verdict in self._rare if verdict.span is not None]
        for place, name in enumerate(SPARSE[:2]):
            found[name] = self._sparse({row: span[place] for row, span in spans})
        matched = {row: verdict.matched for row, verdict in self._rare if verdict.matched}
        marks = {row: " ".join(verdict.marks) for row, verdict in self._rare if verdict.marks}
        for name, own in zip(SPARSE[2:], (matched, marks), strict=True):
            found[name] = texts(list(own.values()), np.array(list(own), dtype=np.int64), self.n)
        return found

    def _sparse(self, values: Mapping[int, int]) -> Any:
        """Make a column of whole numbers that few rows have."""
        rows = np.array(list(values), dtype=np.int64)
        filled, is_missing = np.zeros(self.n, dtype=np.int64), np.ones(self.n, dtype=np.bool_)
        filled[rows], is_missing[rows] = list(values.values()), False
        return column(filled, is_missing)

    @property
    def measures(self) -> list[str]:
        """The names of all measures."""
        return sorted(self._pieces.keys() - {"score"})

    def ranges(self) -> dict[str, list[float]]:
        """Smallest and largest value of each measure that has any."""
        found = {}
        for name in self.measures:
            values = self._filled(name)
            known = values[~np.isnan(values)]
            if len(known):
                found[name] = [float(known.min()), float(known.max())]
        return found

    def _filled(self, name: str) -> Floats:
        values = np.full(self.n, np.nan)
        for start, piece in self._pieces.get(name, ()):
            values[start : start + len(piece)] = piece
        return values


def _usual(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that most rows get, of which filters repeat one object; a vote of three rows finds it."""
    first, middle, last = verdicts[0], verdicts[len(verdicts) // 2], verdicts[-1]
    return middle if middle is last else first


def _says_more(verdict: Verdict) -> bool:
    return verdict.span is not None or bool(verdict.matched) or bool(verdict.marks)


def write_staged(path: Path, columns: Mapping[str, Any]) -> None:
    """Write Arrow columns of equal length as an Arrow file, as fast as they can be written."""
    import pyarrow as pa

    table = pa.table(dict(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_staged(path: Path) -> Any:
    """Read what `write_staged` wrote, as a table that lies in the file."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
