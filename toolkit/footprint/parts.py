"""Memory of what stays during a training: weights, adapters, gradients, optimiser states, and the KV cache."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a 4-bit weight with double quantisation: half a byte, an 8-bit scale for 64, a 32-bit one for 256 of those
(Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3)."""
OPTIMISER_BYTES = {"8bit": 2, "adamw": 8, "adafactor": 0.1, "sgd": 0, "lion": 4}
"""State per trained weight, by a part of the optimiser's name; the first that fits counts."""


@dataclass(frozen=True)
class Shapes:
    """How many numbers a model holds, by what they are for."""

    linear: int
    """In the linear layers of the blocks, which 4-bit quantisation packs."""
    other: int
    """In embeddings, norms, biases, and an output layer that is not tied to the input."""
    output: int
    """Of `other`, in an output layer of its own; a model with a score head leaves it out."""
    lora: int
    """In one adapter."""
    head: int
    """In a score head."""
    largest: int
    """In the largest linear layer: a 4-bit one is unpacked as a whole whenever it computes."""

    def weights(self, dtype: torch.dtype, quantization: str, *, has_output: bool = True) -> float:
        """Bytes of the base model."""
        other = self.other if has_output else self.other - self.output
        each = NF4_BYTES if quantization == "nf4" else dtype.itemsize
        return self.linear * each + other * dtype.itemsize


def shapes(config: Any, lora: Any) -> Shapes:
    """Count a model's weights from its configuration, on the meta device: none are made.

    Args:
        config: a transformers configuration.
        lora: a PEFT LoraConfig.

    Raises:
        ValueError: PEFT finds no module to adapt.
    """
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    output = model.get_output_embeddings()
    packed = {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    }
    linear = sum(packed.values())
    total = sum(parameter.numel() for parameter in model.parameters())  # a tied output layer is counted once
    is_tied = output is None or output.weight is model.get_input_embeddings().weight
    adapted = get_peft_model(model, deepcopy(lora), low_cpu_mem_usage=True)
    adapter = sum(parameter.numel() for name, parameter in adapted.named_parameters() if "lora_" in name)
    return Shapes(
        linear=linear,
        other=total - linear,
        output=0 if is_tied else output.weight.numel(),
        lora=adapter,
        head=int(config.get_text_config().hidden_size),
        largest=max(packed.values(), default=0),
    )


def optimiser_bytes(name: str) -> float:
    """Bytes of state per trained weight (float32 moments; 8-bit optimisers have a byte for each of two)."""
    return next((size for part, size in OPTIMISER_BYTES.items() if part in name), 8)


def cache_bytes(config: Any, rows: int, tokens: int, dtype: torch.dtype) -> int:
    """Key-value cache of a generation, with the copy of one layer that is made while it grows by a token."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int((text.num_hidden_layers + 1) * 2 * rows * tokens * heads * size * dtype.itemsize)
