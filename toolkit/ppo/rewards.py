"""Rewards for PPO: adapters of the stack, Python functions, and weighted sums of both."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError, ModelError
from ..model.generation import Completion
from .prompts import Prompt

RewardFunction = Callable[..., Sequence[float]]
"""f(prompts=[...], completions=[...], **columns) -> one number per completion, higher is better."""
Reward = str | RewardFunction
"""The name of a reward adapter in the stack, or a function."""


@dataclass(frozen=True)
class WeightedReward:
    """One term of the reward."""

    name: str
    """How logs call it: the adapter's name or the function's, numbered where two are alike."""
    reward: Reward
    weight: float


def weighted_rewards(reward: Reward | Sequence[tuple[Reward, float]]) -> tuple[WeightedReward, ...]:
    """Bring one reward, or several with weights, into one form.

    Raises:
        ModelError: when it is neither.
    """
    given = [(reward, 1.0)] if isinstance(reward, str) or callable(reward) else list(reward)
    if not given:
        raise ModelError("got an empty list of rewards, wanted at least one adapter's name or function")
    terms: list[WeightedReward] = []
    for term in given:
        if not isinstance(term, tuple) or len(term) != 2 or not (isinstance(term[0], str) or callable(term[0])):
            raise ModelError(f"got the reward {term!r}, wanted an adapter's name or a function, with its weight")
        plain = term[0] if isinstance(term[0], str) else getattr(term[0], "__name__", "function")
        alike = sum(other.name == plain or other.name.startswith(f"{plain}-") for other in terms)
        terms.append(WeightedReward(f"{plain}-{alike + 1}" if alike else plain, term[0], float(term[1])))
    return tuple(terms)


def call_reward(function: RewardFunction, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
    """Score completions with a Python function.

    Args:
        function: called once with the prompts as they stood in the rows, the completions as text, and every other
            column of the rows as a list under its name.
        prompts: B prompts.
        completions: B completions.

    Raises:
        DataError: when the result is not B finite numbers.
    """
    names = sorted({name for prompt in prompts for name in prompt.columns})
    columns = {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
    if clash := columns.keys() & {"prompts", "completions"}:
        raise DataError(f"the rows have a column {min(clash)!r}, a name that reward functions use: rename it")
    scores = function(
        prompts=[prompt.shown for prompt in prompts], completions=[item.text for item in completions], **columns
    )
    return checked_scores(scores, len(prompts), function)


def checked_scores(scores: Any, count: int, function: RewardFunction) -> list[float]:
    """What a reward function returned, as that many finite numbers.

    Raises:
        DataError: it is anything else; names the function.
    """
    name = getattr(function, "__name__", repr(function))
    wanted = f"wanted {count} finite numbers, one per completion: mend the function"
    try:
        got = len(scores)
    except TypeError as error:
        raise DataError(f"the reward function {name} returned {scores!r}, {wanted}") from error
    if got != count:
        raise DataError(f"the reward function {name} returned {got} scores, {wanted}")
    return [_finite(score, row, name, wanted) for row, score in enumerate(scores)]


def _finite(score: Any, row: int, name: str, wanted: str) -> float:
    try:
        number = float(score)
    except (TypeError, ValueError) as error:
        raise DataError(f"the reward function {name} returned {score!r} for completion {row}, {wanted}") from error
    if not math.isfinite(number):
        raise DataError(f"the reward function {name} returned {number} for completion {row}, {wanted}")
    return number
