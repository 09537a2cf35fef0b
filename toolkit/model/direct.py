"""A LoRA layer as the three products it is: W x + s B A x, without PEFT's bookkeeping around each of them.

PPO writes its completions token by token, and at a token a time that bookkeeping takes longer than the products. What
is computed is the same; only plain LoRA layers with one active adapter are replaced, all others stay PEFT's.

Where only speed counts and no gradient is wanted, the three products become one, (W + s B A) x, with a sum that is made
for the purpose: the base itself never changes. In float32 alone, for a sum in 16 bits would round away most of what the
adapter learned; and on a CPU alone, for a GPU has no memory to spare for it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

Forward = Callable[..., Tensor]
Sums = dict[nn.Module, Tensor]
"""W + s B A of LoRA layers, for one adapter at a time."""


def lora_layers(model: nn.Module) -> list[nn.Module]:
    """All layers of a model that carry LoRA adapters."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def compute_directly(layers: Iterable[nn.Module], name: str | None, sums: Sums | None = None) -> list[nn.Module]:
    """Let plain LoRA layers compute with an adapter directly; all others, and all when there is no name, as PEFT does.

    Args:
        layers: from `lora_layers`.
        name: the adapter that is active in them, or None.
        sums: lets layers in float32 on a CPU compute one product with the sum W + s B A, in eval mode and without
            gradients; the sums are written here, over those of the adapter that was there before, whose layers must
            not compute any more. They take as much memory as the layers' weights.

    Returns:
        The layers that compute as PEFT does.
    """
    left = []
    for layer in layers:
        layer.__dict__.pop("forward", None)
        forward = None
        if name is not None:
            forward = (None if sums is None else _summed(layer, name, sums)) or _direct(layer, name)
        if forward is None:
            left.append(layer)
        else:
            layer.forward = forward
    return left


def _direct(layer: Any, name: str) -> Forward | None:
    """The forward of one layer; None where it is not plain (DoRA and other variants, biases, merged, convolutions)."""
    base = layer.base_layer
    if not _is_plain(layer, name):
        return None
    if name not in layer.lora_A:
        return lambda x: base(x)  # this adapter leaves the layer alone
    down, up = layer.lora_A[name], layer.lora_B[name]
    return lambda x: _product(x, base, layer.lora_dropout[name], down.weight, up.weight, layer.scaling[name])


@torch.no_grad()
def _summed(layer: Any, name: str, sums: Sums) -> Forward | None:
    """The forward of one layer with its weights summed; None where that is impossible or loses digits."""
    base = layer.base_layer
    if name not in layer.lora_A or type(base) is not nn.Linear or not _is_plain(layer, name):
        return None
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    is_exact = {base.weight.dtype, down.dtype, up.dtype} == {torch.float32} and not torch.is_autocast_enabled("cpu")
    if not is_exact or base.weight.device.type != "cpu":
        return None
    if layer not in sums:
        sums[layer] = torch.empty_like(base.weight)
    weight = torch.addmm(base.weight, up, down, alpha=layer.scaling[name], out=sums[layer])
    return lambda x: nn.functional.linear(x, weight, base.bias)


def _is_plain(layer: Any, name: str) -> bool:
    """Whether the layer computes W x + s B A x with this adapter, or W x."""
    if layer.merged or isinstance(layer.base_layer, nn.Embedding | nn.modules.conv._ConvNd):
        return False
    if name in getattr(layer, "lora_variant", {}):
        return False
    parts = [matrices[name] for matrices in (layer.lora_A, layer.lora_B) if name in matrices]
    return all(type(part) is nn.Linear and part.bias is None for part in parts)


def _product(x: Tensor, base: nn.Module, dropout: nn.Module, down: Tensor, up: Tensor, scaling: float) -> Tensor:
    """W x + s B A x; x (..., I), A (R, I), B (O, R)."""
    out: Tensor
    if torch.is_autocast_enabled(x.device.type):
        out = base(x) + nn.functional.linear(nn.functional.linear(dropout(x), down), up) * scaling
        return out
    flat = x.flatten(0, -2)
    out = base(flat)
    low = nn.functional.linear(dropout(flat.to(down.dtype)), down)
    # one call adds and scales, in the memory of W x; the same with and without gradients, so that both round alike
    whole = out.to(up.dtype).addmm_(low, up.t(), alpha=scaling)
    return whole.to(out.dtype).view(*x.shape[:-1], -1)
