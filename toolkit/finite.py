"""Trainers that stop at the step whose loss or gradient is not a number, before it reaches the weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from .errors import TrainingError

SHOWN = 4  # rows of a batch that a message quotes
QUOTED = 60  # characters of each
HUGE = 1e4  # no weight of a model that works comes near


class FiniteSteps(Trainer):
    """Mixin that raises `TrainingError` instead of training on with NaN. Put it first among the base classes.

    transformers hides such a loss from the log (`logging_nan_inf_filter`) and steps on. Gradients are not looked at
    under fp16, whose loss scaler meets infinite ones as a matter of course and skips the step.
    """

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass, refused when its loss or gradient is not finite."""
        shown = dict(inputs)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not bool(torch.isfinite(loss)):
            raise self._not_finite(f"the loss is {float(loss)}", shown)
        if self.accelerator.sync_gradients and not self.args.fp16 and not has_finite_gradients(model):
            raise self._not_finite(f"the loss is {float(loss):.4g}, but its gradient is not finite", shown)
        return loss

    def rows_of(self, inputs: Mapping[str, Any]) -> list[int] | None:
        """Numbers of the rows in a batch, where the trainer knows them."""
        rows = inputs.get("rows")
        return None if rows is None else [int(row) for row in rows]

    def _not_finite(self, what: str, inputs: Mapping[str, Any]) -> TrainingError:
        model: Any = self.model
        broken = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
        if broken:
            cause = (
                f"weights are not finite already ({broken[0]}, {len(broken)} in all), so an earlier step was too big"
            )
        elif (largest := largest_weight(model)) > HUGE:
            cause = f"all weights are finite, but the largest is {largest:.3g}, so an earlier step was too big"
        else:
            cause = f"all weights are finite, the largest is {largest:.3g}, so look at these rows first"
        numbers = self.rows_of(inputs)
        name = "row" if numbers and len(numbers) == 1 else "rows"
        which = f"{name} {', '.join(map(str, numbers))} (counting from 0)" if numbers else "a batch"
        quoted = "; ".join(map(repr, self._quotes(inputs)))
        return TrainingError(
            f"step {self.state.global_step + 1}: {what} on {which}: {quoted}. {cause[0].upper()}{cause[1:]}. The step "
            "was not taken and the last complete checkpoint is kept. Mend the rows or lower trainer.learning_rate, "
            "and give the same command again."
        )

    def _quotes(self, inputs: Mapping[str, Any]) -> Sequence[str]:
        ids = inputs["input_ids"][:SHOWN]
        tokenizer: Any = self.processing_class
        texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text if len(text) <= QUOTED else f"{text[: QUOTED - 3]}..." for text in texts]


def largest_weight(model: nn.Module) -> float:
    """The largest absolute value of a model's weights; bytes that hold packed 4-bit weights are none."""
    weights = [weight.detach() for weight in model.parameters() if weight.is_floating_point() and weight.numel()]
    return max(float(weight.abs().max()) for weight in weights)


def has_finite_gradients(model: nn.Module) -> bool:
    """Whether every gradient of a model is free of NaN and infinity."""
    sums = [weight.grad.detach().float().abs().sum() for weight in model.parameters() if weight.grad is not None]
    return not sums or bool(torch.isfinite(torch.stack([total.cpu() for total in sums])).all())
