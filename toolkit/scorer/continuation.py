"""Log-likelihoods of many continuations of many prefixes, in about one forward pass per prefix."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from ..errors import DeviceError
from ..model.memory_faults import is_out_of_memory
from .check import RUNS, choose_method
from .inputs import Tokens, as_ids, check_settings, continuation_sets, prefix_ids
from .job import ContinuationScores, Floats, Job, Window
from .packing import Ints, Pack, pack_in_one_row, pack_in_rows
from .passes import Encoded, encode, read_steps, select_rows, take_apart

__all__ = ["ContinuationScorer", "ContinuationScores"]

PACK_TOKENS = 256
"""Continuation tokens in one row: longer rows cost more attention between continuations that do not see each other."""
CPU_TOKENS = 1536
"""Tokens in a batch of packed rows on a CPU: more gain nothing there, and cost memory."""


class ContinuationScorer:
    """Scores continuations under a causal language model; whatever adapter is active while scoring is used.

    Each prefix is encoded once. All its continuations then follow in one packed row under a block mask: every
    continuation sees the prefix and itself, at the positions that it would have right behind the prefix, and what
    several continuations have in common at their start is computed once. A model that takes no mask of that kind gets
    the continuations one to a row after copies of the prefix's key-value cache. Both give the numbers of one plain
    forward pass for each pair, up to rounding; the constructor tries that on a few tokens.

    A prefix too long for the model is read in overlapping windows; none of it is left out.

    Args:
        model: a transformers causal language model, or a PEFT model around one, in any precision, 4-bit included. It
            is in evaluation mode while it scores.
        preamble: tokens before every prefix (a start token, an instruction), encoded once for all prefixes.
        max_length: the longest sequence, in tokens; by default and at most what the model has positions for. What the
            preamble and the longest continuation leave of it is the window on a prefix.
        stride: prefix tokens from one window to the next; half a window by default, never more than a window.
        tokens_per_batch: bound on the tokens in memory at once. Halved whenever memory runs out; the work goes on. A
            CPU gets smaller batches, which are faster there.
        method: "packed" rows, "cache" copies, or whichever of the two is right for the model.

    Attributes:
        method: the method in use, "packed" or "cache".
        method_reason: why it was chosen.
        tokens_per_batch: the bound as it is now.

    Raises:
        SettingsError: a length or the budget makes no sense.
        ModelError: the model cannot score continuations.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        *,
        preamble: Tokens = (),
        max_length: int | None = None,
        stride: int | None = None,
        tokens_per_batch: int = 8192,
        method: Literal["auto", "packed", "cache"] = "auto",
    ) -> None:
        self._model = model
        self._parts = take_apart(model)
        positions = getattr(self._parts.config, "max_position_embeddings", None)
        self._max_length = check_settings(positions, max_length, stride, tokens_per_batch, method)
        self._stride = stride
        self._preamble = as_ids(preamble, "the preamble", self._parts.vocabulary)
        self.tokens_per_batch = tokens_per_batch
        with _evaluating(model), torch.no_grad():
            self.method, self.method_reason = choose_method(model, self._parts, method, self._max_length)

    def score(
        self,
        prefixes: Sequence[Tokens],
        continuations: Sequence[Tokens] | Sequence[Sequence[Tokens]],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[ContinuationScores]:
        """Score continuations after each prefix.

        Args:
            prefixes: token ids, at least one each; the preamble counts as part of every prefix.
            continuations: token ids, at least one each; one list for all prefixes, or one such list per prefix.
            progress: called with the number of prefixes done so far.

        Returns:
            one result per prefix, in order.

        Raises:
            DataError: a prefix or continuation without tokens, an id outside the vocabulary, no continuations, or one
                that leaves no room for a prefix.
            ModelError: the model gives NaN or infinite log-likelihoods; the message names the prefix.
            DeviceError: not even one prefix with one continuation fits in memory.
        """
        if not len(prefixes):
            return []
        self._parts = take_apart(self._model)  # an adapter added since construction may have wrapped the head
        vocabulary = self._parts.vocabulary
        rows = prefix_ids(prefixes, len(self._preamble), vocabulary)
        sets = continuation_sets(continuations, len(rows), vocabulary)
        job = Job(self._preamble, rows, sets, self._max_length, self._stride)
        with _evaluating(self._model), torch.no_grad():
            self._run(job, progress or (lambda n_done: None))
        return [job.result(index) for index in range(len(rows))]

    def _run(self, job: Job, progress: Callable[[int], None]) -> None:
        # The preamble's last token stays with each window, so that no row is empty.
        shared = self._encode([self._preamble[:-1]], None) if len(self._preamble) > 1 else None
        at = 0
        while at < len(job.windows):
            windows, packs = self._next_batch(job, at, shared)
            totals = self._attempt(job, windows, packs, shared)
            if totals is None:
                self._shrink(windows, packs, shared)
                continue
            for window, values in zip(windows, totals, strict=True):
                job.record(window, values)
            at += len(windows)
            progress(job.n_done)

    def _encode(self, rows: list[Ints], shared: Encoded | None) -> Encoded:
        return encode(self._parts, rows, shared, keeps_all=self.method == "packed")

    def _next_batch(self, job: Job, at: int, shared: Encoded | None) -> tuple[list[Window], list[list[Pack]]]:
        """As many windows as the budget allows, at least one, each with its packs."""
        first = job.windows[at]
        shared_width = shared.width if shared else 0
        limit = self._pack_limit(job, first, shared_width)
        windows, packs = [first], [self._packs(job, first, limit)]
        if self.method == "cache":  # one prefix makes a batch: its cache is copied for all its continuations
            return windows, packs
        # What all prefixes share takes memory in every row, and no work.
        most = CPU_TOKENS if self._parts.device.type == "cpu" else self.tokens_per_batch
        length, width = len(first), _width(packs)
        for window in job.windows[at + 1 :]:
            own = self._packs(job, window, limit)
            length, width, rows = max(length, len(window)), max(width, _width([own])), len(windows) + 1
            if rows * (length + width) > most or rows * (shared_width + length + width) > self.tokens_per_batch:
                break
            windows.append(window)
            packs.append(own)
        return windows, packs

    def _pack_limit(self, job: Job, window: Window, shared_width: int) -> int:
        """The largest pack, in tokens or in rows, that the budget leaves room for after a window."""
        length = len(window) + shared_width
        if self.method == "packed":
            return max(1, min(PACK_TOKENS, self.tokens_per_batch - length))
        lengths = [len(continuation) for continuation in job.continuations(window.prefix)]
        return max(1, min(len(lengths), self.tokens_per_batch // (length + max(lengths))))

    def _packs(self, job: Job, window: Window, limit: int) -> list[Pack]:
        """The continuations of a window's prefix, in packs of at most about `limit`."""
        return job.packs(window.prefix, limit, pack_in_one_row if self.method == "packed" else pack_in_rows)

    def _attempt(
        self, job: Job, windows: list[Window], packs: list[list[Pack]], shared: Encoded | None
    ) -> list[Floats] | None:
        """Totals (continuations,) for each window, or None when memory ran out."""
        try:
            encoded = self._encode([window.tokens for window in windows], shared)
            rows, turns = list(range(len(windows))), []
            for turn in range(max(map(len, packs))):
                staying = [place for place, row in enumerate(rows) if turn < len(packs[row])]
                if len(staying) < len(rows):
                    encoded, rows = select_rows(encoded, staying), [rows[place] for place in staying]
                now = [packs[row][turn] for row in rows]
                turns.append((rows, now, RUNS[self.method](self._parts, encoded, now)))
            del encoded  # the cache makes room for the logits
            totals = [np.zeros(len(job.continuations(window.prefix))) for window in windows]
            for rows, now, hidden in turns:
                for row, pack, steps in zip(rows, now, read_steps(self._parts, hidden, now), strict=True):
                    totals[row] += pack.totals(steps, len(totals[row]))
            return totals
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: the traceback of the error keeps the tensors of the failed pass alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _shrink(self, windows: list[Window], packs: list[list[Pack]], shared: Encoded | None) -> None:
        """Halve the budget after memory ran out, beginning at what was really used."""
        if self.tokens_per_batch == 1:
            raise DeviceError(
                f"there is no memory for prefix {windows[0].prefix} ({_length(windows[0], shared)} tokens at once), "
                "even by itself: set a smaller max_length, or use a smaller model or a larger device"
            )
        rows = len(windows) if self.method == "packed" else max(len(pack.tokens) for pack in packs[0])
        used = rows * (max(_length(window, shared) for window in windows) + _width(packs))
        self.tokens_per_batch = max(1, min(self.tokens_per_batch, used) // 2)


def _length(window: Window, shared: Encoded | None) -> int:
    return len(window) + (shared.width if shared else 0)


def _width(packs: Sequence[Sequence[Pack]]) -> int:
    return max(int(pack.tokens.shape[1]) for own in packs for pack in own)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
