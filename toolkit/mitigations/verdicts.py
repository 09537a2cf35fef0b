"""The model's two-way verdict, safe or unsafe, on what it reads, and the places of a text where it is asked for."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..model.generation import end_tokens
from ..model.network import eval_mode, network_of
from .control_tokens import ControlTokens, control_tokens
from .gate_settings import GateSettings
from .protected_inputs import BATCH, padded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Judged:
    """A given text as the gate would have met it."""

    peak: float
    """Its highest verdict, before its first token included: what decides whether it raises an alarm."""
    context: list[int]
    """Tokens up to where that verdict was read."""


def judged(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
    gate: GateSettings,
) -> list[Judged]:
    """Read the verdicts on given texts at the places where the gate asks.

    Args:
        model: trained with control tokens.
        tokenizer: with control tokens.
        texts: token ids of each prompt, from `encode_user`, and of what follows it.
        gate: `every` and `temperature` count.
    """
    tokens, ends = control_tokens(tokenizer), end_tokens(network_of(model), tokenizer)
    contexts = [[*prompt, tokens.safe, *text] for prompt, text in texts]
    found = []
    for line, context, (prompt, text) in zip(
        two_way(model, contexts, tokens, gate.temperature), contexts, texts, strict=True
    ):
        # The verdict on the prompt is read before <|safe|>, all others behind it.
        at = [len(prompt) - 1, *(len(prompt) + length for length in places(text, gate.every, ends))]
        peak = max(at, key=lambda position: line[position])
        found.append(Judged(line[peak], context[: peak + 1]))
    return found


def places(ids: Sequence[int], every: int, ends: Collection[int]) -> list[int]:
    """Lengths of an answer at which it is judged; the last is its whole length but for an end token."""
    length = len(ids) - (len(ids) > 0 and ids[-1] in ends)
    return sorted({*range(every, length, every), length} - {0})


def two_way(
    model: Any, rows: Sequence[Sequence[int]], tokens: ControlTokens, temperature: float = 1.0
) -> list[list[float]]:
    """P(<|unsafe|>) against <|safe|> after every token of every row, from one forward pass each."""
    found: list[list[float]] = []
    with eval_mode(network_of(model)), torch.no_grad():
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            input_ids, attention_mask = padded(part, network_of(model).device)
            logits: Tensor = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
            odds = (logits[..., tokens.unsafe].double() - logits[..., tokens.safe].double()) / temperature
            found += [line[: len(row)] for line, row in zip(odds.sigmoid().tolist(), part, strict=True)]
    return found
