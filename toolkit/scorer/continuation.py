"""Log-likelihoods of many continuations of many prefixes, in about one forward pass per prefix."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from ..errors import DeviceError
from ..model.memory_faults import is_out_of_memory
from ..model.network import eval_mode
from .check import WAYS, choose_method
from .inputs import Tokens, as_ids, check_settings, continuation_sets, prefix_ids
from .job import ContinuationScores, Floats, Job, Window
from .packing import Pack, n_alike
from .parts import take_apart

__all__ = ["ContinuationScorer", "ContinuationScores"]

PACK_TOKENS = 96
"""Continuation tokens that share one attention: more cost more between continuations that do not see each other."""
CPU_TOKENS = 1536
"""Tokens in a line on a CPU: more gain nothing there, and cost memory."""


class ContinuationScorer:
    """Scores continuations under a causal language model; whatever adapter is active while scoring is used.

    Many prefixes, each followed by all its continuations, go through the model as one line of tokens without padding.
    The model's attention is replaced while they do: every continuation sees the preamble, its prefix and itself, at the
    positions that it would have right behind the prefix, and what several continuations have in common at their start
    is computed once. A model whose attention cannot be replaced gets the continuations one to a row after copies of the
    prefix's key-value cache. Both give the numbers of one plain forward pass for each pair, up to rounding; the
    constructor tries that on a few tokens.

    A prefix too long for the model is read in overlapping windows; none of it is left out.

    Args:
        model: a transformers causal language model, or a PEFT model around one, in any precision, 4-bit included. It
            is in evaluation mode while it scores.
        preamble: tokens before every prefix (a start token, an instruction), encoded once for all prefixes.
        max_length: the longest sequence, in tokens; by default and at most what the model has positions for. What the
            preamble and the longest continuation leave of it is the window on a prefix.
        stride: prefix tokens from one window to the next; half a window by default, never more than a window.
        tokens_per_batch: bound on the tokens in memory at once. Halved whenever memory runs out; the work goes on. A
            CPU gets shorter lines, which are faster there.
        method: "packed" lines, "cache" copies, or whichever of the two is right for the model.

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
        with eval_mode(model), torch.no_grad():
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
        job = Job(self._preamble, rows, sets, self._max_length, self._stride, WAYS[self.method].order)
        with eval_mode(self._model), torch.no_grad():
            self._run(job, progress or (lambda n_done: None))
        return [job.result(index) for index in range(len(rows))]

    def _run(self, job: Job, progress: Callable[[int], None]) -> None:
        # The preamble's last token stays with each window, so that no window is empty.
        before = self._preamble[:-1]
        shared = WAYS[self.method].remember(self._parts, before) if len(before) else None
        at = 0
        while at < len(job.windows):
            windows, packs = self._next_batch(job, at)
            totals = self._attempt(job, windows, packs, shared)
            if totals is None:
                self._shrink(windows, packs)
                continue
            for window, values in zip(windows, totals, strict=True):
                job.record(window, values)
            at += len(windows)
            progress(job.n_done)

    def _next_batch(self, job: Job, at: int) -> tuple[list[Window], list[list[Pack]]]:
        """As many windows as the budget allows, at least one, each with its packs."""
        windows = [job.windows[at]]
        packs = [self._packs(job, windows[0])]
        if self.method == "cache":  # one prefix makes a batch: its cache is copied for all its continuations
            return windows, packs
        room = self.tokens_per_batch if self._parts.device.type != "cpu" else min(CPU_TOKENS, self.tokens_per_batch)
        room -= _tokens(windows[0], packs[0])
        for window in job.windows[at + 1 :]:
            own = self._packs(job, window)
            room -= _tokens(window, own, windows[-1])
            if room < 0:
                break
            windows.append(window)
            packs.append(own)
        return windows, packs

    def _packs(self, job: Job, window: Window) -> list[Pack]:
        """The continuations of a window's prefix, in packs that leave room for the window."""
        if self.method == "packed":
            limit = min(PACK_TOKENS, self.tokens_per_batch - len(window))
        else:
            lengths = [len(continuation) for continuation in job.continuations(window.prefix)]
            limit = min(len(lengths), self.tokens_per_batch // (self._length(window) + max(lengths)))
        return job.packs(window.prefix, max(1, limit), WAYS[self.method].pack)

    def _length(self, window: Window) -> int:
        """Tokens of a sequence that ends with a window."""
        return len(window) + max(0, len(self._preamble) - 1)

    def _attempt(self, job: Job, windows: list[Window], packs: list[list[Pack]], shared: Any) -> list[Floats] | None:
        """Totals (continuations,) for each window, or None when memory ran out."""
        try:
            totals = [np.zeros(len(job.continuations(window.prefix))) for window in windows]
            prefixes = [window.tokens for window in windows]
            for turn in self._turns(windows, packs):
                found = WAYS[self.method].score(self._parts, shared, prefixes, turn)
                for total, own, steps in zip(totals, turn, found, strict=True):
                    for pack, values in zip(own, steps, strict=True):
                        total += pack.totals(values, len(total))
            return totals
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: the traceback of the error keeps the tensors of the failed pass alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _turns(self, windows: list[Window], packs: list[list[Pack]]) -> list[list[list[Pack]]]:
        """The packs of all windows at once, unless those of a single window go beyond the budget."""
        if self.method == "cache" or len(windows) > 1:
            return [packs]
        turns = [[packs[0][:1]]]
        for pack in packs[0][1:]:
            if _tokens(windows[0], [*turns[-1][0], pack]) <= self.tokens_per_batch:
                turns[-1][0].append(pack)
            else:
                turns.append([[pack]])
        return turns

    def _shrink(self, windows: list[Window], packs: list[list[Pack]]) -> None:
        """Halve the budget after memory ran out, beginning at what was really used."""
        if self.tokens_per_batch == 1:
            raise DeviceError(
                f"there is no memory for prefix {windows[0].prefix} ({self._length(windows[0])} tokens at once), "
                "even by itself: set a smaller max_length, or use a smaller model or a larger device"
            )
        if self.method == "packed":
            used = sum(map(_tokens, windows, packs, [None, *windows[:-1]]))
        else:
            used = max(len(pack.tokens) * (self._length(windows[0]) + pack.tokens.shape[1]) for pack in packs[0])
        self.tokens_per_batch = max(1, min(self.tokens_per_batch, used) // 2)


def _tokens(window: Window, packs: Sequence[Pack], last: Window | None = None) -> int:
    """What a window and its packs take of a line, behind the last window there if there is one."""
    n_known = n_alike(last.tokens, window.tokens) if last else 0
    return len(window) - n_known + sum(int(pack.tokens.shape[1]) for pack in packs)
