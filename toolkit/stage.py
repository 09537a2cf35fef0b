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
from .files import clear_unfinished, read_json, sha256_of, write_json
from .machine import MemoryPeak

RECORD = "stage.json"
WORKING = ".working"
HELPING = ".process-"
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


def clear_leftovers(planned: Sequence[Planned]) -> None:
    """Remove what killed processes were writing in a run, which the caller has locked."""
    run = planned[0].folder.parent
    clear_unfinished(run)
    for item in planned:
        clear_unfinished(item.working, is_deep=True)
    for scratch in run.glob(f"{HELPING}*"):
        shutil.rmtree(scratch, ignore_errors=True)


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
        record = recorded(item.folder)
        return _artifacts(record["artifacts"], run), record, is_done
    record = _work(item, before)
    processes.wait()
    return _artifacts(record["artifacts"], run), record, False


def _work(item: Planned, before: Artifacts) -> dict[str, Any]:
    """Do a stage's work and publish it with one rename; returns its record."""
    run = item.folder.parent
    earlier = recorded(item.working)
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


def recorded(folder: Path) -> dict[str, Any]:
    """The record of a folder; empty when there is none that can be read (a kill before the first byte)."""
    try:
        record = read_json(folder / RECORD)
    except DataError:
        return {}
    return record if isinstance(record, dict) else {}


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
