"""A finished run is decided again on its stored scores: with new thresholds, without models and inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ...filters.base import Limit, Verdict, decide
from ...filters.row_text import RowReader
from ...toolkit.errors import DataError, SettingsError
from ...toolkit.files import read_json, sha256_file
from ...toolkit.settings.reading import to_tree
from ..filter_building import BUILDERS, AnyFilter, FilterModel
from ..filter_settings import FilterSettings
from .batches import NO_OFFSET, Bad, Batch
from .plan import SUMMARY, Plan
from .scores import SPARSE
from .units import ROWS_AT_ONCE, Segment, Source, Unit

FREE = ("max_matches", "toxicity_threshold", "thresholds", "exact_duplicates", "near_duplicates")
"Settings that need no new scoring: bounds, and filters that compare texts, which are at hand."
BOUNDS = {"length": ("low", "high"), "repetition": None}
"The same inside of sections; None: all but `min_words`."
GIVEN = "Give the thresholds themselves: --set thresholds.AXIS=NATS"


@dataclass(frozen=True)
class StoredFilter:
    """A filter of an earlier run whose scores are kept: its bounds are all that is left to say."""

    name: str
    limits: tuple[Limit, ...]

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Refuse: scores are read, not measured."""
        raise NotImplementedError(f"{self.name} decides on stored scores")


def settings_of(run: Path) -> dict[str, Any]:
    """The filter settings of a finished run, as a tree.

    Raises:
        DataError: the folder is no finished filter run.
    """
    return dict(_summary(run)["made_with"]["filter"])


def plan_again(run: Path, out: Path, settings: FilterSettings) -> Plan:
    """Plan to decide a finished run again.

    Args:
        run: its folder.
        out: the folder of the new outputs.
        settings: its settings with new bounds.

    Raises:
        SettingsError: a change that needs new scoring, or an output folder that is the run's own.
    """
    summary = _summary(run)
    faults = list(_needs_scoring(summary["made_with"]["filter"], to_tree(settings)))
    faults += _changed_files(summary["made_with"]["files"], settings)
    axes = [measure for measure, *_ in summary["limits"].get("trigger_likelihood", [])]
    faults += [
        f"thresholds: got {name!r}, wanted one of the axes of the run: {', '.join(axes) or 'none'}"
        for name in settings.thresholds
        if name not in axes and settings.phrases is not None
    ]
    if out.resolve() == run.resolve():
        faults.append("--out: got the folder of the run itself, wanted another one")
    if faults:
        raise SettingsError(faults, f"the new settings of {run}")
    identity = sha256_file(run / SUMMARY)
    parts = sorted((run / "scores").glob("part-*.parquet"))
    if len(parts) != (wanted := summary["made_with"]["units"]):
        raise DataError(f"{run} holds {len(parts)} of its {wanted} parts: something was removed. Run it again")
    sources = [
        Source(
            name=one["file"],
            path=str(run.resolve()),
            kind="run",
            size=one["bytes"],
            parts=len(parts),
            identity=identity,
        )
        for one in summary["files"]
    ]
    numbers = {source.name: number for number, source in enumerate(sources)}
    units = [
        Unit(part, tuple(Segment(numbers[name], part, part + 1, weight) for name, weight in files))
        for part in range(len(parts))
        for files in [_files_in(run, identity, part)]
    ]
    made_with = summary["made_with"]
    reader = RowReader(columns=tuple(made_with["columns"]), roles=tuple(made_with["roles"]))
    return Plan(sources=tuple(sources), units=tuple(units), settings=settings, reader=reader, out=out)


def stored_filters(plan: Plan) -> dict[str, AnyFilter]:
    """The filters of the earlier run as far as they are still on, with the bounds of the new settings."""
    summary = _summary(Path(plan.sources[0].path))
    found: dict[str, AnyFilter] = {}
    for name, limits in summary["limits"].items():
        new = _new_limits(name, [Limit(*limit) for limit in limits], plan.settings)
        if new is not None:
            found[name] = StoredFilter(name, tuple(new))
    for name in ("exact_duplicate", "near_duplicate"):
        one = BUILDERS[name](plan.settings, FilterModel())
        if one is not None:
            found[name] = one
    return found


def read_part(
    source: Source, segment: Segment, reader: RowReader, filters: Mapping[str, Any]
) -> Iterator[tuple[Batch, dict[str, Sequence[Verdict]]]]:
    """Read the rows of one file that lie in one part of a run, with new verdicts on their stored scores."""
    rows, bad = _part(source.path, source.identity, segment.start)
    own = rows.get(source.name, [])
    unreadable = bad.get(source.name, [])
    at_once = ROWS_AT_ONCE["quick"]
    for first in range(0, max(len(own), 1), at_once):
        chunk = own[first : first + at_once]
        texts = [reader.read(orjson.loads(raw)) for _, _, raw, _ in chunk]
        offsets = [NO_OFFSET if offset is None else offset for _, offset, _, _ in chunk]
        failing = unreadable if first == 0 else []
        batch = Batch(
            texts=[one.text for one in texts], raws=[raw for _, _, raw, _ in chunk], places=texts,
            lines=np.array([line for line, _, _, _ in chunk], dtype=np.int64),
            offsets=np.array(offsets, dtype=np.int64), bad=failing, n_lines=len(chunk) + len(failing),
            n_bytes=sum(len(raw) for _, _, raw, _ in chunk),
        )  # fmt: skip
        yield (
            batch,
            {name: [_verdict(name, one.limits, scores) for _, _, _, scores in chunk] for name, one in filters.items()},
        )


def _summary(run: Path) -> dict[str, Any]:
    if not (run / SUMMARY).is_file():
        raise DataError(f"{run} has no {SUMMARY}, wanted the folder of a finished filter run: --again DIR")
    return dict(read_json(run / SUMMARY))


def _needs_scoring(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name, value in new.items():
        before = old.get(name)
        if value == before or value is None or name in FREE:
            continue
        if name == "removal_rate":
            yield f"removal_rate: was {before!r}, is now {value!r}, but sets thresholds before rows are scored. {GIVEN}"
            continue
        if name in BOUNDS and isinstance(before, Mapping) and isinstance(value, Mapping):
            fixed = [key for key in value if value[key] != before.get(key) and not _is_bound(name, key)]
            if not fixed:
                continue
            name, before, value = f"{name}.{fixed[0]}", before.get(fixed[0]), value[fixed[0]]
        cure = "for which the rows have no scores. Start a new run on the inputs"
        yield f"{name}: was {before!r}, is now {value!r}, {cure}"


def _changed_files(recorded: Mapping[str, str], settings: FilterSettings) -> Iterator[str]:
    """Lists and scorers that are no longer those which the stored scores are of."""
    for path in settings.files():
        if recorded.get(str(path), "") not in ("", sha256_file(path)):
            yield (
                f"{path} has changed since the rows were scored with it. Start a new run on the inputs; a file of "
                f"phrases with new thresholds alone, restore. {GIVEN}"
            )


def _is_bound(section: str, key: str) -> bool:
    allowed = BOUNDS[section]
    return key in allowed if allowed is not None else key not in ("min_words", "name")


def _new_limits(name: str, limits: Sequence[Limit], settings: FilterSettings) -> Sequence[Limit] | None:
    """The bounds of a filter under new settings; None: it is off now."""
    if name == "blocklist":
        return None if settings.blocklist is None else [replace(one, bound=settings.max_matches) for one in limits]
    if name == "length":
        return None if settings.length is None else settings.length.limits
    if name == "repetition":
        return None if settings.repetition is None else settings.repetition.limits
    if name == "toxicity":
        bound = settings.toxicity_threshold
        return None if settings.toxicity is None else [replace(one, bound=bound) for one in limits]
    if name == "trigger_likelihood":
        bounds = settings.thresholds
        new = [replace(one, bound=bounds.get(one.measure, one.bound)) for one in limits]
        return None if settings.phrases is None else new
    return limits


def _files_in(run: Path, identity: str, part: int) -> list[tuple[str, int]]:
    """The files whose rows lie in one part, in reading order, each with its weight."""
    rows, bad = _part(str(run.resolve()), identity, part)
    names = list(dict.fromkeys([*rows, *bad]))
    return [(name, sum(len(raw) for _, _, raw, _ in rows.get(name, []))) for name in names]


Row = tuple[int, int | None, bytes, Mapping[str, Any]]  # line, byte offset, JSON, scores by column


@lru_cache(maxsize=1)
def _part(run: str, identity: str, part: int) -> tuple[dict[str, list[Row]], dict[str, list[Bad]]]:
    """Read one part of a run: rows in their first order, and what could not be read, by file.

    Args:
        run: its folder.
        identity: tells apart, for those who call twice, a run that another has taken the place of.
        part: its number.
    """
    from pyarrow import parquet

    stem = f"part-{part:05d}"
    folder = Path(run)
    table = parquet.read_table(folder / "scores" / f"{stem}.parquet")
    dropped = dict(_dropped_rows(folder / "dropped" / f"{stem}.jsonl"))
    rows: dict[str, list[Row]] = {}
    with (folder / "kept" / f"{stem}.jsonl").open("rb") as kept:
        for scores in table.to_pylist():
            name, line = scores["file"], scores["line"]
            raw = kept.readline().removesuffix(b"\n") if scores["kept"] else dropped[name, line]
            rows.setdefault(name, []).append((line, scores["offset"], raw, scores))
    return rows, _unreadable(folder / "quarantine" / f"{stem}.jsonl")


def _dropped_rows(path: Path) -> Iterator[tuple[tuple[str, int], bytes]]:
    with path.open("rb") as file:
        for line in file:
            source = orjson.loads(line)["source"]
            # The row stands last, byte for byte as it came; what stands before it is escaped.
            yield (source["file"], source["line"]), line[line.index(b',"row":') + 7 : -2]


def _unreadable(path: Path) -> dict[str, list[Bad]]:
    import base64

    found: dict[str, list[Bad]] = {}
    with path.open("rb") as file:
        for line in file:
            one = orjson.loads(line)
            source = one["source"]
            offset = NO_OFFSET if source["offset"] is None else source["offset"]
            raw = base64.b64decode(one["raw"])
            bad = Bad(line=source["line"], offset=offset, error=one["error"], detail=one["detail"], raw=raw)
            found.setdefault(source["file"], []).append(bad)
    return found


def _verdict(name: str, limits: Sequence[Limit], scores: Mapping[str, Any]) -> Verdict:
    prefix = f"{name}."
    values = {key.removeprefix(prefix): value for key, value in scores.items() if key.startswith(prefix)}
    start, end, matched, marks = (values.pop(key, None) for key in SPARSE)
    values.pop("score", None)
    span = None if start is None else (start, end)
    return decide(values, limits, marks=tuple(marks.split(" ")) if marks else (), span=span, matched=matched or "")
