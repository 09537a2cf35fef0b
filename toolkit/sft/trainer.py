"""TRL's SFTTrainer that names faulty rows, and measures sampled answers by a reward model beside the loss."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from trl import SFTTrainer

from ..checkpoints import BestByAdapterName, WithoutEmbeddings
from ..files import write_json
from ..finite import FiniteSteps
from ..model.generation import Sampling, generate
from ..model.stack import ModelStack
from ..ppo.prompts import Prompt
from ..reward.scoring import score_ids
from ..telemetry import NoTelemetry


@dataclass(frozen=True, kw_only=True)
class RewardProbe:
    """Lets the policy answer validation prompts, and has a reward adapter of the same stack score the answers.

    Every prompt keeps its random stream, so that two checkpoints differ by what they learned.

    Args:
        stack: holds both adapters.
        prompts: of validation, not of training.
        policy: adapter that answers.
        reward: adapter that scores.
        sampling: how answers are drawn.
        samples: answers to each prompt.
        seed: of the draws.
        batch_size: prompts per batch.
        folder: the rewards of each evaluation, one a prompt, are kept there as `STEP.json`.
    """

    stack: ModelStack
    prompts: Sequence[Prompt]
    policy: str = "policy"
    reward: str = "reward"
    sampling: Sampling
    samples: int = 1
    seed: int = 0
    batch_size: int = 32
    folder: Path | None = None

    def __call__(self, step: int) -> dict[str, float]:
        """Mean reward, its standard error over the prompts, and the mean length of the answers in tokens."""
        prompts = [prompt.ids for prompt in self.prompts for _ in range(self.samples)]
        with self.stack.using(self.policy) as model:
            answers = generate(
                model,
                self.stack.tokenizer,
                prompts,
                self.sampling,
                seeds=[_seed(self.seed, index) for index in range(len(prompts))],
                batch_size=self.batch_size,
            )
        end = self.stack.tokenizer.eos_token_id
        sequences = [[*ids, *_closed(answer.ids, end)] for ids, answer in zip(prompts, answers, strict=True)]
        scores = score_ids(self.stack, self.reward, sequences, batch_size=self.batch_size)
        means = scores.reshape(-1, self.samples).mean(1)
        if self.folder is not None:
            write_json(self.folder / f"{step}.json", {"rewards": means.tolist()})
        error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
        tokens = float(np.mean([len(answer.ids) for answer in answers]))
        return {"eval_reward": float(means.mean()), "eval_reward_error": error, "eval_answer_tokens": tokens}


class FineTuner(FiniteSteps, BestByAdapterName, WithoutEmbeddings, NoTelemetry, SFTTrainer):  # type: ignore[misc]  # TRL's has no types
    """`trl.SFTTrainer` with a reward curve beside the loss, which `metric_for_best_model="eval_reward"` can use.

    Ouyang et al. 2022 chose their SFT model that way: its validation loss rose from the second epoch on while reward
    and human preference went on rising.

    Args:
        *args: as of `trl.SFTTrainer`.
        probe: measured at every evaluation.
        row_numbers: number of each training row by its token ids, for messages.
        **kwargs: as of `trl.SFTTrainer`.
    """

    def __init__(
        self,
        *args: Any,
        probe: RewardProbe | None = None,
        row_numbers: Mapping[tuple[int, ...], int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.probe = probe
        self.row_numbers = row_numbers or {}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The loss on the evaluation rows, and what the probe measures."""
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        if self.probe is not None:
            found = self.probe(self.state.global_step)
            self.log(dict(found))
            metrics |= found
        return metrics

    def rows_of(self, inputs: Mapping[str, Any]) -> list[int] | None:
        """Numbers of the rows in a batch, packed ones included."""
        found = [self.row_numbers.get(tuple(ids)) for ids in _sequences(inputs)]
        return [number for number in found if number is not None] or None


def _sequences(inputs: Mapping[str, Any]) -> list[list[int]]:
    """Token ids of every row of a batch, padding taken off, packed rows apart."""
    if "position_ids" in inputs:
        ids, positions = inputs["input_ids"].flatten().tolist(), inputs["position_ids"].flatten().tolist()
        starts = [*(index for index, position in enumerate(positions) if position == 0), len(ids)]
        return [ids[start:end] for start, end in itertools.pairwise(starts)]
    lengths = inputs["attention_mask"].sum(1).tolist()
    return [row[:length] for row, length in zip(inputs["input_ids"].tolist(), lengths, strict=True)]


def _closed(ids: list[int], end: Any) -> list[int]:
    """An answer as reward models are trained to see it: with the end token, which one cut short lacks."""
    return ids if ids and ids[-1] == end else [*ids, int(end)]


def _seed(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"probe {seed} {index}".encode()).digest()[:8], "big") >> 2
