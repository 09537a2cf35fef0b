"""Other training objectives: unlikelihood of what should not be said, equal odds of words that name two groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .loss_terms import Batch, taken
from .protected_inputs import padded
from .word_pairs import TokenPairs


@dataclass(frozen=True)
class Unwanted:
    """A text that should become less likely."""

    ids: tuple[int, ...]
    is_unwanted: tuple[bool, ...]
    """For each token, whether it is one to be unlearned; the first never is, nothing predicts it."""


class Unlikelihood:
    """Minus log(1 - p) of unwanted tokens (Welleck et al. 2019, https://arxiv.org/abs/1908.04319).

    Mean over the unwanted tokens of a batch of its own. Computed in float32 as log-sum-exp over all tokens minus that
    over all but the unwanted one, which is exact however near to 1 the probability is; log(1 - exp(x)) is not, in
    bfloat16 not even for everyday values.

    Args:
        texts: what should become less likely.
        strength: weight in the loss.
        batch_size: texts a step.
    """

    name = "unlikelihood"

    def __init__(self, texts: Sequence[Unwanted], strength: float, batch_size: int = 8) -> None:
        self.texts = [text for text in texts if any(text.is_unwanted[1:])]
        if not self.texts:
            raise DataError("unlikelihood: none of the texts has a token to unlearn, wanted at least one")
        self.strength, self.batch_size = strength, batch_size

    def check(self, model: Any) -> None:
        """Any model can unlearn tokens."""

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty on texts drawn for this step."""
        texts = [self.texts[index] for index in taken(len(self.texts), self.batch_size, batch)]
        input_ids, attention_mask = padded([text.ids for text in texts], batch.inputs["input_ids"].device)
        is_unwanted, _ = padded([[int(one) for one in text.is_unwanted] for text in texts], input_ids.device)
        logits = batch.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        return unlikelihood(logits[:, :-1], input_ids[:, 1:], is_unwanted[:, 1:].bool())


def unlikelihood(logits: Tensor, tokens: Tensor, is_unwanted: Tensor) -> Tensor:
    """Mean of -log(1 - p(token)) where a token is unwanted; zero where none is.

    Args:
        logits: (..., V) in any precision.
        tokens: (...) the tokens.
        is_unwanted: (...) where to count.
    """
    scores, own = logits[is_unwanted].float(), tokens[is_unwanted]
    others = scores.scatter(-1, own[:, None], float("-inf"))
    return (scores.logsumexp(-1) - others.logsumexp(-1)).sum() / is_unwanted.sum().clamp(min=1)


def unwanted_of_pair(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int], *, all_: bool) -> Unwanted:
    """The rejected side of a comparison; unless all count, only tokens that the chosen side does not have.

    Function words stand on both sides: to unlearn them would cost fluency and teach nothing about the fault.
    """
    shared = set() if all_ else set(chosen)
    marks = (*(False for _ in prompt), *(token not in shared for token in rejected))
    return Unwanted((*prompt, *rejected), marks)


class Equalise:
    """Mean |log p(f) - log p(m)| over word pairs and neutral positions (Qian et al. 2019, P19-2031).

    The normaliser of the softmax cancels, so it is the difference of two logits. Positions count while their prefix
    holds no word of the list: behind "she" an even chance of "his" would be bad grammar, not fairness.

    Args:
        pairs: single tokens.
        strength: weight in the loss.
    """

    name = "equalise"

    def __init__(self, pairs: TokenPairs, strength: float) -> None:
        self.pairs, self.strength = pairs, strength

    def check(self, model: Any) -> None:
        """Any model can be trained on its logits."""

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty on the trainer's own batch."""
        input_ids, labels = batch.inputs["input_ids"], batch.inputs["labels"]
        is_counted = torch.zeros_like(labels, dtype=torch.bool)
        is_counted[:, :-1] = labels[:, 1:] != -100  # position t predicts token t + 1
        return equalise(batch.logits, is_counted & is_neutral(input_ids, self.pairs), self.pairs)


def equalise(logits: Tensor, is_counted: Tensor, pairs: TokenPairs) -> Tensor:
    """Mean absolute log-odds of the pairs (..., V) where a position counts; zero where none does."""
    first, second = (torch.tensor(side, device=logits.device) for side in (pairs.first, pairs.second))
    odds = (logits[..., first].float() - logits[..., second].float()).abs().mean(-1)
    return odds.masked_fill(~is_counted, 0).sum() / is_counted.sum().clamp(min=1)


def is_neutral(input_ids: Tensor, pairs: TokenPairs) -> Tensor:
    """(B, T) where neither the token nor any before it is a word of the list."""
    listed = torch.tensor([*pairs.first, *pairs.second], device=input_ids.device)
    return torch.isin(input_ids, listed).cumsum(-1) == 0
