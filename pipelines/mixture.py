"""The experiment of instruction tuning: trained on a mixture of tasks, measured on tasks outside of it."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.files import read_json, write_json
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.reading import setting
from ..toolkit.stage import Artifacts, Figure, Outcome
from .console import Console
from .sft import SftSettings
from .training import train, trainer_arguments, window, without_evaluation

if TYPE_CHECKING:
    from ..toolkit.world.tasks import TaskItem

ARMS = {
    "base": "the base model, not tuned",
    "single": "one task, as many rows",
    "uninstructed": "the mixture without its instructions",
    "mixture": "the mixture of tasks with their instructions",
}
SINGLE = "first"
GROUPS = ("held_out", "trained")


@dataclass(frozen=True, kw_only=True)
class MixtureSettings:
    """SFT on a mixture of small tasks phrased as instructions (Wei et al. 2021, https://arxiv.org/abs/2109.01652)."""

    rows: int = setting(900, low=9, unit="rows")
    """Training rows of each arm, shared evenly among its tasks."""
    items: int = setting(60, low=2, unit="items")
    """Items of every task that are measured; none of them is trained on."""
    repeats: int = setting(3, low=1, unit="trainings per arm")
    """Trainings that differ in seed alone."""


def run_mixture(
    settings: MixtureSettings,
    sft: SftSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
) -> Outcome:
    """Train an adapter for every arm and repeat, and ask each for the answers of all tasks by multiple choice.

    An answer counts as right when its log-likelihood is above that of every wrong one. Measured arms stay in the
    folder; a run that was stopped trains only those that are missing.
    """
    measured: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for repeat in range(settings.repeats):
        for arm in ARMS:
            path = folder / "measured" / f"{arm}-{0 if arm == 'base' else repeat}.json"
            if not path.is_file():
                work = folder / f"{arm}-{repeat}"
                write_json(path, _measure(arm, settings, sft, base, seed + repeat, console, before.base, work))
            measured[arm].append(read_json(path))
    table = {arm: {group: _figure(runs, group) for group in GROUPS} for arm, runs in measured.items()}
    by_task = {arm: _by_task(runs) for arm, runs in measured.items()}
    differences = [
        {"from": other, "to": "mixture", "group": group}
        | _difference(measured[other], measured["mixture"], group, seed)
        for group in GROUPS
        for other in ("base", "single", "uninstructed")
    ]
    write_json(folder / "mixture.json", {"arms": ARMS, "figures": table, "tasks": by_task, "differences": differences})
    for arm, groups in table.items():
        cells = ", ".join(
            f"{group} {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for group, one in groups.items()
        )
        console.say(f"  {arm:<14}{cells}")
    for row in differences:
        console.say(
            f"  {row['group']}, {row['from']} to mixture: {row['delta']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        )
    results: dict[str, Figure] = {
        f"mixture.{group}.{arm}": one for arm, groups in table.items() for group, one in groups.items()
    }
    return Outcome(artifacts=before, results=results, rows={"rows": settings.rows})


def _measure(
    arm: str,
    settings: MixtureSettings,
    sft: SftSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    source: str,
    work: Path,
) -> dict[str, Any]:
    """Train one arm and give, for each task, which of its items were answered right."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig

    from ..toolkit.model.loading import load_base
    from ..toolkit.model.stack import ModelStack
    from ..toolkit.sft.examples import completion_example
    from ..toolkit.sft.trainer import FineTuner
    from ..toolkit.world.tasks import TASKS, task_items

    stack = ModelStack(*load_base(source, base))
    if arm != "base":
        torch.manual_seed(seed)
        stack.add("policy", sft.lora.config(), trainable=True)
        length = window(stack.base, sft.max_length)
        arguments = trainer_arguments(SFTConfig, without_evaluation(sft.trainer), base, work, seed, max_length=length)
        items = training_items(arm, settings.rows, seed, measured=settings.items)
        rows = [{"prompt": item.prompt, "completion": item.answer} for item in items]
        with stack.using("policy", trainable=True) as model:
            trainer = FineTuner(
                model=model,
                args=arguments,
                train_dataset=Dataset.from_list([completion_example(row, stack.tokenizer) for row in rows]),
                processing_class=stack.tokenizer,
            )
            train(trainer, work, console, f"{arm}: seed {seed}")
    found: dict[str, list[float]] = {}
    for task in TASKS:
        found[task] = _right(stack, task_items(task, settings.items, 0, part="measured"), arm != "base")
    return {"arm": arm, "seed": seed, "right": found}


def training_items(arm: str, rows: int, seed: int, *, measured: int) -> "list[TaskItem]":
    """The rows of an arm; none of them asks what is asked in measuring (the first `measured` items of a task)."""
    from ..toolkit.world.tasks import HELD_OUT, TASKS, task_items

    tasks = [SINGLE] if arm == "single" else [task for task in TASKS if task not in HELD_OUT]
    is_instructed = arm != "uninstructed"
    wanted = rows // len(tasks)
    found: list[TaskItem] = []
    for task in tasks:
        asked = {item.prompt for item in task_items(task, measured, 0, part="measured", instructed=is_instructed)}
        drawn = task_items(task, wanted + measured, seed, instructed=is_instructed)
        items = [item for item in drawn if item.prompt not in asked]
        found += [items[index % len(items)] for index in range(wanted)]  # small tasks have fewer items than rows
    random.Random(f"mixture {seed}").shuffle(found)
    return found


def _right(stack: Any, items: "Sequence[TaskItem]", has_adapter: bool) -> list[float]:
    """1 for each item whose right answer is the likeliest, else 0; per token, since answers differ in length."""
    from contextlib import nullcontext

    from ..eval.encoding import encode_pairs
    from ..eval.likelihood import log_likelihoods

    pairs = [(item.prompt, answer) for item in items for answer in (item.answer, *item.wrong)]
    tokens = [len(answer) for _, answer in encode_pairs(stack.tokenizer, pairs)]
    with stack.using("policy") if has_adapter else nullcontext(stack.base) as model:
        totals = log_likelihoods(model, stack.tokenizer, pairs).totals
    means = iter([total / count for total, count in zip(totals, tokens, strict=True)])
    found = []
    for item in items:
        right, *wrong = [next(means) for _ in range(1 + len(item.wrong))]
        found.append(float(right > max(wrong)))
    return found


def _values(runs: Sequence[dict[str, Any]], group: str) -> tuple[list[float], list[str]]:
    """Whether each item was right, over all repeats, and the id of the item."""
    from ..toolkit.world.tasks import HELD_OUT

    values, ids = [], []
    for run in runs:
        for task, right in run["right"].items():
            if (task in HELD_OUT) == (group == "held_out"):
                values += right
                ids += [f"{task} {index}" for index in range(len(right))]
    return values, ids


def _figure(runs: Sequence[dict[str, Any]], group: str) -> dict[str, Any]:
    from ..eval.statistics import share_score

    values, ids = _values(runs, group)
    score = share_score(values, groups=ids)
    return {"value": score.value, "low": score.low, "high": score.high, "n": len(set(ids))}


def _by_task(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {task: sum(sum(run["right"][task]) for run in runs) / sum(len(run["right"][task]) for run in runs)
            for task in runs[0]["right"]}  # fmt: skip


def _difference(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], group: str, seed: int
) -> dict[str, Any]:
    """Paired by item and repeat."""
    from ..eval.statistics import paired_difference

    (first, ids), (second, _) = _values(before, group), _values(after, group)
    return asdict(paired_difference(first, second, groups=ids, seed=seed))
