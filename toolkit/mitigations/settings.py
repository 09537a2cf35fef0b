"""Settings of the harm mitigations, as the `mitigations:` section of a recipe writes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..settings.reading import setting


def missing_file(name: str, value: str | None) -> list[str]:
    """The fault of a setting that names a file which is not there."""
    if value is None or Path(value).expanduser().is_file():
        return []
    return [f"{name}: got {value!r}, wanted a file that exists (relative to {Path.cwd()})"]


StageName = Literal["sft", "reward", "ppo"]


@dataclass(frozen=True, kw_only=True)
class ProtectSettings:
    """Null-space projection of updates: training leaves what the model does on protected texts as it is."""

    strength: float = setting(0.0, low=0, high=1)
    """Share of the protected part that is taken out of every optimiser step; 0 is off, 1 protects fully."""
    method: Literal["gpm", "nscl", "ogd"] = "gpm"
    """What is protected: by `gpm` the directions that hold a share of the energy of each layer's inputs, by `nscl` all
    but the weakest directions, by `ogd` the gradients of the outputs (first order only; memory: texts x parameters)."""
    energy: float = setting(0.999, above=0, high=1)
    """gpm: share of the energy of the inputs that is protected; 1 protects every direction that they have."""
    ratio: float = setting(10.0, low=1)
    """nscl: free are directions whose eigenvalue is at most this many times the smallest."""
    texts: str | None = None
    """File of rows with `text` to protect; null takes the run's filtered corpus."""
    limit: int = setting(200, low=1, unit="texts")
    """Texts that are read, the first ones."""
    stages: tuple[StageName, ...] = ("sft",)
    """Trainings that it applies to."""

    def faults(self) -> list[str]:
        """Stages named twice or none at all, and a file that is not there."""
        found = []
        if not self.stages or len(set(self.stages)) < len(self.stages):
            found.append(f"stages: got {list(self.stages)}, wanted some of sft, reward, ppo, each once")
        return found + missing_file("texts", self.texts)


@dataclass(frozen=True, kw_only=True)
class MitigationSettings:
    """Harm mitigations, all off by default: with strength zero a run is the untreated one, bit for bit."""

    protect: ProtectSettings = ProtectSettings()
    """Null-space projection of updates."""

    def files(self) -> list[Path]:
        """The files that the settings name."""
        return [Path(self.protect.texts).expanduser()] if self.protect.texts else []


OFF = MitigationSettings()
