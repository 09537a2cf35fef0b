"""Completions are written down as they are made, so that a long generation goes on where it was cut off."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..toolkit.errors import RunError
from ..toolkit.files import sha256_of
from ..toolkit.model.generation import Completion, Sampling, generate

BATCHES = 4  # forward batches between two writes


def generate_kept(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seeds: Sequence[int],
    path: Path,
    batch_size: int = 32,
    stop: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """As `generate`, with every completion kept in a file and taken from there when it is asked for again.

    Args:
        model: as in `generate`.
        tokenizer: as in `generate`.
        prompts: as in `generate`.
        sampling: as in `generate`.
        seeds: one per prompt.
        path: JSON lines, appended to; it must belong to this model alone. A line cut short by a kill is made again.
        batch_size: as in `generate`.
        stop: as in `generate`.
        progress: called with (completions there, completions in all).

    Raises:
        RunError: the file cannot be written.
        DataError: as in `generate`.
        ModelError: as in `generate`.
    """
    common = [asdict(sampling), list(stop)]
    keys = [sha256_of([list(prompt), seed, common])[:32] for prompt, seed in zip(prompts, seeds, strict=True)]
    done = _read(path)
    missing = [row for row, key in enumerate(keys) if key not in done]
    missing.sort(key=lambda row: len(prompts[row]))  # prompts of like length share a batch
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * bool(done))  # closes a line that a kill cut short
            for start in range(0, len(missing), BATCHES * batch_size):
                rows = missing[start : start + BATCHES * batch_size]
                made = generate(model, tokenizer, [prompts[row] for row in rows], sampling,
                                seeds=[seeds[row] for row in rows], batch_size=batch_size, stop=stop)  # fmt: skip
                done |= _write(file, [keys[row] for row in rows], made)
                if progress:
                    progress(len(prompts) - len(missing) + start + len(rows), len(prompts))
    except OSError as error:
        raise RunError(f"cannot keep completions in {path}: {error.strerror}. Choose another --out") from error
    return [done[key] for key in keys]


def _write(file: IO[str], keys: Sequence[str], made: Sequence[Completion]) -> dict[str, Completion]:
    file.writelines(
        json.dumps({"key": key, "ids": one.ids, "text": one.text, "ended": one.ended}) + "\n"
        for key, one in zip(keys, made, strict=True)
    )
    file.flush()
    return dict(zip(keys, made, strict=True))


def _read(path: Path) -> dict[str, Completion]:
    done = {}
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            row: Any = json.loads(line)
            done[row["key"]] = Completion(row["ids"], row["text"], row["ended"])
        except (ValueError, KeyError, TypeError):
            continue  # an empty line, or one cut short by a kill
    return done
