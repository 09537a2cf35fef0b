"""Supervised fine-tuning: train the policy adapter on demonstrations with TRL's SFTTrainer."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..toolkit.errors import DataError, SettingsError
from ..toolkit.files import read_json
from ..toolkit.mitigations.settings import OFF, MitigationSettings
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.lora import LoraSettings
from ..toolkit.settings.reading import TrainerBlock, setting, trainer_block
from ..toolkit.stage import Artifacts, Figure, Outcome
from .console import Console
from .mitigate import Treatment
from .sets import Row, read_set
from .training import OURS, adapting, rows_that_fit, train, trainer_arguments, window

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..toolkit.model.stack import ModelStack
    from ..toolkit.sft.trainer import RewardProbe

Selection = Literal["last", "loss", "reward"]
ROWS = {
    "completion_only_loss": "the loss counts completions alone, always",
    "assistant_only_loss": "every answer of a chat is a row of its own already, and the loss counts the answer alone",
    "dataset_text_field": "rows have `prompt` and `completion`, or `messages`",
    "dataset_kwargs": "rows are in tokens before the trainer sees them",
    "truncation_mode": "rows that are too long are left out and counted, never cut",
}
"""Of SFTConfig, what would have no effect on rows that are in tokens already."""
PROBE = "rewards"  # folder of what the answers at each evaluation earned


@dataclass(frozen=True, kw_only=True)
class SftSettings:
    """Supervised fine-tuning on demonstrations; the loss counts completion tokens only."""

    select: Selection | None = None
    """The checkpoint that is kept: the `last`, the one of lowest held-out `loss`, or of highest `reward` of sampled
    answers. Null: reward where the recipe trains a reward model before SFT, else last. Training never stops early."""
    reward: str | None = None
    """Folder of a reward adapter trained on the same base, where the recipe trains none before SFT."""
    validation_prompts: int = setting(64, low=2, unit="prompts")
    """Held-out demonstrations whose prompts are answered at each evaluation, for the reward curve."""
    validation_samples: int = setting(1, low=1, unit="answers")
    """Answers to each of these prompts: more make the reward curve smoother."""
    max_new_tokens: int = setting(64, low=1, unit="tokens")
    """Longest answer for the reward curve."""
    ptx_share: float = setting(0.0, low=0, below=1, unit="share of rows")
    """Pretraining text (the filtered corpus) mixed in, as a share of all rows; InstructGPT: 0.1 before PPO."""
    lora: LoraSettings = LoraSettings()
    """The adapter that is trained."""
    max_length: int | None = setting(None, low=8, unit="tokens")
    """Longest row, end token included; longer rows are left out and counted. Null: 1,024 or the model's window."""
    trainer: TrainerBlock = trainer_block("trl.trainer.sft_config:SFTConfig", reserved=OURS | ROWS)
    """Passed to TRL's SFTConfig as it is."""

    def files(self) -> list[Path]:
        """The files of the reward adapter that is named."""
        if self.reward is None:
            return []
        return [path for path in sorted(Path(self.reward).expanduser().rglob("*")) if path.is_file()]

    def faults(self) -> list[str]:
        """A reward adapter that is not there."""
        if self.reward is not None and not (Path(self.reward).expanduser() / "adapter_config.json").is_file():
            return [f"reward: got {self.reward!r}, wanted the folder of a reward adapter (RUN/NN-reward/reward)"]
        return []


def run_sft(
    settings: SftSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
    mitigations: MitigationSettings = OFF,
) -> Outcome:
    """Train `policy` on the filtered demonstrations and save it as a plain PEFT folder.

    Raises:
        DataError: no demonstration is left to train on, or none to choose a checkpoint by.
        SettingsError: a checkpoint is to be chosen by reward, and there is no reward model.
    """
    import torch
    from datasets import Dataset
    from trl import SFTConfig

    from ..toolkit.mitigations.loss_terms import with_terms
    from ..toolkit.mitigations.row_rate import with_row_rate
    from ..toolkit.model.loading import load_base
    from ..toolkit.model.stack import ModelStack
    from ..toolkit.sft.examples import completion_example
    from ..toolkit.sft.trainer import FineTuner

    if before.data is None:
        raise DataError("SFT needs the training sets: put `filter` before `sft` in the recipe's stages")
    select = selection(settings, before)
    model, tokenizer = load_base(before.base, base)
    length = window(model, settings.max_length)
    treatment = Treatment(mitigations, "sft", before)
    demonstrations = treatment.rows(read_set(before.data, "demonstrations"), ["prompt", "completion"], seed)
    rows, counts = usable(demonstrations, tokenizer, length)
    if not rows:
        raise DataError(
            f"no demonstration is left for SFT: {len(demonstrations)} passed the filters, {counts['too_long']} of them "
            f"have more than {length} tokens and {counts['empty']} an empty completion. Loosen the filters or raise "
            "sft.max_length."
        )
    examples = treatment.examples(rows, tokenizer, length)
    mixed = _pretraining(settings, before.data, tokenizer, len(rows), length, seed)
    stack = ModelStack(model, tokenizer)
    torch.manual_seed(seed)  # half of a fresh adapter is drawn
    config = settings.lora.config()
    config.trainable_token_indices = treatment.trained_rows(model, tokenizer)
    with adapting(settings.lora, "sft"):
        stack.add("policy", config, trainable=True)
    held_out, held_out_counts = usable(read_set(before.data, "demonstrations_held_out"), tokenizer, length)
    arguments = trainer_arguments(
        SFTConfig, settings.trainer, base, folder, seed, max_length=length, **evaluating(select)
    )
    evaluates = arguments.eval_strategy != "no"
    if evaluates and not held_out:
        raise DataError(
            "SFT is to be evaluated while it trains (sft.select, sft.trainer.eval_strategy), but there are no held-out "
            "demonstrations: give data.demonstrations_held_out (or data.validation_share with hh), or sft.select=last"
        )
    probe, no_room = _probe(settings, before, stack, held_out, seed, folder / PROBE) if evaluates else (None, 0)
    measured_on = Dataset.from_list([completion_example(row, tokenizer) for row in held_out]) if evaluates else None
    row_numbers = None
    if len(examples) == len(rows):  # with control tokens a demonstration makes several rows
        row_numbers = {tuple(example["input_ids"]): number for number, example in enumerate(examples)}
    with stack.using("policy", trainable=True) as peft_model:
        treated = with_terms(FineTuner, treatment.loss_terms(rows, tokenizer, length))
        trainer = with_row_rate(treated, treatment.row_rate())(
            model=peft_model,
            args=arguments,
            train_dataset=Dataset.from_list(examples + mixed),
            eval_dataset=measured_on,
            processing_class=tokenizer,
            callbacks=treatment.callbacks(model, tokenizer),
            probe=probe,
            row_numbers=row_numbers,
        )
        stack.to_float32("policy")
        train(trainer, folder, console, "SFT")
    stack.save("policy", folder / "policy")
    return Outcome(
        artifacts=replace(before, sft=folder / "policy"),
        results=_kept_figures(trainer) | _after_lowest_loss(trainer, folder / PROBE, seed),
        rows={"demonstrations": len(rows), "held_out": len(held_out), "pretraining_texts": len(mixed), **counts}
        | {f"held_out.{name}": count for name, count in held_out_counts.items()},
        warnings=(*_left_out(settings, length, counts, held_out_counts, no_room), *treatment.warnings()),
    )


def selection(settings: SftSettings, before: Artifacts) -> Selection:
    """How the checkpoint is chosen that SFT ends with.

    Raises:
        SettingsError: by reward, without a reward model.
    """
    has_reward = settings.reward is not None or before.reward is not None
    if settings.select == "reward" and not has_reward:
        fault = (
            "sft.select: got 'reward', but there is no reward model; put `reward` before `sft` in the stages, or give "
            "sft.reward=FOLDER"
        )
        raise SettingsError([fault])
    return settings.select or ("reward" if has_reward else "last")


def usable(rows: list[Row], tokenizer: "PreTrainedTokenizerBase", length: int) -> tuple[list[Row], dict[str, int]]:
    """The demonstrations that can be learned from, and how many cannot."""
    written = [row for row in rows if not _is_empty(row["completion"])]
    fitting, too_long = rows_that_fit(written, tokenizer, [["prompt", "completion"]], length)
    return fitting, {"too_long": too_long, "empty": len(rows) - len(written)}


def _is_empty(completion: Any) -> bool:
    texts = [completion] if isinstance(completion, str) else [message["content"] for message in completion]
    return not any(text.strip() for text in texts)


def evaluating(select: Selection) -> dict[str, Any]:
    """Options of the trainer that choose a checkpoint: one evaluation and one checkpoint an epoch."""
    if select == "last":
        return {}
    return {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": f"eval_{select}",
        "greater_is_better": select == "reward",
    }


def _pretraining(
    settings: SftSettings, data: Path, tokenizer: "PreTrainedTokenizerBase", rows: int, length: int, seed: int
) -> list[dict[str, list[int]]]:
    from ..toolkit.sft.examples import mixed_texts

    if settings.ptx_share == 0:
        return []
    texts = [row["text"] for row in read_set(data, "ptx")]
    return mixed_texts(texts, tokenizer, rows=rows, share=settings.ptx_share, length=length, seed=seed)


def _probe(
    settings: SftSettings, before: Artifacts, stack: "ModelStack", held_out: list[Row], seed: int, folder: Path
) -> "tuple[RewardProbe | None, int]":
    """What measures sampled answers, where there is a reward model, and how many prompts leave no room for one."""
    from ..toolkit.model.generation import Sampling, window_of
    from ..toolkit.ppo.prompts import tokenize_prompts
    from ..toolkit.sft.trainer import RewardProbe

    reward = Path(settings.reward).expanduser() if settings.reward is not None else before.reward
    if reward is None:
        return None, 0
    stack.load("reward", reward)
    prompts = tokenize_prompts([{"prompt": row["prompt"]} for row in held_out], stack.tokenizer, None)
    room = window_of(stack.base)
    fitting = [one for one in prompts if room is None or len(one.ids) + settings.max_new_tokens <= room]
    if len(fitting) < 2:
        raise DataError(
            f"{len(fitting)} of {len(prompts)} held-out prompts leave room for an answer of {settings.max_new_tokens} "
            "tokens, wanted two or more: lower sft.max_new_tokens"
        )
    probe = RewardProbe(
        stack=stack,
        prompts=fitting[: settings.validation_prompts],
        sampling=Sampling(max_new_tokens=settings.max_new_tokens),
        samples=settings.validation_samples,
        seed=seed,
        folder=folder,
    )
    return probe, len(prompts) - len(fitting)


def _left_out(
    settings: SftSettings, length: int, counts: dict[str, int], held_out: dict[str, int], no_room: int
) -> list[str]:
    """Warnings that tell which rows were left out, and why."""
    found = []
    if counts["too_long"]:
        found.append(f"SFT left out {counts['too_long']} demonstrations of more than {length} tokens.")
    if counts["empty"]:
        found.append(f"SFT left out {counts['empty']} demonstrations with an empty completion.")
    if unmeasured := sum(held_out.values()):
        found.append(
            f"SFT left out {unmeasured} held-out demonstrations: {held_out['too_long']} have more than {length} "
            f"tokens, {held_out['empty']} an empty completion."
        )
    if no_room:
        found.append(
            f"The reward curve of SFT is without {no_room} held-out prompts that leave no room for an answer of "
            f"{settings.max_new_tokens} tokens (sft.max_new_tokens)."
        )
    return found


def _kept_figures(trainer: Any) -> dict[str, Figure]:
    """Held-out loss and reward at the checkpoint that was kept, with the epoch it is of."""
    log, best = trainer.state.log_history, trainer.state.best_global_step
    kept = best if trainer.args.load_best_model_at_end and best is not None else trainer.state.global_step
    entries = [entry for entry in log if entry["step"] == kept]
    found: dict[str, Figure] = {}
    for key, name in (("eval_loss", "sft.held_out_loss"), ("eval_reward", "sft.reward")):
        value = next((entry[key] for entry in entries if key in entry), None)
        if value is not None:
            error = next((entry[f"{key}_error"] for entry in entries if f"{key}_error" in entry), None)
            low, high = (value - 1.96 * error, value + 1.96 * error) if error is not None else (None, None)
            n = len(trainer.probe.prompts) if key == "eval_reward" else len(trainer.eval_dataset)
            found[name] = {"value": value, "low": low, "high": high, "n": n}
    if found:
        epoch = next(entry["epoch"] for entry in entries if "epoch" in entry)
        found["sft.epochs"] = {"value": epoch, "low": None, "high": None, "n": 1}
    return found


def _after_lowest_loss(trainer: Any, folder: Path, seed: int) -> dict[str, Figure]:
    """What reward did behind the evaluation of lowest loss: the last one minus that one, paired by prompt."""
    from ..eval.statistics import paired_difference

    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    if trainer.probe is None or len(losses) < 2:
        return {}
    lowest, last = min(losses, key=lambda step: losses[step]), max(losses)
    rewards = [read_json(folder / f"{step}.json")["rewards"] for step in (lowest, last)]
    change = paired_difference(*rewards, seed=seed)
    return {
        "sft.reward_after_lowest_loss": {
            "value": change.delta, "low": change.low, "high": change.high, "n": change.n_pairs
        }
    }  # fmt: skip
