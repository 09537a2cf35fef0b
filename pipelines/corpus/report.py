"""The page of a filter run: where the rows went, how the scores lie, what was dropped, file by file."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ..report.numbers import duration
from ..report.page import write_report
from .progress import passed_over_line

FILES_SHOWN = 200
UNITS = {
    "matches": "matches of the list",
    "matched_share": "share of characters in matches",
    "toxicity": "toxicity, 0 to 1",
    "words": "words",
    "characters": "characters",
}


def write_filter_report(summary: Mapping[str, Any], record: Mapping[str, Any], path: Path) -> None:
    """Write the page.

    Args:
        summary: what summary.json holds.
        record: what run.json holds.
        path: of the page.
    """
    write_report(build_filter_report(summary, record), path)


def build_filter_report(summary: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what the page shows, see `report.check.REPORT`."""
    read = max(summary["read"], 1)
    return {
        "title": "Filter run",
        "subtitle": _subtitle(summary),
        "generated_by": f"tunewell {__version__}",
        "verdict": [
            f"{summary['kept']:,} of {summary['read']:,} rows are kept ({summary['kept'] / read:.1%}), "
            f"{summary['dropped']:,} dropped, {summary['quarantined']:,} could not be read.",
            f"{duration(record['seconds'])} with {record['workers']} worker{'s' * (record['workers'] != 1)}: "
            f"{record['rows_per_second']:,} rows a second.",
        ],
        "warnings": _warnings(summary, record),
        "funnel": {
            **{name: summary[name] for name in ("read", "kept", "dropped", "quarantined")},
            "steps": list(summary["steps"]),
        },
        "histograms": [_histogram(one) for one in summary["scores"] if one["threshold"] is not None],
        "dropped_examples": [_example(one) for one in summary["examples"]],
        "tables": _tables(summary),
        "header": _header(summary, record),
    }


def _subtitle(summary: Mapping[str, Any]) -> str:
    names = [one["file"] for one in summary["files"]]
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _warnings(summary: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    found = []
    if summary["quarantined"]:
        kinds = ", ".join(f"{count:,} {error}" for error, count in summary["errors"].items())
        found.append(f"{summary['quarantined']:,} rows could not be read: {kinds}. They are in quarantine/.")
    if summary["blank"]:
        found.append(f"{summary['blank']:,} blank lines were passed over; they are no rows.")
    if record.get("passed_over"):
        found.append(passed_over_line(record["passed_over"]))
    if not summary["scores"] and not summary["dropped"]:
        found.append("No filter has measured anything: every row that could be read was kept.")
    return found


def _histogram(one: Mapping[str, Any]) -> dict[str, Any]:
    side = "above" if one["drops"] == "above" else "below"
    return {
        "title": f"{one['filter']}: {one['measure']}",
        "x_label": UNITS.get(one["measure"], one["measure"]),
        "note": f"Rows {side} {one['threshold']:g} are dropped by this bound.",
        "threshold": float(one["threshold"]),
        "edges": one["edges"],
        "counts": {"kept": one["kept"], "dropped": one["dropped"]},
    }


def _example(one: Mapping[str, Any]) -> dict[str, Any]:
    # What matched is marked in the text, which is covered until asked for; a note would show it to everybody.
    notes = [f"{one['file']}, line {one['line']:,}", one["note"]]
    return {
        "filter": one["filter"],
        "reason": one["reason"],
        "text": one["text"],
        "span": one["span"],
        "score": one["score"],
        "flagged": True,
        "note": "; ".join(note for note in notes if note),
    }


def _tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = ["File", "Read", "Kept", "Dropped", "Quarantined", "Share kept"]
    # The files that lost most come first: that is what a reader looks for.
    files = sorted(summary["files"], key=lambda one: -(one["dropped"] + one["quarantined"]))
    rows = [
        [
            one["file"],
            *(one[name] for name in ("read", "kept", "dropped", "quarantined")),
            _share(one["kept"], one["read"]),
        ]
        for one in files[:FILES_SHOWN]
    ]
    more = len(files) - FILES_SHOWN
    caption = f"The {FILES_SHOWN} files that lost most; {more:,} more are in summary.json"
    if more <= 0:
        caption = "Those that lost most come first"
    tables: list[dict[str, Any]] = [{"title": "File by file", "columns": columns, "rows": rows, "caption": caption}]
    if summary["errors"]:
        errors = [[error, count] for error, count in summary["errors"].items()]
        tables.append({"title": "What could not be read", "columns": ["Fault", "Rows"], "rows": errors})
    return tables


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _header(summary: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    made_with = summary["made_with"]
    settings = {name: value for name, value in made_with["filter"].items() if value not in (None, {}, [])}
    # The folder that the program lies in says nothing about the run.
    command = shlex.join([Path(record["argv"][0]).name, *record["argv"][1:]])
    run = {"command": command, "engine": record["engine"], "workers": record["workers"]}
    found = {"Run": run | {"tunewell": made_with["tunewell"]}, "Filters": settings}
    if made_with["model"]:
        found["Model"] = made_with["model"]
    return found
