"""Checkpoints that can be trusted after a kill: marked when complete, found again, and restored by adapter name."""

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .errors import DataError, ModelError, SettingsError
from .files import read_json, write_json

MARKER = "complete.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")


class CompleteMarker(TrainerCallback):
    """Writes `complete.json`, the sizes of all files, into each checkpoint once everything else is there.

    transformers writes a checkpoint file by file, so a kill leaves a folder that looks like a checkpoint and is none.
    Rotation deletes the oldest checkpoint before the newest one is marked: keep two or more.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse to keep a single checkpoint."""
        if args.save_total_limit is not None and args.save_total_limit < 2:
            fault = (
                f"save_total_limit: got {args.save_total_limit}, wanted at least 2 (a kill while the newest checkpoint "
                "is written must leave a whole one) or null for no limit"
            )
            raise SettingsError([fault], "the trainer settings")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark the checkpoint that was just written."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process writes a file of random states
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            mark_complete(folder)


def mark_complete(folder: Path) -> None:
    """Record the sizes of all files of a checkpoint."""
    write_json(folder / MARKER, {"sizes": _sizes(folder)})


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint has its marker and every file has the size recorded there."""
    try:
        recorded = read_json(folder / MARKER)["sizes"]
    except (DataError, KeyError, TypeError):
        return False
    return bool(recorded == _sizes(folder))


def complete_checkpoints(folder: str | Path) -> list[Path]:
    """All complete checkpoints of a training run's folder, oldest first."""
    return [path for path in _checkpoints(Path(folder)) if is_complete(path)]


def last_complete(folder: str | Path) -> Path | None:
    """The newest complete checkpoint of a training run's folder; incomplete ones that are newer are deleted.

    Give the result to `Trainer.train(resume_from_checkpoint=...)`; None means that training starts afresh.
    """
    for path in reversed(_checkpoints(Path(folder))):
        if is_complete(path):
            return path
        shutil.rmtree(path)
    return None


def step_of(checkpoint: Path) -> int:
    """The optimiser step in the name of a checkpoint folder."""
    match = _FOLDER.fullmatch(checkpoint.name)
    if match is None:
        raise ModelError(f"got the folder {checkpoint}, wanted one named checkpoint-N")
    return int(match.group(1))


class BestByAdapterName(Trainer):
    """Mixin that lets `load_best_model_at_end` find an adapter whose name is not "default".

    transformers saves such an adapter in a sub-folder, looks for it in the checkpoint itself, logs a warning and goes
    on with the last weights. Put it first: `class Stage(BestByAdapterName, SFTTrainer): ...`.
    """

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint or "")
        if not isinstance(self.model, PeftModel) or (best / "adapter_config.json").exists():
            super()._load_best_model()
            return
        name = self.model.active_adapters[0]
        if not (best / name / "adapter_config.json").exists():
            raise ModelError(f"the best checkpoint {best} has no adapter {name!r}: was it saved by another trainer?")
        self.model.load_adapter(best / name, name, is_trainable=True)


class WithoutEmbeddings(Trainer):
    """Mixin whose checkpoints hold the adapter alone.

    PEFT adds both embedding matrices of the base where a token was added to it, which are most of a small model, and
    which an adapter folder of ours must not bring along: the base's own are made anew at every loading.
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        model: Any = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, PeftModel):
            super()._save(output_dir, state_dict)
            return
        saves = model.save_pretrained
        model.save_pretrained = partial(saves, save_embedding_layers=False)
        try:
            super()._save(output_dir, state_dict)
        finally:
            del model.save_pretrained  # the method of the class again


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir() and _FOLDER.fullmatch(path.name)), key=step_of)


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER and not path.name.startswith(f".{MARKER}")
    }
