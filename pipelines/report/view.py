"""From the plain numbers of a report to the words, rows and pictures that the page's template lays out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .data import data
from .explorer import explorer
from .numbers import duration, is_number, memory
from .parts import Cell, Marks, Table, cell
from .results import results
from .samples import samples
from .training import training


def build(report: Mapping[str, Any], unread: Sequence[str]) -> dict[str, Any]:
    """Everything the template needs, section by section; a section without content is None."""
    marks = Marks()
    warnings = list(report.get("warnings") or [])
    if unread:
        warnings.append("Not shown on this page, because it has no place for it: " + ", ".join(unread) + ".")
    view: dict[str, Any] = {
        "title": report["title"],
        "subtitle": report.get("subtitle") or "",
        "generated_by": report.get("generated_by") or "",
        "verdict": report.get("verdict") or [],
        "warnings": warnings,
        "results": results(report, marks),
        "data": data(report, marks),
        "training": training(report, marks),
        "samples": samples(report.get("samples") or [], marks),
        "explorer": explorer(report, marks),
        "tables": _tables(report.get("tables") or []),
        "stages": _stages(report.get("stages") or []),
        "header": _header(report.get("header") or {}),
    }
    names = {
        "results": "Results",
        "data": "Data",
        "training": "Training",
        "samples": "Samples",
        "explorer": "Every item",
        "tables": "More figures",
        "stages": "Stages",
        "header": "Reproduce",
    }
    flags = [*(report.get("samples") or []), *(report.get("dropped_examples") or [])]
    view["has_flagged"] = any(item.get("flagged") or item.get("prompt_flagged") for item in flags)
    view["has_flagged"] = view["has_flagged"] or bool(view["explorer"] and view["explorer"]["flagged"])
    view["nav"] = [(section, name) for section, name in names.items() if view[section]]
    return view


def _tables(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    return [
        {
            "title": table["title"],
            "folded": bool(table.get("folded")),
            "table": Table(
                table.get("caption") or table["title"],
                table["columns"],
                [[cell(value) for value in row] for row in table["rows"]],
                is_sortable=True,
            ),
        }
        for table in tables
    ] or None


def _stages(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not stages:
        return None
    times = [stage["seconds"] for stage in stages if is_number(stage.get("seconds"))]
    total = sum(times)
    rows = []
    for stage in stages:
        seconds, megabytes = stage.get("seconds"), stage.get("peak_memory_mb")
        share = seconds / total if is_number(seconds) and total > 0 else None
        rows.append(
            [
                Cell(stage["name"]),
                Cell(stage.get("status") or ""),
                Cell(duration(seconds), seconds, is_number(seconds), share),
                Cell(memory(megabytes), megabytes, is_number(megabytes)),
                Cell(stage.get("detail") or ""),
            ]
        )
    columns = ("Stage", "Status", "Time", "Peak memory", "Detail")
    return {
        "table": Table("The stages of the run, in order", columns, rows),
        "total": duration(total) if times else "",
    }


def _header(header: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    return [{"group": group, "entries": list(_entries(entries))} for group, entries in header.items()] or None


def _entries(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings as they were given, nested ones by dotted names; no rounding, for they are there to be repeated."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _entries(value, f"{prefix}{name}.")
        elif value is None:
            yield prefix + name, "none"
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
