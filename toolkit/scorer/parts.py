"""A causal language model taken apart into the trunk that reads tokens and the head that predicts the next."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import ModelError
from .packing import Ints

LOGITS_AT_ONCE = 2**24
"""How many logits are held in memory at once (64 MiB in float32)."""


@dataclass(frozen=True, eq=False)
class Parts:
    """A causal language model taken apart, so that its head runs only where it is needed."""

    trunk: nn.Module
    """Ids in, last hidden states out."""
    head: Callable[[Tensor], Tensor]
    """Hidden states (n, width) in, logits (n, vocabulary) out."""
    config: PreTrainedConfig
    device: torch.device
    dtype: torch.dtype
    """Of the hidden states."""
    vocabulary: int
    """Number of token ids, of which 0 is the first."""

    def log_likelihoods(self, hidden: Tensor, source: Ints, target: Ints) -> NDArray[np.float64]:
        """Log-probabilities of predicted tokens, in float32, with the logits of a slice of the positions at a time.

        Args:
            hidden: (positions, hidden).
            source: (steps,), the position that predicts.
            target: (steps,), the token predicted.

        Returns:
            (steps,) natural logs; not finite where the model's logits are not.
        """
        order = np.argsort(source, kind="stable")
        used, first_step = np.unique(source[order], return_index=True)
        bounds = np.append(first_step, len(order))
        at_once = max(1, LOGITS_AT_ONCE // self.vocabulary)
        values = np.empty(len(source))
        for begin in range(0, len(used), at_once):
            positions = used[begin : begin + at_once]
            steps = order[bounds[begin] : bounds[begin + len(positions)]]
            logits = self.head(hidden[torch.from_numpy(positions).to(hidden.device)]).float()
            row = torch.from_numpy(np.searchsorted(positions, source[steps])).to(logits.device)
            logit = logits[row, torch.from_numpy(target[steps]).to(logits.device)]
            values[steps] = (logit - _log_sum_exp_in_place(logits)[row]).double().cpu().numpy()
        return values


def take_apart(model: PreTrainedModel | PeftModel) -> Parts:
    """Find trunk and head of a causal language model, adapters in place.

    Raises:
        ModelError: the model is not a decoder with a language-model head, or its adapter adds virtual tokens.
    """
    if isinstance(model, PeftModel):
        if model.active_peft_config.is_prompt_learning:
            raise ModelError(
                f"got a model under a {model.active_peft_config.peft_type} adapter, which adds virtual tokens; wanted "
                "an adapter that changes weights, such as LoRA"
            )
        model = model.get_base_model()
    # transformers leaves both getters untyped.
    causal: Any = model
    head: nn.Module | None = causal.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    if head is None or model.config.is_encoder_decoder or model.base_model is model:
        raise ModelError(
            f"got a {type(model).__name__}, wanted a causal language model of transformers with a trunk and a head: "
            "load it with AutoModelForCausalLM"
        )
    embeddings: Tensor = causal.get_input_embeddings().weight
    config = model.config.get_text_config(decoder=True)
    return Parts(
        model.base_model,
        _with_scaling(head, config),
        config,
        embeddings.device,
        embeddings.dtype,
        embeddings.shape[0],
    )


def _with_scaling(head: nn.Module, config: PreTrainedConfig) -> Callable[[Tensor], Tensor]:
    """The head followed by what Cohere, Granite and Gemma models do to their logits; others do nothing."""
    factor = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def run(hidden: Tensor) -> Tensor:
        logits: Tensor = head(hidden)
        logits = logits if factor == 1.0 else logits * factor
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return run


def _log_sum_exp_in_place(logits: Tensor) -> Tensor:
    """(n,) of logits (n, vocabulary), which are overwritten: a copy of them would be most of the memory needed."""
    largest = logits.amax(dim=-1)
    return logits.sub_(largest[:, None]).exp_().sum(dim=-1).log_() + largest
