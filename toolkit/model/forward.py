"""The forward pass of a role: last hidden states, next-token logits, and the scores of a reward head."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

HEAD = "score"
"""Attribute that holds the reward head, as in transformers' sequence classifiers."""


def last_hidden(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states (B, T, H); positions count the real tokens, so padding may be anywhere.

    Args:
        model: its trunk is run, without the layers that read the hidden states.
        input_ids: (B, T) token ids.
        attention_mask: (B, T), 1 at real tokens.
    """
    trunk: Any = model.base_model
    positions: dict[str, Tensor] = {}
    if _takes_positions(type(trunk).forward):
        positions["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    output = trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **positions)
    return cast(Tensor, output.last_hidden_state)


def next_token_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits (..., V) of hidden states (..., H)."""
    output: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return cast(Tensor, output(hidden))


def head_scores(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """What the reward head makes of hidden states (..., H): scores (...), in float32 also under autocast."""
    with torch.autocast(hidden.device.type, enabled=False):
        head: Any = getattr(model, HEAD)
        return cast(Tensor, head(hidden.float())).squeeze(-1)


def at_last_token(scores: Tensor, attention_mask: Tensor) -> Tensor:
    """Of scores (B, T) those at each row's last real token, (B,); the mask (B, T) is 1 at real tokens."""
    last = (attention_mask * torch.arange(attention_mask.shape[1], device=attention_mask.device)).argmax(-1)
    return scores.gather(1, last[:, None]).squeeze(1)


def zero_head(model: PreTrainedModel) -> nn.Linear:
    """A new reward head for a model, in float32, that gives zero to everything."""
    size = int(model.config.get_text_config().hidden_size)
    head = nn.Linear(size, 1, bias=False, device=model.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    return head


@cache
def _takes_positions(forward: Callable[..., Any]) -> bool:
    return "position_ids" in inspect.signature(forward).parameters
