"""What one call of the continuation scorer has to do, with the best that it found so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, ModelError
from .packing import Ints, Pack, window_starts

Floats = NDArray[np.float64]
Packer = Callable[[Sequence[Sequence[int]], int], list[Pack]]


@dataclass(frozen=True, eq=False)
class ContinuationScores:
    """How likely a model finds each of n continuations after one prefix."""

    total: Floats
    """(n,), log-likelihood in nats summed over the continuation's tokens, in the window where its mean is largest."""
    mean: Floats
    """(n,), the same per token."""
    n_tokens: Ints
    """(n,), tokens of each continuation."""
    window_start: Ints
    """(n,), first token of the prefix in the window that gave the value; 0 where the prefix fits in one window."""
    n_windows: int
    """How many windows the prefix was read in."""


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of one prefix that is read in one pass."""

    prefix: int
    start: int
    tokens: Ints
    """The last token of the preamble, if there is one, comes first: no window is empty."""

    def __len__(self) -> int:
        return len(self.tokens)


def longest_first(window: Window) -> int:
    """An order of windows in which memory runs out early if it does at all."""
    return -len(window)


def alike_together(window: Window) -> bytes:
    """An order of windows in which those that begin alike are neighbours: lexical order of their tokens."""
    return window.tokens.astype(">u4").tobytes()


Order = Callable[[Window], Any]


class Job:
    """The prefixes of one call, cut into windows, and their scores.

    Args:
        preamble: tokens before every window.
        prefixes: token ids.
        sets: one list of continuations for all prefixes, or one for each.
        max_length: the longest sequence, in tokens.
        stride: prefix tokens from one window to the next; None for half a window.
        order: what windows are sorted by.

    Raises:
        DataError: a continuation leaves no room for a prefix.
    """

    def __init__(
        self,
        preamble: Ints,
        prefixes: list[Ints],
        sets: list[list[list[int]]],
        max_length: int,
        stride: int | None,
        order: Order = longest_first,
    ) -> None:
        self._sets = sets
        self._packs: dict[int, dict[int, list[Pack]]] = {}
        own = [self._windows(i, preamble, tokens, max_length, stride) for i, tokens in enumerate(prefixes)]
        self._n_windows = [len(windows) for windows in own]
        self._n_open = list(self._n_windows)
        self._best = [np.full(len(self.continuations(i)), -np.inf) for i in range(len(own))]
        self._start = [np.zeros(len(self.continuations(i)), dtype=np.int64) for i in range(len(own))]
        self.windows = sorted((window for windows in own for window in windows), key=order)
        self.n_done = 0

    def continuations(self, prefix: int) -> list[list[int]]:
        """The continuations to score after one prefix."""
        return self._sets[self._set(prefix)]

    def packs(self, prefix: int, limit: int, packer: Packer) -> list[Pack]:
        """The continuations of one prefix, packed once for each limit."""
        packs = self._packs.setdefault(self._set(prefix), {})
        if limit not in packs:
            packs[limit] = packer(self.continuations(prefix), limit)
        return packs[limit]

    def record(self, window: Window, totals: Floats) -> None:
        """Keep what is better than in other windows of the same prefix, the first of equal ones.

        Raises:
            ModelError: a total is NaN or infinite.
        """
        prefix, best, start = window.prefix, self._best[window.prefix], self._start[window.prefix]
        if not np.isfinite(totals).all():
            raise ModelError(
                f"the model gives NaN or infinite log-likelihoods after prefix {prefix} (tokens from {window.start}), "
                "wanted finite ones: check the weights, and use bfloat16 or float32 rather than float16"
            )
        # All windows of a prefix divide by the same number of tokens: the largest total has the largest mean.
        is_better = (totals > best) | ((totals == best) & (window.start < start))
        best[is_better], start[is_better] = totals[is_better], window.start
        self._n_open[prefix] -= 1
        if not self._n_open[prefix]:
            self.n_done += 1
            if len(self._sets) > 1:
                self._packs.pop(
                    prefix, None
                )  # masks grow with the square of a pack: a corpus of them would fill memory

    def result(self, prefix: int) -> ContinuationScores:
        """The scores of one prefix, all of whose windows have been recorded."""
        n_tokens = np.array([len(tokens) for tokens in self.continuations(prefix)], dtype=np.int64)
        total = self._best[prefix]
        return ContinuationScores(total, total / n_tokens, n_tokens, self._start[prefix], self._n_windows[prefix])

    def _set(self, prefix: int) -> int:
        return prefix if len(self._sets) > 1 else 0

    def _windows(self, prefix: int, preamble: Ints, tokens: Ints, max_length: int, stride: int | None) -> list[Window]:
        """The windows of one prefix, each with room for the preamble before and the longest continuation after it."""
        lengths = [len(continuation) for continuation in self.continuations(prefix)]
        size = max_length - len(preamble) - max(lengths)
        if size < 1:
            raise DataError(
                f"continuation {int(np.argmax(lengths))} of prefix {prefix} has {max(lengths)} tokens, wanted at most "
                f"{max_length - len(preamble) - 1}: a sequence may hold {max_length}, the preamble takes "
                f"{len(preamble)}, and the prefix needs one. Shorten it, or use a model with more positions"
            )
        starts = window_starts(len(tokens), size, stride or max(1, size // 2))
        return [Window(prefix, at, np.concatenate([preamble[-1:], tokens[at : at + size]])) for at in starts]
