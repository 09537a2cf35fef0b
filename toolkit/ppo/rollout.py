"""A rollout of PPO: a batch of episodes with their scores, its figures, and its file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import torch
from torch import Tensor

from ..files import write_atomic
from ..model.generation import Completion
from . import math as ppo_math
from .prompts import Prompt
from .sequences import Experience


@dataclass(frozen=True)
class Rollout:
    """One batch of episodes: what was said, what it was worth, and what an update learns from it."""

    prompts: Sequence[Prompt]
    completions: Sequence[Completion]
    score: Tensor
    """(B,) reward of each completion, before the KL penalty."""
    terms: dict[str, Tensor]
    """(B,) each, the parts of `score` before their weights."""
    kl: Tensor
    """(B, C) per-token KL from the reference, in nats."""
    entropy: Tensor
    """(B, C) in nats."""
    experience: Experience
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of generating and of scoring."""

    def records(self) -> list[dict[str, object]]:
        """One plain dictionary per episode, for a JSONL file."""
        sequence_kl = self.kl.sum(1).tolist()
        return [
            {
                "prompt": prompt.shown,
                "completion": completion.text,
                "score": self.score[row].item(),
                **{f"score_{name}": values[row].item() for name, values in self.terms.items() if len(self.terms) > 1},
                "kl": sequence_kl[row],
                "length": len(completion.ids),
                "ended": completion.ended,
            }
            for row, (prompt, completion) in enumerate(zip(self.prompts, self.completions, strict=True))
        ]

    def write(self, path: Path) -> None:
        """Write the records as JSONL, whole or not at all."""
        write_atomic(path, b"".join(orjson.dumps(record) + b"\n" for record in self.records()))

    def figures(self, reduce: ppo_math.Reduce) -> dict[str, float]:
        """Means over all processes of what a rollout says about policy and value function; NaN is not measured."""
        experience = self.experience
        is_completion = experience.sequences.is_completion
        ended = torch.tensor([completion.ended for completion in self.completions], device=self.score.device)
        every = torch.ones_like(ended)

        def mean(x: Tensor) -> Tensor:
            return ppo_math.masked_mean(x.float(), every, reduce)

        figures = {
            "objective/score": mean(self.score),
            "objective/score_std": ppo_math.masked_variance(self.score, every, reduce).sqrt(),
            "objective/kl": mean(self.kl.sum(1)),
            "objective/kl_per_token": ppo_math.masked_mean(self.kl, is_completion, reduce),
            "objective/entropy": ppo_math.masked_mean(self.entropy, is_completion, reduce),
            "value/explained_variance": ppo_math.explained_variance(
                experience.values, experience.returns, is_completion, reduce
            ),
            "completion/length": mean(is_completion.sum(1)),
            "completion/ended": mean(ended),
        }
        if len(self.terms) > 1:
            figures |= {f"objective/score_{name}": mean(values) for name, values in self.terms.items()}
        return {name: float(value) for name, value in figures.items()}
