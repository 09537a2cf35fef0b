"""A stage writes only under its own folder, finishes with one rename, and is skipped when its work is already there."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from . import processes
from .errors import DataError, RunError
from .files import read_json, sha256_of, write_json
from .machine import MemoryPeak

RECORD = "stage.json"
WORKING = ".working"
Figure = Mapping[str, float | int | None]


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """What stages hand on: folders made so far. Replaced, never changed."""

    base: str = ""
    """The base model: a folder or an id of the hub."""
    data: Path | None = None
    """Folder of the filtered training and evaluation sets."""
    sft: Path | None = None
    """Adapter that SFT trained: where PPO starts, and its reference."""
    reward: Path | None = None
    """Reward adapter with its score head."""
    policy: Path | None = None
    """Adapter that PPO trained."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage made and measured.

    Attributes:
        artifacts: the artifacts after the stage, paths inside its folder as they were while it ran.
        results: measured figures by name, each `{value, low, high, n}` with a 95% interval.
        rows: row counts by name.
        warnings: sentences for the user, shown in the report.
    """

    artifacts: Artifacts
    results: Mapping[str, Figure] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a run.

    Attributes:
        name: word for the folder and the command line.
        settings: plain tree of all that decides the result beside what earlier stages made.
        inputs: sha256 by path of the files from outside the run that the stage reads.
        run: does the work in a folder. Called again in the same folder after a kill, it goes on where it can.
        is_shared: all processes of a run work on it together; else the first one works and the others wait.
    """

    name: str
    settings: Mapping[str, Any]
    run: Callable[[Artifacts, Path], Outcome]
    inputs: Mapping[str, str] = field(default_factory=dict)
    is_shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A stage with its place in a run and its fingerprint."""

    stage: Stage
    folder: Path
    fingerprint: str

    @property
    def working(self) -> Path:
        """Where the stage works until it is done."""
        return self.folder.with_name(self.folder.name + WORKING)


def plan(stages: Sequence[Stage], run: Path, code: str) -> list[Planned]:
    """Number the stages and chain their fingerprints: settings, inputs, code and the stage before."""
    planned: list[Planned] = []
    before = ""
    for index, stage in enumerate(stages, 1):
        before = sha256_of([stage.name, stage.settings, stage.inputs, code, before])
        planned.append(Planned(stage=stage, folder=run / f"{index:02d}-{stage.name}", fingerprint=before))
    return planned


def conflicts(planned: Sequence[Planned]) -> dict[Path, str]:
    """Folders that other settings, inputs, code or stages have made, each with what differs."""
    found = {}
    for item in planned:
        for folder in (item.folder, item.working):
            record = _recorded(folder)
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


def run_stage(item: Planned, before: Artifacts) -> tuple[Artifacts, dict[str, Any], bool]:
    """Run one stage, or read its record when it is done already.

    Returns:
        the artifacts after it, its record (what `stage.json` holds), and whether it was skipped.
    """
    run = item.folder.parent
    is_done = item.folder.is_dir()
    processes.wait()  # all have looked before the first one may publish
    if not is_done and not processes.is_first():
        _help(item, before)
    if is_done or not processes.is_first():
        processes.wait()
        record = _recorded(item.folder)
        return _artifacts(record["artifacts"], run), record, is_done
    record = _work(item, before)
    processes.wait()
    return _artifacts(record["artifacts"], run), record, False


def _work(item: Planned, before: Artifacts) -> dict[str, Any]:
    """Do a stage's work and publish it with one rename; returns its record."""
    run = item.folder.parent
    earlier = _recorded(item.working)
    attempts = 1 + (earlier.get("attempts", 0) if earlier.get("fingerprint") == item.fingerprint else 0)
    start: dict[str, Any] = {"name": item.stage.name, "fingerprint": item.fingerprint, "attempts": attempts}
    start |= {"settings": item.stage.settings, "inputs": item.stage.inputs}
    write_json(item.working / RECORD, start)
    began = time.monotonic()
    with MemoryPeak() as peak:
        outcome = item.stage.run(before, item.working)
    record = start | {
        "artifacts": _as_tree(outcome.artifacts, item, run),
        "results": dict(outcome.results),
        "rows": dict(outcome.rows),
        "warnings": list(outcome.warnings),
        "seconds": round(time.monotonic() - began, 3),
        "peak_memory_mb": peak.megabytes(),
        "finished": True,
    }
    write_json(item.working / RECORD, record)
    item.working.rename(item.folder)
    return record


HELPING = ".process-"


def _help(item: Planned, before: Artifacts) -> None:
    """Take part in a shared stage: what this process writes beside checkpoints is the same again, and thrown away."""
    if item.stage.is_shared:
        scratch = item.folder.parent / f"{HELPING}{processes.number()}"
        item.stage.run(before, scratch / item.working.name)
        shutil.rmtree(scratch, ignore_errors=True)


def shared_folder(folder: Path) -> Path:
    """The folder that all processes write checkpoints to, given the one that this process works in."""
    return Path(*(part for part in folder.parts if not part.startswith(HELPING)))


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """Hold a run folder: two processes in one folder would overwrite each other.

    Raises:
        RunError: another process holds it, or the folder cannot be made.
    """
    import fcntl

    try:
        run.mkdir(parents=True, exist_ok=True)
        file = (run / ".lock").open("a+")
    except OSError as error:
        raise RunError(f"cannot write in {run}: {error.strerror}. Give a writable folder with --out.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"{run} is in use by another tunewell process. Wait for it, or choose another folder with --out."
            ) from error
        yield


def _recorded(folder: Path) -> dict[str, Any]:
    """The record of a folder; empty when there is none that can be read (a kill before the first byte)."""
    try:
        record = read_json(folder / RECORD)
    except DataError:
        return {}
    return record if isinstance(record, dict) else {}


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


def _as_tree(artifacts: Artifacts, item: Planned, run: Path) -> dict[str, str | None]:
    """Artifacts with paths relative to the run, as they will be after the stage's rename."""
    tree: dict[str, str | None] = {}
    for entry in fields(artifacts):
        value = getattr(artifacts, entry.name)
        if isinstance(value, Path):
            if value.is_relative_to(item.working):
                value = item.folder / value.relative_to(item.working)
            value = str(value.relative_to(run)) if value.is_relative_to(run) else str(value)
        tree[entry.name] = value
    return tree


def _artifacts(tree: Mapping[str, str | None], run: Path) -> Artifacts:
    paths: dict[str, Any] = {name: run / value for name, value in tree.items() if name != "base" and value is not None}
    return Artifacts(base=tree["base"] or "", **paths)
