"""Word-embedding regularisation: words of two groups are kept together, neutral words off the axis between them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, ModelError
from .loss_terms import Batch, taken
from .protected_inputs import padded
from .word_pairs import TokenPairs


class PairDistance:
    """Mean distance of the embeddings of paired words (Liu et al. 2019, https://arxiv.org/abs/1910.10486).

    Strong settings make the words of a pair the same to the model; leave she/he out where grammar matters. Where input
    and output embeddings are tied it moves the output layer too.
    """

    name = "pair_distance"

    def __init__(self, pairs: TokenPairs, strength: float) -> None:
        self.pairs, self.strength = pairs, strength

    def check(self, model: Any) -> None:
        """Refuse frozen embeddings."""
        check_trained(model, [*self.pairs.first, *self.pairs.second], self.name)

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty; it does not depend on the batch."""
        first, second = (embedded(batch.model, side) for side in (self.pairs.first, self.pairs.second))
        # The square root has no slope at zero, and equal pairs are the goal: there the gradient is taken to be zero.
        squares = (first - second).square().sum(-1)
        return torch.where(squares > 0, squares.clamp(min=1e-20).sqrt(), squares).mean()


class BiasSubspace:
    """Squared size of neutral words along the group axis (Bordia & Bowman 2019, https://arxiv.org/abs/1904.03035).

    The axis: the first right singular vectors of the halved differences of the pairs that hold half of their variance.
    It is found anew at every step and takes no gradient.

    Args:
        pairs: the words of two groups.
        neutral: tokens of words that should tell nothing of the group.
        strength: weight in the loss.
    """

    name = "bias_subspace"

    def __init__(self, pairs: TokenPairs, neutral: Sequence[int], strength: float) -> None:
        if not neutral:
            raise DataError(
                "bias_subspace: got no neutral words, wanted some: give mitigations.embeddings.neutral=FILE"
            )
        self.pairs, self.neutral, self.strength = pairs, list(neutral), strength

    def check(self, model: Any) -> None:
        """Refuse frozen embeddings."""
        check_trained(model, self.neutral, self.name)

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty; it does not depend on the batch."""
        with torch.no_grad():
            first, second = (embedded(batch.model, side) for side in (self.pairs.first, self.pairs.second))
            axis = group_axis(first, second)
        return (embedded(batch.model, self.neutral) @ axis.mT).square().sum()


class CounterfactualHidden:
    """1 - cos of the mean last states of a text and of its counterfactual (Huang et al. 2019, arXiv 1911.03064).

    Args:
        texts: token ids of texts and of the same with swapped words.
        strength: weight in the loss.
        batch_size: pairs a step.
    """

    name = "counterfactual_hidden"

    def __init__(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], strength: float, batch_size: int = 4):
        if not texts:
            raise DataError("counterfactual_hidden: no training row holds a word of the pairs, wanted some that do")
        self.texts, self.strength, self.batch_size = list(texts), strength, batch_size

    def check(self, model: Any) -> None:
        """Any model has hidden states to train."""

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty on texts drawn for this step."""
        drawn = [self.texts[index] for index in taken(len(self.texts), self.batch_size, batch)]
        rows = [side[row] for row in (0, 1) for side in drawn]
        input_ids, attention_mask = padded(rows, batch.inputs["input_ids"].device)
        output = batch.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, output_hidden_states=True
        )
        is_token = attention_mask[..., None]
        means = (output.hidden_states[-1].float() * is_token).sum(1) / is_token.sum(1)
        alike = torch.cosine_similarity(means[: len(drawn)], means[len(drawn) :], dim=-1)
        penalty: Tensor = 1 - alike.mean()
        return penalty


def group_axis(first: Tensor, second: Tensor) -> Tensor:
    """(k, d) orthonormal directions that hold at least half of the variance of the halved differences (n, d)."""
    _, sizes, directions = torch.linalg.svd((first.float() - second.float()) / 2, full_matrices=False)
    shares = sizes.square().cumsum(0) / sizes.square().sum().clamp(min=1e-20)
    axis: Tensor = directions[: int((shares < 0.5).sum()) + 1]
    return axis


def embedded(model: Any, ids: Sequence[int]) -> Tensor:
    """(n, d) input embeddings in float32, through the layer itself: rows that an adapter trains come from there."""
    layer = model.get_input_embeddings()
    device = next(layer.parameters()).device
    states: Tensor = layer(torch.tensor(list(ids), device=device)[None])
    return states[0].float()


def check_trained(model: Any, ids: Sequence[int], name: str) -> None:
    """Refuse embeddings that no gradient reaches.

    Raises:
        ModelError: they are frozen, as under LoRA.
    """
    with torch.enable_grad():
        is_trained = embedded(model, ids).requires_grad
    if not is_trained:
        raise ModelError(
            f"mitigations.embeddings.{name}: the word embeddings are frozen, as they are under LoRA, so the penalty "
            "could change nothing; wanted trained ones: set mitigations.embeddings.train_rows=true, which trains the "
            "rows of the listed words beside the adapter, or use mitigations.embeddings.counterfactual_hidden"
        )
