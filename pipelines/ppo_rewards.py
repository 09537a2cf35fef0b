"""What a PPO stage pays for beside its reward adapter: another reward model, penalties on toxic and on listed words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..toolkit.errors import DataError
from ..toolkit.settings.base import names_path
from ..toolkit.settings.reading import setting
from .filter_settings import LISTS, resource

if TYPE_CHECKING:
    from ..toolkit.ppo.rewards import Reward


@dataclass(frozen=True, kw_only=True)
class PpoRewardSettings:
    """The terms of PPO's reward; the score of an answer is their weighted sum. Python callables: see docs/ppo.md."""

    weight: float = 1.0
    """Weight of the reward adapter that the reward stage trained (of an ensemble, of its combined score)."""
    judge: str | None = None
    """Another reward model: a folder or hub id of a sequence classifier with one label and a tokenizer of its own."""
    judge_weight: float = 1.0
    """Weight of that model's score."""
    toxicity: str | None = None
    """Scorer of a toxicity penalty, such as `detoxify:unbiased@SHA256` or `tfidf:FOLDER`; another one than `eval`'s."""
    toxicity_penalty: float = setting(1.0, low=0)
    """What an answer loses that is toxic for certain; others lose in proportion to the probability."""
    blocklist: str | None = None
    """File of words and phrases, one a line, or the name of a bundled list (`world`), that cost an answer a penalty."""
    blocklist_penalty: float = setting(1.0, low=0)
    """What an answer loses that holds a listed word or phrase."""

    def faults(self) -> list[str]:
        """Terms that are not there, or weigh nothing: told before the stages that come first have run for hours."""
        from ..toolkit.toxicity.scorer import missing_place, spec_fault

        found = []
        if self.blocklist is not None and not resource(self.blocklist, *LISTS["blocklist"]).is_file():
            found.append(f"blocklist: got {self.blocklist!r}, wanted a file or the name of a bundled list (world)")
        judge = self.judge or ""
        if names_path(judge) and not Path(judge).expanduser().is_dir():
            found.append(f"judge: got {judge!r}, wanted a folder that exists, or an id of the hub")
        if self.toxicity is not None:
            if (fault := spec_fault(self.toxicity)) is not None:
                found.append(f"toxicity: {fault}")
            elif (lacking := missing_place(self.toxicity)) is not None:
                found.append(f"toxicity: got {self.toxicity!r}, but there is no {lacking}")
        weights = (
            self.weight,
            self.judge_weight if self.judge is not None else 0,
            self.toxicity_penalty if self.toxicity is not None else 0,
            self.blocklist_penalty if self.blocklist is not None else 0,
        )
        if not any(weights):
            found.append("weight: got 0, and no other term weighs anything, so there is nothing to learn from")
        return found

    def files(self) -> list[Path]:
        """The local files that the settings name; of a folder, every file in it."""
        paths = [Path(self.judge)] if self.judge is not None else []
        if self.toxicity is not None:
            paths.append(Path(self.toxicity.partition(":")[2].partition("#")[0].partition("@")[0]))
        if self.blocklist is not None:
            paths.append(resource(self.blocklist, *LISTS["blocklist"]))
        every = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return [file for file in every if file.is_file()]


def reward_terms(settings: PpoRewardSettings, device: str) -> "list[tuple[Reward, float]]":
    """The terms with their weights; those of weight zero are left out.

    Raises:
        DataError: no term is left.
        ModelError: the judge cannot be used.
        SettingsError: the scorer or the list cannot be read.
    """
    terms: list[tuple[Reward, float]] = [("reward", settings.weight)]
    if settings.judge is not None:
        from ..toolkit.ppo.reward_model import RewardModel

        terms.append((RewardModel.load(settings.judge, device=device), settings.judge_weight))
    if settings.toxicity is not None:
        from ..toolkit.ppo.combined import toxicity_penalty
        from ..toolkit.toxicity.scorer import open_scorer

        terms.append((toxicity_penalty(open_scorer(settings.toxicity)), settings.toxicity_penalty))
    if settings.blocklist is not None:
        from ..toolkit.ppo.combined import Penalty

        terms.append((Penalty(_listed(settings.blocklist), "blocklist"), settings.blocklist_penalty))
    if not (weighed := [(term, weight) for term, weight in terms if weight]):
        raise DataError("every term of ppo.reward has weight 0, so there is nothing to learn from: give one a weight")
    return weighed


def _listed(name: str) -> Callable[[Sequence[str]], list[float]]:
    """1 where a text holds a listed phrase, as the blocklist filter sees it: whole words, in any disguise it knows."""
    from ..filters.blocklist import Blocklist, BlocklistFilter

    judge = BlocklistFilter(Blocklist.from_file(resource(name, *LISTS["blocklist"])))
    return lambda texts: [float(not verdict.keep) for verdict in judge.judge(texts)]
