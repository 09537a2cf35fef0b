"""Log-likelihoods of answers after their contexts, for every task that asks by multiple choice."""

from collections.abc import Callable, Sequence

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..toolkit.scorer import ContinuationScorer
from ..toolkit.tokens import encode_pair

Tokens = tuple[int, ...]


def log_likelihoods(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    tokens_per_batch: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Score answers in as few forward passes as there are batches of contexts.

    Equal contexts are encoded once with all their answers, and what all contexts begin with is encoded once in all.

    Args:
        model: a causal language model; whatever adapter is active is used.
        tokenizer: of the model.
        pairs: (context, answer) each, the answer with its leading space.
        tokens_per_batch: bound on the memory of one forward pass, in tokens.
        progress: called with (contexts done, contexts in all).

    Returns:
        for each pair the natural log-probability of the answer, summed over its tokens; NaN where the model gave none.
    """
    # Equal pairs (the same answer under a blanked question) are encoded and scored once.
    encoded = {pair: _encode(tokenizer, pair) for pair in dict.fromkeys(pairs)}
    answers: dict[Tokens, dict[Tokens, None]] = {}
    for context, answer in encoded.values():
        answers.setdefault(context, {})[answer] = None
    preamble = shared_start(list(answers))
    scorer = ContinuationScorer(model, preamble=preamble, tokens_per_batch=tokens_per_batch)
    results = scorer.score(
        [context[len(preamble) :] for context in answers],
        [[list(answer) for answer in group] for group in answers.values()],
        progress=progress,
    )
    totals = {
        (context, answer): float(total)
        for (context, group), result in zip(answers.items(), results, strict=True)
        for answer, total in zip(group, result.total, strict=True)
    }
    return [totals[encoded[pair]] for pair in pairs]


def shared_start(contexts: Sequence[Tokens]) -> list[int]:
    """The tokens that all contexts begin with, leaving at least one to each; none for a single context."""
    if len(contexts) < 2:
        return []
    # The first and the last in order differ the earliest: what they share, all share.
    first, last = min(contexts), max(contexts)
    limit = min(map(len, contexts)) - 1
    length = next((i for i in range(max(0, limit)) if first[i] != last[i]), max(0, limit))
    return list(first[:length])


def _encode(tokenizer: PreTrainedTokenizerBase, pair: tuple[str, str]) -> tuple[Tokens, Tokens]:
    context, answer = encode_pair(tokenizer, *pair)
    return tuple(context), tuple(answer)
