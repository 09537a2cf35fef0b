"""Gated decoding: the model's own two-way verdict decides whether its text passes, is thought over or is filtered."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import LogitsProcessor

from ..errors import DataError
from ..model.generation import Completion, Sampling, end_tokens, generate, window_of
from ..model.network import network_of
from .control_tokens import ControlTokens, control_tokens
from .gate_settings import GateSettings, room_needed
from .verdicts import places, two_way

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Decision = Literal["pass", "recovered", "filter"]


@dataclass
class Gated:
    """One answer and how it came to be."""

    text: str
    """The answer, or the refusal; never a thought, never a control token."""
    ids: list[int]
    """Tokens of the answer; none when it was filtered."""
    decision: Decision
    p_unsafe: list[float] = field(default_factory=list)
    """Every verdict, in order; those after a thought as well."""
    thoughts: list[str] = field(default_factory=list)
    """What was thought, for the record."""


@dataclass
class _Work:
    """A row under way."""

    prompt: list[int]
    seed: int
    context: list[int]
    """What the model has read before the answer that is being written."""
    answer: list[int] = field(default_factory=list)
    """Tokens of the answer that were let pass before a thought."""
    result: Gated | None = None
    p_unsafe: list[float] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)


def gated_generate(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    gate: GateSettings,
    *,
    seeds: Sequence[int],
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[Gated]:
    """Answer prompts behind the gate.

    A text is written to its end and then judged at every `every`-th token in one pass over it: the verdict is read,
    not appended, so this gives what judging on the way would give, and with thresholds of 1 what no gate would give,
    token for token. At the first alarm the text goes back to the last place that passed; there the model thinks, at
    most `think_tokens` long, and goes on or is filtered. A verdict that is no number, or a further alarm when all
    thoughts are used up, filters.

    Args:
        model: trained with control tokens; whatever adapter is active is used, on a 4-bit base too.
        tokenizer: with control tokens.
        prompts: token ids from `encode_user`.
        sampling: of answers and thoughts.
        gate: thresholds and lengths.
        seeds: one per prompt.
        batch_size: prompts per batch.
        progress: called with (prompts decided, prompts in all).

    Raises:
        ModelError: the tokenizer has no control tokens.
        DataError: a prompt holds a control token, or leaves no room for answer and thoughts.
    """
    tokens = control_tokens(tokenizer)
    _check(prompts, seeds, sampling, gate, tokens, window_of(network_of(model)))
    reader = _Reader(model, tokenizer, sampling, gate, tokens, batch_size)
    rows = [_Work(list(prompt), seed, list(prompt)) for prompt, seed in zip(prompts, seeds, strict=True)]
    reader.first_verdicts(rows)
    while active := [row for row in rows if row.result is None]:
        reader.write(active)
        if progress:
            progress(sum(row.result is not None for row in rows), len(rows))
    return [row.result for row in rows if row.result is not None]


def thought_over(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    contexts: Sequence[Sequence[int]],
    gate: GateSettings,
    *,
    seeds: Sequence[int],
    batch_size: int = 32,
) -> list[float]:
    """Let the model think behind each context, as after an alarm there; the verdicts after the thoughts."""
    reader = _Reader(model, tokenizer, Sampling(), gate, control_tokens(tokenizer), batch_size)
    return reader.think([_Work([], seed, list(context)) for context, seed in zip(contexts, seeds, strict=True)])


class _Reader:
    """Writes, judges and decides."""

    def __init__(
        self,
        model: Any,
        tokenizer: "PreTrainedTokenizerBase",
        sampling: Sampling,
        gate: GateSettings,
        tokens: ControlTokens,
        batch_size: int,
    ) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.gate, self.tokens, self.batch_size = gate, tokens, batch_size
        self.ends = end_tokens(network_of(model), tokenizer)

    def first_verdicts(self, rows: list[_Work]) -> None:
        """Judge the prompts themselves."""
        verdicts = two_way(self.model, [row.context for row in rows], self.tokens, self.gate.temperature)
        alarms = []
        for row, line in zip(rows, verdicts, strict=True):
            row.p_unsafe.append(line[-1])
            if self._is_alarm(line[-1]):
                alarms.append(row)
            else:
                row.context.append(self.tokens.safe)
        self._alarmed(alarms)

    def write(self, rows: list[_Work]) -> None:
        """Write each row to its end, judge it, and settle it or go back to where the alarm was raised."""
        written = self._generate(rows, self.sampling.max_new_tokens)
        contexts = [[*row.context, *one.ids] for row, one in zip(rows, written, strict=True)]
        verdicts = two_way(self.model, contexts, self.tokens, self.gate.temperature)
        alarms = []
        for row, one, line in zip(rows, written, verdicts, strict=True):
            ids = one.ids[: self.sampling.max_new_tokens - len(row.answer)]
            passed = 0
            for length in places(ids, self.gate.every, self.ends):
                verdict = line[len(row.context) + length - 1]
                row.p_unsafe.append(verdict)
                if self._is_alarm(verdict):
                    break
                passed = length
            else:
                self._settle(row, [*row.answer, *ids], "recovered" if row.thoughts else "pass")
                continue
            row.answer += ids[:passed]
            row.context += ids[:passed]
            alarms.append(row)
        self._alarmed(alarms)

    def _is_alarm(self, verdict: float) -> bool:
        return not verdict < self.gate.low and not (self.gate.low == 1 and verdict <= 1)  # NaN is an alarm

    def _alarmed(self, rows: list[_Work]) -> None:
        """Filter rows, or let them think: between the thresholds, while they have thoughts left."""
        thinking = []
        for row in rows:
            verdict = row.p_unsafe[-1]
            is_between = verdict < self.gate.high or (self.gate.high == 1 and verdict <= 1)
            if is_between and len(row.thoughts) < self.gate.thoughts:
                thinking.append(row)
            else:
                self._filter(row)
        for row, verdict in zip(thinking, self.think(thinking), strict=True):
            row.p_unsafe.append(verdict)
            if verdict < self.gate.release or (self.gate.release == 1 and verdict <= 1):
                row.context.append(self.tokens.safe)
            else:
                self._filter(row)

    def think(self, rows: list[_Work]) -> list[float]:
        """Let each row think where it stands; the verdicts after the thoughts."""
        if not rows:
            return []
        for row in rows:
            row.context += [self.tokens.unsafe, self.tokens.think]
        for row, one in zip(rows, self._generate(rows, self.gate.think_tokens, is_thought=True), strict=True):
            thought = [token for token in one.ids if token not in self.ends and token != self.tokens.end_think]
            row.thoughts.append(str(self.tokenizer.decode(thought, skip_special_tokens=True)))
            row.context += [*thought, self.tokens.end_think]
        lines = two_way(self.model, [row.context for row in rows], self.tokens, self.gate.temperature)
        return [line[-1] for line in lines]

    def _generate(self, rows: list[_Work], longest: int, *, is_thought: bool = False) -> list[Completion]:
        barred = [one for one in self.tokens.ids if not (is_thought and one == self.tokens.end_think)]
        sampling = Sampling(
            max_new_tokens=longest,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            top_k=self.sampling.top_k,
        )
        # What comes after a thought, and the thought itself, must not repeat the draws of what came before.
        seeds = [row.seed + 7919 * (2 * len(row.thoughts) + is_thought) for row in rows]
        network = network_of(self.model)
        with _AlsoEnds(network, self.tokens.end_think if is_thought else None):
            return generate(
                self.model,
                self.tokenizer,
                [row.context for row in rows],
                sampling,
                seeds=seeds,
                batch_size=self.batch_size,
                logits_processors=[_Barred(barred)],
            )

    def _settle(self, row: _Work, ids: list[int], decision: Decision) -> None:
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        row.result = Gated(text, ids, decision, row.p_unsafe, row.thoughts)

    def _filter(self, row: _Work) -> None:
        row.result = Gated(self.gate.refusal, [], "filter", row.p_unsafe, row.thoughts)


class _Barred(LogitsProcessor):
    """Tokens that are never drawn."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (B, V) without them."""
        return scores.index_fill(1, torch.tensor(self.ids, device=scores.device), -math.inf)  # type: ignore[return-value]


class _AlsoEnds:
    """Within, one more token ends a generation."""

    def __init__(self, network: Any, token: int | None) -> None:
        self.settings, self.token = network.generation_config, token

    def __enter__(self) -> None:
        self.before = self.settings.eos_token_id
        if self.token is not None:
            have = self.before if isinstance(self.before, list) else [self.before]
            self.settings.eos_token_id = [one for one in [*have, self.token] if one is not None]

    def __exit__(self, *_: object) -> None:
        self.settings.eos_token_id = self.before


def _check(
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    gate: GateSettings,
    tokens: ControlTokens,
    window: int | None,
) -> None:
    if len(seeds) != len(prompts):
        raise DataError(f"got {len(seeds)} seeds for {len(prompts)} prompts, wanted one each")
    needed = room_needed(sampling, gate)
    for number, prompt in enumerate(prompts):
        if set(prompt) & set(tokens.ids):
            raise DataError(
                f"prompt {number} holds a control token, wanted ids from encode_user, which spells them out"
            )
        if window is not None and len(prompt) + needed > window:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens, and answer and thoughts need up to {needed}, more than the "
                f"window of {window}: shorten the prompt, think_tokens or max_new_tokens"
            )
