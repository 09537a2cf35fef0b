"""The reward stage: train a reward adapter and its score head on comparisons with TRL's RewardTrainer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..eval.statistics import share_score
from ..toolkit.data.rows import write_rows
from ..toolkit.errors import DataError
from ..toolkit.files import write_json
from ..toolkit.mitigations.settings import OFF, MitigationSettings
from ..toolkit.model.sequences import sequence_ids
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.lora import LoraSettings
from ..toolkit.settings.reading import TrainerBlock, setting, trainer_block
from ..toolkit.stage import Artifacts, Figure, Outcome
from .console import Console
from .mitigate import Treatment
from .sets import read_set
from .training import RESERVED, Row, rows_that_fit, train, trainer_arguments, window

if TYPE_CHECKING:
    import numpy as np

PAIRS = [["prompt", "chosen"], ["prompt", "rejected"]]


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """A reward model from comparisons: minus log sigmoid of the difference of scores."""

    lora: LoraSettings = LoraSettings()
    """The adapter that is trained, beside a score head."""
    max_length: int | None = setting(None, low=8, unit="tokens")
    """Longest prompt with completion; longer pairs are left out and counted. Null: 1,024 or the model's window."""
    trainer: TrainerBlock = trainer_block("trl.trainer.reward_config:RewardConfig", reserved=RESERVED)
    """Passed to TRL's RewardConfig as it is."""


def run_reward(
    settings: RewardSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
    mitigations: MitigationSettings = OFF,
) -> Outcome:
    """Train `reward`, measure it on held-out comparisons, set its zero, and save it as a plain PEFT folder.

    Raises:
        DataError: no comparison is left to train on.
    """
    import torch
    from datasets import Dataset
    from peft import get_peft_model
    from trl import RewardConfig, RewardTrainer

    from ..toolkit.model.loading import load_base
    from ..toolkit.model.stack import keep_differentiable

    if before.data is None:
        raise DataError("the reward model needs the training sets: put `filter` before `reward` in the stages")
    torch.manual_seed(seed)  # the score head is drawn when the model is loaded
    model, tokenizer = load_base(before.base, base, head="score")
    keep_differentiable(model)
    length = window(model, settings.max_length)
    treatment = Treatment(mitigations, "reward", before)
    pairs = treatment.rows(read_set(before.data, "comparisons"), ["prompt", "chosen", "rejected"], seed)
    rows, too_long = rows_that_fit(pairs, tokenizer, PAIRS, length)
    rows, equal = _different(rows)
    if not rows:
        raise DataError(
            f"no comparison is left for the reward model: of {len(pairs)}, {too_long} have more than {length} tokens "
            f"and {equal} have equal sides."
        )
    peft_model: Any = get_peft_model(
        model, settings.lora.config(task="SEQ_CLS", modules_to_save=["score"]), adapter_name="reward"
    )
    arguments = trainer_arguments(RewardConfig, settings.trainer, base, folder, seed, max_length=length)
    columns = [
        {f"{side}_ids": sequence_ids(row["prompt"], row[side], tokenizer) for side in ("chosen", "rejected")}
        for row in rows
    ]
    trainer = RewardTrainer(
        model=peft_model,
        args=arguments,
        train_dataset=Dataset.from_list(columns),
        processing_class=tokenizer,
        callbacks=treatment.callbacks(model, tokenizer),
    )
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # TRL casts to bfloat16 on a 4-bit base: most updates get lost
    train(trainer, folder, console, "reward model")
    held_out, held_out_too_long = rows_that_fit(read_set(before.data, "comparisons_held_out"), tokenizer, PAIRS, length)
    demonstrations, _ = rows_that_fit(
        read_set(before.data, "demonstrations"), tokenizer, [["prompt", "completion"]], length
    )
    scorer = _Scorer(peft_model.eval(), tokenizer)
    bias = float(scorer.scores(demonstrations, "completion").mean()) if demonstrations else 0.0
    results = _measure(scorer, held_out, bias, folder)
    peft_model.save_pretrained(folder, selected_adapters=["reward"])
    write_json(folder / "reward" / "reward_meta.json", {"bias": bias})
    counts = {"comparisons": len(rows), "too_long": too_long, "equal_sides": equal, "held_out": len(held_out)}
    left_out = too_long + equal + held_out_too_long
    warnings = (f"The reward stage left out {left_out} comparisons (see its row counts).",) if left_out else ()
    return Outcome(
        artifacts=replace(before, reward=folder / "reward"),
        results=results,
        rows=counts | {"held_out_too_long": held_out_too_long},
        warnings=(*warnings, *treatment.warnings()),
    )


class _Scorer:
    """Scores of prompt and completion by the trained model, the zero not yet set."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def scores(self, rows: Sequence[Row], column: str) -> "np.ndarray[Any, Any]":
        """One score per row, float64, in the order of the rows; batched by length."""
        import numpy as np
        import torch

        texts = [sequence_ids(row["prompt"], row[column], self.tokenizer) for row in rows]
        found = np.full(len(texts), np.nan)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            longest = max(len(texts[index]) for index in batch)
            pad = self.tokenizer.pad_token_id
            ids = torch.tensor([texts[index] + [pad] * (longest - len(texts[index])) for index in batch])
            mask = torch.tensor([[1] * len(texts[index]) + [0] * (longest - len(texts[index])) for index in batch])
            device = self.model.device
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=_is_quantised(self.model)):
                logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
            found[batch] = logits[:, 0].double().cpu().numpy()
        return found


def _is_quantised(model: Any) -> bool:
    return getattr(model.config, "quantization_config", None) is not None


def _measure(scorer: _Scorer, held_out: Sequence[Row], bias: float, folder: Path) -> dict[str, Figure]:
    """Accuracy on held-out comparisons (a tie counts half), in all and by kind; every score is kept."""
    if not held_out:
        return {}
    chosen, rejected = scorer.scores(held_out, "chosen") - bias, scorer.scores(held_out, "rejected") - bias
    is_right = (chosen > rejected) + 0.5 * (chosen == rejected)
    kinds = [row.get("kind", "all") for row in held_out]
    write_rows(
        folder / "held_out.jsonl",
        [
            dict(row, chosen_score=good, rejected_score=bad)
            for row, good, bad in zip(held_out, chosen.tolist(), rejected.tolist(), strict=True)
        ],
    )
    groups = {"reward.accuracy": list(range(len(held_out)))}
    for kind in sorted(set(kinds)) if len(set(kinds)) > 1 else []:
        groups[f"reward.accuracy.{kind}"] = [index for index, other in enumerate(kinds) if other == kind]
    return {name: share_score(is_right[rows], chance=0.5).as_json() for name, rows in groups.items()}


def _different(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Rows whose sides differ: from equal ones no preference can be learned."""
    kept = [row for row in rows if row["chosen"] != row["rejected"]]
    return kept, len(rows) - len(kept)
