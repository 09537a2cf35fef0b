"""Supervised fine-tuning: train the policy adapter on demonstrations with TRL's SFTTrainer."""

from dataclasses import dataclass, replace
from pathlib import Path

from ..toolkit.errors import DataError
from ..toolkit.mitigations.settings import OFF, MitigationSettings
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.lora import LoraSettings
from ..toolkit.settings.reading import TrainerBlock, setting, trainer_block
from ..toolkit.stage import Artifacts, Outcome
from .console import Console
from .mitigate import Treatment
from .sets import read_set
from .training import RESERVED, rows_that_fit, train, trainer_arguments, window


@dataclass(frozen=True, kw_only=True)
class SftSettings:
    """Supervised fine-tuning on demonstrations; the loss counts completion tokens only."""

    lora: LoraSettings = LoraSettings()
    """The adapter that is trained."""
    max_length: int | None = setting(None, low=8, unit="tokens")
    """Longest row, end token included; longer rows are left out and counted. Null: 1,024 or the model's window."""
    trainer: TrainerBlock = trainer_block("trl.trainer.sft_config:SFTConfig", reserved=RESERVED)
    """Passed to TRL's SFTConfig as it is."""


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
        DataError: no demonstration is left to train on.
    """
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from ..toolkit.mitigations.loss_terms import with_terms
    from ..toolkit.model.loading import load_base
    from ..toolkit.model.stack import ModelStack

    if before.data is None:
        raise DataError("SFT needs the training sets: put `filter` before `sft` in the recipe's stages")
    model, tokenizer = load_base(before.base, base)
    demonstrations = read_set(before.data, "demonstrations")
    length = window(model, settings.max_length)
    treatment = Treatment(mitigations, "sft", before)
    demonstrations = treatment.rows(demonstrations, ["prompt", "completion"], seed)
    rows, too_long = rows_that_fit(demonstrations, tokenizer, [["prompt", "completion"]], length)
    if not rows:
        raise DataError(
            f"no demonstration is left for SFT: {len(demonstrations)} passed the filters, {too_long} of them have more "
            f"than {length} tokens. Loosen the filters or raise sft.max_length."
        )
    stack = ModelStack(model, tokenizer)
    torch.manual_seed(seed)  # half of a fresh adapter is drawn
    config = settings.lora.config()
    config.trainable_token_indices = treatment.trained_rows(tokenizer)
    stack.add("policy", config, trainable=True)
    arguments = trainer_arguments(SFTConfig, settings.trainer, base, folder, seed, max_length=length)
    with stack.using("policy", trainable=True) as peft_model:
        columns = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
        trainer = with_terms(SFTTrainer, treatment.loss_terms(rows, tokenizer, length))(
            model=peft_model,
            args=arguments,
            train_dataset=Dataset.from_list(columns),
            processing_class=tokenizer,
            callbacks=treatment.callbacks(model, tokenizer),
        )
        stack.to_float32("policy")
        train(trainer, folder, console, "SFT")
    stack.save("policy", folder / "policy")
    warnings = (f"SFT left out {too_long} demonstrations of more than {length} tokens.",) if too_long else ()
    return Outcome(
        artifacts=replace(before, sft=folder / "policy"),
        rows={"demonstrations": len(rows), "too_long": too_long},
        warnings=(*warnings, *treatment.warnings()),
    )
