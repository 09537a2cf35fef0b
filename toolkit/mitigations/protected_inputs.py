"""What the layers that are trained read when the model reads protected texts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..model.network import eval_mode

BATCH = 16


class ProtectedInputs:
    """Uncentred covariance of the inputs of every trained linear layer, one per distinct input.

    Query, key and value layers read the same tensor: it is kept once. Every token that is not padding counts, each
    scaled to unit length: a few tokens of language models have activations a thousand times larger than the rest and
    would be all that an energy threshold sees. The span, and so an exact null space, does not change with the scale.

    Args:
        model: the network; layers count as trained when their weight requires a gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.source: dict[str, str] = {}
        """For each parameter of a linear layer, the name of its input in `covariance`."""
        self.covariance: dict[str, Tensor] = {}
        """(d, d) float64 on the CPU, float32 on a GPU."""
        self.tokens_seen: set[int] = set()
        self._owner: dict[str, str] = {}
        self._this_pass: list[tuple[Tensor, str]] = []
        self._is_token: Tensor | None = None

    def read(self, rows: Sequence[Sequence[int]]) -> None:
        """Send token rows through the network and add up what its layers read.

        Raises:
            DataError: there are no rows.
        """
        if not rows:
            raise DataError("got no protected texts, wanted at least one: give mitigations.protect.texts")
        with self._hooks(), torch.no_grad():
            for start in range(0, len(rows), BATCH):
                input_ids, attention_mask = padded(rows[start : start + BATCH], _device(self.model))
                self.tokens_seen.update(input_ids[attention_mask.bool()].tolist())
                self._is_token, self._this_pass = attention_mask.bool(), []
                call: Any = self.model
                call(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        self._is_token, self._this_pass = None, []

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        handles = []
        for place, weights in _readers(self.model).items():
            self.source |= dict.fromkeys(weights, place)
            module = self.model.get_submodule(place)
            handles.append(module.register_forward_pre_hook(self._hook(place)))
        try:
            with eval_mode(self.model):
                yield
        finally:
            for handle in handles:
                handle.remove()
        self.source = {weight: self._owner.get(place, place) for weight, place in self.source.items()}

    def _hook(self, place: str) -> Any:
        def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            inputs: Tensor = arguments[0]
            owner = next((name for tensor, name in self._this_pass if tensor is inputs), place)
            self._owner[place] = owner
            if owner == place:
                self._this_pass.append((inputs, place))  # held, so that no other tensor can take its identity
                self._add(place, inputs)

        return note

    def _add(self, place: str, inputs: Tensor) -> None:
        tokens = inputs[self._is_token] if inputs.ndim == 3 else inputs.reshape(-1, inputs.shape[-1])
        exact = torch.float64 if tokens.device.type == "cpu" else torch.float32
        unit = nn.functional.normalize(tokens.to(exact), dim=-1)
        product = unit.mT @ unit
        self.covariance[place] = self.covariance[place] + product if place in self.covariance else product


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (B, T) of rows, padded on the right."""
    longest = max(map(len, rows))
    input_ids = torch.zeros((len(rows), longest), dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
        attention_mask[index, : len(row)] = 1
    return input_ids.to(device), attention_mask.to(device)


def _readers(model: nn.Module) -> dict[str, list[str]]:
    """Modules whose input is to be noted, each with the names of the trained weights that read it.

    Of a LoRA layer the whole layer is watched: what it hands to `lora_A` may be a fresh copy in another precision.
    """
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.weight.requires_grad and ".lora_B." not in name:
            found.setdefault(name.partition(".lora_A.")[0], []).append(f"{name}.weight")
    return found


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
