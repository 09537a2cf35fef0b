"""Reward functions made of others: penalties on what a text says, and cautious ensembles."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import DataError, ModelError
from ..model.ensemble import Combine, Ensemble
from ..toxicity.scorer import ToxicityScorer
from .rewards import RewardFunction, checked_scores

Measure = Callable[[Sequence[str]], Sequence[float] | NDArray[np.float64]]


class Penalty:
    """Minus a measure of each completion, as a term of a reward: give it with the weight that a full measure costs.

    Args:
        measure: one number per text, usually between 0 and 1; NaN (an empty text, say) counts as nothing to penalise.
        name: how logs call it.
    """

    def __init__(self, measure: Measure, name: str) -> None:
        self.measure = measure
        self.__name__ = name

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float]:
        """Zero or less for each completion."""
        values = [float(value) for value in self.measure(completions)]
        if len(values) != len(completions):
            raise DataError(
                f"the penalty {self.__name__} measured {len(values)} of {len(completions)} texts, wanted all of them"
            )
        return [0.0 if value != value else -value for value in values]


def toxicity_penalty(scorer: ToxicityScorer) -> Penalty:
    """A penalty of the probability that a completion is toxic.

    The scorer should not be the one that filtered the data or that will mark the model: either would flatter it.
    """
    return Penalty(scorer.score, "toxicity")


class RewardEnsemble:
    """Several reward functions made one score; the cautious ways pay little for what only some members like.

    Adapters of one base form an ensemble in the stack itself: train them together, or `ModelStack.set_ensemble`.

    Args:
        members: two or more functions, whose scores should be on one scale.
        combine: `min`, `mean_minus_deviation` (the mean minus `deviation_weight` times the standard deviation) or
            `mean`; after Coste et al. 2023, https://arxiv.org/abs/2310.02743.
        deviation_weight: weight of the deviation.
        name: how logs call it.
    """

    def __init__(
        self,
        members: Sequence[RewardFunction],
        combine: Combine = "min",
        *,
        deviation_weight: float = 1.0,
        name: str = "ensemble",
    ) -> None:
        wrong = [member for member in members if not callable(member)]
        if wrong:
            raise ModelError(
                f"got the members {wrong} of a reward ensemble, wanted functions; adapters of one base form an "
                "ensemble in the stack (set_ensemble)"
            )
        self.members = list(members)
        self.ensemble = Ensemble(size=len(self.members), combine=combine, deviation_weight=deviation_weight)
        self.__name__ = name

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float]:
        """One score for each completion."""
        scores = [
            checked_scores(member(prompts=prompts, completions=completions, **columns), len(completions), member)
            for member in self.members
        ]
        combined: list[float] = self.ensemble.combined(torch.tensor(scores, dtype=torch.float64)).tolist()
        return combined
