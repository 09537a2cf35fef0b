"""The loop that writes token by token with models of plain attention; others write with transformers' `generate`.

`generate` prepares every step for all kinds of models and all ways of decoding, and its cache copies all keys and
values at every token; both are felt with small models. The tokens are the same.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin, LogitsProcessor, PreTrainedModel, StoppingCriteria
from transformers.cache_utils import DynamicLayer

STRIDE = 64
"""Tokens by which the room of a cache grows: one copy in so many steps, and little memory that is never used."""


def has_plain_steps(model: PreTrainedModel) -> bool:
    """Whether a step of this model is one token, its position, a mask, and keys and values of all tokens before."""
    takes = inspect.signature(model.forward).parameters
    prepare = getattr(type(model), "prepare_inputs_for_generation", None)
    if prepare is not GenerationMixin.prepare_inputs_for_generation or model.config.is_encoder_decoder:
        return False
    if not {"past_key_values", "logits_to_keep"} <= takes.keys():
        return False
    # sliding windows, recurrent layers and the like have caches of their own
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


@dataclass(frozen=True)
class Batch:
    """B prompts that write together, and what is asked of them."""

    ids: Tensor
    """(B, T), padded on the left."""
    mask: Tensor
    """(B, T), 1 at real tokens."""
    steps: int
    """Tokens to write at most."""
    processors: Sequence[LogitsProcessor]
    """Change the scores (B, V) before the highest of them is taken; given all tokens so far."""
    finished: StoppingCriteria | None
    """Tells which rows are complete, beside those that wrote an end token."""
    ends: Sequence[int]
    """The end tokens."""
    padding: int
    """What rows that are complete go on with."""


def write(model: PreTrainedModel, batch: Batch) -> Tensor:
    """New tokens (B, N), until all rows are complete.

    Args:
        model: one that `has_plain_steps`, in eval mode and without gradients.
        batch: the prompts.
    """
    n_rows, start = batch.ids.shape
    stop = start + batch.steps
    ids: Any = torch.cat([batch.ids, batch.ids.new_full((n_rows, batch.steps), batch.padding)], 1)
    mask = torch.cat([batch.mask, batch.mask.new_ones(n_rows, batch.steps)], 1)
    is_padded = not bool(batch.mask.all())
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer(stop) for _ in cache.layers]
    is_end = torch.tensor(list(batch.ends), device=ids.device)
    is_done = torch.zeros(n_rows, dtype=torch.bool, device=ids.device)
    seen = 0
    for now in range(start, stop):
        step: dict[str, Any] = {"position_ids": positions[:, seen:now]} if takes_positions else {}
        output = model(
            input_ids=ids[:, seen:now],
            attention_mask=mask[:, :now] if is_padded else None,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **step,
        )
        scores = output.logits[:, -1].to(ids.device, torch.float32, copy=True)
        for processor in batch.processors:
            scores = processor(ids[:, :now], scores)
        ids[:, now] = scores.argmax(-1).masked_fill(is_done, batch.padding)
        is_done |= torch.isin(ids[:, now], is_end)
        if batch.finished is not None:
            is_done |= batch.finished(ids[:, : now + 1], scores)
        seen = now
        if is_done.all():
            break
    new_ids: Tensor = ids[:, start : seen + 1]
    return new_ids


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values (B, heads, T, D) of one layer, the beginning of a room that reaches further.

    Args:
        longest: tokens that there will be at most; the room does not grow beyond.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.longest = longest
        self.rooms: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the states (B, heads, t, D) of new tokens; returns those of all tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self.rooms is None or after > self.rooms[0].shape[-2]:
            reach = max(after, min(after + STRIDE, self.longest))
            self.rooms = (_room(self.keys, key_states, reach), _room(self.values, value_states, reach))
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[..., before:after, :] = new
        self.keys, self.values = (room[..., :after, :] for room in self.rooms)
        return self.keys, self.values


def _room(present: Any, like: Tensor, reach: int) -> Tensor:
    """Memory for `reach` tokens of the shape (B, heads, reach, D), what is present copied to its beginning."""
    room = like.new_empty(*like.shape[:-2], reach, like.shape[-1])
    if present.numel():
        room[..., : present.shape[-2], :] = present
    return room
