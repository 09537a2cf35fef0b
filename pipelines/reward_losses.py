"""The experiment of reward losses: pointwise, shuffled pairs and K-wise on the same rankings, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..toolkit.errors import DataError
from ..toolkit.files import read_json, write_json
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.reading import TrainerBlock, setting
from ..toolkit.stage import Artifacts, Figure, Outcome
from .console import Console
from .reward import RewardSettings, example_maker
from .sets import Row, read_set
from .training import train, trainer_arguments, window, without_evaluation

if TYPE_CHECKING:
    from transformers import TrainerCallback

Arm = Literal["pointwise", "pairwise", "kwise"]
ARMS: dict[Arm, str] = {
    "pointwise": "pointwise",
    "pairwise": "shuffled pairs",
    "kwise": "K-wise",
}


@dataclass(frozen=True, kw_only=True)
class LossesSettings:
    """Reward models that differ in their loss alone (Ouyang et al. 2022, section 3.5)."""

    epochs: int = setting(4, low=1, unit="epochs")
    """Length of each training."""
    repeats: int = setting(2, low=1, unit="trainings per loss")
    """Trainings that differ in seed alone."""
    rankings: int | None = setting(None, low=2, unit="rankings")
    """Rankings to train on; null: all."""


def run_losses(
    settings: LossesSettings,
    reward: RewardSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
) -> Outcome:
    """Train a reward model by each loss and measure it on held-out rankings after every epoch.

    All take equally many optimiser steps of equal learning rate, so a batch of shuffled pairs holds as many pairs as
    one of rankings. All are measured alike: the share of held-out pairs ranked right, and -log sigmoid of their
    difference. Measured trainings stay in the folder; a run that was stopped goes on from them.

    Raises:
        DataError: there are no rankings.
    """
    if before.data is None:
        raise DataError("the experiment needs the training sets: put `filter` before `losses` in the stages")
    rows = read_set(before.data, "rankings")[: settings.rankings]
    held_out = read_set(before.data, "rankings_held_out")
    if not rows or not held_out:
        raise DataError("got no rankings, wanted data.rankings and data.rankings_held_out")
    runs: dict[Arm, list[list[dict[str, Any]]]] = {arm: [] for arm in ARMS}
    for repeat in range(settings.repeats):
        for arm in ARMS:
            path = folder / "measured" / f"{arm}-{repeat}.json"
            if not path.is_file():
                work = folder / f"{arm}-{repeat}"
                trained = _train(arm, settings, reward, base, seed + repeat, console, before.base, work, rows, held_out)
                write_json(path, trained)
            runs[arm].append(read_json(path))
    curves = {arm: [_summary([run[epoch] for run in found]) for epoch in range(len(found[0]))]
              for arm, found in runs.items()}  # fmt: skip
    write_json(folder / "losses.json", {"arms": ARMS, "rankings": len(rows), "curves": curves})
    results: dict[str, Figure] = {}
    for arm, points in curves.items():
        best = min(range(len(points)), key=lambda epoch: points[epoch]["loss"])
        first, last = points[best], points[-1]
        console.say(
            f"  {ARMS[arm]:<15} lowest held-out loss {first['loss']:.3f} after epoch {best}, {last['loss']:.3f} at the "
            f"end; accuracy {first['accuracy']:.3f} and {last['accuracy']:.3f}"
        )
        results |= _figures(arm, [run[-1] for run in runs[arm]])
        results[f"losses.best_epoch.{arm}"] = {"value": best, "low": None, "high": None, "n": settings.repeats}
    return Outcome(artifacts=before, results=results, rows={"rankings": len(rows), "held_out": len(held_out)})


def _train(
    arm: Arm,
    settings: LossesSettings,
    reward: RewardSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    source: str,
    work: Path,
    rows: Sequence[Row],
    held_out: Sequence[Row],
) -> list[dict[str, Any]]:
    """One training; the held-out figures before it and after every epoch."""
    from dataclasses import replace

    import torch
    from datasets import Dataset
    from peft import get_peft_model
    from trl import RewardConfig

    from ..toolkit.model.four_bit import keep_differentiable
    from ..toolkit.model.loading import load_base
    from ..toolkit.reward.trainer import RankingTrainer

    torch.manual_seed(seed)
    model, tokenizer = load_base(source, base, head="score")
    keep_differentiable(model)
    maker = example_maker(replace(reward, loss=arm), tokenizer, window(model, reward.max_length))
    made = maker.rankings(rows)
    if not made.examples:
        raise DataError(f"no ranking is left to train on: {made.left_out()}")
    rankings = made.counts["rows"] - made.counts["nothing_to_learn"]
    block = dict(without_evaluation(reward.trainer))
    block |= {"num_train_epochs": settings.epochs, "max_steps": -1, "save_strategy": "no"}
    size = int(block.get("per_device_train_batch_size", 8))
    if arm == "pairwise":
        block["per_device_train_batch_size"] = max(1, round(size * made.counts["pairs"] / rankings))
    arguments = trainer_arguments(RewardConfig, TrainerBlock(block), base, work, seed, max_length=maker.max_length)
    config = reward.lora.config(task="SEQ_CLS", modules_to_save=["score"])
    peft_model: Any = get_peft_model(model, config, adapter_name="reward")
    trainer = RankingTrainer(
        model=peft_model,
        args=arguments,
        train_dataset=Dataset.from_list(made.examples),
        processing_class=tokenizer,
        gradient_cache=reward.gradient_cache,
    )
    fitting = replace(maker, loss="kwise").rankings(held_out).examples
    found: list[dict[str, Any]] = []
    trainer.add_callback(_measuring(trainer, fitting, found))
    train(trainer, work, console, f"{ARMS[arm]}, seed {seed}")
    return found


def _measuring(trainer: Any, held_out: Sequence[dict[str, Any]], found: list[dict[str, Any]]) -> "TrainerCallback":
    from transformers import TrainerCallback

    class Measuring(TrainerCallback):
        """Scores the held-out rankings before training and after every epoch."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found.append(_measured(trainer, held_out))

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found.append(_measured(trainer, held_out))

    return Measuring()


def _measured(trainer: Any, held_out: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of every held-out pair: whether it is ranked right, its loss, and its ranking."""
    import numpy as np

    sequences = [ids for example in held_out for ids in example["completions_ids"]]
    scores = np.array(trainer.scores_of(sequences))
    right, loss, group, start = [], [], [], 0
    for example in held_out:
        own = scores[start : start + len(example["completions_ids"])]
        start += len(own)
        lead = own[example["better"]] - own[example["worse"]]
        right += ((lead > 0) + 0.5 * (lead == 0)).tolist()
        loss += np.logaddexp(0, -lead).tolist()
        group += [example["row"]] * len(lead)
    return {"right": right, "loss": loss, "group": group}


def _summary(repeats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over all repeats, and the mean of each."""
    by_repeat = {name: [sum(one[key]) / len(one[key]) for one in repeats] for name, key in
                 (("accuracy", "right"), ("loss", "loss"))}  # fmt: skip
    means = {name: sum(values) / len(values) for name, values in by_repeat.items()}
    return means | {"repeats": by_repeat}


def _figures(arm: str, last: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """Held-out accuracy and loss at the end, with intervals over the rankings."""
    from ..eval.statistics import mean_score, share_score

    groups = [name for one in last for name in one["group"]]
    right = [value for one in last for value in one["right"]]
    loss = [value for one in last for value in one["loss"]]
    return {
        f"losses.accuracy.{arm}": share_score(right, groups=groups, chance=0.5).as_json(),
        f"losses.loss.{arm}": mean_score(loss, groups=groups, higher_is_better=False).as_json(),
    }
