"""What a folder of results holds that cannot stand beside what is asked for now."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..toolkit.errors import RunError
from .eval_record import MEASURED
from .eval_units import Unit

_MEMORY = ("tokens_per_batch", "batch_size")  # settings that change no figure


def refuse_conflicts(
    units: Sequence[Unit], known: Mapping[tuple[str, str], Mapping[str, Any]], out: Path, again: bool
) -> None:
    """Let nothing that was measured otherwise, or on another model of that name, stand beside what is asked for now.

    Args:
        units: what is asked for now.
        known: the results that the folder holds, by model and task.
        out: the folder.
        again: results that were measured otherwise are replaced; those of models that are not asked may stay.

    Raises:
        RunError: with what was measured otherwise, and what can be done.
    """
    measured = {key: row for key, row in known.items() if row["status"] == MEASURED}
    asked = {(unit.model.name, unit.task): unit for unit in units}
    old = [f"{model}, {task}: {_difference(row, asked[model, task])}" for (model, task), row in measured.items()
           if (model, task) in asked and row["fingerprint"] != asked[model, task].fingerprint]  # fmt: skip
    if old and not again:
        raise RunError(
            f"{out} holds results that were measured otherwise:\n"
            + _listed(old)
            + "\nGive another --out, or --again to measure them anew in place of the old ones."
        )
    others = [row for key, row in measured.items() if key not in asked]
    if renamed := _of_another_model(units, others):
        raise RunError(
            f"{out} holds results of another model, or of one held otherwise in memory, under the same name:\n"
            + _listed(renamed)
            + "\nGive another --out, another name (--model NAME=MODEL), or --again with these tasks too."
        )
    if not again and (beside := _asked_otherwise(units, others)):
        raise RunError(
            f"{out} holds results of other models that were measured otherwise:\n"
            + _listed(beside)
            + "\nGive the same settings, another --out, or --again: with their --model too it measures them anew, "
            "without it they stay as they are."
        )


def _listed(faults: Sequence[str]) -> str:
    return "\n".join(f"  - {fault}" for fault in faults)


def _of_another_model(units: Sequence[Unit], others: Sequence[Mapping[str, Any]]) -> list[str]:
    now = {unit.model.name: unit.model.as_json()["sha256"] for unit in units}
    return [
        f"{row['model']}, {row['task']}"
        for row in others
        if row["model_sha256"] != now.get(row["model"], row["model_sha256"])
    ]


def _asked_otherwise(units: Sequence[Unit], others: Sequence[Mapping[str, Any]]) -> list[str]:
    by_task = {unit.task: unit for unit in units}
    found = {
        f"{row['model']}, {row['task']}": _changes(row, by_task[row["task"]], but=_MEMORY)
        for row in others
        if row["task"] in by_task
    }
    return [f"{name}: {'; '.join(changes)}" for name, changes in found.items() if changes]


def _difference(row: Mapping[str, Any], unit: Unit) -> str:
    changed = _changes(row, unit)
    if row["model_sha256"] != unit.model.as_json()["sha256"]:
        changed.append("the model, or how it is held in memory, has changed")
    return "; ".join(changed) or "the code of tunewell has changed"


def _changes(row: Mapping[str, Any], unit: Unit, but: Sequence[str] = ()) -> list[str]:
    """What of settings and files is not as it was; a moved file is the same file."""
    old, new = row["settings"], unit.tree
    moved = {key for key in new if str(new[key]) in unit.files and str(old.get(key)) in row["files"]}
    changed = [f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in sorted(old.keys() | new.keys())
               if old.get(key) != new.get(key) and key not in moved and key not in but]  # fmt: skip
    if sorted(row["files"].values()) != sorted(unit.files.values()):
        changed.append("a file that the task reads has changed")
    return changed
