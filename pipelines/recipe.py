"""A recipe is the settings of a whole run: which stages, on which data and base model, and each stage's own."""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..toolkit.errors import SettingsError
from ..toolkit.mitigations.settings import MitigationSettings
from ..toolkit.settings.base import TINY, BaseSettings
from ..toolkit.settings.reading import read_settings, setting
from .examination import EvalSettings
from .filter_settings import FilterSettings
from .mitigations import ComparisonSettings
from .mixture import MixtureSettings
from .ppo import PpoSettings
from .retrain import RetrainSettings
from .reward import RewardSettings
from .reward_losses import LossesSettings
from .sets import DataSettings
from .sft import Selection, SftSettings
from .sweep import SweepSettings

StageName = Literal["filter", "retrain", "mixture", "losses", "sft", "reward", "sweep", "ppo", "eval", "mitigations"]
NEEDS: Mapping[str, tuple[str, ...]] = {
    "filter": (),
    "retrain": ("filter",),
    "mixture": (),
    "losses": ("filter",),
    "sft": ("filter",),
    "reward": ("filter",),
    "sweep": ("filter", "sft", "reward"),
    "ppo": ("filter", "sft", "reward"),
    "eval": ("filter",),
    "mitigations": (),
}
BUNDLED = Path(__file__).parent / "recipes"
DEFAULT = "embedded"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a run."""

    name: str = "run"
    """Name of the run: its folder is runs/NAME unless --out says otherwise."""
    seed: int = setting(0, low=0)
    """Decides everything that is drawn."""
    stages: tuple[StageName, ...] = ("filter", "sft", "reward", "ppo", "eval")
    """Stages to run, in order."""
    base: BaseSettings = BaseSettings()
    """The base model."""
    data: DataSettings = DataSettings()
    """Where the rows come from."""
    filter: FilterSettings = FilterSettings()
    """Which documents and demonstrations are dropped."""
    retrain: RetrainSettings = RetrainSettings()
    """Base models trained on what the filters kept; runs only where `stages` names it."""
    mixture: MixtureSettings = MixtureSettings()
    """Instruction tuning on a mixture of tasks; runs only where `stages` names it."""
    losses: LossesSettings = LossesSettings()
    """Reward models by each loss on the same rankings; runs only where `stages` names it."""
    sft: SftSettings = SftSettings()
    """Supervised fine-tuning."""
    reward: RewardSettings = RewardSettings()
    """The reward model."""
    ppo: PpoSettings = PpoSettings()
    """Reinforcement learning."""
    sweep: SweepSettings = SweepSettings()
    """Reinforcement learning with several coefficients; runs only where `stages` names it."""
    mitigations: MitigationSettings = MitigationSettings()
    """Harm mitigations of the trainings above; all off unless given a strength."""
    comparison: ComparisonSettings = ComparisonSettings()
    """Mitigations held against each other; runs only where `stages` names `mitigations`."""
    eval: EvalSettings = EvalSettings()
    """What is measured."""

    def faults(self) -> list[str]:
        """Stages out of order, and a tiny base without text to train it on."""
        found = []
        if not self.name.strip() or Path(self.name).name != self.name:
            found.append(f"name: got {self.name!r}, wanted a word that can name a folder")
        if not self.stages:
            found.append("stages: got none, wanted at least one of " + ", ".join(NEEDS))
        for index, name in enumerate(self.stages):
            lacking = [needed for needed in NEEDS[name] if needed not in self.stages[:index]]
            if lacking:
                found.append(f"stages: {name!r} needs {', '.join(lacking)} before it; got {list(self.stages)}")
        if len(set(self.stages)) < len(self.stages):
            found.append(f"stages: got {list(self.stages)}, wanted each stage once")
        if self.mitigations.control.strength and not self.base.control_tokens:
            found.append("base.control_tokens: got false, wanted true: mitigations.control trains these tokens")
        if "retrain" in self.stages and self.base.model != TINY:
            found.append(f"stages: 'retrain' trains tiny bases, so it needs base.model=tiny; got {self.base.model!r}")
        if "mitigations" in self.stages and (self.base.model != TINY or self.data.source != "world"):
            found.append(
                "stages: 'mitigations' compares on the embedded world: it needs base.model=tiny, data.source=world"
            )
        chosen_by = self.checkpoint_by()
        validates = self.data.source == "world" or self.data.demonstrations_held_out or self.data.validation_share
        if chosen_by != "last" and not validates:
            found.append(
                f"data.validation_share: got 0, wanted a part of the demonstrations to choose SFT's checkpoint on, by "
                f"{chosen_by} (0.05, say, or data.demonstrations_held_out=FILE); or sft.select=last"
            )
        has_text = self.base.corpus or self.data.source != "files" or self.data.corpus
        if self.base.model == TINY and not has_text:
            found.append(
                "base.model: got 'tiny' and no text to train it on, wanted a model (base.model=ID or FOLDER) or text "
                "(data.corpus=FILE or base.corpus=FILE)"
            )
        return found

    def checkpoint_by(self) -> Selection:
        """What decides on SFT's checkpoint, where SFT is a stage."""
        if "sft" not in self.stages:
            return "last"
        has_reward = self.sft.reward or "reward" in self.stages[: self.stages.index("sft")]
        return self.sft.select or ("reward" if has_reward else "last")


def bundled_recipes() -> dict[str, Path]:
    """Name and file of every recipe that comes with tunewell."""
    return {str(path.relative_to(BUNDLED).with_suffix("")): path for path in sorted(BUNDLED.rglob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a recipe given as a path or as the name of a bundled one.

    Raises:
        SettingsError: neither; lists the bundled ones and the nearest name.
    """
    bundled = bundled_recipes()
    if name in bundled:
        return bundled[name]
    if Path(name).is_file():
        return Path(name)
    near = difflib.get_close_matches(name, bundled, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    fault = f"got {name!r}, wanted a YAML file or the name of a bundled recipe ({', '.join(bundled)}).{meant}"
    raise SettingsError([fault], "the command line")


def read_recipe(path: Path, overrides: Sequence[str] = (), last: str | None = None) -> Recipe:
    """Read a recipe with overrides of the form `section.key=value`.

    Args:
        path: of the YAML.
        overrides: win over it.
        last: the stage that the run ends with; None runs all. Files that only later stages read may be missing.

    Raises:
        SettingsError: all its faults.
    """

    def lacking(recipe: Recipe) -> list[str]:
        stages = recipe.stages
        ends = stages.index(last) + 1 if last in stages else len(stages)
        return [f"data.{fault}" for fault in recipe.data.lacking(stages[:ends], NEEDS, last)]

    return read_settings(Recipe, path, overrides, [lacking])


def recipe_text(path: Path) -> str:
    """The YAML of a recipe as it was written, comments included."""
    return path.read_text(encoding="utf-8")


def first_sentence(text: str) -> str:
    """What a recipe is for: the first sentence of the comment that it opens with; empty without one."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    comment = " ".join(line.lstrip("# ") for line in lines)
    sentence, stop, _ = comment.partition(". ")
    return sentence + stop.strip()
