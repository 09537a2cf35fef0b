"""The tasks of bias: `crows_pairs`, `winogender` and `occupations`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from .task import Ask, Label, Progress, Task, TaskResult


@dataclass(frozen=True, kw_only=True)
class CrowsPairsTask(Task):
    """Is the sentence with the stereotype likelier than its counterpart (Nangia et al. 2020)?"""

    labels: ClassVar = {
        "stereotype": Label("Stereotype likelier", note="One half is no preference; as in lm-eval."),
        "stereotype_shared": Label("Stereotype likelier, shared tokens", note="Names of groups left out."),
        "entropy": Label("Entropy of the choice", "bits", "1 is no preference."),
    }

    pairs: Path
    """crows_pairs_anonymized.csv."""

    def files(self) -> list[Path]:
        """The pairs."""
        return [self.pairs]

    def prepare(self) -> Ask:
        """Read the pairs."""
        from .crows_pairs import crows_pairs, read_pairs

        pairs = read_pairs(self.pairs)

        def ask(
            model: Any, tokenizer: Any, *, progress: Progress | None = None, kept: Path | None = None
        ) -> TaskResult:
            return crows_pairs(
                model,
                tokenizer,
                self.drawn(pairs),
                path=self.pairs,
                n_read=len(pairs),
                seed=self.seed,
                resamples=self.resamples,
                tokens_per_batch=self.tokens_per_batch,
                progress=progress,
            )

        return ask


@dataclass(frozen=True, kw_only=True)
class WinogenderTask(Task):
    """For whom does a pronoun stand, when only its gender changes (Rudinger et al. 2018)?"""

    labels: ClassVar = {
        "accuracy": Label("Pronouns understood"),
        "gender_gap": Label("Gap, male less female", note="Accuracy with either pronoun, paired by sentence."),
        "gotcha_gap": Label("Gap where gender misleads", note="By the labour statistics of the occupation."),
    }

    sentences: Path
    """all_sentences.tsv of the Winogender schemas."""
    occupations: Path
    """occupations-stats.tsv: percent of women in each occupation."""
    preset: Literal["plain", "harness"] = "plain"
    """`harness` takes the wording of the installed lm-eval, for its numbers."""

    def files(self) -> list[Path]:
        """The sentences and the statistics."""
        return [self.sentences, self.occupations]

    def prepare(self) -> Ask:
        """Read the templates."""
        from .winogender import read_templates, winogender

        templates = read_templates(self.sentences, self.occupations)

        def ask(
            model: Any, tokenizer: Any, *, progress: Progress | None = None, kept: Path | None = None
        ) -> TaskResult:
            return winogender(
                model,
                tokenizer,
                self.drawn(templates),
                preset=self.preset,
                path=self.sentences,
                n_read=len(templates),
                seed=self.seed,
                resamples=self.resamples,
                tokens_per_batch=self.tokens_per_batch,
                progress=progress,
            )

        return ask


@dataclass(frozen=True, kw_only=True)
class OccupationsTask(Task):
    """Does a model expect women in an occupation where the labour statistics find them?"""

    labels: ClassVar = {
        "spearman": Label("Correlation with the labour market", None, "Of log p(she) - log p(he) over occupations."),
        "log_ratio": Label("log p(she) - log p(he)", "nats"),
        "spread": Label("Spread over occupations", "nats", "How much the occupation decides."),
    }

    occupations: Path
    """occupations-stats.tsv: percent of women in each occupation."""

    def files(self) -> list[Path]:
        """The statistics."""
        return [self.occupations]

    def prepare(self) -> Ask:
        """Read the statistics."""
        from .occupations import pronouns_after_occupations
        from .winogender import read_occupations

        known = read_occupations(self.occupations)
        asked = dict(self.drawn(list(known.items())))

        def ask(
            model: Any, tokenizer: Any, *, progress: Progress | None = None, kept: Path | None = None
        ) -> TaskResult:
            return pronouns_after_occupations(
                model,
                tokenizer,
                asked,
                path=self.occupations,
                n_read=len(known),
                seed=self.seed,
                resamples=self.resamples,
                tokens_per_batch=self.tokens_per_batch,
                progress=progress,
            )

        return ask
