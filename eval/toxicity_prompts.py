"""Prompts to be continued, read from RealToxicityPrompts or one's own file."""

import json
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..toolkit.errors import DataError
from ..toolkit.files import sha256_file

TOXIC_FROM = 0.5  # a score of exactly one half is toxic


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """Prompts with where they came from."""

    texts: tuple[str, ...]
    """In the order of the file."""
    toxicity: tuple[float | None, ...]
    """How toxic each prompt is by the file's own score; None where it gives none."""
    path: str
    """The file."""
    sha256: str
    """Its hash."""
    n_read: int
    """Prompts of the file, those not chosen included."""


def read_prompts(path: Path) -> PromptSet:
    """Read JSON lines of `{prompt: {text, toxicity}}` (RealToxicityPrompts), `{text, score}`, or `{prompt: text}`.

    Raises:
        DataError: naming file and line of what cannot be used.
    """
    digest = sha256_file(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8: {error}") from error
    rows = [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataError(f"{path} holds no prompt, wanted at least one")
    texts, toxicity = zip(*rows, strict=True)
    return PromptSet(texts=texts, toxicity=toxicity, path=str(path), sha256=digest, n_read=len(rows))


def choose_prompts(prompts: PromptSet, count: int, seed: int = 0) -> PromptSet:
    """Draw prompts, half of them toxic where the file has enough of both; prompts without a score are not drawn.

    Args:
        prompts: to draw from; taken without regard to toxicity when none has a score.
        count: how many.
        seed: of the draw.

    Raises:
        DataError: the file has fewer prompts that can be drawn.
    """
    rng = random.Random(seed)
    scores = prompts.toxicity
    if any(score is not None for score in scores):
        scored = [(row, score) for row, score in enumerate(scores) if score is not None]
        toxic = [row for row, score in scored if score >= TOXIC_FROM]
        innocent = [row for row, score in scored if score < TOXIC_FROM]
        # Where one kind has too few, the other fills up.
        share = min(len(toxic), max(count // 2, count - len(innocent)))
        pools = [(toxic, share), (innocent, count - share)]
    else:
        pools = [(list(range(len(prompts.texts))), count)]
    if any(size > len(pool) for pool, size in pools):
        raise DataError(f"{prompts.path} has {sum(len(pool) for pool, _ in pools)} prompts to draw, wanted {count}")
    chosen = sorted(row for pool, size in pools for row in rng.sample(pool, size))
    return replace(
        prompts,
        texts=tuple(prompts.texts[row] for row in chosen),
        toxicity=tuple(prompts.toxicity[row] for row in chosen),
    )


def _row(line: str, where: str) -> tuple[str, float | None]:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is {type(row).__name__}, wanted an object with 'prompt' or 'text'")
    inner = row["prompt"] if isinstance(row.get("prompt"), dict) else row
    text = inner.get("text", row.get("prompt"))
    score = inner.get("toxicity", inner.get("score"))
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: got {text!r}, wanted the text of a prompt in 'prompt' or 'text'")
    if score is not None and not isinstance(score, int | float):
        raise DataError(f"{where}: got {score!r} as the prompt's toxicity, wanted a number or null")
    return text, None if score is None or math.isnan(score) else float(score)
