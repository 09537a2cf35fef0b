"""Reward and KL of sampled answers: how far a policy climbed, and how far from its reference it went for that."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from ..toolkit.model.generation import Completion, Sampling, generate
from ..toolkit.model.stack import ModelStack
from ..toolkit.ppo.prompts import Prompt, tokenize_prompts
from ..toolkit.ppo.sequences import (
    Sequences,
    in_batches,
    join,
    states_before_tokens,
    token_log_probabilities,
)
from .statistics import RESAMPLES, mean_score, share_score
from .task import TaskResult, row_ids


def reward_of_answers(
    stack: ModelStack,
    adapter: str | None,
    prompts: Sequence[Mapping[str, Any]],
    *,
    reward: str = "reward",
    reference: str = "sft",
    sampling: Sampling,
    seed: int = 0,
    batch_size: int = 32,
    resamples: int = RESAMPLES,
    progress: Callable[[int, int], None] | None = None,
) -> TaskResult:
    """Let one adapter answer every prompt once and score the answers.

    Figures, means over prompts: `reward`; `kl`, the summed log-ratio of policy to reference over the answer in nats
    (the one-sample estimate of the sequence KL, so single answers may be negative); `ended`, the share of answers
    that end by themselves; `tokens`.

    Args:
        stack: holds all adapters.
        adapter: who answers; None is the bare base.
        prompts: rows with `prompt`, text or chat messages.
        reward: adapter with the score head.
        reference: adapter that the KL is taken from.
        sampling: how tokens are chosen; the log-probabilities use its temperature.
        seed: each prompt draws from a stream of its own, made from this and the prompt.
        batch_size: sequences per forward pass.
        resamples: of the bootstrap.
        progress: called with (answers done, answers in all).
    """
    ids = row_ids([row["prompt"] for row in prompts])
    tokenized = tokenize_prompts(prompts, stack.tokenizer, None)
    with stack.using(adapter) as model:
        answers = generate(
            model,
            stack.tokenizer,
            [prompt.ids for prompt in tokenized],
            sampling,
            seeds=[_seed(seed, name) for name in ids],
            batch_size=batch_size,
            progress=progress,
        )
    values = _values(stack, adapter, tokenized, answers, reward, reference, sampling.temperature or 1.0, batch_size)
    items = [
        {"id": name, "values": value, "prompt": prompt.shown, "completion": answer.text, "ended": answer.ended}
        for name, value, prompt, answer in zip(ids, values, tokenized, answers, strict=True)
    ]
    columns = {key: [value[key] for value in values] for key in values[0]}
    scores = {
        "reward": mean_score(columns["reward"], resamples=resamples, seed=seed),
        "kl": mean_score(columns["kl"], higher_is_better=None, resamples=resamples, seed=seed),
        "ended": share_score(columns["ended"], resamples=resamples, seed=seed),
        "tokens": mean_score(columns["tokens"], higher_is_better=None, resamples=resamples, seed=seed),
    }
    details = {"decoding": asdict(sampling) | {"k": 1}, "scorer": stack.digest(reward), "seed": seed, "n": len(items)}
    return TaskResult(name="reward", scores=scores, items=items, details=details)


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 2


@torch.no_grad()
def _values(
    stack: ModelStack,
    adapter: str | None,
    prompts: Sequence[Prompt],
    answers: Sequence[Completion],
    reward: str,
    reference: str,
    temperature: float,
    batch_size: int,
) -> list[dict[str, float]]:
    """The measured values of every answer, by name."""
    sequences = join(prompts, answers, int(stack.tokenizer.pad_token_id or 0), stack.device)

    def log_probabilities(part: Sequences) -> tuple[torch.Tensor]:
        states = states_before_tokens(stack, part)
        return (token_log_probabilities(stack, states, part, temperature),)

    def scores(part: Sequences) -> tuple[torch.Tensor]:
        return (stack.score(part.input_ids, part.attention_mask),)

    with stack.using(adapter):
        (policy,) = in_batches(sequences, batch_size, log_probabilities)
    with stack.using(reference):
        (anchor,) = in_batches(sequences, batch_size, log_probabilities)
    with stack.using(reward):
        (score,) = in_batches(sequences, batch_size, scores)
    kl = ((policy - anchor) * sequences.is_completion).sum(1)
    return [
        {"reward": one, "kl": divergence, "ended": float(answer.ended), "tokens": float(len(answer.ids))}
        for one, divergence, answer in zip(score.tolist(), kl.tolist(), answers, strict=True)
    ]
