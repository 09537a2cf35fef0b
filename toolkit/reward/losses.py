"""Losses of a reward model: pairwise, K-wise and pointwise, each as a sum of terms over scores.

The pointwise loss is that of verifiers (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168).

Notation: r is the score of a completion, w the preferred and l the other one of a pair, K the number of completions
that one prompt has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Terms:
    """What a batch of scores is trained on: comparisons of two scores, and verdicts on single ones.

    Attributes:
        better: (P,) index of the preferred completion of each pair.
        worse: (P,) index of the other one.
        margin: (P,) by how much the preferred one is to lead.
        weight: (P,) weight of each pair; 0 keeps a pair for measuring only.
        wins: (B,) weight of the verdict "good" on each completion.
        losses: (B,) weight of the verdict "bad".
        elements: batch elements (prompts) that the sum is divided by.
    """

    better: Tensor
    worse: Tensor
    margin: Tensor
    weight: Tensor
    wins: Tensor
    losses: Tensor
    elements: int


def reward_loss(scores: Tensor, terms: Terms, center: float = 0.0) -> Tensor:
    """Mean over batch elements of the weighted pairwise and pointwise terms.

    Args:
        scores: (B,) one per completion.
        terms: what they are compared with.
        center: weight of (r_w + r_l)^2, which draws scores to zero (TRL's `center_rewards_coefficient`).

    Returns:
        a scalar in nats.
    """
    scores = scores.float()
    better, worse = scores[terms.better], scores[terms.worse]
    total = -(terms.weight * functional.logsigmoid(better - worse - terms.margin)).sum()
    # -log sigmoid(r) = softplus(-r), -log(1 - sigmoid(r)) = softplus(r)
    total = total + (terms.wins * functional.softplus(-scores) + terms.losses * functional.softplus(scores)).sum()
    if center:
        total = total + center * (terms.weight * (better + worse).square()).sum()
    return total / terms.elements


def pairwise_loss(better: Tensor, worse: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid(r_w - r_l - margin), mean over P pairs (Stiennon et al. 2020, https://arxiv.org/abs/2009.01325).

    Args:
        better: (P,) scores of the preferred completions.
        worse: (P,) scores of the others.
        margin: (P,) or one number (Touvron et al. 2023, https://arxiv.org/abs/2307.09288).
    """
    return -functional.logsigmoid(better - worse - margin).mean()


def kwise_loss(scores: Tensor, ranks: Sequence[int], margin: float = 0.0) -> Tensor:
    """-1/C(K,2) sum log sigmoid(r_w - r_l) over all pairs of one ranking (Ouyang et al. 2022, section 3.5).

    A tie is no pair, but C(K,2) counts it: a ranking with ties says less, and weighs less.

    Args:
        scores: (K,) one per completion of the prompt.
        ranks: K ranks, 1 is best, equal numbers are a tie.
        margin: lead that is asked for per step of rank.
    """
    pairs = ranked_pairs(ranks)
    if not pairs:
        return scores.sum() * 0.0
    better, worse = (torch.tensor(side, device=scores.device) for side in zip(*pairs, strict=True))
    steps = torch.tensor([float(ranks[low] - ranks[high]) for high, low in pairs], device=scores.device)
    lead = scores[better] - scores[worse] - margin * steps
    return -functional.logsigmoid(lead).sum() / math.comb(len(ranks), 2)


def pointwise_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each score with its target, mean over B completions.

    Args:
        scores: (B,) log-odds that the completion is good.
        targets: (B,) 1 for good, 0 for bad, or a rating brought to this range.
    """
    return functional.binary_cross_entropy_with_logits(scores, targets)


def ranked_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Indices (better, worse) of all pairs of a ranking that are no tie."""
    indices = range(len(ranks))
    return [(high, low) for high in indices for low in indices if ranks[high] < ranks[low]]
