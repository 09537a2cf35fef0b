"""The record of an evaluation, read without the libraries that made it: a comparison opens at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..eval.compare import Comparison, how_they_differ
from ..eval.task import TaskResult, read_result
from ..toolkit.errors import DataError, RunError
from ..toolkit.files import read_json

RECORD = "eval.json"
SCHEMA_VERSION = 1
MEASURED, FAILED = "measured", "failed"


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Read the record of an evaluation.

    Raises:
        RunError: the folder holds none, or one of a later version.
    """
    if not (folder / RECORD).is_file():
        raise RunError(f"{folder} has no {RECORD}, wanted the folder that `tunewell eval --out` wrote")
    record: dict[str, Any] = read_json(folder / RECORD)
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"{folder / RECORD} is not of schema version {SCHEMA_VERSION}: read it with the tunewell that wrote it"
        )
    return record


def results_of(record: Mapping[str, Any], folder: Path) -> dict[str, dict[str, TaskResult]]:
    """Every measured result of a record with its answers, by model and task."""
    found: dict[str, dict[str, TaskResult]] = {}
    for row in record["results"]:
        if row["status"] == MEASURED:
            found.setdefault(row["model"], {})[row["task"]] = read_result(folder / row["file"])
    return found


def not_comparable(first: TaskResult, second: TaskResult) -> str:
    """Why two results of one task cannot be compared; empty where they can."""
    if faults := how_they_differ(first, second):
        return "; ".join(faults)
    shared = {item["id"] for item in first.items} & {item["id"] for item in second.items}
    return "" if shared else "they share no item"


def require_results(record: Mapping[str, Any], folder: Path) -> None:
    """Refuse a record without any figure.

    Raises:
        DataError: nothing in it was measured.
    """
    if not any(row["status"] == MEASURED for row in record["results"]):
        raise DataError(
            f"{folder / RECORD} holds no measured result: run `tunewell eval` again after mending the faults"
        )


def head_of(rows: Sequence[Comparison], task: str, labels: Sequence[str]) -> Comparison | None:
    """The comparison that stands for a task: that of the first labelled figure that has one."""
    mine = {row.metric: row for row in rows if row.task == task}
    return next((mine[name] for name in labels if name in mine), None)
