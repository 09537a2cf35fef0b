"""Steps of one token, recorded as a CUDA graph and replayed, so that a GPU waits for no Python between two kernels.

At a token a time a GPU is done with a kernel before Python has asked for the next; a model of 32 layers asks for two to
three thousand of them. A recorded step has fixed shapes: attention reads the whole room of keys and values, and a mask
hides what is not written yet. It is held against an ordinary step before it is trusted; a model that cannot be
recorded, or gives other numbers then, goes on with ordinary steps.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ..errors import ModelError

WORTHWHILE = 16
"""Steps from which on recording, which takes about as long as three of them, pays."""
logger = logging.getLogger(__name__)


def can_record(model: PreTrainedModel, device: torch.device, steps: int) -> bool:
    """Whether it is worth a try: many steps, on a GPU, and nobody listens to the modules, for a replay calls none."""
    if device.type != "cuda" or steps < WORTHWHILE:
        return False
    embeddings = model.get_input_embeddings()
    # transformers listens to the embeddings when activations are recomputed, which concerns training alone
    return not any(_listeners(module) for module in model.modules() if module is not embeddings)


class RecordedSteps:
    """Steps of B rows in a room of T tokens.

    Args:
        model: takes `position_ids`.
        ids: (B, T), of which the caller writes those of the next step.
        mask: (B, T), 1 at real tokens.
        positions: (B, T).
        rooms: keys and values (B, heads, T, D) of each layer; ordinary steps write into the same ones.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        rooms: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        self.state: Literal["new", "recorded", "trusted", "refused"] = "new"
        self._model, self._ids, self._mask, self._positions = model, ids, mask, positions
        self._token, self._position = ids[:, :1].clone(), positions[:, :1].clone()
        self._place = torch.zeros(1, dtype=torch.long, device=ids.device)
        self._is_seen = torch.zeros(len(ids), 1, 1, ids.shape[1], dtype=torch.bool, device=ids.device)
        self._cache = DynamicCache(config=model.config)
        self._cache.layers = [FixedLayer(*room, self._place) for room in rooms]
        self._replay: Callable[[], Tensor] | None = None

    def take(self, place: int, ordinary: Callable[[], Tensor]) -> Tensor:
        """Take a step: an ordinary one until the record is trusted, and where it is refused.

        Args:
            place: of the token (in T) that the step reads.
            ordinary: takes the same step without a record.

        Returns:
            logits (B, V); the next step may write over them.
        """
        if self.state == "trusted":
            return self(place)
        if self.state == "refused":
            return ordinary()
        return self._learn(place, ordinary)

    def _learn(self, place: int, ordinary: Callable[[], Tensor]) -> Tensor:
        """The first step is recorded, the second tells whether that is right.

        The record goes first, so that the ordinary step leaves the right keys and values in any case.
        """
        guess: Tensor | None = None
        try:
            if self._replay is not None:
                guess = self(place)
            else:
                self._show(place)
                self._replay = record(self._step, self._ids.device)
                self.state = "recorded"
        except Exception as error:  # models refuse fixed shapes in many ways, and ordinary steps are always there
            logger.info("writing with ordinary steps: %s: %s", type(error).__name__, error)
            self.state = "refused"
        logits = ordinary()
        if guess is not None:
            self.state = "trusted" if agree(guess, logits) else "refused"
        if self.state == "refused":
            self._replay = None
        return logits

    def __call__(self, place: int) -> Tensor:
        """Logits (B, V) after the token at a place; the next call writes over them."""
        if self._replay is None:
            raise ModelError("no step is recorded: take() comes first")
        self._show(place)
        return self._replay()

    def _show(self, place: int) -> None:
        """Put what a step reads where the record looks for it."""
        self._token.copy_(self._ids[:, place : place + 1])
        self._position.copy_(self._positions[:, place : place + 1])
        self._place.fill_(place)
        self._is_seen[..., : place + 1] = self._mask[:, None, None, : place + 1].bool()

    def _step(self) -> Tensor:
        with _no_kept_casts(self._ids.device.type):
            output = self._model(
                input_ids=self._token,
                attention_mask=self._is_seen,
                position_ids=self._position,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[:, -1]
        return logits


class FixedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values (B, heads, T, D) of a whole room, into which a step writes at a place that a tensor names."""

    def __init__(self, keys: Tensor, values: Tensor, place: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = self._room = (keys, values)
        self._place = place
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the states (B, heads, 1, D) of one token; returns those of the room."""
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room.index_copy_(2, self._place, new.to(room.dtype))
        return self._room

    def get_seq_length(self) -> int:
        """Refuse: a length would stand in the record as it was when it was made."""
        raise ModelError("the model asks how long its cache is, which a recorded step cannot know")

    get_mask_sizes = get_query_offset = get_seq_length  # type: ignore[assignment]


def record(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Run a step once, then record it (torch.cuda.graph); a replay writes its result where the recorded step did.

    Raises:
        RuntimeError: the step does what cannot be recorded, such as waiting for a number.
    """
    side: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        step()  # libraries choose their kernels and take their memory in the first run
    torch.cuda.current_stream(device).wait_stream(side)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def agree(got: Tensor, wanted: Tensor) -> bool:
    """Whether logits (B, V) are equal up to rounding: in 16 bits, other kernels differ by about a hundredth."""
    tolerance = 1e-3 if wanted.dtype == torch.float32 else 0.05
    wanted = wanted.float()
    spread = wanted - wanted.mean(-1, keepdim=True)
    return bool((got.float() - wanted).norm() <= tolerance * spread.norm())


def _listeners(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _no_kept_casts(kind: str) -> AbstractContextManager[Any]:
    """Mixed precision as it is, but no weights kept in 16 bits: they would lie in the record's memory."""
    if not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False)
