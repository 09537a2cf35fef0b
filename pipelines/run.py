"""Run a recipe: build what is missing, skip what is done, and keep one record of it all in run.json."""

import itertools
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..toolkit import processes
from ..toolkit.errors import RunError
from ..toolkit.files import code_fingerprint, read_json, sha256_file, sha256_of, write_json
from ..toolkit.machine import hardware, source_state, versions
from ..toolkit.settings.base import TINY
from ..toolkit.settings.reading import to_tree
from ..toolkit.stage import Artifacts, Planned, Stage, lock, plan, refuse_conflicts, run_stage, set_aside
from ..toolkit.world.occupations import occupation_documents
from .console import Console
from .curate import run_filter
from .evaluate import questions_file, run_eval
from .mitigations import run_mitigations
from .mixture import run_mixture
from .ppo import run_ppo
from .recipe import Recipe
from .retrain import run_retrain
from .reward import run_reward
from .reward_losses import run_losses
from .sets import input_hashes, load_sets, plain_text
from .sft import run_sft
from .sweep import run_sweep

ROOT = Path(__file__).parents[1]
# The code that decides results; how they are shown is left out, so that a new report makes no stage stale.
FOLDERS = ("toolkit", "filters", "eval")
MODULES = (
    "curate",
    "evaluate",
    "filter_building",
    "filter_settings",
    "mitigate",
    "mitigation_arms",
    "mitigation_measures",
    "mitigations",
    "mixture",
    "ppo",
    "ppo_rewards",
    "retrain",
    "reward",
    "reward_losses",
    "reward_report",
    "sets",
    "sft",
    "sweep",
    "training",
)
RUN = "run.json"


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
    """
    _meet(recipe)
    with lock(out) if processes.is_first() else nullcontext():
        planned = plan(_stages(recipe, console), out, _code())
        if processes.is_first():
            if sets_aside and (moved := set_aside(planned)):
                console.say(f"earlier work was moved to {moved}")
            refuse_conflicts(planned)
        processes.wait()  # a fault of the first process ends the others through their launcher
        wanted = len(planned) if last is None else [item.stage.name for item in planned].index(last) + 1
        # What lies behind the wanted stage and is done already stays in the record.
        planned = planned[:wanted] + list(itertools.takewhile(lambda item: item.folder.is_dir(), planned[wanted:]))
        record = _record(recipe, out, argv)
        artifacts = Artifacts()
        if any(not item.folder.is_dir() for item in planned):
            began = time.monotonic()
            if not processes.is_first():
                processes.wait()  # until the first one has built or fetched it
            artifacts = Artifacts(base=_base(recipe, console))
            if processes.is_first():
                processes.wait()
            record["seconds"].setdefault("base", round(time.monotonic() - began, 3))
            record["hardware"] = hardware()
        for item in planned:
            artifacts = _run_one(item, artifacts, record, out, console)
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
        from ..toolkit.model.loading import device_of

        processes.join(on_cpu=device_of(recipe.base) == "cpu")


def _write(record: dict[str, Any], out: Path) -> None:
    if processes.is_first():
        write_json(out / RUN, record)


def _stages(recipe: Recipe, console: Console) -> list[Stage]:
    """The recipe's stages with all that decides their results."""
    base, seed, data = recipe.base, recipe.seed, recipe.data
    shared: dict[str, Any] = {"seed": seed, "base": to_tree(base)}
    treated: dict[str, Any] = {"mitigations": to_tree(recipe.mitigations)}
    treatments = input_hashes(recipe.mitigations.files())
    questions = questions_file(recipe.eval, data.path)
    corpus = [Path(base.corpus)] if base.corpus else []
    every: dict[str, Stage] = {
        "filter": Stage(
            name="filter",
            settings=shared | {"data": to_tree(data), "filter": to_tree(recipe.filter)},
            inputs=input_hashes([*data.files(), *recipe.filter.files(), *corpus]),
            run=partial(run_filter, recipe.filter, data, base, seed, console),
        ),
        "retrain": Stage(
            name="retrain",
            settings=shared | {"retrain": to_tree(recipe.retrain), "eval": to_tree(recipe.eval)},
            run=partial(run_retrain, recipe.retrain, recipe.eval, base, seed, partial(_base_texts, recipe), console),
        ),
        "mixture": Stage(
            name="mixture",
            settings=shared | {"mixture": to_tree(recipe.mixture), "sft": to_tree(recipe.sft)},
            run=partial(run_mixture, recipe.mixture, recipe.sft, base, seed, console),
        ),
        "losses": Stage(
            name="losses",
            settings=shared | {"losses": to_tree(recipe.losses), "reward": to_tree(recipe.reward)},
            run=partial(run_losses, recipe.losses, recipe.reward, base, seed, console),
        ),
        "sft": Stage(
            name="sft",
            settings=shared | treated | {"sft": to_tree(recipe.sft)},
            inputs=treatments,
            run=partial(run_sft, recipe.sft, base, seed, console, mitigations=recipe.mitigations),
            is_shared=True,
        ),
        "reward": Stage(
            name="reward",
            settings=shared | treated | {"reward": to_tree(recipe.reward)},
            inputs=treatments,
            run=partial(run_reward, recipe.reward, base, seed, console, mitigations=recipe.mitigations),
            is_shared=True,
        ),
        "ppo": Stage(
            name="ppo",
            settings=shared | treated | {"ppo": to_tree(recipe.ppo)},
            inputs=treatments | input_hashes(recipe.ppo.reward.files()),
            run=partial(run_ppo, recipe.ppo, base, seed, console, mitigations=recipe.mitigations),
            is_shared=True,
        ),
        "mitigations": Stage(
            name="mitigations",
            settings=shared
            | {"comparison": to_tree(recipe.comparison), "sft": to_tree(recipe.sft), "eval": to_tree(recipe.eval)},
            run=partial(run_mitigations, recipe.comparison, recipe.sft, recipe.eval, data, base, seed, console),
        ),
        "sweep": Stage(
            name="sweep",
            settings=shared
            | {
                name: to_tree(part)
                for name, part in (("sweep", recipe.sweep), ("ppo", recipe.ppo), ("eval", recipe.eval))
            },
            inputs=input_hashes(recipe.ppo.reward.files()),
            run=partial(run_sweep, recipe.sweep, recipe.ppo, recipe.eval, base, seed, console),
        ),
        "eval": Stage(
            name="eval",
            settings=shared | treated | {"eval": to_tree(recipe.eval)},
            inputs=input_hashes([questions] if questions else []) | treatments,
            run=partial(run_eval, recipe.eval, base, seed, questions, console, mitigations=recipe.mitigations),
        ),
    }
    return [every[name] for name in recipe.stages]


def _code() -> str:
    modules = [sha256_file(Path(__file__).with_name(f"{name}.py")) for name in MODULES]
    return sha256_of([__version__, code_fingerprint([ROOT / name for name in FOLDERS]), modules])


def _base(recipe: Recipe, console: Console) -> str:
    """The base model's folder or hub id; the tiny one is built when the cache does not hold it."""
    from ..toolkit.model.loading import device_of, load_tokenizer, padding_note

    device_of(recipe.base)  # faults of the machine and the tokenizer are told before anything is made
    if recipe.base.model != TINY:
        note = padding_note(load_tokenizer(recipe.base.model, recipe.base), recipe.base)
        if note is not None:
            console.warn(note)
        return recipe.base.model
    from ..toolkit.tiny import cached_base

    texts = _base_texts(recipe)
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


def _base_texts(recipe: Recipe) -> list[str]:
    """The unfiltered corpus: what a base model of the web would have read."""
    from ..toolkit.data.row_shapes import require_columns
    from ..toolkit.data.rows import read_rows

    if recipe.base.corpus is not None:
        rows = read_rows(recipe.base.corpus)
        require_columns(rows, "text", recipe.base.corpus)
        return [row["text"] for row in rows]
    sets = load_sets(recipe.data, recipe.seed)
    if "mitigations" in recipe.stages:
        return [*(row["text"] for row in sets.corpus), *occupation_documents(recipe.seed)]
    if sets.corpus:
        return [row["text"] for row in sets.corpus]
    return [plain_text([*row["prompt"], *row[side]]) for row in sets.comparisons for side in ("chosen", "rejected")]


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
