"""Score continuations one to a row behind copies of their prefix's key-value cache, for models that take no mask."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .packing import Ints, Pack
from .parts import Parts


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokens after their pass: the state that others attach to."""

    cache: Any
    """The transformers cache, of one row."""
    end: Tensor
    """(1, hidden), hidden state of the last token."""


def encode(parts: Parts, tokens: Ints, before: Encoded | None = None) -> Encoded:
    """Run at least one token, after what came before if anything; that stays as it is."""
    out = parts.trunk(
        input_ids=torch.from_numpy(tokens)[None].to(parts.device),
        past_key_values=None if before is None else copy.deepcopy(before.cache),
        use_cache=True,
    )
    return Encoded(out.past_key_values, out.last_hidden_state[:, -1])


def score_in_rows(
    parts: Parts, shared: Encoded | None, prefixes: Sequence[Ints], packs: Sequence[Sequence[Pack]]
) -> list[list[NDArray[np.float64]]]:
    """Log-likelihoods of the steps of all packs after their prefixes, in a pass for each prefix and each pack.

    Args:
        parts: the model.
        shared: what stands before every prefix, if anything.
        prefixes: token ids, at least one each.
        packs: for each prefix, from `pack_in_rows`.

    Returns:
        for each prefix and each of its packs (steps,) natural logs.
    """
    found = list[list[NDArray[np.float64]]]()
    for prefix, own in zip(prefixes, packs, strict=True):
        encoded = encode(parts, prefix, shared)
        found.append([_score(parts, encoded, pack) for pack in own])
    return found


def _score(parts: Parts, encoded: Encoded, pack: Pack) -> NDArray[np.float64]:
    hidden = encoded.end
    if pack.tokens.size:
        cache = copy.deepcopy(encoded.cache)
        if len(pack.tokens) > 1:
            cache.batch_repeat_interleave(len(pack.tokens))
        ids = torch.from_numpy(pack.tokens).to(parts.device)
        out = parts.trunk(input_ids=ids, past_key_values=cache, use_cache=True)
        hidden = torch.cat([hidden, out.last_hidden_state.flatten(0, 1)])
    # The prefix's end stands in front, so that PREFIX_END comes to be 0.
    return parts.log_likelihoods(hidden, pack.source + 1, pack.target)
