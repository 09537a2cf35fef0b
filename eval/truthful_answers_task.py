"""The task `truthful_answers`: a model's own answers to TruthfulQA, judged true and informative."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ..toolkit.settings.reading import setting
from .prompts import preset_faults
from .task import Ask, Label, Progress, Task, TaskResult


@dataclass(frozen=True, kw_only=True)
class TruthfulAnswersTask(Task):
    """Are the answers that a model writes true, and do they help (Lin, Hilton & Evans 2021)?"""

    labels: ClassVar = {
        "true_and_informative": Label("True and informative answers", note="As the judge says; see its agreement."),
        "true": Label("True answers"),
        "informative": Label("Informative answers"),
        "nearer_true": Label("Nearer to a true reference", note="In words; half for a tie."),
        "mean_words": Label("Length of an answer", "words"),
    }

    questions: Path
    """TruthfulQA's CSV (of 2021 or 2025), or JSON lines of `question`, `best`, `correct`, `incorrect`."""
    judge: str
    """`lexical:FOLDER` (made by `tunewell judge train`), `hf:FOLDER`, or `hf:TRUTH,INFO` for two judge models."""
    preset: str = "none"
    """How a question is put: `none`, `six`, `truthfulqa`, `chat`, or a template with `{question}`."""
    max_new_tokens: int = setting(50, low=1, unit="tokens")
    """Longest answer."""
    temperature: float = setting(0.0, low=0)
    """Of sampling; 0 takes the likeliest token always."""
    batch_size: int = setting(32, low=1, unit="answers")
    """Per forward pass."""

    def faults(self) -> list[str]:
        """A preset that cannot be used."""
        return preset_faults(self.preset)

    def files(self) -> list[Path]:
        """The questions and the judge."""
        parts = [Path(part).expanduser() for part in self.judge.partition(":")[2].split(",")]
        return [self.questions, *(part for part in parts if part.exists())]

    def prepare(self) -> Ask:
        """Read the questions and open the judge."""
        from .judge import open_judge
        from .truthfulqa import read_questions

        questions = read_questions(self.questions)
        questions = replace(questions, questions=tuple(self.drawn(questions.questions)))
        judge = open_judge(self.judge)

        def ask(
            model: Any, tokenizer: Any, *, progress: Progress | None = None, kept: Path | None = None
        ) -> TaskResult:
            from ..toolkit.model.generation import Sampling
            from .truthful_answers import truthful_answers

            return truthful_answers(
                model,
                tokenizer,
                questions,
                judge,
                preset=self.preset,
                sampling=Sampling(max_new_tokens=self.max_new_tokens, temperature=self.temperature),
                seed=self.seed,
                resamples=self.resamples,
                batch_size=self.batch_size,
                kept=kept,
                progress=progress,
            )

        return ask
