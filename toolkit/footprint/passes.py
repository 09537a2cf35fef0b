"""Run the passes of training on fake tensors: the model's own code decides what is alive, and nothing is computed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from .live import LiveBytes

TILE = (4096, 32_768)
"""Tokens and entries of the vocabulary for which TRL's fused head keeps one buffer (trl's chunked_logprob.py, 1.16)."""
TOKEN_CHUNK = 1024
"""Rows of the logits that PPO holds at once (`toolkit.ppo.sequences.CHUNK`)."""
FEW, MORE = 2, 3  # layers that are simulated: all further ones cost what the last ones did


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward and backward pass of a trainer.

    Attributes:
        rows: sequences of the batch.
        tokens: length of each.
        predicted: how many of a sequence's tokens have a log-probability; 0: a score head reads all states instead.
        kind: `sft` has TRL's fused head with one buffer, `ppo` the logits of a chunk of tokens at a time.
        is_checkpointed: recompute the blocks in the backward pass.
        is_trained: False for a pass without gradients.
        is_autocast: compute in bfloat16 under autocast, as the trainers do on a GPU.
    """

    rows: int
    tokens: int
    predicted: int
    kind: str = "sft"
    is_checkpointed: bool = False
    is_trained: bool = True
    is_autocast: bool = False


def working_bytes(config: Any, lora: Any, dtype: torch.dtype, one: Pass) -> int:
    """The most memory that a pass takes beside weights, adapters and gradients, in bytes.

    Two models of few layers are run through the pass; what a layer adds is the same for all further ones.

    Args:
        config: a transformers configuration.
        lora: a PEFT LoraConfig; None trains all weights.
        dtype: of the base's weights in the computation.
        one: the pass.
    """
    layers = int(config.get_text_config().num_hidden_layers)
    if layers <= MORE:
        return _measured(config, layers, lora, dtype, one)
    few, more = (_measured(config, count, lora, dtype, one) for count in (FEW, MORE))
    return few + (more - few) * (layers - FEW) // (MORE - FEW)


def fake_model(config: Any, layers: int, lora: Any, dtype: torch.dtype, mode: FakeTensorMode) -> Any:
    """The model with fewer layers and fake weights on the CPU; adapters are float32, as in `ModelStack`."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(_with_layers(config, layers), dtype=dtype)
    if lora is not None:
        model = get_peft_model(model, lora, low_cpu_mem_usage=True)
    # PEFT moves its weights by swapping them, which fake tensors refuse: it works on meta ones, and they follow here.
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                kept = torch.float32 if parameter.requires_grad and lora is not None else parameter.dtype
                with mode:
                    fake = torch.empty(parameter.shape, dtype=kept, device="cpu")
                    module._parameters[name] = torch.nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                with mode:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    return model


def _with_layers(config: Any, layers: int) -> Any:
    from copy import deepcopy

    shorter = deepcopy(config)
    text = shorter.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return shorter


def _measured(config: Any, layers: int, lora: Any, dtype: torch.dtype, one: Pass) -> int:
    """Peak of a pass over what was there before it, gradients included."""
    mode = FakeTensorMode()
    model = fake_model(config, layers, lora, dtype, mode)
    model.train()
    with mode:
        if one.is_checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
            if lora is not None:
                model.enable_input_require_grads()
        for parameter in model.parameters():  # they are counted elsewhere, so they are here before the pass
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad and one.is_trained else None
        step = _step(model, one)
        with LiveBytes() as live:
            live.hold(*model.parameters(), *model.buffers())
            live.hold(*(parameter.grad for parameter in model.parameters() if parameter.grad is not None))
            before = live.now
            live.reset()
            step()
    return int(live.peak - before)


def _step(model: Any, one: Pass) -> Callable[[], None]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    trunk, output = base.base_model, base.get_output_embeddings()
    ids = torch.zeros((one.rows, one.tokens), dtype=torch.long)
    mask = torch.ones_like(ids)
    score = torch.nn.Linear(base.config.get_text_config().hidden_size, 1, bias=False)

    def step() -> None:
        mixed: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16) if one.is_autocast else nullcontext()
        with torch.set_grad_enabled(one.is_trained):
            with mixed:
                hidden = trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
                loss = _loss(hidden, output, score, one)
            if one.is_trained:
                loss.backward()  # type: ignore[no-untyped-call]

    return step


def _loss(hidden: Tensor, output: Any, score: Any, one: Pass) -> Tensor:
    if not one.predicted:
        with torch.autocast("cpu", enabled=False):
            scores: Tensor = score(hidden.float())
            return scores.sum()
    states = hidden[:, -one.predicted :].reshape(-1, hidden.shape[-1])
    if one.kind == "sft":
        buffer = torch.empty(min(len(states), TILE[0]), TILE[1], dtype=states.dtype)
        return states.sum() + 0 * buffer[0, 0].detach()
    parts = torch.split(states, TOKEN_CHUNK)
    if one.is_trained and len(parts) > 1:
        kept: Any = [checkpoint(_log_probabilities, part, output.weight, use_reentrant=False) for part in parts]
        return torch.cat(kept).sum()
    return torch.cat([_log_probabilities(part, output.weight) for part in parts]).sum()


def _log_probabilities(states: Tensor, weight: Tensor) -> Tensor:
    logits = torch.nn.functional.linear(states, weight).float()
    return logits.log_softmax(-1).gather(-1, torch.zeros(len(states), 1, dtype=torch.long))
