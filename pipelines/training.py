"""What the SFT, reward and PPO stages share: trainer arguments, progress, rows that fit, the log of a training."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit import processes
from ..toolkit.errors import MissingPackageError, SettingsError, TrainingError
from ..toolkit.files import write_json
from ..toolkit.model.sequences import sequence_ids
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.lora import LoraSettings
from ..toolkit.settings.reading import TrainerBlock
from ..toolkit.stage import shared_folder
from .console import Advance, Console

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

Row = dict[str, Any]
RESERVED = {
    "output_dir": "the stage's folder in the run decides it",
    "seed": "the recipe's own `seed` decides it",
    "resume_from_checkpoint": "a run resumes from its last complete checkpoint by itself",
    "use_cpu": "base.device decides it",
    "hub_token": "it would be written to run.json; log in with `hf auth login` instead",
    "max_length": "it stands outside the trainer block, so that rows that are too long are counted",
}
OURS = RESERVED | {
    "chat_template_path": "rows are in tokens before the trainer sees them: set the template in the base's folder",
    "eos_token": "rows are in tokens before the trainer sees them: set it in the tokenizer of the base's folder",
    "pad_token": "base.pad_token decides it",
    "model_init_kwargs": "`base` decides how the model is loaded",
    "trust_remote_code": "base.trust_remote_code decides it",
}
"""Of TRL's trainers also what would have no effect, as model and rows are made before."""
LOSS = {"loss": "loss"}
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Settings of transformers that people know by their old names, which it warns of, and their names now."""
SAVING = {"save_strategy": "steps", "save_total_limit": 2, "logging_steps": 5, "report_to": "none"}


def trainer_arguments(
    cls: type[Any], block: TrainerBlock, base: BaseSettings, folder: Path, seed: int, **defaults: Any
) -> Any:
    """Build a trainer's own arguments from a recipe's block; the block wins over our defaults.

    Raises:
        SettingsError: the trainer refuses a value.
    """
    from ..toolkit.model.loading import device_of

    device = device_of(base)
    ours = SAVING | {
        "bf16": device == "cuda" or base.quantization != "none",
        "activation_checkpointing": device == "cuda",
        "ddp_find_unused_parameters": False,  # all that is trained takes part in every pass
        "log_level_replica": "passive",
    }
    if block.get("fp16"):
        ours["bf16"] = False
    if device == "cuda" and base.quantization != "none":
        ours["optim"] = "paged_adamw_32bit"  # spikes of memory go to the CPU's instead of ending the run (QLoRA)
    _check_trackers(block.get("report_to", "none"))
    _check_counts(block)
    fixed = {"output_dir": str(checkpoints(folder)), "seed": seed, "use_cpu": device == "cpu", "disable_tqdm": True}
    try:
        return cls(**(ours | defaults | with_present_names(block) | fixed))
    except SettingsError:
        raise
    except (TypeError, ValueError) as error:
        raise SettingsError([f"trainer: {cls.__name__} refuses a value: {error}"]) from error


def without_evaluation(block: Mapping[str, Any]) -> TrainerBlock:
    """A trainer's block for an experiment that measures by itself and keeps what it ends with."""
    return TrainerBlock(dict(block) | {"eval_strategy": "no", "load_best_model_at_end": False})


@contextmanager
def adapting(lora: LoraSettings, section: str) -> Iterator[None]:
    """Turn what PEFT says of layers that a base does not have into a fault of the recipe.

    Raises:
        SettingsError: `target_modules` names no layer of the model.
    """
    try:
        yield
    except ValueError as error:
        if "arget modules" not in str(error):
            raise
        fault = (
            f"{section}.lora.target_modules: got {lora.target_modules}, wanted layers of the base, such as q_proj, or "
            f"all-linear ({error})"
        )
        raise SettingsError([fault]) from error


def with_present_names(block: Mapping[str, Any]) -> dict[str, Any]:
    """A trainer's block with settings by the names that they have now; where both names stand, the new one counts."""
    return {RENAMED.get(name, name): value for name, value in block.items() if RENAMED.get(name) not in block}


def _check_counts(block: Mapping[str, Any]) -> None:
    """Refuse counts below one, which transformers takes and fails on when it trains."""
    names = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    if found := [f"trainer.{name}: got {block[name]}, wanted at least 1" for name in names if block.get(name, 1) < 1]:
        raise SettingsError(found)


def _check_trackers(wanted: Any) -> None:
    """Refuse a tracker that is unknown or not installed before a model is loaded."""
    from transformers import integrations

    hub: Any = integrations  # it names what it exports only where no type checker looks
    names = [wanted] if isinstance(wanted, str) else list(wanted or [])
    for name in names:
        if name in ("none", "all"):
            continue
        if name not in hub.INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(hub.INTEGRATION_TO_CALLBACK))
            raise SettingsError([f"trainer.report_to: got {name!r}, wanted `none` or some of {known}"])
        if name not in hub.get_available_reporting_integrations():
            raise MissingPackageError(name, f"trainer.report_to={name}")


def train(trainer: "Trainer", folder: Path, console: Console, title: str) -> None:
    """Train to the end from the last complete checkpoint, with a progress bar; write `log.json`.

    Raises:
        TrainingError: the loss became NaN or infinite; the last complete checkpoint is kept.
    """
    from transformers.trainer_callback import PrinterCallback

    from ..toolkit.checkpoints import CompleteMarker

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(CompleteMarker())
    resume = resume_from(folder)
    with console.bar(title) as advance:
        trainer.add_callback(watch(advance, title))
        go_on(trainer, resume)
    write_json(folder / "log.json", trainer.state.log_history)


def checkpoints(folder: Path) -> Path:
    """Where a training in a stage's folder keeps its checkpoints, for all processes of the run."""
    return shared_folder(folder) / "checkpoints"


def resume_from(folder: Path) -> Path | None:
    """The last complete checkpoint of a training in a stage's folder; only the first process deletes broken ones."""
    from ..toolkit.checkpoints import last_complete

    with processes.first_before_others():
        return last_complete(checkpoints(folder))


def go_on(trainer: "Trainer", checkpoint: Path | None) -> None:
    """Train from a checkpoint; from one of the last step nothing is left but to take its weights.

    transformers would make one step more there, so a run killed behind its last checkpoint would end differently.
    """
    from transformers import TrainerState

    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= state.max_steps:
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state = state
            if trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None:
                trainer._load_best_model()
            if (average := getattr(trainer, "average", None)) is not None:
                average.apply()  # PPO's moving average replaces the policy at the end of training
            return
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def rows_that_fit(
    rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", columns: Sequence[Sequence[str]], limit: int
) -> tuple[list[Row], int]:
    """Leave out rows that a trainer would truncate or drop without a word.

    Args:
        rows: texts or chat messages.
        tokenizer: counts the tokens.
        columns: pairs of columns that form one sequence, such as `[["prompt", "chosen"], ["prompt", "rejected"]]`.
        limit: longest sequence in tokens, the end token included.

    Returns:
        the rows whose sequences all fit, and how many do not.
    """
    fitting = [row for row in rows if all(_tokens(row, group, tokenizer) <= limit for group in columns)]
    return fitting, len(rows) - len(fitting)


def window(model: Any, limit: int | None) -> int:
    """The longest sequence that a stage trains on: the setting, or what the model's positions allow."""
    positions = getattr(model.config, "max_position_embeddings", None) or 1024
    return min(limit or 1024, positions)


def _tokens(row: Row, group: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> int:
    return len(sequence_ids(row[group[0]], row[group[1]], tokenizer))


def watch(advance: Advance, title: str, shown: Mapping[str, str] = LOSS) -> "TrainerCallback":
    """A callback that moves a progress bar and stops the training when the loss is not a number.

    Args:
        advance: moves the bar.
        title: the stage, for messages.
        shown: figures of the log that stand behind the bar, and what they are called there.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Moves the progress bar and stops on a loss that is not a number."""

        detail = ""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            advance(state.global_step, state.max_steps, self.detail)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            figures = logs or {}
            loss = figures.get("loss")
            if loss is not None and not math.isfinite(float(loss)):
                raise TrainingError(
                    f"{title}: the loss became {loss} by step {state.global_step}. The last complete checkpoint is "
                    "kept. Lower trainer.learning_rate, or look at the rows of the last steps."
                )
            if found := [f"{name} {float(figures[key]):.3f}" for key, name in shown.items() if key in figures]:
                self.detail = ", ".join(found)

    return Watch()
