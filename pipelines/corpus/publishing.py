"""A judged unit becomes parts of the output: lines get their numbers in the file, repeats of other texts go."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ...toolkit.files import JSON_OPTIONS, atomic_writer, read_json, unfinished_path, write_json
from .batches import NO_OFFSET
from .columns import column, measured, named, numbers_of
from .comparing import Repeated, read_repeats
from .plan import Plan
from .scores import KEPT, SPARSE, read_staged
from .staging import EXAMPLES, RECORD, check_sum, dropped_tail
from .units import Unit

PUBLISHED = "published.json"
KINDS = ("kept", "dropped", "quarantine")
HEAVY = ("kept.jsonl", "dropped.txt", "quarantine.txt", "scores.arrow")

Edges = Mapping[str, Mapping[str, Sequence[float]]]


def publish(
    plan: Plan, unit: Unit, lines_before: Sequence[int], measures: Mapping[str, Sequence[str]], edges: Edges
) -> dict[str, Any]:
    """Write the parts of one unit; returns its final sums, which are there already where it was published before.

    Args:
        plan: of the run.
        unit: judged.
        lines_before: by segment, how many lines its source has before it.
        measures: the columns of the score store, by filter.
        edges: the edges of histograms, by filter and measure.
    """
    staged = plan.staged(unit)
    if (staged / PUBLISHED).is_file():
        return dict(read_json(staged / PUBLISHED))
    record = read_json(staged / RECORD)
    names = [plan.sources[segment.source].name for segment in unit.segments]
    heads = [b'{"source":{"file":' + _json(name) + b',"line":' for name in names]
    repeats = read_repeats(plan.work, unit)
    table = read_staged(staged / "scores.arrow")
    with atomic_writer(part(plan.out, "dropped", unit)) as dropped:
        dropped.writelines(_numbered(staged / "dropped.txt", heads, lines_before))
        if repeats:
            sums, shown = _part_repeats(plan.out, unit, staged, table, repeats, heads, lines_before, dropped)
        else:
            sums, shown = Counter[tuple[int, str, str]](), {}
            _link(staged / "kept.jsonl", part(plan.out, "kept", unit))
    with atomic_writer(part(plan.out, "quarantine", unit)) as quarantine:
        quarantine.writelines(_numbered(staged / "quarantine.txt", heads, lines_before))
    histograms = _write_scores(plan.out, unit, table, names, lines_before, measures, edges, repeats)
    final = _with_repeats(record, sums, shown) | {"histograms": histograms}
    for counts in final["segments"]:
        check_sum(counts, "a published unit")
    write_json(staged / PUBLISHED, final)
    del table
    for name in HEAVY:
        with suppress(OSError):
            (staged / name).unlink()
    return final


def publish_quarantine(plan: Plan, unit: Unit, lines_before: Sequence[int]) -> None:
    """Write only what could not be read, of a run that stops for it."""
    heads = [b'{"source":{"file":' + _json(plan.sources[one.source].name) + b',"line":' for one in unit.segments]
    with atomic_writer(part(plan.out, "quarantine", unit)) as quarantine:
        quarantine.writelines(_numbered(plan.staged(unit) / "quarantine.txt", heads, lines_before))


def part(out: Path, kind: str, unit: Unit) -> Path:
    """Where a unit's part of a kind lies."""
    suffix = "parquet" if kind == "scores" else "jsonl"
    return out / kind / f"part-{unit.name}.{suffix}"


def _numbered(path: Path, heads: Sequence[bytes], lines_before: Sequence[int]) -> Iterator[bytes]:
    """Give records the name of their file and their line in it."""
    with path.open("rb") as file:
        for record in file:
            segment, line, tail = record.split(b"\t", 2)
            yield heads[int(segment)] + b"%d" % (int(line) + lines_before[int(segment)]) + tail


def _link(source: Path, target: Path) -> None:
    """Let a file appear under its final name, without copying where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished_path(target)
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # a rename onto the same file leaves both names
    except OSError:
        temporary.unlink(missing_ok=True)
        with source.open("rb") as old, atomic_writer(target) as new:
            shutil.copyfileobj(old, new)


def _part_repeats(
    out: Path, unit: Unit, staged: Path, table: Any, repeats: Sequence[Repeated], heads: Sequence[bytes],
    lines_before: Sequence[int], dropped: Any,
) -> tuple[Counter[tuple[int, str, str]], dict[tuple[str, str], list[dict[str, Any]]]]:  # fmt: skip
    """Write the rows that stay, and behind the other dropped rows those that repeat an earlier text."""
    is_kept = np.flatnonzero(numbers_of(table, "by") == KEPT)
    segments, lines, offsets = (numbers_of(table, name)[is_kept] for name in ("segment", "line", "offset"))
    sums: Counter[tuple[int, str, str]] = Counter()
    shown: dict[tuple[str, str], list[dict[str, Any]]] = {}
    of_row = {row: (one, place) for one in repeats for place, row in enumerate(one.rows.tolist())}
    with (staged / "kept.jsonl").open("rb") as file, atomic_writer(part(out, "kept", unit)) as kept:
        for row, raw in enumerate(file):
            if row not in of_row:
                kept.write(raw)
                continue
            one, place = of_row[row]
            segment, line = int(segments[row]), int(lines[row])
            first = {"file": one.files[place], "line": int(one.lines[place]), "offset": _or_none(one.offsets[place])}
            score = float(one.scores[place])
            tail = {"filter": one.name, "reason": one.reason, "score": score, "span": None, "place": None}
            tail |= {"matched": None, "marks": [], "also": [], "repeats": first}
            number = b"%d" % (line + lines_before[segment])
            dropped.write(heads[segment] + number + dropped_tail(_or_none(offsets[row]), tail, raw.removesuffix(b"\n")))
            sums[segment, one.name, one.reason] += 1
            examples = shown.setdefault((one.name, one.reason), [])
            if len(examples) < EXAMPLES:
                note = f"repeats {first['file']}, line {first['line']:,}"
                text = raw[:3000].decode("utf-8", "replace").strip()
                examples.append({"key": f"{unit.number:08d}", "text": text, "span": None, "note": note,
                                 "score": score, "segment": segment, "line": line, "matched": ""})  # fmt: skip
    return sums, shown


def _or_none(offset: Any) -> int | None:
    return None if int(offset) == NO_OFFSET else int(offset)


def _write_scores(
    out: Path, unit: Unit, table: Any, names: Sequence[str], lines_before: Sequence[int],
    measures: Mapping[str, Sequence[str]], edges: Edges, repeats: Sequence[Repeated],
) -> dict[str, dict[str, list[list[int]]]]:  # fmt: skip
    """Write the unit's part of the score store; returns its histograms: counts of kept and of dropped rows."""
    import pyarrow as pa
    from pyarrow import parquet

    segments, by, offsets = numbers_of(table, "segment"), numbers_of(table, "by"), numbers_of(table, "offset")
    by = by.astype(np.int32)
    is_kept = np.flatnonzero(by == KEPT)
    for number, one in enumerate(repeats, start=len(measures)):
        by[is_kept[one.rows]] = number
    stays = by == KEPT
    values: dict[str, Any] = {}
    columns: dict[str, Any] = {
        "file": named(segments, names),
        "line": column(numbers_of(table, "line") + np.array([*lines_before, 0])[segments]),
        "offset": column(offsets, offsets == NO_OFFSET),
        "kept": column(stays),
        "filter": named(by, [*measures, *(one.name for one in repeats)], stays),
    }
    staged = set(table.column_names)
    for name, own in measures.items():
        for path in (f"{name}.{measure}" for measure in ("score", *own)):
            values[path] = numbers_of(table, path) if path in staged else np.full(len(by), np.nan)
            columns[path] = measured(values[path])
        for sparse in SPARSE:
            columns[f"{name}.{sparse}"] = table[f"{name}.{sparse}"]
    for one in repeats:
        similarity = np.full(len(by), np.nan)
        similarity[is_kept] = one.similarity
        columns[f"{one.name}.score"] = measured(similarity)
    counted = {"line": "DELTA_BINARY_PACKED", "offset": "DELTA_BINARY_PACKED"}
    with atomic_writer(part(out, "scores", unit)) as file:
        parquet.write_table(
            pa.table(columns), file, compression="zstd", compression_level=1, column_encoding=counted,
            use_dictionary=[name for name in columns if name not in counted],
        )  # fmt: skip
    return _histograms(values, stays, edges)


def _histograms(values: Mapping[str, Any], stays: Any, edges: Edges) -> dict[str, dict[str, list[list[int]]]]:
    found: dict[str, dict[str, list[list[int]]]] = {}
    for name, by_measure in edges.items():
        for measure, own in by_measure.items():
            if f"{name}.{measure}" not in values:
                continue
            known = ~np.isnan(values[f"{name}.{measure}"])
            counts = [
                np.histogram(values[f"{name}.{measure}"][known & is_in], own)[0].tolist() for is_in in (stays, ~stays)
            ]
            found.setdefault(name, {})[measure] = counts
    return found


def _with_repeats(
    record: dict[str, Any],
    sums: Mapping[tuple[int, str, str], int],
    shown: Mapping[tuple[str, str], list[dict[str, Any]]],
) -> dict[str, Any]:
    """Move the repeats from the kept rows of the sums to the dropped ones."""
    reasons: Counter[tuple[str, str]] = Counter({(name, reason): n for name, reason, n in record["reasons"]})
    for (segment, name, reason), n in sums.items():
        reasons[name, reason] += n
        record["segments"][segment]["kept"] -= n
        record["segments"][segment]["dropped"] += n
    examples = record["examples"] + [[*key, found] for key, found in sorted(shown.items())]
    return record | {"reasons": [[*key, n] for key, n in reasons.items()], "examples": examples}


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=JSON_OPTIONS)
