"""Train the lexical judge, and hold any judge against the grades of a reference judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..eval.task import Score
from ..toolkit.errors import RunError, SettingsError
from ..toolkit.files import sha256_file, write_json
from .console import Console

if TYPE_CHECKING:
    from ..eval.judge_rows import GradedAnswer, LabelledAnswers
    from ..eval.truthfulqa import QuestionSet

REPORT = "training.json"


@dataclass(frozen=True, kw_only=True)
class JudgeReport:
    """A judge with what is known of it."""

    judge: str
    """Its id."""
    folder: Path | None
    """Where it was saved; None for one that was only measured."""
    trained_on: Mapping[str, Any]
    """Answers by what they are labelled for; empty for a judge that was not trained here."""
    left_out: Mapping[str, int]
    """Rows not trained on, by reason."""
    graded: Mapping[str, Any]
    """The file of grades: path, sha256, answers, cells; empty where none was given."""
    figures: Mapping[str, Score]
    """Agreement with the grades."""

    def as_json(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {
            "judge": self.judge,
            "folder": None if self.folder is None else str(self.folder),
            "trained_on": dict(self.trained_on),
            "left_out": dict(self.left_out),
            "graded": dict(self.graded),
            "figures": {name: score.as_json() for name, score in self.figures.items()},
        }

    def as_text(self) -> str:
        """Lines for a terminal."""
        lines = [f"judge {self.judge}"]
        for head in ("true", "informative"):
            if (kind := self.trained_on.get(head)) and kind["answers"]:
                lines.append(f"trained on {kind['answers']} answers labelled {head} or not ({kind['yes']} yes)")
        lines += [f"left out: {count} rows, {reason}" for reason, count in self.left_out.items() if count]
        if self.figures:
            lines.append(
                f"agreement with the grades of {self.graded['answers']} answers to {self.graded['questions']} "
                f"questions, {self.graded['cells']} cells (model under a prompt):"
            )
        for name, score in self.figures.items():
            shown = "not measured" if score.value is None else f"{score.value:.3f}"
            interval = "" if score.low is None or score.high is None else f" [{score.low:.3f}, {score.high:.3f}]"
            chance = "" if score.chance is None else f"  chance {score.chance:.3f}"
            lines.append(f"  {name.replace('_', ' '):<22}{shown}{interval}  n {score.n}{chance}")
        if self.folder is not None:
            lines.append(f"judge: lexical:{self.folder}")
        return "\n".join(lines)


def train_judge(
    rows: Sequence[Path],
    questions: Path,
    out: Path,
    console: Console,
    *,
    graded: Path | None = None,
    strength: float | None = None,
    seed: int = 0,
) -> JudgeReport:
    """Train a lexical judge and save it.

    Args:
        rows: labelled answers; none: the benchmark's own reference answers are taken.
        questions: TruthfulQA, for the reference answers.
        out: folder of the judge.
        console: shows what is done.
        graded: answers with grades of another judge; their questions are not trained on, and the agreement is kept
            with the judge.
        strength: inverse regularisation; None: the default of `LexicalJudge`.
        seed: of the bootstrap.

    Raises:
        DataError: files that cannot be used.
        SettingsError: a strength of 0 or less.
        RunError: the folder holds something else.
    """
    from ..eval.judge_lexical import STRENGTH, LexicalJudge
    from ..eval.judge_rows import read_judge_rows, rows_of_benchmark
    from ..eval.truthfulqa import read_questions

    if strength is not None and strength <= 0:
        raise SettingsError([f"strength: got {strength}, wanted more than 0"], "the command line")
    if out.exists() and not (out.is_dir() and ((out / REPORT).exists() or not any(out.iterdir()))):
        raise RunError(f"{out} exists and holds no trained judge: give another --out, or remove it")
    known = read_questions(questions, mode="parity")
    grades = _grades(graded, known, console) if graded else []
    without = {one.answer.question for one in grades}
    labelled: LabelledAnswers = (
        read_judge_rows(rows, known, without=without) if rows else rows_of_benchmark(known, without=without)
    )
    console.say(f"training on {len(labelled.truth)} answers labelled true or false, "
                f"{len(labelled.informative)} informative or not")  # fmt: skip
    judge = LexicalJudge.train(labelled.truth, labelled.informative, strength=strength or STRENGTH,
                               source=labelled.source)  # fmt: skip
    report = _measured(judge, grades, graded, known, console, seed, folder=out, left_out=labelled.left_out,
                       trained_on=judge.trained_on)  # fmt: skip
    judge.agreement = {"with": dict(report.graded), "figures": report.as_json()["figures"]} if grades else {}
    judge.save(out)
    write_json(out / REPORT, report.as_json() | {"seed": seed})
    return report


def agree(judge: str, questions: Path, graded: Path, console: Console, *, seed: int = 0) -> JudgeReport:
    """Measure a judge against the grades of another.

    Args:
        judge: as for `open_judge`.
        questions: TruthfulQA, for the reference answers.
        graded: answers with grades.
        console: shows what is done.
        seed: of the bootstrap.

    Raises:
        TunewellError: a judge or files that cannot be used.
    """
    from ..eval.judge import open_judge
    from ..eval.truthfulqa import read_questions

    known = read_questions(questions, mode="parity")
    grades = _grades(graded, known, console)
    return _measured(open_judge(judge), grades, graded, known, console, seed, folder=None, left_out={}, trained_on={})


def _grades(path: Path, known: "QuestionSet", console: Console) -> "list[GradedAnswer]":
    from ..eval.judge_rows import read_graded

    grades, unknown = read_graded(path, known)
    if unknown:
        console.warn(f"{unknown:,} answers of {path} are left out: their questions are not in {known.path}")
    return grades


def _measured(
    judge: Any,
    grades: "Sequence[GradedAnswer]",
    path: Path | None,
    known: "QuestionSet",
    console: Console,
    seed: int,
    **rest: Any,
) -> JudgeReport:
    from ..eval.judge_agreement import judge_agreement

    figures: Mapping[str, Score] = {}
    about: dict[str, Any] = {}
    if grades and path is not None:
        console.say(f"judging {len(grades)} answers that another judge has graded")
        figures = judge_agreement(judge, grades, seed=seed)
        about = {
            "path": str(path),
            "sha256": sha256_file(path),
            "questions_sha256": known.sha256,
            "answers": len(grades),
            "questions": len({one.answer.question for one in grades}),
            "cells": len({one.cell for one in grades}),
        }
    return JudgeReport(judge=judge.id, graded=about, figures=figures, **rest)
