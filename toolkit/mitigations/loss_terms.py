"""Terms that are added to the loss of a trainer, each with its own strength."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import Trainer

TrainerClass = TypeVar("TrainerClass", bound=type[Trainer])
FORWARD = ("input_ids", "attention_mask", "position_ids")


class Batch:
    """What a term may look at: the model, the batch of the trainer, and one forward pass that all terms share.

    Attributes:
        model: the network that is trained.
        inputs: `input_ids`, `labels` (B, T; -100 where the loss does not count) and what else the collator gives.
        step: optimiser steps done.
        part: which of the batches that are accumulated for this step.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Tensor], step: int, part: int) -> None:
        self.model, self.inputs, self.step, self.part = model, inputs, step, part

    @cached_property
    def logits(self) -> Tensor:
        """(B, T, V) next-token logits; the fused heads of trainers give none, so this is a forward of its own."""
        given = {name: self.inputs[name] for name in FORWARD if name in self.inputs}
        logits: Tensor = self.model(**given, use_cache=False).logits
        return logits


class LossTerm(Protocol):
    """A differentiable penalty."""

    name: str
    strength: float
    """Its weight in the loss."""

    def check(self, model: Any) -> None:
        """Refuse a model in which the term could train nothing."""

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty, a scalar, not yet weighted."""


def with_terms(trainer_class: TrainerClass, terms: Sequence[LossTerm]) -> TrainerClass:
    """The same trainer with terms added to its loss; without terms, or with strengths of zero, the trainer itself.

    A term counts once per batch, so over accumulated batches it is a mean, like the trainer's own loss. Each is logged
    as `loss/NAME`. Evaluation shows the trainer's own loss alone.
    """
    active = [term for term in terms if term.strength != 0]
    if not active:
        return trainer_class

    class Treated(trainer_class):  # type: ignore[valid-type, misc]
        """A trainer with more terms in its loss."""

        _treated_step = -1
        _part = 0

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            for term in active:
                term.check(self.model)

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            given = dict(inputs)  # trainers write into theirs
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if not model.training:
                return result
            loss, rest = (result[0], result[1:]) if return_outputs else (result, ())
            self._part = self._part + 1 if self._treated_step == self.state.global_step else 0
            self._treated_step = self.state.global_step
            batch = Batch(model, given, self.state.global_step, self._part)
            # With a count of tokens the Trainer leaves the mean over accumulated batches to the loss.
            parts = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            for term in active:
                value = term(batch)
                loss = loss + term.strength * value / parts
                if (metrics := getattr(self, "_metrics", None)) is not None:
                    metrics["train"][f"loss/{term.name}"].append(value.item())
            return (loss, *rest) if return_outputs else loss

    Treated.__name__ = trainer_class.__name__
    return Treated  # type: ignore[return-value]


def taken(count: int, size: int, batch: Batch) -> Iterator[int]:
    """Indices of `size` of `count` rows, others at every step; they depend on the step alone, so a resume is exact."""
    drawn = torch.Generator().manual_seed(1_000_003 * batch.step + batch.part)
    yield from torch.randperm(count, generator=drawn)[:size].tolist()


class VerdictLoss:
    """Cross-entropy of the choice between the two verdicts, which is what the gate reads.

    Beside the loss over the whole vocabulary: there is one verdict to many tokens of text, which drown it out. More
    weight on that loss is no cure: a trained model gives new tokens next to no probability, and its adapter would first
    of all learn to say them, at the cost of everything else. The choice of two begins at ln 2.

    Args:
        verdicts: ids of the safe and of the unsafe token.
        strength: weight in the loss.
    """

    name = "verdict"

    def __init__(self, verdicts: Sequence[int], strength: float) -> None:
        self.verdicts, self.strength = list(verdicts), strength

    def check(self, model: Any) -> None:
        """Any model can learn them."""

    def __call__(self, batch: Batch) -> Tensor:
        """Mean over the positions of the batch whose label is a verdict; zero where there is none."""
        labels = batch.inputs["labels"][:, 1:]
        verdicts = torch.tensor(self.verdicts, device=labels.device)
        is_verdict = torch.isin(labels, verdicts)
        scores = batch.logits[:, :-1][is_verdict][:, verdicts].float()
        choices = (labels[is_verdict][:, None] == verdicts).int().argmax(-1)
        losses = torch.nn.functional.cross_entropy(scores, choices, reduction="sum")
        return losses / is_verdict.sum().clamp(min=1)
