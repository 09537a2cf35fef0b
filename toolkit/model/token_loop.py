"""The loop that writes token by token with models of plain attention; others write with transformers' `generate`.

`generate` prepares every step for all kinds of models and all ways of decoding, and its cache copies all keys and
values at every token; both are felt with small models. The tokens are the same.
"""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache, GenerationMixin, LogitsProcessor, PreTrainedModel, StoppingCriteria
from transformers.cache_utils import DynamicLayer

from .recorded_steps import RecordedSteps, can_record

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
    steps = _Steps(model, batch)
    ids: Any = steps.ids
    is_end = torch.tensor(list(batch.ends), device=ids.device)
    is_done = torch.zeros(n_rows, dtype=torch.bool, device=ids.device)
    seen = 0
    for now in range(start, start + batch.steps):
        scores: Any = steps(seen, now).to(ids.device, torch.float32, copy=True)
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


class _Steps:
    """The model's steps: ordinary ones, and on a GPU replays of a recorded one as soon as that is trusted."""

    def __init__(self, model: PreTrainedModel, batch: Batch) -> None:
        n_rows, start = batch.ids.shape
        self.ids = torch.cat([batch.ids, batch.ids.new_full((n_rows, batch.steps), batch.padding)], 1)
        self._model, self._start = model, start
        self._mask = torch.cat([batch.mask, batch.mask.new_ones(n_rows, batch.steps)], 1)
        self._is_padded = not bool(batch.mask.all())
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._may_record = self._takes_positions and can_record(model, self.ids.device, batch.steps)
        self._recorded: RecordedSteps | None = None
        longest = start + batch.steps
        self._cache = DynamicCache(config=model.config)
        self._layers = [RoomyLayer(longest, longest if self._may_record else STRIDE) for _ in self._cache.layers]
        self._cache.layers = [*self._layers]

    def __call__(self, seen: int, now: int) -> Tensor:
        """Logits (B, V) after the tokens before `now`, of which those before `seen` were read already."""
        ordinary = partial(self._ordinary, seen, now)
        if not self._may_record or now == self._start:
            return ordinary()
        if self._recorded is None:
            rooms = [layer.rooms for layer in self._layers if layer.rooms is not None]
            self._recorded = RecordedSteps(self._model, self.ids, self._mask, self._positions, rooms)
        return self._recorded.take(seen, ordinary)

    def _ordinary(self, seen: int, now: int) -> Tensor:
        places = {"position_ids": self._positions[:, seen:now]} if self._takes_positions else {}
        with _without_plans(self.ids.device):
            output = self._model(
                input_ids=self.ids[:, seen:now],
                attention_mask=self._mask[:, :now] if self._is_padded else None,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
                **places,
            )
        logits: Tensor = output.logits[:, -1]
        return logits


def _without_plans(device: torch.device) -> AbstractContextManager[Any]:
    """Attention without cuDNN, which plans anew for every length, and here every step has a length of its own."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values (B, heads, T, D) of one layer, the beginning of a room that reaches further.

    Args:
        longest: tokens that there will be at most; the room does not grow beyond.
        stride: tokens by which it grows.
    """

    def __init__(self, longest: int, stride: int = STRIDE) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.longest, self.stride = longest, stride
        self.rooms: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the states (B, heads, t, D) of new tokens; returns those of all tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self.rooms is None or after > self.rooms[0].shape[-2]:
            reach = max(after, min(after + self.stride, self.longest))
            self.rooms = (_room(self.keys, key_states, reach), _room(self.values, value_states, reach))
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[..., before:after, :] = new
        self.keys, self.values = (room[..., :after, :] for room in self.rooms)
        return self.keys, self.values


def _room(present: Any, like: Tensor, reach: int) -> Tensor:
    """Memory for `reach` tokens of the shape (B, heads, reach, D), what is present copied to its beginning."""
    # zeros, for what is masked is still multiplied, and memory that was never written may hold NaN
    room = like.new_zeros(*like.shape[:-2], reach, like.shape[-1])
    if present.numel():
        room[..., : present.shape[-2], :] = present
    return room
