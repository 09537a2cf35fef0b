"""A simulated labeler: a scorer with noise, for demonstrations of the page and tests of the loop, never for people."""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...toolkit.errors import DataError, SettingsError
from ..console import Console
from .items import plain
from .log import item_bodies
from .store import Store
from .work import Work

Text = Any
Scorer = Callable[[Sequence[tuple[Text, Text]]], Sequence[float]]
"""Gives each prompt with its completion a score, higher is better; NaN where it has none."""
KINDS = "toxicity:SCORER (as in tunewell filter) or reward:RUN (a run with a reward model)"


def open_judge(spec: str) -> Scorer:
    """Open what judges: `toxicity:SCORER` prefers the less toxic one, `reward:RUN` what a reward model prefers.

    Raises:
        SettingsError: the description is of neither kind.
        DataError: the run has no reward model.
    """
    kind, _, rest = spec.partition(":")
    if kind == "toxicity" and rest:
        from ...toolkit.toxicity.scorer import open_scorer

        scorer = open_scorer(rest)
        return lambda rows: [-float(score) for score in scorer.score([plain(completion) for _, completion in rows])]
    if kind == "reward" and rest:
        return _reward_of(rest)
    raise SettingsError([f"--scorer: got {spec!r}, wanted {KINDS}"], "the command line")


def simulate(
    store: Store,
    judge: Scorer,
    console: Console,
    *,
    name: str,
    noise: float = 0.5,
    seed: int = 0,
    limit: int | None = None,
) -> dict[str, int]:
    """Let a simulated labeler answer what it can judge: ratings and rankings, no demonstrations.

    To every score Gumbel noise of scale `noise`, in standard deviations of all scores, is added before completions
    are ranked: which of two it prefers then follows the Bradley-Terry model (Luce 1959; Yellott 1977,
    https://doi.org/10.1016/0022-2496(77)90026-8). Ratings cut the noisy scores, centred at 4, into steps of half a
    standard deviation. It is marked as simulated wherever it appears.

    Args:
        store: the study.
        judge: see `open_judge`.
        console: shows progress.
        name: the labeler's.
        noise: 0 always prefers the higher score.
        seed: decides the noise; together with name and text it gives the same answer on every run.
        limit: answers at most; None answers all that is free.

    Returns:
        `answered`; `unscored`: items skipped because a completion has no score.

    Raises:
        SettingsError: the noise is negative.
        DataError: the name is a person's, or there is nothing to judge.
    """
    if noise < 0:
        raise SettingsError([f"--noise: got {noise}, wanted 0 or more standard deviations"], "the command line")
    labeler = store.join(name, is_simulated=True)
    scores = _scores(store, judge)
    known = np.array([score for own in scores.values() for score in own if not math.isnan(score)])
    if not len(known):
        raise DataError(f"{store.path} holds no completion that could be scored: add rows with `completions`")
    mean, spread = float(known.mean()), float(known.std()) or 1.0
    work = Work(store)
    counts = {"answered": 0, "unscored": 0}
    total = len(scores) if limit is None else min(limit, len(scores))
    with console.bar("simulated labeler") as advance:
        while sum(counts.values()) < total and (item := work.next(labeler)) is not None:
            key = f"simulated-{labeler.id}-{item.id}"
            own = [scores[item.item][number] for number in item.shown]
            if any(math.isnan(score) for score in own):
                skip = {"reason": "cannot_judge", "note": "a completion has no score"}
                work.submit(labeler, item.id, key, "skip", skip)
                counts["unscored"] += 1
            else:
                standard = [(score - mean) / spread for score in own]
                texts = [plain(item.body["completions"][number]) for number in item.shown]
                rng = [_rng(seed, labeler.name, plain(item.body["prompt"]), text) for text in texts]
                noisy = [score + noise * _gumbel(one) for score, one in zip(standard, rng, strict=True)]
                work.submit(labeler, item.id, key, "answer", _answer(noisy, item.steps))
                counts["answered"] += 1
            advance(sum(counts.values()), total)
    return counts


def _scores(store: Store, judge: Scorer) -> dict[int, list[float]]:
    """Scores of the completions of every item that has some, by item."""
    bodies = [(number, body) for number, body in item_bodies(store) if body["completions"]]
    rows = [(body["prompt"], completion) for _, body in bodies for completion in body["completions"]]
    found = iter(judge(rows) if rows else ())
    return {number: [float(next(found)) for _ in body["completions"]] for number, body in bodies}


def _answer(noisy: Sequence[float], steps: Sequence[str]) -> dict[str, Any]:
    """An answer in the order shown; equal values are tied."""
    answer: dict[str, Any] = {}
    if "rate" in steps:
        answer["ratings"] = [max(1, min(7, round(4 + 2 * value))) for value in noisy]
        answer["flags"] = [[] for _ in noisy]
    if "rank" in steps:
        best_first = sorted(set(noisy), reverse=True)
        answer["ranks"] = [best_first.index(value) + 1 for value in noisy]
    return answer


def _rng(*parts: object) -> random.Random:
    text = "\x1f".join(map(str, parts))
    return random.Random(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())


def _gumbel(rng: random.Random) -> float:
    return -math.log(rng.expovariate(1.0))


def _reward_of(run: str) -> Scorer:
    from ..model_source import find_model

    source = find_model(run, role="base")
    folders = sorted(Path(run).expanduser().glob("*-reward/reward"))
    if not folders:
        raise DataError(f"{run} has no reward model: name a run whose reward stage is done")

    def judge(rows: Sequence[tuple[Text, Text]]) -> Sequence[float]:
        from ...toolkit.reward.scoring import score_texts

        stack = source.load()
        stack.load("reward", folders[-1])
        return [float(score) for score in score_texts(stack, "reward", rows)]

    return judge
