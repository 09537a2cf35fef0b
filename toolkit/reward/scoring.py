"""Scores of many rows by a reward adapter of the stack, batched by length."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..model.batching import token_batches
from ..model.sequences import sequence_ids
from ..model.stack import ModelStack

TOKENS_PER_PASS = 8192
"""Of a forward pass, padding included: what bounds its memory where texts are long."""


def score_texts(
    stack: ModelStack,
    adapter: str,
    rows: Sequence[tuple[Any, Any]],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Score prompts with their completions, the stored bias subtracted.

    Args:
        stack: holds the adapter.
        adapter: its name; of an ensemble, that of the first member.
        rows: pairs of prompt and completion, texts or chat messages.
        batch_size: rows per forward pass at most; fewer of long ones, see `TOKENS_PER_PASS`.
        progress: called with (rows done, rows in all).

    Returns:
        (n,) in the order of the rows.
    """
    return score_ids(
        stack,
        adapter,
        [sequence_ids(prompt, completion, stack.tokenizer) for prompt, completion in rows],
        batch_size=batch_size,
        progress=progress,
    )


def score_ids(
    stack: ModelStack,
    adapter: str,
    sequences: Sequence[Sequence[int]],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """The same for token ids that end where the score is to be read."""
    found = np.full(len(sequences), np.nan)
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    pad = int(stack.tokenizer.pad_token_id or 0)
    with torch.inference_mode(), stack.using(adapter):
        done = 0
        for batch in score_batches(order, sequences, batch_size):
            longest = len(sequences[batch[-1]])
            rows = [list(sequences[index]) for index in batch]
            ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=stack.device)
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=stack.device)
            found[batch] = stack.score(ids, mask).double().cpu().numpy()
            done += len(batch)
            if progress is not None:
                progress(done, len(order))
    return found


def score_batches(order: Iterable[int], sequences: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Numbers of sequences that are scored in one pass, from an order by rising length."""
    return token_batches(order, lambda index: len(sequences[index]), tokens=TOKENS_PER_PASS, rows=batch_size)


def completion_lengths(stack: ModelStack, completions: Sequence[str | Sequence[Mapping[str, Any]]]) -> list[int]:
    """Tokens of completions by themselves, special tokens left out."""
    texts = [
        text if isinstance(text, str) else "\n".join(str(message["content"]) for message in text)
        for text in completions
    ]
    return [len(stack.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
