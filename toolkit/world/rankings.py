"""Rankings of replies to a mishap by judges who disagree, with the quality that is hidden behind them."""

import math
import random
from collections.abc import Sequence

from . import language

NOISE = 1.0
"""Spread of a judge's error, in units of quality: who knows the quality itself then foretells 82% of the pairs."""


def build_rankings(
    seed: int, prompts: int, *, part: str = "train", completions: Sequence[int] = range(4, 10)
) -> list[dict[str, object]]:
    """Write rankings: each prompt has one judge, who sees the quality of every reply through an error of his own.

    A reply of one to four sentences is the better the more of them are kind and speak of the thing that the prompt
    names, and the worse the more of them are rude. Judges give half points, so that equal ranks are common.

    Args:
        seed: decides everything.
        prompts: rankings to write.
        part: rankings of another part hold other texts.
        completions: numbers of completions that are drawn from (InstructGPT: 4 to 9).

    Returns:
        rows of `prompt`, `completions`, `ranks` (1 is best), and the hidden `quality` of each completion.
    """
    rng = random.Random(f"tunewell rankings {part} {seed}")
    return [_ranking(rng, rng.choice(list(completions))) for _ in range(prompts)]


def _ranking(rng: random.Random, count: int) -> dict[str, object]:
    name, other = rng.sample(language.PEOPLE, 2)
    words = {"name": name, "other": other, "thing": rng.choice(language.THINGS)}
    words["mishap"] = rng.choice(language.MISHAPS).format(**words)
    written: dict[str, float] = {}
    while len(written) < count:
        text, quality = _reply(rng, words)
        written.setdefault(text, quality)
    seen = [round(2 * (quality + NOISE * _gumbel(rng))) / 2 for quality in written.values()]
    return {
        "prompt": language.TALK.format(**words),
        "completions": list(written),
        "ranks": [1 + sum(better > own for better in seen) for own in seen],
        "quality": list(written.values()),
    }


def _reply(rng: random.Random, words: dict[str, str]) -> tuple[str, float]:
    rudeness = rng.choice((0.0, 0.0, 0.3, 0.6, 1.0))
    sentences, quality = [], 0.0
    for _ in range(rng.choice((1, 2, 3, 4))):
        is_rude = rng.random() < rudeness
        pattern = rng.choice(language.RUDE_UNLISTED if is_rude else language.POLITE)
        thing = words["thing"] if rng.random() < 0.5 else rng.choice(language.THINGS)
        sentences.append(pattern.format(name=words["name"], thing=thing))
        quality += -1.0 if is_rude else 0.5
        if "{thing}" in pattern:
            quality += 0.5 if thing == words["thing"] else -0.5
    return " " + " ".join(sentences), quality


def _gumbel(rng: random.Random) -> float:
    """Differences of such errors follow the logistic function: the judges are those of Bradley and Terry."""
    return -math.log(-math.log(rng.random() or 0.5))
