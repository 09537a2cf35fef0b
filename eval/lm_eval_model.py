"""A model in memory as lm-evaluation-harness sees one, with the continuation scorer behind its multiple choice."""

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .likelihood import token_totals

Request = tuple[tuple[str, str], list[int], list[int]]


class HarnessModel(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's own Hugging Face model; what it asks in `packed` tasks is answered by the continuation scorer.

    Token ids are lm-eval's own in every case, so the log-likelihoods are the same up to rounding. The scorer does not
    tell whether an answer is the greedy one: tasks that ask for it must not be in `packed`.

    Args:
        model: a causal language model; whatever adapter is active is used.
        tokenizer: of the model.
        packed: names of the tasks whose answers the scorer may take.
        batch_size: rows per forward pass in all other tasks.
        tokens_per_batch: bound on the memory of one pass of the scorer, in tokens.
        progress: called with (jobs done, jobs in all) by the scorer; a job is a context with some of its answers.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        packed: Collection[str] = (),
        batch_size: int = 8,
        tokens_per_batch: int = 8192,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        with _quiet("lm_eval"):  # it warns of a model that is not a name
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self._packed = frozenset(packed)
        self._tokens_per_batch = tokens_per_batch
        self._progress = progress
        self._is_packing = False

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of every request; the second is False where it was not found out."""
        answers: dict[int, tuple[float, bool]] = {}
        for is_packed in (True, False):
            rows = [row for row, one in enumerate(requests) if (one.task_name in self._packed) == is_packed]
            if rows:
                self._is_packing = is_packed
                found = super().loglikelihood([requests[row] for row in rows], disable_tqdm=is_packed or disable_tqdm)
                answers |= dict(zip(rows, found, strict=True))
        self._is_packing = False
        return [answers[row] for row in range(len(requests))]

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if not self._is_packing:
            return list(super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs))
        # lm-eval cuts long contexts on the left; only its own pass does that to the token.
        is_long = [len(context) + len(answer) > self.max_length for _, context, answer in requests]
        long = [request for request, cut in zip(requests, is_long, strict=True) if cut]
        own = iter(super()._loglikelihood_tokens(long, disable_tqdm=True) if long else ())
        pairs = [(tuple(context), tuple(answer)) for (_, context, answer), cut in zip(requests, is_long, strict=True)
                 if not cut]  # fmt: skip
        totals = token_totals(self.model, pairs, tokens_per_batch=self._tokens_per_batch, progress=self._progress)
        ours = iter(totals.totals)
        return [next(own) if cut else (next(ours), False) for cut in is_long]


@contextmanager
def _quiet(name: str) -> Any:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
