"""The sums of a run, put together from those of its units and checked against each other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...toolkit.errors import RunError
from .plan import Plan
from .publishing import Edges
from .staging import COUNTS, EXAMPLES, check_sum

BINS = 40


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What all units say before any is published.

    Attributes:
        lines_before: by unit, then by segment, how many lines the segment's source has before it.
        measures: the columns of the score store, by filter.
        edges: the edges of histograms, by filter and measure.
        limits: by filter, the bounds that it decides by: measure, side, bound, reason.
    """

    lines_before: dict[int, tuple[int, ...]]
    measures: dict[str, list[str]]
    edges: Edges
    limits: dict[str, list[list[Any]]]


def gather(plan: Plan, records: Sequence[Mapping[str, Any]]) -> Judged:
    """Put together what publishing needs to know of all units, from their records in order."""
    filters = records[0]["filters"]
    seen: Counter[int] = Counter()
    before: dict[int, tuple[int, ...]] = {}
    for unit, record in zip(plan.units, records, strict=True):
        own = []
        for segment in record["segments"]:
            own.append(seen[segment["source"]])
            # Parts of an earlier run hold lines that are numbered already.
            seen[segment["source"]] += 0 if plan.sources[segment["source"]].kind == "run" else segment["lines"]
        before[unit.number] = tuple(own)
    measures = {name: sorted({one for record in records for one in record["measures"][name]}) for name in filters}
    edges: dict[str, dict[str, list[float]]] = {}
    for name in filters:
        for measure in measures[name]:
            ranges = [record["ranges"][name][measure] for record in records if measure in record["ranges"][name]]
            if ranges:
                low, high = min(one[0] for one in ranges), max(one[1] for one in ranges)
                edges.setdefault(name, {})[measure] = edges_between(low, high)
    return Judged(lines_before=before, measures=measures, edges=edges, limits=records[0]["limits"])


def edges_between(low: float, high: float) -> list[float]:
    """Edges of a histogram: whole numbers get bins of their own as long as there are few."""
    if low == high:
        return [low - 0.5, high + 0.5]
    if low.is_integer() and high.is_integer() and high - low < BINS:
        return [float(edge) for edge in np.arange(low, high + 2) - 0.5]
    return [float(edge) for edge in np.linspace(low, high, BINS + 1)]


def bad_rate_fault(plan: Plan, records: Sequence[Mapping[str, Any]], allowed: float) -> str | None:
    """Say why a run must stop in which too many rows could not be read, or none was there; None: it may go on."""
    read = sum(segment["read"] for record in records for segment in record["segments"])
    bad = sum(segment["quarantined"] for record in records for segment in record["segments"])
    if not read and len(records) == len(plan.units):
        names = ", ".join(source.name for source in plan.sources[:3])
        return f"the input holds no rows ({names}); wanted at least one. Check that it is the file you meant."
    if not read or bad / read <= allowed:
        return None
    return (
        f"{bad:,} of {read:,} rows ({bad / read:.2%}) could not be read, more than --max-bad-rate allows "
        f"({allowed:.2g}): {_first_bad(plan, records)}\nAll of them are in {plan.out / 'quarantine'}. Mend the input "
        "and add --set-aside, or give the same command with a higher --max-bad-rate: it goes on where it stopped."
    )


def first_part_fault(plan: Plan, record: Mapping[str, Any]) -> str | None:
    """Say that the part which was judged first holds rows but none that can be used; None: it may go on."""
    read = sum(segment["read"] for segment in record["segments"])
    if not read or read > sum(segment["quarantined"] for segment in record["segments"]):
        return None
    return (
        f"the first part of the input holds no usable row among its {read:,}: {_first_bad(plan, [record])}\nNothing "
        "was written. Name the column with --column, take the file out, or go on all the same with --max-bad-rate 1."
    )


def _first_bad(plan: Plan, records: Sequence[Mapping[str, Any]]) -> str:
    """How many rows of which fault could not be read, and the first three of them."""
    errors: Counter[str] = Counter()
    for record in records:
        errors.update(record["errors"])
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in errors.most_common())
    firsts = [_first(plan, record, one) for record in records for one in record["first_bad"]][:3]
    return f"{kinds}. The first:\n" + "\n".join(f"  - {line}" for line in firsts)


def _first(plan: Plan, record: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    name = plan.sources[record["segments"][one["segment"]]["source"]].name
    return f"{name}, line {one['line']:,}: {one['error']}: {one['detail']}"


def summarise(
    plan: Plan, tree: Mapping[str, Any], published: Sequence[Mapping[str, Any]], judged: Judged
) -> dict[str, Any]:
    """Write the sums of a run as a tree; the same run gives the same, whatever did it.

    Args:
        plan: of the run.
        tree: all that decided the outputs.
        published: the final sums of all units, in their order.
        judged: what they were published with.

    Raises:
        DataError: the sums do not add up.
    """
    by_source = [Counter(dict.fromkeys(COUNTS, 0)) for _ in plan.sources]
    reasons: Counter[tuple[str, str]] = Counter()
    errors: Counter[str] = Counter()
    for record in published:
        for segment in record["segments"]:
            by_source[segment["source"]].update({name: segment[name] for name in COUNTS})
        reasons.update({(name, reason): n for name, reason, n in record["reasons"]})
        errors.update(record["errors"])
    total: Counter[str] = sum(by_source, Counter())
    files = _files(plan, by_source)
    for one in files:
        check_sum(one, one["file"])
    counts = {name: total[name] for name in COUNTS}
    check_sum(counts, "the whole run")
    if sum(reasons.values()) != counts["dropped"] or sum(errors.values()) != counts["quarantined"]:
        raise RunError("the reasons do not add up to what was dropped. This is a fault of tunewell; please report it.")
    return {
        "schema_version": 1,
        **counts,
        "steps": [{"filter": name, "reason": reason, "count": n} for (name, reason), n in _by_count(reasons)],
        "errors": dict(errors.most_common()),
        "files": files,
        "scores": [
            _histogram(name, measure, judged, published) for name, own in judged.edges.items() for measure in own
        ],
        "limits": judged.limits,
        "examples": _examples(plan, published, judged),
        "made_with": tree,
    }  # fmt: skip


def _by_count(reasons: Mapping[tuple[str, str], int]) -> list[tuple[tuple[str, str], int]]:
    """The most frequent first, equally frequent ones by name."""
    return sorted(reasons.items(), key=lambda one: (-one[1], one[0]))


def _files(plan: Plan, by_source: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    return [
        {"file": source.name, **{name: counts[name] for name in COUNTS}}
        for source, counts in zip(plan.sources, by_source, strict=True)
    ]


def _histogram(name: str, measure: str, judged: Judged, published: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = np.sum([record["histograms"][name][measure] for record in published], axis=0)
    bounds = [(drops, bound) for limited, drops, bound, _ in judged.limits[name] if limited == measure]
    drops, bound = bounds[0] if bounds else (None, None)
    return {
        "filter": name,
        "measure": measure,
        "threshold": bound,
        "drops": drops,
        "edges": list(judged.edges[name][measure]),
        "kept": counts[0].tolist(),
        "dropped": counts[1].tolist(),
    }


def _examples(plan: Plan, published: Sequence[Mapping[str, Any]], judged: Judged) -> list[dict[str, Any]]:
    """The rows shown for each reason: those whose hashes are smallest in the whole corpus."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for unit, record in zip(plan.units, published, strict=True):
        for name, reason, shown in record["examples"]:
            for one in shown:
                source = plan.sources[record["segments"][one["segment"]]["source"]]
                line = one["line"] + judged.lines_before[unit.number][one["segment"]]
                where = {"file": one.get("file", source.name), "line": line}
                entry = {name: value for name, value in one.items() if name not in ("segment", "line")}
                found.setdefault((name, reason), []).append({"filter": name, "reason": reason, **entry, **where})
    return [
        {name: value for name, value in one.items() if name != "key"}
        for _, shown in sorted(found.items())
        for one in sorted(shown, key=lambda one: str(one["key"]))[:EXAMPLES]
    ]
