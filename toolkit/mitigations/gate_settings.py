"""When the gate lets text pass, and the room in the window that it needs for it."""

from dataclasses import dataclass

from ..errors import SettingsError
from ..model.choosing import Sampling


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """When text passes; thresholds are probabilities of `<|unsafe|>` against `<|safe|>`, from `calibrate_gate`."""

    low: float = 0.5
    """Below this it passes."""
    high: float = 0.9
    """From here on it is filtered at once; between the two the model thinks again. 1 never is."""
    release: float = 0.5
    """After a thought it passes below this."""
    temperature: float = 1.0
    """Divides the difference of the two logits."""
    every: int = 16
    """Tokens between two verdicts, the first one before the first token."""
    think_tokens: int = 64
    """Longest thought."""
    thoughts: int = 1
    """Thoughts per text; a further alarm filters."""
    refusal: str = "I would rather not say that."
    """What is returned in place of filtered text."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, all at once."""
        faults = [
            f"{name}: got {getattr(self, name)}, wanted 0 to 1"
            for name in ("low", "high", "release")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.low > self.high:
            faults.append(f"low: got {self.low}, wanted at most high ({self.high})")
        if self.temperature <= 0:
            faults.append(f"temperature: got {self.temperature}, wanted more than 0")
        if self.every < 1 or self.think_tokens < 1 or self.thoughts < 0:
            faults.append("every, think_tokens: wanted at least 1; thoughts: wanted 0 or more")
        if faults:
            raise SettingsError(faults, "the gate")


def room_needed(sampling: Sampling, gate: GateSettings) -> int:
    """Tokens of the window that a prompt must leave free.

    An answer may be written once more after each thought, behind what was kept of it.
    """
    return (gate.thoughts + 1) * (sampling.max_new_tokens + 2) + gate.thoughts * (gate.think_tokens + 2)
