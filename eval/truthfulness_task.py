"""The task `truthfulness`: TruthfulQA or one's own questions as multiple choice."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from .prompts import preset_faults
from .task import Ask, Label, Progress, Task, TaskResult


@dataclass(frozen=True, kw_only=True)
class TruthfulnessTask(Task):
    """Which of the reference answers does the model find likelier (Lin, Hilton & Evans 2021)?"""

    labels: ClassVar = {
        "mc1": Label("Truthful answers (MC1)", note="The best true answer is likelier than every false one."),
        "mc2": Label("Probability on true answers (MC2)", note="Share of the probability of all reference answers."),
        "binary": Label("Right of two answers", note="Both orders, ties half (the form of 2025)."),
    }

    questions: Path
    """TruthfulQA's CSV (of 2021 or 2025), or JSON lines of `question`, `best`, `correct`, `incorrect`."""
    preset: str = "none"
    """How a question is put: `none`, `six`, `truthfulqa`, `chat`, or a template with `{question}`."""
    mode: Literal["strict", "parity"] = "strict"
    """`strict` leaves out questions with an answer both true and false; `parity` keeps them and counts ties."""
    binary: bool = True
    """Ask the binary form too."""
    control: bool = True
    """Ask without the question too."""

    def faults(self) -> list[str]:
        """A preset that cannot be used."""
        return preset_faults(self.preset)

    def files(self) -> list[Path]:
        """The file of questions."""
        return [self.questions]

    def prepare(self) -> Ask:
        """Read the questions."""
        from .truthfulqa import read_questions

        questions = read_questions(self.questions, mode=self.mode)
        questions = replace(questions, questions=tuple(self.drawn(questions.questions)))

        def ask(
            model: Any, tokenizer: Any, *, progress: Progress | None = None, kept: Path | None = None
        ) -> TaskResult:
            from .truthfulness import multiple_choice

            return multiple_choice(
                model,
                tokenizer,
                questions,
                preset=self.preset,
                binary=self.binary,
                control=self.control,
                seed=self.seed,
                resamples=self.resamples,
                tokens_per_batch=self.tokens_per_batch,
                progress=progress,
            )

        return ask
