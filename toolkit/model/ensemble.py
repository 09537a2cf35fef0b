"""An ensemble of reward adapters: several opinions on one completion, made one score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from ..errors import ModelError

Combine = Literal["mean", "min", "mean_minus_deviation"]


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """How the scores of members become one (Coste et al. 2023, https://arxiv.org/abs/2310.02743).

    `min` and `mean_minus_deviation` are cautious: what only some members like earns little, so a policy gains less
    from the faults of a single one.
    """

    size: int
    """Members, the first one included."""
    combine: Combine = "mean"
    """`mean`, `min`, or `mean_minus_deviation`: the mean minus `deviation_weight` times the standard deviation."""
    deviation_weight: float = 1.0
    """Weight of the deviation."""
    bias: float = 0.0
    """Subtracted from the combined score, so that demonstrations have mean zero."""

    def __post_init__(self) -> None:
        """Refuse what cannot be combined.

        Raises:
            ModelError: fewer than two members, or a rule that is not known.
        """
        if self.size < 2 or self.combine not in get_args(Combine):
            raise ModelError(
                f"got an ensemble of {self.size} members combined by {self.combine!r}, wanted two or more, combined by "
                + ", ".join(get_args(Combine))
            )

    def combined(self, scores: Tensor) -> Tensor:
        """One score per completion.

        Args:
            scores: (M, B), those of each member with its own bias subtracted.

        Returns:
            (B,), the bias not subtracted.
        """
        if self.combine == "mean":
            return scores.mean(0)
        if self.combine == "min":
            return scores.min(0).values
        return scores.mean(0) - self.deviation_weight * scores.std(0, correction=0)

    def as_json(self) -> dict[str, Any]:
        """For the file beside the adapter."""
        return {
            "size": self.size,
            "combine": self.combine,
            "deviation_weight": self.deviation_weight,
            "bias": self.bias,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any] | None) -> "Ensemble | None":
        """Read what `as_json` wrote; None stays None."""
        return None if tree is None else cls(**tree)


def member_names(name: str, size: int) -> list[str]:
    """Adapters of an ensemble in a stack: the first has its name, the others a number behind it."""
    return [name, *(f"{name}_{number}" for number in range(2, size + 1))]


def member_folder(number: int) -> str:
    """The sub-folder of a member (2, 3, ...) in the folder of the first one."""
    return f"member-{number}"
