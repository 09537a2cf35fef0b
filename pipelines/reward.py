"""The reward stage: train a reward adapter and its score head on rankings, comparisons and ratings."""

import gc
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..toolkit.errors import DataError, ModelError
from ..toolkit.files import unfinished_folder
from ..toolkit.mitigations.settings import OFF, MitigationSettings
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.lora import LoraSettings
from ..toolkit.settings.reading import TrainerBlock, setting, trainer_block
from ..toolkit.stage import Artifacts, Outcome
from .console import Console
from .mitigate import Treatment
from .reward_report import measure
from .sets import read_set
from .training import OURS, Row, adapting, train, trainer_arguments, window

if TYPE_CHECKING:
    from ..toolkit.model.stack import ModelStack
    from ..toolkit.reward.examples import ExampleMaker, Examples

RowKind = Literal["comparisons", "rankings", "ratings"]
KINDS: tuple[RowKind, ...] = ("comparisons", "rankings", "ratings")
COLUMNS = {"comparisons": ["prompt", "chosen", "rejected"], "ratings": ["prompt", "completion"]}
CHECKED = 8  # sequences whose scores are compared before and after saving


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """A reward model (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, section 3.5).

    One step of the trainer sees `per_device_train_batch_size` prompts, each with all its completions.
    """

    loss: Literal["kwise", "pairwise", "pointwise"] = "kwise"
    """`kwise`: all pairs of a prompt in one batch element; `pairwise`: every pair is a batch element of its own;
    `pointwise`: the better one of a pair is good, the other one bad (cross-entropy). For comparisons, which are
    rankings of two, the first two are the same."""
    rows: tuple[RowKind, ...] | None = None
    """Rows to train on; null takes all that there are. A rating is learned by cross-entropy under every loss."""
    margin: float = setting(0.0, low=0, unit="score per step of rank")
    """By how much the better one of a pair is to lead; a column `margin` of the rows adds to it."""
    rating_low: float = 1.0
    """The rating that means bad."""
    rating_high: float = 7.0
    """The rating that means good."""
    gradient_cache: int | None = setting(None, low=1, unit="completions")
    """Encode at most so many completions at a time: less memory, the same gradient, a third more time."""
    members: int = setting(1, low=1, high=16)
    """Reward models to train, which differ in their seed; more than one are an ensemble with one score."""
    combine: Literal["mean", "min", "mean_minus_deviation"] = "mean"
    """How an ensemble makes one score; the last two distrust what the members disagree on."""
    deviation_weight: float = setting(1.0, low=0)
    """Weight of the standard deviation in `mean_minus_deviation`."""
    lora: LoraSettings = LoraSettings()
    """The adapter that is trained, beside a score head."""
    max_length: int | None = setting(None, low=8, unit="tokens")
    """Longest prompt with completion; longer ones are left out and counted. Null: 1,024 or the model's window."""
    trainer: TrainerBlock = trainer_block("trl.trainer.reward_config:RewardConfig", reserved=OURS)
    """Passed to TRL's RewardConfig as it is."""

    def faults(self) -> list[str]:
        """A scale that is upside down, and dropout that TRL would switch off without a word."""
        found = []
        if self.rating_low >= self.rating_high:
            found.append(f"rating_low: got {self.rating_low:g}, wanted less than rating_high ({self.rating_high:g})")
        if self.lora.dropout and self.trainer.get("disable_dropout", True):
            found.append(
                f"lora.dropout: got {self.lora.dropout:g}, which has no effect: TRL switches dropout off for reward "
                "models. Wanted 0, or reward.trainer.disable_dropout=false"
            )
        return found


def run_reward(
    settings: RewardSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
    mitigations: MitigationSettings = OFF,
) -> Outcome:
    """Train `reward`, load it onto the policy's base, set its zero, measure it there, and save it.

    What is measured is what PPO will use: the saved adapter on a causal language model, not the classifier that was
    trained.

    Raises:
        DataError: no row is left to train on.
        ModelError: the saved adapter gives other scores than the trained model.
    """
    from ..toolkit.model.ensemble import member_names
    from ..toolkit.model.loading import load_base
    from ..toolkit.model.stack import ModelStack
    from ..toolkit.reward.scoring import score_ids

    if before.data is None:
        raise DataError("the reward model needs the training sets: put `filter` before `reward` in the stages")
    trained = [
        train_member(number, settings, base, seed, console, before, folder, mitigations)
        for number in range(1, settings.members + 1)
    ]
    counts = trained[0].counts
    stack = ModelStack(*load_base(before.base, base))
    names = member_names("reward", settings.members)
    for name, one in zip(names, trained, strict=True):
        stack.load(name, one.folder)
        _compare(score_ids(stack, name, one.sequences).tolist(), one.scores, name)
    maker = example_maker(settings, stack.tokenizer, window(stack.base, settings.max_length))
    demonstrations = [
        (row["prompt"], row["completion"])
        for row in read_set(before.data, "demonstrations")
        if maker.fits(row["prompt"], row["completion"])
    ]
    warnings = list(dict.fromkeys(text for one in trained for text in one.warnings))
    if not demonstrations:
        warnings.append("There is no demonstration, so the zero of the reward is wherever training left it.")
    _make_one_score(stack, names, settings, demonstrations)
    stack.save("reward", folder / "reward")
    kinds = held_out_kinds(settings)
    results, held_out = measure(stack, maker, kinds, before.data, folder, console, seed)
    if not results:
        warnings.append(
            "Nothing is held out to measure the reward model on: how often it ranks right is not known. Give "
            "data.comparisons_held_out or data.rankings_held_out."
        )
    shutil.rmtree(folder / "members", ignore_errors=True)
    warnings += _left_out(counts, held_out)
    rows = (
        counts
        | {f"held_out.{name}": count for name, count in held_out.items()}
        | {"demonstrations": len(demonstrations)}
    )
    return Outcome(
        artifacts=replace(before, reward=folder / "reward"), results=results, rows=rows, warnings=tuple(warnings)
    )


def example_maker(settings: RewardSettings, tokenizer: Any, max_length: int) -> "ExampleMaker":
    """What turns rows into examples under the settings."""
    from ..toolkit.reward.examples import ExampleMaker

    return ExampleMaker(
        tokenizer=tokenizer,
        max_length=max_length,
        loss=settings.loss,
        margin=settings.margin,
        rating_scale=(settings.rating_low, settings.rating_high),
    )


def examples_of(maker: "ExampleMaker", rows: Mapping[str, list[Row]]) -> "Examples":
    """The examples of rows by their kind, with what was left out."""
    from ..toolkit.reward.examples import Examples

    made = Examples()
    for kind, own in rows.items():
        found = getattr(maker, kind)(own)
        made.counts.update(found.counts)
        made.examples.extend(found.examples)
    return made


@dataclass(frozen=True, kw_only=True)
class TrainedMember:
    """A trained reward adapter.

    Attributes:
        folder: where it was saved.
        sequences: token ids of a few training rows.
        scores: what the trained model gave them.
        counts: rows and pairs, and what was left out.
        warnings: for the user.
    """

    folder: Path
    sequences: list[list[int]]
    scores: list[float]
    counts: dict[str, int]
    warnings: tuple[str, ...]


def train_member(
    number: int,
    settings: RewardSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
    mitigations: MitigationSettings = OFF,
) -> TrainedMember:
    """Train one reward model, the first (1) or another one of an ensemble, and save it under `folder/members`.

    Raises:
        DataError: no row is left to train on.
    """
    import torch
    from datasets import Dataset
    from peft import get_peft_model
    from trl import RewardConfig

    from ..toolkit.model.four_bit import keep_differentiable
    from ..toolkit.model.loading import load_base
    from ..toolkit.reward.trainer import RankingTrainer

    if before.data is None:
        raise DataError("the reward model needs the training sets: put `filter` before `reward` in the stages")
    own = folder if number == 1 else folder / f"member-{number}"
    torch.manual_seed(seed + number - 1)  # the score head is drawn when the model is loaded
    model, tokenizer = load_base(before.base, base, head="score")
    keep_differentiable(model)
    maker = example_maker(settings, tokenizer, window(model, settings.max_length))
    treatment = Treatment(mitigations, "reward", before)
    rows: dict[str, list[Row]] = {
        kind: _treated(treatment, kind, read_set(before.data, kind), seed) for kind in settings.rows or KINDS
    }
    made = examples_of(maker, rows)
    if not made.examples:
        raise DataError(
            f"no row is left for the reward model: of {made.counts['rows']} rows none can be used; left out were "
            f"{made.left_out() or 'none'}. Wanted comparisons, rankings or ratings whose sides differ in text and rank."
        )
    config = settings.lora.config(task="SEQ_CLS", modules_to_save=["score"])
    with adapting(settings.lora, "reward"):
        peft_model: Any = get_peft_model(model, config, adapter_name="reward")
    arguments = trainer_arguments(
        RewardConfig, settings.trainer, base, own, seed + number - 1, max_length=maker.max_length
    )
    trainer = RankingTrainer(
        model=peft_model,
        args=arguments,
        train_dataset=Dataset.from_list(made.examples),
        eval_dataset=_eval_dataset(maker, held_out_kinds(settings), before.data, arguments),
        processing_class=tokenizer,
        callbacks=treatment.callbacks(model, tokenizer),
        gradient_cache=settings.gradient_cache,
    )
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # TRL casts to bfloat16 on a 4-bit base: most updates get lost
    train(trainer, own, console, "reward model" if settings.members == 1 else f"reward model {number}")
    sequences = [example["completions_ids"][0] for example in made.examples[:CHECKED]]
    trained = TrainedMember(
        folder=_save(peft_model, folder / "members" / str(number)),
        sequences=sequences,
        scores=trainer.scores_of(sequences, batch_size=1),
        counts=dict(made.counts),
        warnings=treatment.warnings(),
    )
    del trainer, peft_model, model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the same base is loaded again, as a language model
    return trained


def _treated(treatment: Treatment, kind: str, rows: list[Row], seed: int) -> list[Row]:
    """The rows with their counterfactuals, where the recipe wants them."""
    if kind != "rankings":
        return treatment.rows(rows, COLUMNS[kind], seed)
    made = []
    for count in sorted({len(row["completions"]) for row in rows}):
        names = [f"completions.{index}" for index in range(count)]
        flat = [
            row | dict(zip(names, row["completions"], strict=True)) for row in rows if len(row["completions"]) == count
        ]
        for row in treatment.rows(flat, ["prompt", *names], seed):
            made.append(row | {"completions": [row[name] for name in names]})
    return made


def held_out_kinds(settings: RewardSettings) -> list[str]:
    """Kinds of held-out rows that show what was learned; of ratings, which hold no pair to measure, there are none.

    A model of ratings alone is measured on whatever comparisons and rankings there are.
    """
    wanted: list[str] = [kind for kind in settings.rows or KINDS if kind != "ratings"]
    return wanted or ["comparisons", "rankings"]


def _eval_dataset(maker: "ExampleMaker", kinds: Sequence[str], data: Path, arguments: Any) -> Any:
    from datasets import Dataset

    if arguments.eval_strategy == "no":
        return None
    examples = examples_of(maker, {kind: read_set(data, f"{kind}_held_out") for kind in kinds}).examples
    if not examples:
        raise DataError(
            "reward.trainer.eval_strategy asks for an evaluation, but there are no held-out rows: give "
            "data.comparisons_held_out or data.rankings_held_out, or set eval_strategy to no"
        )
    return Dataset.from_list(examples)


def _save(peft_model: Any, folder: Path) -> Path:
    """Write the trained adapter with its head; the folder appears once it is whole."""
    from ..toolkit.model.adapter_files import write_base_meta

    shutil.rmtree(folder, ignore_errors=True)
    with unfinished_folder(folder) as part:
        # Control tokens enlarge the vocabulary; their rows are the policy's, and PEFT would add the whole matrix here.
        peft_model.save_pretrained(part, selected_adapters=["reward"], save_embedding_layers=False)
        write_base_meta(part / "reward", peft_model.get_base_model())
        os.replace(part / "reward", folder)
    return folder


def _make_one_score(
    stack: "ModelStack", names: Sequence[str], settings: RewardSettings, demonstrations: Sequence[tuple[Any, Any]]
) -> None:
    """Make the members one score; by it and by each of them demonstrations have mean zero, where there are any."""
    from ..toolkit.model.ensemble import Ensemble
    from ..toolkit.reward.scoring import score_texts

    if demonstrations:
        for name in names:
            stack.set_bias(name, float(score_texts(stack, name, demonstrations).mean()))
    if len(names) == 1:
        return
    ensemble = Ensemble(size=len(names), combine=settings.combine, deviation_weight=settings.deviation_weight)
    stack.set_ensemble("reward", ensemble)
    if demonstrations:
        bias = float(score_texts(stack, "reward", demonstrations).mean())
        stack.set_ensemble("reward", replace(ensemble, bias=bias))


def _left_out(trained: Mapping[str, int], held_out: Mapping[str, int]) -> list[str]:
    """A warning that tells what was left out, where anything was; ties are no fault."""
    from ..toolkit.reward.examples import LEFT_OUT

    counts = {words: trained.get(name, 0) + held_out.get(name, 0) for name, words in LEFT_OUT.items() if name != "ties"}
    found = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    return [f"The reward stage left out {found} (training and held-out rows together)."] if found else []


def _compare(now: Sequence[float], trained: Sequence[float], name: str) -> None:
    from ..toolkit.model.score_probe import differs

    if (largest := differs(trained, now)) is not None:
        raise ModelError(
            f"the saved adapter {name!r} on the policy's base gives scores that differ by up to {largest:.3g} from "
            "those of the trained model, wanted the same: the base may have changed on disk while the stage ran; start "
            "the stage again"
        )
