"""Folders of a run that other settings, inputs or code have made: told before anything is mixed, moved on request."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import RunError
from .stage import RECORD, WORKING, Planned, Stage, recorded


def conflicts(planned: Sequence[Planned]) -> dict[Path, str]:
    """Folders that other settings, inputs, code or stages have made, each with what differs."""
    found = {}
    for item in planned:
        for folder in (item.folder, item.working):
            record = recorded(folder)
            has_work = folder.exists() if folder == item.folder else _has_work(folder)
            if has_work and record.get("fingerprint") != item.fingerprint:
                found[folder] = _difference(record, item.stage)
    ours = {folder for item in planned for folder in (item.folder, item.working)}
    for folder in _stage_folders(planned[0].folder.parent) if planned else ():
        is_stage = _has_work(folder) if folder.name.endswith(WORKING) else (folder / RECORD).is_file()
        if folder not in ours and is_stage:
            found[folder] = "a stage of another recipe: this one has no such stage at that place"
    return found


def refuse_conflicts(planned: Sequence[Planned]) -> None:
    """Stop before anything of an earlier run could be mixed with this one.

    Raises:
        RunError: names every folder made otherwise, and the ways out.
    """
    if found := conflicts(planned):
        lines = [f"  - {folder}: {difference}" for folder, difference in found.items()]
        raise RunError(
            "the run folder holds work that was made otherwise:\n" + "\n".join(lines) + "\n"
            "Nothing was changed. Choose another folder with --out, or give --set-aside to move that work (and all "
            "stages after it) to its sub-folder set-aside/ and go on."
        )


def set_aside(planned: Sequence[Planned]) -> Path | None:
    """Move the first folder in conflict, and those of all later stages, out of the way; None when nothing is.

    The files that stand beside the stages (the run's record and report) are about to be written anew: they are copied.
    """
    found = conflicts(planned)
    if not found:
        return None
    run = planned[0].folder.parent
    number = 1
    while (target := run / "set-aside" / str(number)).exists():
        number += 1
    first = min(_place(folder) for folder in found)
    target.mkdir(parents=True)
    for path in sorted(run.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            shutil.copy2(path, target / path.name)
    for path in _stage_folders(run):
        if _place(path) >= first:
            path.rename(target / path.name)
    return target


def _stage_folders(run: Path) -> list[Path]:
    """Everything in a run that is named like the folder of a stage, finished or not, in the order of the stages."""
    return sorted(run.glob("[0-9][0-9]-*"))


def _place(folder: Path) -> int:
    return int(folder.name[:2])


def _has_work(working: Path) -> bool:
    """Whether an unfinished stage made anything beside its record: a fault before that leaves nothing to lose."""
    return any(path.is_file() and path.name != RECORD and path.suffix != ".tmp" for path in working.rglob("*"))


def _difference(record: Mapping[str, Any], stage: Stage) -> str:
    if not record:
        return "its stage.json is missing or unreadable"
    old, new = dict(_leaves(record.get("settings", {}))), dict(_leaves(stage.settings))
    changed = [
        f"{path} was {old.get(path, 'not set')!r}, now {new.get(path, 'not set')!r}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
    before, now = record.get("inputs", {}), dict(stage.inputs)
    changed += [
        f"the input file {path} has changed"
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path)
    ]
    return "; ".join(changed) or "an earlier stage or the code of tunewell has changed"


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree
