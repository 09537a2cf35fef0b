"""The score store: every value that filters measured on every row, in columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...filters.base import Verdict

Floats = NDArray[np.float64]

KEPT = -1
"In place of the number of the filter that dropped a row."
SPARSE = ("span_start", "span_end", "matched", "marks")


class ScoreColumns:
    """Gathers the verdicts of one filter as columns; what few verdicts have is kept for those rows alone."""

    def __init__(self) -> None:
        self.n = 0
        self._pieces: dict[str, list[tuple[int, Floats]]] = {}
        self._rare: list[tuple[int, int | None, int | None, str | None, str | None]] = []

    def add(self, verdicts: Sequence[Verdict]) -> None:
        """Take the verdicts on the next rows."""
        if not verdicts:
            return
        # Filters repeat the verdict that most rows get, so most questions are asked of one object.
        counts = Counter(map(id, verdicts))
        common_id = max(counts, key=counts.__getitem__)
        others = [index for index, verdict in enumerate(verdicts) if id(verdict) != common_id]
        common = next(verdict for verdict in verdicts if id(verdict) == common_id)
        names = {name for verdict in (common, *(verdicts[index] for index in others)) for name in verdict.measures}
        # None, which is "not measured", becomes NaN here.
        self._put("score", common.score, others, [verdicts[index].score for index in others], len(verdicts))
        for name in names:
            values = [verdicts[index].measures.get(name) for index in others]
            self._put(name, common.measures.get(name), others, values, len(verdicts))
        for index in range(len(verdicts)) if _says_more(common) else others:
            verdict = verdicts[index]
            if _says_more(verdict):
                start, end = verdict.span or (None, None)
                marks = " ".join(verdict.marks)
                self._rare.append((self.n + index, start, end, verdict.matched or None, marks or None))
        self.n += len(verdicts)

    def _put(
        self, name: str, common: float | None, others: Sequence[int], values: Sequence[float | None], n: int
    ) -> None:
        piece = np.full(n, np.nan if common is None else common)
        piece[others] = np.array(values, dtype=np.float64)
        self._pieces.setdefault(name, []).append((self.n, piece))

    def columns(self) -> dict[str, Any]:
        """Columns by name: `score`, each measure (NaN: not measured), and what a verdict says beside them.

        A column without any value is given as its length.
        """
        lists: dict[str, Any] = {name: [None] * self.n if self._rare else self.n for name in SPARSE}
        for index, *values in self._rare:
            for name, value in zip(SPARSE, values, strict=True):
                lists[name][index] = value
        return {name: self._filled(name) for name in ("score", *self.measures)} | lists

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


def _says_more(verdict: Verdict) -> bool:
    return verdict.span is not None or bool(verdict.matched) or bool(verdict.marks)


def write_staged(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as an Arrow file, as fast as they can be written."""
    import pyarrow as pa

    types = {"span_start": pa.int64(), "span_end": pa.int64(), "matched": pa.string(), "marks": pa.string()}
    arrays = {}
    for name, values in columns.items():
        kind = types.get(name.rpartition(".")[2])
        if isinstance(values, int):
            arrays[name] = pa.nulls(values, kind)
        else:
            arrays[name] = pa.array(values, kind if isinstance(values, list) else None)
    table = pa.table(arrays)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_staged(path: Path) -> Any:
    """Read what `write_staged` wrote, as a table that lies in the file."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
