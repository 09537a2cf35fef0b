"""Run a recipe: build what is missing, skip what is done, and keep one record of it all in run.json."""

import itertools
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .. import __version__
from ..toolkit import processes
from ..toolkit.conflicts import refuse_conflicts, set_aside
from ..toolkit.errors import RunError, SettingsError
from ..toolkit.files import read_json, write_json
from ..toolkit.machine import hardware, source_state, versions
from ..toolkit.settings.base import TINY
from ..toolkit.settings.reading import to_tree
from ..toolkit.stage import Artifacts, Planned, clear_leftovers, lock, plan, run_stage
from .console import Console
from .recipe import Recipe
from .stages import base_texts, code_of_stages, stages_of
from .trainer_checks import refuse_few_prompts, refuse_trainer_faults

RUN = "run.json"
ALONE = ("mixture", "losses", "sweep", "mitigations")
"""Stages whose trainers would wait for processes that are not there: one process does them."""


def run_recipe(
    recipe: Recipe,
    out: Path,
    console: Console,
    *,
    argv: Sequence[str] = (),
    sets_aside: bool = False,
    last: str | None = None,
) -> dict[str, Any]:
    """Run all stages of a recipe in a folder, going on from where an earlier run of the same recipe stopped.

    Args:
        recipe: the settings.
        out: the run's folder.
        console: shows progress.
        argv: the command line, for the record.
        sets_aside: move earlier work that was made otherwise out of the way instead of stopping.
        last: stop after this stage; None runs all.

    Returns:
        what run.json holds.

    Raises:
        RunError: the folder is in use, cannot be written, or holds work that was made otherwise.
        SettingsError: several processes for stages that one process does.
    """
    _meet(recipe)
    with lock(out) if processes.is_first() else nullcontext():
        planned = plan(stages_of(recipe, console), out, code_of_stages())
        if processes.is_first():
            if sets_aside and (moved := set_aside(planned)):
                console.say(f"earlier work was moved to {moved}")
            refuse_conflicts(planned)
            clear_leftovers(planned)
        processes.wait()  # a fault of the first process ends the others through their launcher
        wanted = len(planned) if last is None else [item.stage.name for item in planned].index(last) + 1
        # What lies behind the wanted stage and is done already stays in the record.
        planned = planned[:wanted] + list(itertools.takewhile(lambda item: item.folder.is_dir(), planned[wanted:]))
        record = _record(recipe, out, argv)
        artifacts = Artifacts()
        if pending := [item.stage.name for item in planned if not item.folder.is_dir()]:
            refuse_trainer_faults(recipe, pending, out)
            began = time.monotonic()
            with processes.first_before_others():  # which builds or fetches it
                artifacts = Artifacts(base=_base(recipe, console))
            record["seconds"].setdefault("base", round(time.monotonic() - began, 3))
            record["hardware"] = hardware()
        for item in planned:
            artifacts = _run_one(item, artifacts, record, out, console)
            if item.stage.name == "filter" and artifacts.data is not None and "ppo" in pending:
                refuse_few_prompts(recipe, artifacts.data, out)
        record["finished"] = True
        _write(record, out)
        return record


def read_run(folder: Path) -> dict[str, Any]:
    """Read a run's record.

    Raises:
        RunError: the folder is no run.
    """
    if not (folder / RUN).is_file():
        raise RunError(f"{folder} has no {RUN}, wanted the folder of a run: give what `tunewell run` printed")
    record: dict[str, Any] = read_json(folder / RUN)
    return record


def _run_one(item: Planned, before: Artifacts, record: dict[str, Any], out: Path, console: Console) -> Artifacts:
    name = item.stage.name
    console.say(f"{item.folder.name}", style="bold")
    base = before.base
    after, done, was_skipped = run_stage(item, before)
    if base and after.base != base:  # a moved cache: the same base under another path
        after = Artifacts(**(vars(after) | {"base": base}))
    record["stages"][name] = {
        "fingerprint": done["fingerprint"],
        "folder": item.folder.name,
        "rows": done["rows"],
        "warnings": done["warnings"],
        "attempts": done["attempts"],
        "peak_memory_mb": done["peak_memory_mb"],
        "inputs": done["inputs"],
    }
    record["seconds"][name] = done["seconds"]
    record["results"] |= done["results"]
    _write(record, out)
    console.say("  done before, skipped" if was_skipped else f"  {done['seconds']:.0f} s")
    for warning in done["warnings"] if processes.is_first() else ():
        console.warn(warning)
    return after


def _meet(recipe: Recipe) -> None:
    if processes.count() > 1:
        if alone := [name for name in recipe.stages if name in ALONE]:
            fault = (
                f"stages: got {', '.join(alone)} in {processes.count()} processes, wanted one process: they train "
                "several models in turn. Start without the launcher."
            )
            raise SettingsError([fault])
        from ..toolkit.model.loading import device_of

        processes.join(on_cpu=device_of(recipe.base) == "cpu")


def _write(record: dict[str, Any], out: Path) -> None:
    if processes.is_first():
        write_json(out / RUN, record)


def _base(recipe: Recipe, console: Console) -> str:
    """The base model's folder or hub id; the tiny one is built when the cache does not hold it."""
    from ..toolkit.model.loading import device_of, load_tokenizer, padding_note

    device_of(recipe.base)  # faults of the machine and the tokenizer are told before anything is made
    if recipe.base.model != TINY:
        note = padding_note(load_tokenizer(recipe.base.model, recipe.base), recipe.base)
        if note is not None:
            console.warn(note)
        # Adapters name their base, and are loaded from other folders too.
        folder = Path(recipe.base.model).expanduser()
        return str(folder.absolute()) if folder.is_dir() else recipe.base.model
    from ..toolkit.tiny import cached_base

    texts = base_texts(recipe)
    console.say("base model", style="bold")
    with console.bar("training the tiny base") as advance:
        folder = cached_base(
            texts,
            seed=recipe.seed,
            settings=recipe.base.tiny,
            progress=lambda done, total, loss: advance(done, total, f"loss {loss:.2f}"),
        )
    console.say(f"  {folder}")
    return str(folder)


def _record(recipe: Recipe, out: Path, argv: Sequence[str]) -> dict[str, Any]:
    """The record of this run, with the times of finished stages from an earlier attempt."""
    earlier = read_json(out / RUN) if (out / RUN).is_file() else {}
    return {
        "schema_version": 1,
        "name": recipe.name,
        "tunewell": __version__,
        "argv": list(argv) or sys.argv,
        "settings": to_tree(recipe),
        "seed": recipe.seed,
        "versions": versions(),
        "hardware": earlier.get("hardware") or hardware(),
        "source": source_state(),
        "environment": {
            name: os.environ[name] for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES") if name in os.environ
        },
        "stages": {},
        "seconds": {name: value for name, value in earlier.get("seconds", {}).items() if name == "base"},
        "results": {},
        "finished": False,
    }
