"""Batches of neighbours in an order from short to long, bounded by the memory of a forward pass."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def token_batches(
    order: Iterable[Item], length: Callable[[Item], int], *, tokens: int, rows: int | None = None
) -> Iterator[list[Item]]:
    """Cut an order into batches that fit a forward pass.

    Args:
        order: by rising length, so that the newest is the longest.
        length: of an item, in tokens.
        tokens: of a batch at most, padding included; an item that is longer goes by itself.
        rows: of a batch at most.
    """
    batch: list[Item] = []
    for item in order:
        if batch and (len(batch) == rows or (len(batch) + 1) * length(item) > tokens):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
