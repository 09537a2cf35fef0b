"""Scores of a few fixed sequences, kept beside a reward adapter: they show when it computes something else."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ROWS, TOKENS = 4, 16
# Half precision moves a score by one or two per cent of its size, another base under the adapter by more.
RELATIVE, ABSOLUTE = 0.05, 0.005


def probe_ids(base: Any) -> Tensor:
    """(4, up to 16) token ids spread over the vocabulary; no text of the training data is among them."""
    size = int(base.get_input_embeddings().weight.shape[0])
    window = getattr(base.config.get_text_config(), "max_position_embeddings", None) or TOKENS
    tokens = min(TOKENS, int(window))
    return torch.linspace(0, size - 1, ROWS * tokens).long().reshape(tokens, ROWS).T.contiguous()


def differs(recorded: Sequence[float], now: Sequence[float]) -> float | None:
    """The largest difference where it is more than rounding; None where the scores agree."""
    size = max(map(abs, recorded), default=0.0)
    largest = max((abs(one - other) for one, other in zip(recorded, now, strict=True)), default=0.0)
    return largest if not largest <= RELATIVE * size + ABSOLUTE else None  # NaN differs too
