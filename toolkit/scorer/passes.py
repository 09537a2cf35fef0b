"""The forward passes of the continuation scorer: a batch of prefixes, then their continuations against its cache."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from ..errors import ModelError
from .packing import Ints, Pack

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


@dataclass(frozen=True, eq=False)
class Encoded:
    """A batch of prefixes after their pass: the state that continuations attach to."""

    cache: Any
    """The transformers cache, (batch, ..., longest prefix) with what is behind a shorter prefix to be hidden."""
    ends: Tensor
    """(batch, hidden), hidden states of each prefix's last token."""
    lengths: Tensor
    """(batch,) on the CPU, tokens of each prefix, what was shared before it included."""
    width: int
    """Tokens of the longest prefix, what was shared before it included."""


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
    return Parts(model.base_model, _with_scaling(head, config), config, embeddings.device, embeddings.shape[0])


def _with_scaling(head: nn.Module, config: PreTrainedConfig) -> Callable[[Tensor], Tensor]:
    """The head followed by what Cohere, Granite and Gemma models do to their logits; others do nothing."""
    factor = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def run(hidden: Tensor) -> Tensor:
        logits: Tensor = head(hidden)
        logits = logits if factor == 1.0 else logits * factor
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return run


def encode(
    parts: Parts, prefixes: Sequence[Ints], shared: Encoded | None = None, *, keeps_all: bool = False
) -> Encoded:
    """Run prefixes of at least one token each, after what they share if anything.

    Shorter rows are padded on the right: under a causal mask nothing before the padding sees it, so no mask is needed,
    and what comes later hides it.

    Args:
        parts: the model.
        prefixes: token ids of each.
        shared: what they share; it decides the kind of cache.
        keeps_all: whether the cache keeps every token in every layer, as packed rows want it, rather than what the
            model's layers look back to.
    """
    lengths = torch.tensor([len(prefix) for prefix in prefixes])
    ids = np.zeros((len(prefixes), max(map(len, prefixes))), dtype=np.int64)
    for row, prefix in enumerate(prefixes):
        ids[row, : len(prefix)] = prefix
    if shared is not None:
        cache = _repeated(shared.cache, len(prefixes))
    else:
        cache = DynamicCache() if keeps_all else None
    out = parts.trunk(input_ids=torch.from_numpy(ids).to(parts.device), past_key_values=cache, use_cache=True)
    ends = out.last_hidden_state[torch.arange(len(prefixes)), lengths - 1]
    before = 0 if shared is None else shared.width
    return Encoded(out.past_key_values, ends, lengths + before, ids.shape[1] + before)


def select_rows(encoded: Encoded, rows: list[int]) -> Encoded:
    """Some prefixes of a batch; what was given must not be used any more."""
    encoded.cache.batch_select_indices(torch.tensor(rows, device=encoded.ends.device))
    return Encoded(encoded.cache, encoded.ends[rows], encoded.lengths[rows], encoded.width)


def run_in_one_row(parts: Parts, encoded: Encoded, packs: Sequence[Pack]) -> Tensor:
    """Run one pack per prefix, all tokens of a pack side by side in one row under a block mask.

    Afterwards the cache is again what it was before.

    Returns:
        (batch, 1 + width of the widest pack, hidden), states of the prefix's end and of the pack's tokens.
    """
    width = max(pack.tokens.shape[1] for pack in packs)
    if width == 0:
        return encoded.ends[:, None]
    depth = torch.from_numpy(np.stack([_padded(pack.depth, width) for pack in packs]))
    tokens = torch.from_numpy(np.stack([_padded(pack.tokens[0], width) for pack in packs]))
    out = parts.trunk(
        input_ids=tokens.to(parts.device),
        attention_mask=_block_mask(parts, encoded, packs, width),
        position_ids=(encoded.lengths[:, None] + depth).to(parts.device),
        past_key_values=encoded.cache,
        use_cache=True,
    )
    encoded.cache.crop(-width)
    return torch.cat([encoded.ends[:, None], out.last_hidden_state], dim=1)


def run_in_rows(parts: Parts, encoded: Encoded, packs: Sequence[Pack]) -> Tensor:
    """Run one pack of ONE prefix, each row of the pack after a copy of the prefix's cache, without any mask.

    Returns:
        (1, 1 + rows * width, hidden), states of the prefix's end and of the pack's tokens, row by row.
    """
    (pack,) = packs
    if not pack.tokens.size:
        return encoded.ends[:, None]
    out = parts.trunk(
        input_ids=torch.from_numpy(pack.tokens).to(parts.device),
        past_key_values=_repeated(encoded.cache, len(pack.tokens)),
        use_cache=True,
    )
    return torch.cat([encoded.ends, out.last_hidden_state.flatten(0, 1)])[None]


def read_steps(parts: Parts, hidden: Tensor, packs: Sequence[Pack]) -> list[NDArray[np.float64]]:
    """Log-likelihoods (steps,) of the steps of each pack, from what one of the passes above returned."""
    firsts = np.repeat(np.arange(len(packs)) * hidden.shape[1], [len(pack.source) for pack in packs])
    # One further, since each row begins with the prefix's end: PREFIX_END comes to be 0.
    source = np.concatenate([pack.source for pack in packs]) + firsts + 1
    target = np.concatenate([pack.target for pack in packs])
    values = parts.log_likelihoods(hidden.flatten(0, 1), source, target)
    return np.split(values, np.cumsum([len(pack.source) for pack in packs])[:-1])


def _repeated(cache: Any, times: int) -> Any:
    """A copy of a cache of one row, with that row `times` times."""
    copied = copy.deepcopy(cache)
    if times > 1:
        copied.batch_repeat_interleave(times)
    return copied


def _padded(values: Ints, width: int) -> Ints:
    return np.pad(values, (0, width - len(values)))


def _block_mask(parts: Parts, encoded: Encoded, packs: Sequence[Pack], width: int) -> Tensor:
    """Additive mask (batch, 1, width, longest prefix + width): 0 where attention is allowed, else the lowest number.

    Every token sees itself, padding too: a row without anything to see would give NaN.
    """
    is_seen = np.tile(np.eye(width, dtype=np.bool_), (len(packs), 1, 1))
    for row, pack in enumerate(packs):
        if pack.is_seen is not None:
            is_seen[row, : len(pack.is_seen), : len(pack.is_seen)] = pack.is_seen
    is_prefix = torch.arange(encoded.width) < encoded.lengths[:, None]
    may_attend = torch.cat([is_prefix[:, None].expand(-1, width, -1), torch.from_numpy(is_seen)], dim=-1)
    may_attend = may_attend.to(parts.device)
    # As numbers, not as booleans: eager attention would add True and False to its scores.
    lowest = torch.finfo(encoded.ends.dtype).min
    return torch.zeros_like(may_attend, dtype=encoded.ends.dtype).masked_fill_(~may_attend, lowest)[:, None]


def _log_sum_exp_in_place(logits: Tensor) -> Tensor:
    """(n,) of logits (n, vocabulary), which are overwritten: a copy of them would be most of the memory needed."""
    largest = logits.amax(dim=-1)
    return logits.sub_(largest[:, None]).exp_().sum(dim=-1).log_() + largest
