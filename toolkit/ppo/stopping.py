"""What is left of a run that must end early: why it did, and the last checkpoint from before it went wrong."""

from dataclasses import dataclass
from pathlib import Path

from ..checkpoints import complete_checkpoints, step_of
from ..errors import RunError


@dataclass(frozen=True)
class EarlyStop:
    """Why training ended before its last step, and what the policy is now."""

    step: int
    """Iteration whose rollout showed it; no update was made from it."""
    kl: float
    """KL per sequence in nats."""
    checkpoint: Path | None
    """The last good checkpoint, which the policy was set back to; None when there was none."""


def good_checkpoint(folder: str | Path, before: int) -> Path | None:
    """The newest complete checkpoint before a step; a rollout that went wrong speaks against its own step's."""
    good = [path for path in complete_checkpoints(folder) if step_of(path) < before]
    return good[-1] if good else None


def no_number(fault: str, folder: str | Path, before: int) -> RunError:
    """The error that ends a run whose figures are no numbers any more.

    Args:
        fault: what became what, and when.
        folder: of the checkpoints.
        before: the first step whose checkpoint cannot be trusted.
    """
    good = good_checkpoint(folder, before)
    kept = f"the last good checkpoint is {good}" if good else "no good checkpoint was saved yet"
    return RunError(
        f"{fault}, wanted a finite number; {kept}: try a lower learning rate, a higher kl_coef or reward_clip"
    )
