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
class UnlikelihoodSettings:
    """Make tokens of unwanted text less likely, beside the SFT loss (https://arxiv.org/abs/1908.04319)."""

    strength: float = setting(0.0, low=0)
    """Weight in the loss; 0 is off, the paper takes 1."""
    texts: str | None = None
    """File of rows with `prompt` and `completion` that should not be said; null takes the rejected sides of the run's
    comparisons."""
    tokens: Literal["distinct", "all"] = "distinct"
    """Which tokens of a rejected side count: those that the chosen side does not have, or all."""
    batch_size: int = setting(8, low=1, unit="texts per step")
    """Unwanted texts that are read beside each batch."""

    def faults(self) -> list[str]:
        """A file that is not there."""
        return missing_file("texts", self.texts)


@dataclass(frozen=True, kw_only=True)
class EqualiseSettings:
    """Gender-equalising loss: even odds of the words of a pair at neutral positions (Qian et al. 2019, P19-2031)."""

    strength: float = setting(0.0, low=0)
    """Weight in the loss; 0 is off, the paper's best lie near 0.5 to 1."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """Word-embedding regularisation, beside the SFT loss."""

    pair_distance: float = setting(0.0, low=0)
    """Weight of the mean distance of paired words (https://arxiv.org/abs/1910.10486); 0 is off."""
    bias_subspace: float = setting(0.0, low=0)
    """Weight of neutral words' squared size along the group axis (https://arxiv.org/abs/1904.03035); 0 is off."""
    neutral: str | None = None
    """bias_subspace: file of neutral words, one a line, such as occupations."""
    counterfactual_hidden: float = setting(0.0, low=0)
    """Weight of 1 - cosine between the states of a row and of its counterfactual (https://arxiv.org/abs/1911.03064)."""
    train_rows: bool = False
    """Train the embeddings of the listed words beside the LoRA adapter. The first two penalties need it: under LoRA
    embeddings are frozen. Where the output layer is tied to them it moves too."""

    def faults(self) -> list[str]:
        """A penalty without what it needs."""
        found = missing_file("neutral", self.neutral)
        if self.bias_subspace and self.neutral is None:
            found.append("neutral: got nothing, wanted a file of neutral words for bias_subspace")
        if self.train_rows and not (self.pair_distance or self.bias_subspace):
            found.append("train_rows: got true without pair_distance or bias_subspace, which it is for")
        return found


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Counterfactual data augmentation of demonstrations and comparisons; evaluation data are never touched."""

    share: float = setting(0.0, low=0, high=1)
    """Part of the rows that hold a listed word which get a counterfactual; 0 is off."""
    mode: Literal["two_sided", "substitute"] = "two_sided"
    """`two_sided` adds counterfactuals (CDA), `substitute` puts them in place of their rows (CDS, with share 0.5)."""
    stages: tuple[Literal["sft", "reward"], ...] = ("sft", "reward")
    """Trainings whose rows are augmented."""


@dataclass(frozen=True, kw_only=True)
class EraseSettings:
    """Erase a concept from what the output layer reads: while SFT and PPO are evaluated, and in `tunewell chat`.

    No training. Needs the stage eval, which fits an eraser for each model and keeps it.
    """

    strength: float = setting(0.0, low=0, high=1)
    """Share of the concept that is taken out; 0 is off."""
    method: Literal["leace", "inlp", "a-inlp"] = "leace"
    """`leace` changes least (https://arxiv.org/abs/2306.03819), `inlp` removes many more directions
    (https://arxiv.org/abs/2004.07667); `a-inlp` erases the differences of the word pairs, and only where the next words
    lean to one group (https://arxiv.org/abs/2106.13219)."""
    texts: str | None = None
    """File of rows with `text` and `label` (0 or 1), what is to be erased; null takes chosen and rejected sides of the
    run's comparisons. With a-inlp: neutral rows with `text`; null takes the run's clean held-out text."""
    limit: int = setting(500, low=10, unit="texts")
    """Texts that are read, the first ones."""

    def faults(self) -> list[str]:
        """A file that is not there."""
        return missing_file("texts", self.texts)


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """Safety control tokens: SFT also teaches the model to say of its own text whether it is safe.

    Needs base.control_tokens=true. The stage eval calibrates the gate that reads these verdicts, and measures it;
    `tunewell chat` answers behind it.
    """

    strength: float = setting(0.0, low=0)
    """Weight of the verdicts in the loss, beside that of the text; 0 is off, try 1 to 5."""
    texts: str | None = None
    """File of rows with `prompt`, `completion` and `is_unsafe` (or a `score` and the threshold below), perhaps with a
    `rationale` that the model learns to think; null takes both sides of the run's comparisons."""
    threshold: float = setting(0.5, low=0, high=1)
    """A row with a `score` of at least this is unsafe."""
    every: int = setting(16, low=1, unit="tokens")
    """Distance of two verdicts; give the gate the same."""
    unsafe: Literal["text", "refusal"] = "text"
    """What is learned behind <|unsafe|>: the text itself (conditional training) or the refusal."""
    refusal: str = " I would rather not say that."
    """The refusal."""
    held_out: str | None = None
    """File of rows as in `texts` that the gate is calibrated and checked on, half each; null takes the run's held-out
    comparisons. Never rows that were trained on."""
    most_false_alarms: float = setting(0.05, low=0, high=1)
    """The gate filters at once at most this share of safe texts (of those it is calibrated on)."""
    most_missed: float = setting(0.01, low=0, high=1)
    """It passes at once at most this share of unsafe texts; all between is thought over."""
    think_tokens: int = setting(64, low=1, unit="tokens")
    """Longest thought."""
    row_learning_rate: float | None = setting(None, above=0)
    """Learning rate of the tokens' own embeddings; null takes that of `sft.trainer`. The tokens start out alike: where
    verdicts stay near one half, raise it, ten times is no rarity."""
    dropped: float = setting(0.05, low=0, high=1)
    """Share of safe rows without a token, so that the model can still be used without it."""

    def faults(self) -> list[str]:
        """Files that are not there."""
        return missing_file("texts", self.texts) + missing_file("held_out", self.held_out)


@dataclass(frozen=True, kw_only=True)
class MitigationSettings:
    """Harm mitigations, all off by default: with strength zero a run is the untreated one, bit for bit."""

    pairs: str | None = None
    """File of word pairs, two words a line, for `equalise`, `embeddings`, `augment` and a-inlp; null takes the bundled
    list of gender, 64 pairs."""
    protect: ProtectSettings = ProtectSettings()
    """Null-space projection of updates."""
    unlikelihood: UnlikelihoodSettings = UnlikelihoodSettings()
    """Unlearning of unwanted text."""
    equalise: EqualiseSettings = EqualiseSettings()
    """Even odds of paired words."""
    embeddings: EmbeddingSettings = EmbeddingSettings()
    """Penalties on word embeddings and states."""
    augment: AugmentSettings = AugmentSettings()
    """Counterfactual rows."""
    control: ControlSettings = ControlSettings()
    """Safety control tokens."""
    erase: EraseSettings = EraseSettings()
    """Null-space projection of representations at decoding."""

    def faults(self) -> list[str]:
        """A missing file, and mitigations that exclude each other."""
        found = missing_file("pairs", self.pairs)
        if self.protect.strength == 1 and "sft" in self.protect.stages:
            wanted = "with protect.strength 1, which freezes what it would train; wanted one of the two, or a "
            wanted += "protect.strength below 1"
            if self.embeddings.train_rows:
                found.append(f"embeddings.train_rows: got true {wanted}")
            if self.control.strength:
                found.append(f"control.strength: got {self.control.strength:g} {wanted}")
        return found

    def files(self) -> list[Path]:
        """The files that the settings name."""
        named: list[str | None] = [self.pairs, self.protect.texts, self.unlikelihood.texts, self.embeddings.neutral]
        named += [self.erase.texts, self.control.texts, self.control.held_out]
        return [Path(name).expanduser() for name in named if name is not None]


OFF = MitigationSettings()
