"""Log-likelihoods of answers after their contexts, for every task that asks by multiple choice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..toolkit.scorer.continuation import ContinuationScorer
from .encoding import Tokens, encode_pairs

# A batch takes as many passes as its context with the most answers needs: none is to keep the others waiting.
MOST_ANSWERS = 32


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """How likely the answers are."""

    totals: list[float]
    """Natural log-probability of each pair's answer, summed over its tokens."""
    n_contexts: int
    """Different contexts."""
    n_cut: int
    """Those that did not fit the model's window and were read in parts, each answer after the part it fits best."""


def log_likelihoods(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    tokens_per_batch: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> Likelihoods:
    """Score answers in as few forward passes as there are batches of contexts.

    Equal contexts are encoded once with all their answers, and what all contexts begin with is encoded once in all.

    Args:
        model: a causal language model; whatever adapter is active is used.
        tokenizer: of the model.
        pairs: (context, answer) each, the answer with its leading space.
        tokens_per_batch: bound on the memory of one forward pass, in tokens.
        progress: called with (jobs done, jobs in all); a job is a context with some of its answers.

    Raises:
        ModelError: the model gives NaN or infinite log-likelihoods.
        DataError: an answer has no tokens, or too many for the model.
    """
    # Equal pairs (the same answer under a blanked question) are encoded and scored once.
    distinct = list(dict.fromkeys(pairs))
    encoded = dict(zip(distinct, encode_pairs(tokenizer, distinct), strict=True))
    return token_totals(model, [encoded[pair] for pair in pairs], tokens_per_batch=tokens_per_batch, progress=progress)


def token_totals(
    model: PreTrainedModel | PeftModel,
    pairs: Sequence[tuple[Tokens, Tokens]],
    *,
    tokens_per_batch: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> Likelihoods:
    """The same for pairs of token ids, contexts with their start token; see `log_likelihoods`."""
    if not pairs:
        return Likelihoods(totals=[], n_contexts=0, n_cut=0)
    answers: dict[Tokens, dict[Tokens, None]] = {}
    for context, answer in pairs:
        answers.setdefault(context, {})[answer] = None
    preamble = shared_start(list(answers))
    jobs = [(context, part) for context, group in answers.items() for part in _parts(list(group))]
    scorer = ContinuationScorer(model, preamble=preamble, tokens_per_batch=tokens_per_batch)
    results = scorer.score(
        [context[len(preamble) :] for context, _ in jobs],
        [part for _, part in jobs],
        progress=(lambda done: progress(done, len(jobs))) if progress else None,
    )
    totals = {
        (context, answer): float(total)
        for (context, part), result in zip(jobs, results, strict=True)
        for answer, total in zip(part, result.total, strict=True)
    }
    return Likelihoods(
        totals=[totals[pair] for pair in pairs],
        n_contexts=len(answers),
        n_cut=len({context for (context, _), result in zip(jobs, results, strict=True) if result.n_windows > 1}),
    )


def _parts(answers: Sequence[Tokens]) -> Iterator[Sequence[Tokens]]:
    for start in range(0, len(answers), MOST_ANSWERS):
        yield answers[start : start + MOST_ANSWERS]


def shared_start(contexts: Sequence[Tokens]) -> list[int]:
    """The tokens that all contexts begin with, leaving at least one to each; none for a single context."""
    if len(contexts) < 2:
        return []
    # The first and the last in order differ the earliest: what they share, all share.
    first, last = min(contexts), max(contexts)
    limit = min(map(len, contexts)) - 1
    length = next((i for i in range(max(0, limit)) if first[i] != last[i]), max(0, limit))
    return list(first[:length])
