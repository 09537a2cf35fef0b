"""An endless, resumable stream of text blocks for PPO-ptx."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import DataError

IGNORED = -100


class PtxStream:
    """Texts joined by end-of-sequence tokens, cut into blocks and shuffled anew in each pass.

    What comes next depends on the seed and `position` alone, so saving the position is all a resume needs.

    Args:
        rows: mappings with a `text` column.
        tokenizer: the policy's.
        block_size: tokens per block; the last block of the corpus may be shorter, nothing is dropped.
        seed: decides the order.

    Raises:
        DataError: when a row has no text, or there is none at all.
    """

    def __init__(
        self, rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, block_size: int, seed: int
    ) -> None:
        self.blocks = _blocks(rows, tokenizer, block_size)
        self.padding = int(tokenizer.pad_token_id or 0)
        self.seed = seed
        self.position = 0
        """Blocks taken so far, over all passes."""

    def take(self, count: int) -> tuple[Tensor, Tensor]:
        """Take the next blocks.

        Args:
            count: how many.

        Returns:
            Token ids (count, T) and the mask of real tokens (count, T), padded on the right.
        """
        rows = [self._block(self.position + offset) for offset in range(count)]
        self.position += count
        longest = max(map(len, rows))
        input_ids = torch.full((count, longest), self.padding)
        attention_mask = torch.zeros((count, longest), dtype=torch.long)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = 1
        return input_ids, attention_mask

    def _block(self, position: int) -> list[int]:
        turn, index = divmod(position, len(self.blocks))
        order = torch.randperm(len(self.blocks), generator=torch.Generator().manual_seed(self.seed + turn))
        return self.blocks[int(order[index])]


def _blocks(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, block_size: int) -> list[list[int]]:
    stream: list[int] = []
    for index, row in enumerate(rows):
        if not isinstance(row.get("text"), str):
            raise DataError(f"ptx row {index} has the columns {sorted(row)}, wanted `text`: rename or add it")
        ids = tokenizer(row["text"])["input_ids"]
        closed = bool(ids) and ids[-1] == tokenizer.eos_token_id
        stream += ids if closed or tokenizer.eos_token_id is None else [*ids, tokenizer.eos_token_id]
    blocks = [stream[start : start + block_size] for start in range(0, len(stream), block_size)]
    if blocks and len(blocks[-1]) < 2:
        # a block of one token predicts nothing, so the block before gives it one, or takes it where it has two itself
        rest = blocks.pop()
        if blocks and len(blocks[-1]) > 2:
            blocks[-1:] = [blocks[-1][:-1], [blocks[-1][-1], *rest]]
        elif blocks:
            blocks[-1] = blocks[-1] + rest
    if not blocks:
        raise DataError("got no ptx text of two tokens or more, wanted at least one row with text")
    return blocks
