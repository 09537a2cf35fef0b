"""The task `squad`: short answers to questions about passages, the alignment tax of reading."""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ..toolkit.errors import SettingsError
from ..toolkit.settings.reading import setting
from .task import Ask, Label, Progress, Task, TaskResult


@dataclass(frozen=True, kw_only=True)
class SquadTask(Task):
    """Does the model still read (SQuAD v2, Rajpurkar et al. 2018)? `limit` draws by the seed."""

    labels: ClassVar = {
        "f1": Label("SQuAD v2 F1", note="Words shared with the nearest reference; of unanswerable ones, the declined."),
        "exact_match": Label("Exact match"),
        "f1_answerable": Label("F1, answerable questions"),
        "exact_match_answerable": Label("Exact match, answerable questions"),
        "declined_unanswerable": Label("Unanswerable questions declined", note="F1 and exact match of that part."),
        "declined_answerable": Label("Answerable questions declined"),
        "empty_rate": Label("Empty answers", note="Wrong everywhere; to decline takes words."),
        "mean_words": Label("Length of an answer", "words"),
    }

    data: str
    """SQuAD v2's JSON file, rows of `id`, `context`, `question`, `answers` (JSONL, Parquet, a folder), or an id of the
    hub such as `rajpurkar/squad_v2`."""
    split: str = "validation"
    """Part of a data set of the hub or a folder; files have none."""
    preset: str = "none"
    """How a question is put: `none`, `shots`, `chat`, or a template with `{passage}` and `{question}`."""
    no_answer: str = "Not in background."
    """What the model is told to say where the passage holds no answer."""
    max_new_tokens: int = setting(50, low=1, unit="tokens")
    """Longest answer; it ends at a line break too."""
    batch_size: int = setting(32, low=1, unit="answers")
    """Per forward pass."""
    force: bool = False
    """Take the figures though more than 1 % of the questions do not fit the model's window."""

    def faults(self) -> list[str]:
        """A phrase or a preset that cannot be used."""
        from .short_answers import normalised
        from .squad_prompts import check_preset

        found = [] if normalised(self.no_answer) else [f"no_answer: got {self.no_answer!r}, wanted words"]
        try:
            check_preset(self.preset)
        except SettingsError as error:
            found += error.faults
        return found

    def files(self) -> list[Path]:
        """The data, if they are a file."""
        path = Path(self.data).expanduser()
        return [path] if path.exists() else []

    def prepare(self) -> Ask:
        """Read the questions and draw `limit` of them."""
        from .squad_rows import read_squad

        questions = read_squad(self.data, split=self.split)
        n_read = len(questions.questions)
        if self.limit is not None and self.limit < n_read:  # the file goes article by article: its head is one subject
            rows = sorted(random.Random(self.seed).sample(range(n_read), self.limit))
            questions = replace(questions, questions=tuple(questions.questions[row] for row in rows))

        def ask(
            model: Any, tokenizer: Any, *, progress: Progress | None = None, kept: Path | None = None
        ) -> TaskResult:
            from .squad import squad

            return squad(
                model,
                tokenizer,
                questions,
                preset=self.preset,
                no_answer=self.no_answer,
                max_new_tokens=self.max_new_tokens,
                n_read=n_read,
                seed=self.seed,
                resamples=self.resamples,
                batch_size=self.batch_size,
                force=self.force,
                kept=kept,
                progress=progress,
            )

        return ask
