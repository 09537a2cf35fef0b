"""Score windows with all their continuations side by side in one line of tokens, without padding or copies."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig

from .packing import PREFIX_END, Ints, Pack, behind, n_alike
from .parts import Parts

ATTENTION = "tunewell_line"
"""The name under which transformers finds the attention of this module."""
NOT_OURS = ("softcap", "s_aux", "position_bias")
"""What some models add to attention and ours does not know."""
TOGETHER = 96
"""Tokens of a prefix and its first pack that share one attention: so few cost more in two."""
Memory = dict[int, tuple[Tensor, Tensor]]
"""Keys and values by layer, (1, key heads, tokens, head size) each, of what stands before every window."""


@dataclass(frozen=True, eq=False)
class Block:
    """Neighbours in the line that see the same tokens before them, and each other as a mask says."""

    start: int
    stop: int
    n_before: int
    """Tokens of their own prefix that they see: what the blocks before them left there."""
    mask: Tensor | None
    """(n, memory + before + n), added to the scores; None where there is neither memory nor prefix before them, and
    each sees those up to itself."""


@dataclass(frozen=True, eq=False)
class Line:
    """Who sees whom in a line of tokens."""

    blocks: list[Block]
    memory: Memory
    kept: Memory | None = None
    """Where the pass is to put the line's own keys and values, if anywhere."""


def remember(parts: Parts, tokens: Ints) -> Memory:
    """Read what stands before every window, once."""
    kept: Memory = {}
    _read(parts, tokens, np.arange(len(tokens)), Line([Block(0, len(tokens), 0, None)], {}, kept))
    return kept


def score_in_line(
    parts: Parts, memory: Memory | None, prefixes: Sequence[Ints], packs: Sequence[Sequence[Pack]]
) -> list[list[NDArray[np.float64]]]:
    """Log-likelihoods of the steps of all packs after their prefixes, in one forward pass.

    In the line each prefix is followed by its packs. Products with weights run over the whole line, attention over one
    prefix or pack after the other: each sees the memory, its own prefix and itself, and nothing else is computed.

    Args:
        parts: the model.
        memory: what stands before every prefix, if anything.
        prefixes: token ids, at least one each.
        packs: for each prefix, from `pack_in_one_row`.

    Returns:
        for each prefix and each of its packs (steps,) natural logs.
    """
    layout = _Layout(parts, memory or {}, max(map(len, prefixes)))
    source = [place for prefix, own in zip(prefixes, packs, strict=True) for place in layout.add(prefix, own)]
    hidden = _read(parts, np.concatenate(layout.tokens), np.concatenate(layout.positions), layout.line)
    target = [pack.target for own in packs for pack in own]
    values = parts.log_likelihoods(hidden, np.concatenate(source), np.concatenate(target))
    steps = iter(np.split(values, np.cumsum([len(one) for one in target])[:-1]))
    return [[next(steps) for _ in own] for own in packs]


class _Layout:
    """A line in the making.

    Args:
        parts: the model.
        memory: what stands before every prefix.
        longest: tokens of the longest prefix.
    """

    def __init__(self, parts: Parts, memory: Memory, longest: int) -> None:
        self.line = Line([], memory)
        self.tokens, self.positions = list[Ints](), list[Ints]()
        self._parts, self._n_memory, self._longest = parts, _length(memory), longest
        self._at = 0
        self._last: Ints = np.zeros(0, dtype=np.int64)
        self._causal: Tensor | None = None
        self._masks: dict[Pack, Tensor] = {}

    def add(self, prefix: Ints, packs: Sequence[Pack]) -> list[Ints]:
        """Lay a prefix and its packs down; what the prefix before it begins with too stands there already.

        Returns:
            for each pack, the place of the token that predicts each of its steps.
        """
        n, n_known = len(prefix), n_alike(self._last, prefix)
        self._last, new = prefix, prefix[n_known:]
        end, source = self._at + len(new) - 1, list[Ints]()
        blocks = [(n, pack) for pack in packs]
        if len(new) + packs[0].tokens.size <= TOGETHER:
            blocks[0] = (n_known, behind(new, packs[0]))
        else:
            self._block(new, np.arange(n_known, n), n_known, self._causal_mask(n_known, n))
        for n_before, pack in blocks:
            source.append(np.where(pack.source == PREFIX_END, end, self._at + pack.source))
            if pack.tokens.size:
                mask = self._mask_of(pack)[:, self._longest - n_before :]
                self._block(pack.tokens[0], n_before + pack.depth, n_before, mask)
        return source

    def _block(self, tokens: Ints, positions: Ints, n_before: int, mask: Tensor | None) -> None:
        if mask is not None and mask.storage_offset():
            # CUDA's attention loads a mask in pieces of 16 bytes and fails where it begins between two of them
            mask = mask.clone(memory_format=torch.contiguous_format)
        self.line.blocks.append(Block(self._at, self._at + len(tokens), n_before, mask))
        self.tokens.append(tokens)
        self.positions.append(self._n_memory + positions)
        self._at += len(tokens)

    def _causal_mask(self, begin: int, end: int) -> Tensor | None:
        """(end - begin, memory + end), for tokens of a prefix from `begin` on; None where nothing stands before."""
        if not self._n_memory and not begin:
            return None
        if self._causal is None:  # shorter prefixes see a corner of the same triangle
            self._causal = self._mask(np.tri(self._longest, dtype=np.bool_), self._n_memory)
        return self._causal[begin:end, : self._n_memory + end]

    def _mask_of(self, pack: Pack) -> Tensor:
        """(tokens, memory + longest prefix + tokens), made once for a pack that several prefixes share."""
        if pack not in self._masks:
            is_seen = cast(NDArray[np.bool_], pack.is_seen)
            self._masks[pack] = self._mask(is_seen, self._n_memory + self._longest)
        return self._masks[pack]

    def _mask(self, is_seen: NDArray[np.bool_], n_before: int) -> Tensor:
        """Numbers to add to scores: 0 for all `n_before` tokens and where something is seen, else minus infinity."""
        seen = torch.from_numpy(is_seen).to(self._parts.device)
        mask = torch.zeros(len(seen), n_before + len(seen), dtype=self._parts.dtype, device=self._parts.device)
        mask[:, n_before:].masked_fill_(~seen, -torch.inf)
        return mask


def _read(parts: Parts, tokens: Ints, positions: Ints, line: Line) -> Tensor:
    """(tokens, hidden), last hidden states of a line."""
    with _attention_in_line(parts.config):
        out = parts.trunk(
            input_ids=torch.from_numpy(tokens)[None].to(parts.device),
            position_ids=torch.from_numpy(positions)[None].to(parts.device),
            use_cache=False,
            tunewell_line=line,
        )
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


@contextmanager
def _attention_in_line(config: PreTrainedConfig) -> Iterator[None]:
    """The model's layers call the attention of this module."""
    usual = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = usual


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tunewell_line: Line,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of a line, in the form that transformers asks for.

    Keys and values that a block sees are put together in one place, where the memory stands already: one prefix after
    the other takes the place behind it, and one pack after the other the place behind its prefix.
    """
    unknown = [name for name in NOT_OURS if others.get(name) is not None]
    if unknown:
        raise ValueError(f"attention with {', '.join(unknown)}")
    line, layer = tunewell_line, module.layer_idx
    if line.kept is not None:
        line.kept[layer] = (key, value)
    copies = query.shape[1] // key.shape[1]  # several query heads share one of the keys
    key, value, *remembered = (_copied(own, copies) for own in (key, value, *line.memory.get(layer, ())))
    n_memory = _length(line.memory)
    room = n_memory + max(block.n_before + block.stop - block.start for block in line.blocks)
    keys, values = (own.new_empty(1, own.shape[1], room, own.shape[3]) for own in (key, value))
    for seen, before in zip((keys, values), remembered, strict=False):
        seen[:, :, :n_memory] = before
    lengths = [block.stop - block.start for block in line.blocks]
    attended = list[Tensor]()
    parts = zip(line.blocks, *(whole.split_with_sizes(lengths, dim=2) for whole in (query, key, value)), strict=True)
    for block, asking, own_keys, own_values in parts:
        begin = n_memory + block.n_before
        end = begin + asking.shape[2]
        keys[:, :, begin:end] = own_keys
        values[:, :, begin:end] = own_values
        found = scaled_dot_product_attention(
            asking,
            keys[:, :, :end],
            values[:, :, :end],
            attn_mask=None if block.mask is None else block.mask.to(query),
            is_causal=block.mask is None,
            scale=scaling,
        )
        attended.append(found.transpose(1, 2))
    return torch.cat(attended, dim=1), None


def _copied(heads: Tensor, copies: int) -> Tensor:
    return heads if copies == 1 else heads.repeat_interleave(copies, dim=1)


def _length(memory: Memory) -> int:
    return next((keys.shape[2] for keys, _ in memory.values()), 0)


AttentionInterface.register(ATTENTION, _attend)
