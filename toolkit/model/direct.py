"""A LoRA layer as the three products it is: W x + s B A x, without PEFT's bookkeeping around each of them.

PPO writes its completions token by token, and at a token a time that bookkeeping takes longer than the products. What
is computed is the same; only plain LoRA layers with one active adapter are replaced, all others stay PEFT's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

Forward = Callable[..., Tensor]


def lora_layers(model: nn.Module) -> list[nn.Module]:
    """All layers of a model that carry LoRA adapters."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def compute_directly(layers: Iterable[nn.Module], name: str | None) -> None:
    """Let plain LoRA layers compute with an adapter directly; all others, and all when there is no name, as PEFT does.

    Args:
        layers: from `lora_layers`.
        name: the adapter that is active in them, or None.
    """
    for layer in layers:
        layer.__dict__.pop("forward", None)
        if name is not None and (forward := _direct(layer, name)) is not None:
            layer.forward = forward


def _direct(layer: Any, name: str) -> Forward | None:
    """The forward of one layer; None where it is not plain (DoRA and other variants, biases, merged, convolutions)."""
    base = layer.base_layer
    is_plain = not layer.merged and not isinstance(base, nn.Embedding | nn.modules.conv._ConvNd)
    if not is_plain or name in getattr(layer, "lora_variant", {}):
        return None
    if name not in layer.lora_A:
        return lambda x: base(x)  # this adapter leaves the layer alone
    down, up = layer.lora_A[name], layer.lora_B[name]
    if not (type(down) is type(up) is nn.Linear) or down.bias is not None or up.bias is not None:
        return None
    return lambda x: _product(x, base(x), layer.lora_dropout[name], down.weight, up.weight, layer.scaling[name])


def _product(x: Tensor, out: Tensor, dropout: nn.Module, down: Tensor, up: Tensor, scaling: float) -> Tensor:
    """Out + s B A x; x (..., I), out (..., O), A (R, I), B (O, R)."""
    if torch.is_autocast_enabled(x.device.type):
        return out + nn.functional.linear(nn.functional.linear(dropout(x), down), up) * scaling
    low = nn.functional.linear(dropout(x.to(down.dtype)), down)
    # one call adds and scales; the same call with and without gradients, so that both round alike
    flat = torch.addmm(out.to(up.dtype).flatten(0, -2), low.flatten(0, -2), up.t(), alpha=scaling)
    return flat.view(out.shape).to(out.dtype)
