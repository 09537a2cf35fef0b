"""Trainer options are tried before the first stage starts: a fault in PPO's is not to be met after hours of SFT."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..toolkit.errors import SettingsError
from ..toolkit.settings.reading import TrainerBlock
from .recipe import Recipe
from .sets import read_set
from .sft import evaluating
from .training import trainer_arguments


def refuse_trainer_faults(recipe: Recipe, stages: Collection[str], run: Path) -> None:
    """Build the arguments of every trainer that is still to run, and drop them.

    Args:
        recipe: the settings.
        stages: names of the stages that are to run.
        run: the run's folder; nothing is written there.

    Raises:
        SettingsError: with all that the trainers refuse, by the names of the recipe.
    """
    faults: list[str] = []
    for name, cls, block, defaults in _trainers(recipe, stages):
        try:
            trainer_arguments(cls, block, recipe.base, run, recipe.seed, **defaults)
        except SettingsError as error:
            faults += [f"{name}.{'' if fault.startswith('trainer') else 'trainer.'}{fault}" for fault in error.faults]
    if faults:
        raise SettingsError(faults)


def refuse_few_prompts(recipe: Recipe, sets: Path, run: Path) -> None:
    """Count the prompts of PPO as soon as they are there, before the stages in between train for it.

    Raises:
        SettingsError: they do not fill one rollout.
    """
    from ..toolkit.ppo.config import PPOConfig

    wanted = trainer_arguments(PPOConfig, recipe.ppo.trainer, recipe.base, run, recipe.seed).rollout_batch_size
    if (given := len(read_set(sets, "prompts"))) < wanted:
        raise SettingsError(
            [f"ppo.trainer.rollout_batch_size: got {wanted}, wanted at most {given}: the data holds so many prompts"]
        )


def _trainers(recipe: Recipe, stages: Collection[str]) -> Iterator[tuple[str, type[Any], TrainerBlock, dict[str, Any]]]:
    """Of each stage that trains: its name, the class of its arguments, its options and our defaults."""
    if "sft" in stages:
        from trl import SFTConfig

        yield "sft", SFTConfig, recipe.sft.trainer, evaluating(recipe.checkpoint_by())
    if "reward" in stages:
        from trl import RewardConfig

        yield "reward", RewardConfig, recipe.reward.trainer, {}
    if "ppo" in stages:
        from ..toolkit.ppo.config import PPOConfig

        yield "ppo", PPOConfig, recipe.ppo.trainer, {"logging_steps": 1}
