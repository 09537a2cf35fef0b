"""K completions for every prompt, from one or several policies, ready to be ranked."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.data.row_shapes import require_columns
from ..toolkit.data.rows import hash_rows, read_rows, write_rows
from ..toolkit.errors import RunError, SettingsError
from ..toolkit.files import read_json, sha256_file, sha256_of, write_json
from ..toolkit.settings.base import BaseSettings
from .console import Console
from .model_source import ModelSource, answering, find_model, with_memory

if TYPE_CHECKING:
    from ..toolkit.model.generation import Sampling
    from ..toolkit.model.stack import ModelStack

Row = dict[str, Any]
SAMPLES, LEFT_OUT, SUMMARY = "samples.jsonl", "left_out.jsonl", "sample.json"
PARTS = "parts"  # what is finished of a run that is not; gone when it is
PART = 64  # prompts whose completions are written at once: what an interruption costs


@dataclass(frozen=True)
class Task:
    """One completion to draw: the prompt's number, the place among its completions, and the seed."""

    prompt: int
    place: int
    seed: int


def sample(
    source: str,
    models: Sequence[str],
    out: Path,
    console: Console,
    *,
    k: int,
    sampling: "Sampling",
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 32,
    keeps_equal: bool = False,
    memory: Mapping[str, Any] | None = None,
) -> Row:
    """Draw K completions for every prompt.

    Each prompt's completions are dealt out evenly to the models, beginning with another one at every prompt; a model
    named twice gets twice the share. Every completion has a seed of its own made from `seed`, the prompt and its
    place, so that neither batches nor interruptions change it.

    Args:
        source: rows with `prompt`; other columns are kept.
        models: what `find_model` understands.
        out: folder; one with an unfinished run of the same settings is gone on with.
        console: shows progress.
        k: completions per prompt.
        sampling: how tokens are chosen.
        seed: decides what is drawn.
        limit: the first prompts only.
        batch_size: prompts in one forward pass.
        keeps_equal: keep completions of a prompt that say the same; else the first of them stays.
        memory: how to hold the models in memory, see `with_memory`.

    Returns:
        what `sample.json` says: counts, models, sampling. `samples.jsonl` has for every prompt `completions`,
        `policies` (who wrote each) and `ended` (whether it ended by itself).

    Raises:
        SettingsError: `k` is no number of completions, or no model is named.
        RunError: the folder holds something else, or work with other settings.
    """
    if k < 1 or not models:
        raise SettingsError([f"got {k} completions from {len(models)} models, wanted at least one"], "the command line")
    rows = read_rows(source, limit=limit)
    require_columns(rows, "prompt", source)
    sources = [with_memory(find_model(given), **(memory or {})) for given in models]
    settings = {
        "rows": hash_rows(rows),  # whole: the other columns stand in the samples too
        "models": [_identity(one) for one in sources],
        "k": k,
        "sampling": asdict(sampling),
        "seed": seed,
        "keeps_equal": keeps_equal,
    }
    if (done := _earlier(out, settings)) is not None:
        console.say(f"{out} holds these samples already")
        return done
    deal = _deal(rows, k, len(sources), seed)
    drawn: dict[tuple[int, int], Row] = {}
    too_long: set[int] = set()
    for number, one in enumerate(sources):
        drawn |= _draw(number, one, rows, deal[number], sampling, batch_size, out / PARTS, too_long, console)
    names = _names(sources)
    summary = _publish(out, rows, k, drawn, deal, names, too_long, keeps_equal)
    summary |= {"settings": settings, "models": dict(zip(names, models, strict=True))}
    write_json(out / SUMMARY, summary)
    for path in (out / PARTS).glob("*"):
        path.unlink()
    with suppress(OSError):
        (out / PARTS).rmdir()
    return summary


def _identity(one: ModelSource) -> Row:
    """What decides a model's answers: its base, of a folder the files in it, and the weights of its adapter."""
    from ..toolkit.model.loading import dtype_name

    weights = one.adapter / "adapter_model.safetensors" if one.adapter else None
    is_there = weights is not None and weights.is_file()
    return {
        "base": one.base,
        "base_files": {path.name: sha256_file(path) for path in BaseSettings(model=one.base).files()},
        "adapter": sha256_file(weights) if weights is not None and is_there else None,
        "dtype": dtype_name(one.settings),
        "quantization": one.settings.quantization,
        "revision": one.settings.revision,
    }


def _names(sources: Sequence[ModelSource]) -> list[str]:
    """A name for every model; different models of one name are told apart by number."""
    seen: dict[str, list[str]] = {}
    for one in sources:
        given = seen.setdefault(one.name, [])
        if one.given not in given:
            given.append(one.given)
    return [
        one.name if len(seen[one.name]) == 1 else f"{one.name}-{seen[one.name].index(one.given) + 1}" for one in sources
    ]


def _earlier(out: Path, settings: Row) -> Row | None:
    """What an earlier run with the same settings made; None when there is something to do."""
    if (out / SUMMARY).is_file():
        done: Row = read_json(out / SUMMARY)
        if done["settings"] == settings:
            return done
        raise RunError(f"{out} holds samples made with other settings or models: give another --out, or remove it")
    plan = out / PARTS / "settings.json"
    if plan.is_file():
        if read_json(plan) != settings:
            raise RunError(f"{out} holds unfinished samples with other settings: give another --out, or remove it")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and holds no samples: give another --out, or remove it")
    write_json(plan, settings)
    return None


def _deal(rows: Sequence[Row], k: int, n_models: int, seed: int) -> list[list[Task]]:
    """For each model the completions that it is to write."""
    deal: list[list[Task]] = [[] for _ in range(n_models)]
    for number, row in enumerate(rows):
        first = _hash(seed, sha256_of(row["prompt"]), number, "first") % n_models
        for place in range(k):
            task = Task(number, place, _hash(seed, sha256_of(row["prompt"]), number, place) >> 2)
            deal[(first + place) % n_models].append(task)
    return deal


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:8])


def _draw(
    number: int,
    source: ModelSource,
    rows: Sequence[Row],
    tasks: Sequence[Task],
    sampling: "Sampling",
    batch_size: int,
    parts: Path,
    too_long: set[int],
    console: Console,
) -> dict[tuple[int, int], Row]:
    """Completions of one model by prompt and place; finished parts are read, the others made."""
    chunks = [tasks[start : start + PART] for start in range(0, len(tasks), PART)]
    files = [parts / f"model-{number}-part-{index:05d}.jsonl" for index in range(len(chunks))]
    stack: ModelStack | None = None
    drawn: dict[tuple[int, int], Row] = {}
    done = 0
    with console.bar(f"completions by {source.name}") as advance:
        for chunk, file in zip(chunks, files, strict=True):
            if not file.is_file():
                stack = stack or source.load()
                write_rows(file, _complete(stack, rows, chunk, sampling, batch_size))
            for row in read_rows(file) if file.stat().st_size else []:
                if row["completion"] is None:
                    too_long.add(row["prompt"])
                else:
                    drawn[row["prompt"], row["place"]] = row
            done += len(chunk)
            advance(done, len(tasks))
    return drawn


def _complete(
    stack: "ModelStack", rows: Sequence[Row], tasks: Sequence[Task], sampling: "Sampling", batch_size: int
) -> list[Row]:
    """One row per task; a prompt that leaves no room in the model's window has no completion."""
    from ..toolkit.model.generation import generate, window_of
    from ..toolkit.ppo.prompts import tokenize_prompts

    prompts = tokenize_prompts([rows[task.prompt] for task in tasks], stack.tokenizer, None)
    window = window_of(stack.base)
    fits = [window is None or len(prompt.ids) + sampling.max_new_tokens <= window for prompt in prompts]
    with answering(stack) as model:
        answers = iter(
            generate(
                model,
                stack.tokenizer,
                [prompt.ids for prompt, fit in zip(prompts, fits, strict=True) if fit],
                sampling,
                seeds=[task.seed for task, fit in zip(tasks, fits, strict=True) if fit],
                batch_size=batch_size,
            )
        )
    found: list[Row] = []
    for task, fit in zip(tasks, fits, strict=True):
        answer = next(answers) if fit else None
        text = answer.text if answer else None
        found.append({"prompt": task.prompt, "place": task.place, "completion": text, "ended": answer and answer.ended})
    return found


def _publish(
    out: Path,
    rows: Sequence[Row],
    k: int,
    drawn: Mapping[tuple[int, int], Row],
    deal: Sequence[Sequence[Task]],
    names: Sequence[str],
    too_long: set[int],
    keeps_equal: bool,
) -> Row:
    writer = {(task.prompt, task.place): name for name, tasks in zip(names, deal, strict=True) for task in tasks}
    counts: Counter[str] = Counter(
        {"prompts": len(rows), "too_long": 0, "empty_completions": 0, "equal_completions": 0, "rows": 0}
    )
    mix: Counter[str] = Counter()
    kept, left_out = [], []
    for number, row in enumerate(rows):
        if number in too_long:
            counts["too_long"] += 1
            left_out.append(row | {"reason": "prompt_too_long"})
            continue
        texts: list[str] = []
        policies, ended = [], []
        for place in range(k):
            one = drawn[number, place]
            text = one["completion"] if isinstance(row["prompt"], str) else one["completion"].strip()
            counts["empty_completions"] += not text.strip()
            if text in texts and not keeps_equal:
                counts["equal_completions"] += 1
                continue
            texts.append(text)
            policies.append(writer[number, place])
            ended.append(one["ended"])
        mix.update(policies)
        completions = texts if isinstance(row["prompt"], str) else [[_turn(text)] for text in texts]
        kept.append(row | {"completions": completions, "policies": policies, "ended": ended})
    counts["rows"] = len(kept)
    write_rows(out / SAMPLES, kept)
    write_rows(out / LEFT_OUT, left_out)
    return {"counts": dict(counts), "policy_mix": dict(mix)}


def _turn(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
