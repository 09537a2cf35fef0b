"""Ask several models several tasks, keep every answer, and go on where an earlier call stopped."""

import gc
import itertools
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import __version__
from ..eval.compare import Comparison, compare, holm_adjusted
from ..eval.task import Ask, Task, write_result
from ..toolkit.errors import ModelError, TunewellError
from ..toolkit.files import clear_unfinished, read_json, sha256_file, write_json
from ..toolkit.machine import hardware, source_state, versions
from ..toolkit.stage import lock
from .at_decoding import wanted_at_decoding
from .console import Console
from .eval_conflicts import refuse_conflicts
from .eval_record import (
    FAILED,
    MEASURED,
    RECORD,
    SCHEMA_VERSION,
    head_of,
    not_comparable,
    read_evaluation,
    results_of,
)
from .eval_units import NamedModel, Unit
from .model_source import answering

PARTIAL = ".partial"


def run_evaluation(
    models: Sequence[NamedModel],
    tasks: Mapping[str, Task],
    out: Path,
    console: Console,
    *,
    argv: Sequence[str] = (),
    again: bool = False,
) -> dict[str, Any]:
    """Measure every task on every model, except what the folder holds already.

    A task that fails on one model is recorded with its reason and does not stop the others. What the folder holds of
    other models and tasks stays in the record.

    Args:
        models: to be asked, the first of them the one that the others are held against.
        tasks: by name.
        out: folder; `eval.json` is the record, `MODEL/TASK.json` every answer.
        console: shows progress.
        argv: the command line, for the record.
        again: replace results that were measured otherwise; of models that are not asked, let them stand beside.

    Returns:
        what eval.json holds.

    Raises:
        RunError: the folder is in use, or holds results that were measured otherwise.
        TunewellError: data or scorers that cannot be used.
    """
    units = [Unit(model, name, task) for model in models for name, task in tasks.items()]
    with lock(out):
        for folder in (out, *(out / model.name for model in models)):
            clear_unfinished(folder)
        record = _record(out, argv)
        known = {(row["model"], row["task"]): row for row in record["results"]}
        refuse_conflicts(units, known, out, again)
        _forget_unloaded(record, {model.name for model in models}, console)
        todo = [unit for unit in units if not _is_done(unit, known, out)]
        for unit in units:
            if unit not in todo:
                console.say(f"{unit.model.name}: {unit.task} was measured before, skipped")
        asks = _prepared(todo, console)
        _note_tasks(record, units)
        for model in models:
            mine = [unit for unit in todo if unit.model is model]
            if mine:
                _ask_model(model, mine, asks, record, out, console)
        record["warnings"] = [*_still_true(record["warnings"], units), *_warnings(models, tasks)]
        record["comparisons"] = _comparisons(record, out, console)
        record["run"]["finished"] = True
        write_json(out / RECORD, record)
        _remove_empty(out / PARTIAL)
        return record


def _record(out: Path, argv: Sequence[str]) -> dict[str, Any]:
    earlier = read_evaluation(out) if (out / RECORD).is_file() else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "run": {
            "created": _now(),
            "tunewell": __version__,
            "argv": list(argv) or sys.argv,
            "source": source_state(),
            "versions": versions(),
            "hardware": hardware(),
            "environment": {
                name: os.environ[name] for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES") if name in os.environ
            },
            "finished": False,
        },
        "models": earlier.get("models", []),
        "tasks": earlier.get("tasks", []),
        "results": earlier.get("results", []),
        "comparisons": [],
        "warnings": earlier.get("warnings", []),
    }


def _forget_unloaded(record: dict[str, Any], asked: Collection[str], console: Console) -> None:
    """Leave out models of earlier calls that never could be loaded, such as a name with a slip in it."""
    measured = {row["model"] for row in record["results"] if row["status"] == MEASURED}
    names = {model["name"] for model in record["models"] if model["loaded"] is None} - measured - set(asked)
    for name in sorted(names):
        console.say(f"{name}: could not be loaded by an earlier call and is not asked again, so left out")
    record["models"] = [model for model in record["models"] if model["name"] not in names]
    record["results"] = [row for row in record["results"] if row["model"] not in names]


def _is_done(unit: Unit, known: Mapping[tuple[str, str], Mapping[str, Any]], out: Path) -> bool:
    row = known.get((unit.model.name, unit.task))
    if row is None or row["status"] != MEASURED or row["fingerprint"] != unit.fingerprint:
        return False
    path = out / row["file"]
    return path.is_file() and sha256_file(path) == str(row["sha256"])


def _prepared(todo: Sequence[Unit], console: Console) -> dict[str, Ask]:
    """Data and scorers of every task, read once, before any model is loaded."""
    asks: dict[str, Ask] = {}
    for unit in todo:
        if unit.task not in asks:
            console.say(f"reading what {unit.task} needs")
            asks[unit.task] = unit.settings.prepare()
    return asks


def _note_tasks(record: dict[str, Any], units: Sequence[Unit]) -> None:
    named = {unit.task: unit for unit in units}
    record["tasks"] = [task for task in record["tasks"] if task["name"] not in named] + [
        {
            "name": name,
            "about": (unit.settings.__doc__ or "").strip().split("\n")[0],
            "settings": unit.tree,
            "files": unit.files,
            "headline": next(iter(unit.settings.labels)),
            "labels": {key: vars(label) for key, label in unit.settings.labels.items()},
        }
        for name, unit in named.items()
    ]


def _ask_model(
    model: NamedModel,
    units: Sequence[Unit],
    asks: Mapping[str, Ask],
    record: dict[str, Any],
    out: Path,
    console: Console,
) -> None:
    console.say(model.name, style="bold")
    stack, reason = None, ""
    try:
        stack = model.source.load()
    except ModelError as error:
        reason = str(error)
    _put(record["models"], "name", model.as_json() | _held(stack))
    for unit in units:
        began = time.monotonic()
        row = _row(unit)
        if stack is None:
            row |= {"status": FAILED, "reason": reason}
        else:
            row |= _measure(unit, stack, asks[unit.task], out, console)
        row["seconds"] = round(time.monotonic() - began, 3)
        record["results"] = [
            one for one in record["results"] if (one["model"], one["task"]) != (row["model"], row["task"])
        ] + [row]
        write_json(out / RECORD, record)
        if row["status"] == FAILED:
            console.warn(f"{model.name}, {unit.task}: {row['reason']}")
        else:
            console.say(f"  {unit.task}: {row['seconds']:.0f} s")
    del stack
    _free_memory()


def _measure(unit: Unit, stack: Any, ask: Ask, out: Path, console: Console) -> dict[str, Any]:
    from ..toolkit.model.memory_faults import is_out_of_memory

    kept = out / PARTIAL / unit.model.name / f"{unit.task}-{unit.fingerprint[:16]}.jsonl"
    try:
        with console.bar(f"{unit.model.name}: {unit.task}") as advance, answering(stack) as model:
            result = ask(model, stack.tokenizer, progress=advance, kept=kept)
    except TunewellError as error:
        return {"status": FAILED, "reason": str(error)}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return {"status": FAILED, "reason": "memory ran out: lower tokens_per_batch or batch_size of the task, or take "
                                            "--quantization nf4"}  # fmt: skip
    path = out / unit.model.name / f"{unit.task}.json"
    write_result(result, path)
    kept.unlink(missing_ok=True)  # every completion stands in the result now
    return {
        "status": MEASURED,
        "reason": None,
        "file": str(path.relative_to(out)),
        "sha256": sha256_file(path),
        "scores": {name: score.as_json() for name, score in result.scores.items()},
        "items": len(result.items),
        "details": result.details,
    }


def _row(unit: Unit) -> dict[str, Any]:
    return {
        "model": unit.model.name,
        "task": unit.task,
        "created": _now(),
        "fingerprint": unit.fingerprint,
        "model_sha256": unit.model.as_json()["sha256"],
        "settings": unit.tree,
        "files": unit.files,
        "file": None,
        "sha256": None,
        "scores": {},
        "items": 0,
        "details": {},
    }


def _held(stack: Any) -> dict[str, Any]:
    """How a loaded model really is held, and with which tokenizer; nothing for one that could not be loaded."""
    if stack is None:
        return {"loaded": None}
    from ..toolkit.files import sha256_of

    base, tokenizer = stack.base, stack.tokenizer
    template = getattr(tokenizer, "chat_template", None)
    return {
        "loaded": {
            "class": type(base).__name__,
            "parameters": sum(one.numel() for one in base.parameters()),
            "dtype": str(base.dtype).removeprefix("torch."),
            "device": str(base.device),
            "commit": getattr(base.config, "_commit_hash", None),
            "vocabulary": len(tokenizer),
            "chat_template_sha256": sha256_of(template) if template else None,
        }
    }


def _comparisons(record: Mapping[str, Any], out: Path, console: Console) -> list[dict[str, Any]]:
    """Paired differences of every figure between every two models; the headlines of a pair are adjusted together."""
    measured = results_of(record, out)
    labels = {task["name"]: list(task["labels"]) for task in record["tasks"]}
    order = [model["name"] for model in record["models"] if model["name"] in measured]
    found: list[dict[str, Any]] = []
    for first, second in itertools.combinations(order, 2):
        rows: list[Comparison] = []
        for task in measured[first]:
            if task not in measured[second]:
                continue
            pair = measured[first][task], measured[second][task]
            if reason := not_comparable(*pair):
                console.warn(f"{task} of {first} and {second} is not compared: {reason}")
            else:
                rows += compare(*pair)
        heads = [row for task in measured[first] if (row := head_of(rows, task, labels.get(task, []))) is not None]
        adjusted = {(row.task, row.metric): row.p_holm for row in holm_adjusted(heads)}
        found += [
            {"from": first, "to": second} | row.as_json() | {"p_holm": adjusted.get((row.task, row.metric))}
            for row in rows
        ]
    return found


def _still_true(earlier: Sequence[str], units: Sequence[Unit]) -> list[str]:
    """Warnings of an earlier call about models and tasks that this one does not ask."""
    names = {unit.model.name for unit in units} | {_about(unit.task, unit.model.name) for unit in units}
    return [warning for warning in earlier if warning.partition(": ")[0] not in names]


def _about(task: str, model: str) -> str:
    return f"{task} of {model}"


def _warnings(models: Sequence[NamedModel], tasks: Mapping[str, Task]) -> Iterator[str]:
    """What a figure leaves out: mitigations at decoding, and that a scorer which chose the training data flatters."""
    for model in models:
        if acting := wanted_at_decoding(model.source):
            yield (
                f"{model.name}: its recipe has mitigations that act while the model writes "
                f"({', '.join(f'mitigations.{name}' for name in acting)}); it is measured here without them. The run's "
                "own stage eval measures with them."
            )
        run = model.source.run
        chosen_by = read_json(run / "run.json")["settings"].get("filter") or {} if run is not None else {}
        filtered = {chosen_by.get("toxicity"), f"wordlist:{chosen_by.get('blocklist')}"}
        for name, task in tasks.items():
            scorer = getattr(task, "scorer", None)
            if scorer is not None and scorer in filtered:
                yield (
                    f"{_about(name, model.name)}: the scorer {scorer} also filtered the training data, so its figures "
                    "flatter the model: measure with another one."
                )


def _put(rows: list[dict[str, Any]], key: str, row: dict[str, Any]) -> None:
    """Replace the row of the same key where it stands, or add it."""
    for index, one in enumerate(rows):
        if one[key] == row[key]:
            rows[index] = row
            return
    rows.append(row)


def _remove_empty(folder: Path) -> None:
    """Remove the folders of unfinished work that hold none any more."""
    for path in sorted(folder.rglob("*"), reverse=True) if folder.is_dir() else ():
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def failures(record: Mapping[str, Any], models: Sequence[NamedModel], tasks: Mapping[str, Task]) -> list[str]:
    """What this call asked for and did not get, each with its reason."""
    asked = {(model.name, task) for model in models for task in tasks}
    return [
        f"{row['model']}, {row['task']}: {row['reason']}"
        for row in record["results"]
        if row["status"] == FAILED and (row["model"], row["task"]) in asked
    ]
