"""A learning rate of its own for the rows of the embeddings that are trained beside a LoRA adapter."""

from typing import Any, TypeVar

from transformers import Trainer

TrainerClass = TypeVar("TrainerClass", bound=type[Trainer])
ROWS = "trainable_tokens_delta"  # what PEFT calls them


def with_row_rate(trainer_class: TrainerClass, rate: float | None) -> TrainerClass:
    """The same trainer with a learning rate for trained embedding rows; None is the trainer itself.

    New tokens start out alike, as the mean of all others, and differ only by what they learn. A rate that suits the
    matrices of an adapter can be far too small for that: rows of the tiny base are 0.1 long in each of their
    coordinates, and 60 steps at 0.001 move none of them by more than 0.06.
    """
    if rate is None:
        return trainer_class

    class WithRowRate(trainer_class):  # type: ignore[valid-type, misc]
        """A trainer with one more group of parameters."""

        def create_optimizer(self, *arguments: Any, **options: Any) -> Any:
            optimizer = super().create_optimizer(*arguments, **options)
            rows = {id(one) for name, one in self.model.named_parameters() if ROWS in name and one.requires_grad}
            for group in list(optimizer.param_groups):
                own = [one for one in group["params"] if id(one) in rows]
                if own and group["lr"] != rate:
                    group["params"] = [one for one in group["params"] if id(one) not in rows]
                    optimizer.add_param_group({**group, "params": own, "lr": rate})
            return optimizer

    WithRowRate.__name__ = trainer_class.__name__
    return WithRowRate  # type: ignore[return-value]
