"""Filters that compare texts decide once, over the summaries of all rows that the others keep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...filters.base import CorpusFilter
from ...toolkit.files import atomic_writer, read_json, write_json
from .columns import numbers_of
from .plan import Plan
from .scores import KEPT, read_staged
from .units import Unit

REPEATS = "repeats"
DONE = "repeats.json"


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """The rows of one unit that one filter found to repeat an earlier text.

    Attributes:
        name: of the filter.
        reason: why they are dropped.
        rows: (repeats,) their places among the rows that the other filters keep.
        scores: (repeats,) similarity to the earlier text.
        files: (repeats,) where that text stands: its file,
        lines: its line,
        offsets: and its first byte.
        similarity: (rows,) of every row that the other filters keep; NaN: compared with none.
    """

    name: str
    reason: str
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    files: tuple[str, ...]
    lines: NDArray[np.int64]
    offsets: NDArray[np.int64]
    similarity: NDArray[np.float64]


@dataclass(frozen=True)
class _Home:
    """Where the rows of the whole corpus live: the first place of each unit."""

    starts: NDArray[np.int64]

    def unit_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the unit that holds each place."""
        return np.searchsorted(self.starts, places, side="right") - 1


def compare(
    plan: Plan,
    filters: Mapping[str, CorpusFilter],
    lines_before: Mapping[int, Sequence[int]],
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Let filters that compare texts decide, and write down for each unit what repeats what.

    Args:
        plan: of the run, all units judged.
        filters: by name, in order; what one drops the next does not see.
        lines_before: by unit, then by segment, how many lines its source has before it.
        say: told what is going on.
    """
    folder = plan.work / REPEATS
    if not filters or (folder / DONE).is_file():
        return
    n_rows = [len(_summaries(plan, unit, next(iter(filters)))) for unit in plan.units]
    starts = np.concatenate(([0], np.cumsum(n_rows))).astype(np.int64)
    home = _Home(starts)
    left = np.arange(starts[-1])
    for name, one in filters.items():
        say(f"comparing {len(left):,} texts: {name}")
        summaries = np.concatenate([_summaries(plan, unit, name) for unit in plan.units])
        found = one.decide(summaries if len(left) == len(summaries) else summaries[left])
        del summaries
        is_repeat = found.of >= 0
        similarity = np.full(starts[-1], np.nan)
        similarity[left] = found.similarity
        _write(
            plan, folder, name, found.reason, left[is_repeat], left[found.of[is_repeat]], similarity, home, lines_before
        )
        left = left[~is_repeat]
    write_json(folder / DONE, {"filters": list(filters)})


def read_repeats(work: Path, unit: Unit) -> list[Repeated]:
    """Read what `compare` wrote down for one unit, in the order of the filters; empty where none compares."""
    folder = work / REPEATS
    if not (folder / DONE).is_file():
        return []
    return [_read(folder / f"{unit.name}.{name}", name) for name in read_json(folder / DONE)["filters"]]


def _summaries(plan: Plan, unit: Unit, name: str) -> NDArray[np.uint64]:
    found: NDArray[np.uint64] = np.load(plan.staged(unit) / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return found


def _write(
    plan: Plan, folder: Path, name: str, reason: str, repeats: NDArray[np.int64], firsts: NDArray[np.int64],
    similarity: NDArray[np.float64], home: _Home, lines_before: Mapping[int, Sequence[int]],
) -> None:  # fmt: skip
    """Write, unit by unit, which of its rows repeat which earlier ones, and where those stand."""
    files, lines, offsets = _places_of(plan, firsts, home, lines_before)
    units = home.unit_of(repeats)
    for unit in plan.units:
        own = units == unit.number
        start, end = home.starts[unit.number], home.starts[unit.number + 1]
        with atomic_writer(folder / f"{unit.name}.{name}.npz") as file:
            np.savez(
                file, rows=repeats[own] - start, scores=similarity[repeats[own]], lines=lines[own],
                offsets=offsets[own], files=files[own], similarity=similarity[start:end],
            )  # fmt: skip
        write_json(folder / f"{unit.name}.{name}.json", {"reason": reason, "names": [one.name for one in plan.sources]})


def _read(stem: Path, name: str) -> Repeated:
    words = read_json(stem.with_name(f"{stem.name}.json"))
    with np.load(stem.with_name(f"{stem.name}.npz"), allow_pickle=False) as arrays:
        return Repeated(
            name=name, reason=words["reason"], rows=arrays["rows"], scores=arrays["scores"], lines=arrays["lines"],
            files=tuple(words["names"][source] for source in arrays["files"].tolist()), offsets=arrays["offsets"],
            similarity=arrays["similarity"],
        )  # fmt: skip


def _places_of(
    plan: Plan, places: NDArray[np.int64], home: _Home, lines_before: Mapping[int, Sequence[int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find source, line and byte offset of rows by their places in the whole corpus."""
    found = tuple(np.zeros(len(places), dtype=np.int64) for _ in range(3))
    units = home.unit_of(places)
    for number in np.unique(units).tolist():
        unit = plan.units[number]
        own = np.flatnonzero(units == number)
        table: Any = read_staged(plan.staged(unit) / "scores.arrow")
        kept = np.flatnonzero(numbers_of(table, "by") == KEPT)
        rows = kept[places[own] - home.starts[number]]
        segments = numbers_of(table, "segment")[rows]
        found[0][own] = np.array([segment.source for segment in unit.segments])[segments]
        found[1][own] = numbers_of(table, "line")[rows] + np.array(lines_before[number])[segments]
        found[2][own] = numbers_of(table, "offset")[rows]
    return found[0], found[1], found[2]
