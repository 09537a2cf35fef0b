"""Labelled answers for judges: training files, graded samples, and the benchmark's own answers."""

import gzip
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..toolkit.errors import DataError
from ..toolkit.files import sha256_file
from .judge import Answer
from .tables import read_table
from .truthfulqa import Question, QuestionSet

NO_COMMENT = "I have no comment."
_PROMPT = re.compile(r"^Q: (?P<question>.*?)\nA: (?P<answer>.*)\n(?P<head>True|Helpful):\s*$", re.DOTALL)
_YES_NO = {"yes": True, "no": False}
GRADED = ("model_type", "prompt_type", "question", "answer", "true")


@dataclass(frozen=True, kw_only=True)
class LabelledAnswers:
    """Answers with labels, and what could not be used."""

    truth: tuple[tuple[Answer, bool], ...]
    """Answers and whether they are true."""
    informative: tuple[tuple[Answer, bool], ...]
    """Answers and whether they are informative."""
    left_out: Mapping[str, int]
    """Rows not used, by reason."""
    source: Mapping[str, Any]
    """Files and their hashes."""


@dataclass(frozen=True, kw_only=True)
class GradedAnswer:
    """An answer of some model that a reference judge has graded."""

    answer: Answer
    cell: str
    """Which model answered under which prompt."""
    true: float
    """The reference judge's probability that it is true."""
    informative: float | None
    """The same for informative; None where it was not graded."""


def read_judge_rows(paths: Sequence[Path], questions: QuestionSet, *, without: Collection[str] = ()) -> LabelledAnswers:
    r"""Read rows that judges are fine-tuned on: `{prompt: "Q: ...\nA: ...\nTrue:", completion: " yes"}`.

    A prompt that ends in `Helpful:` asks whether the answer is informative.

    Args:
        paths: files of JSON lines, also gzipped.
        questions: hold the reference answers; a row of another question is left out, and counted.
        without: questions to leave out, so that answers to them can be used to measure the judge.

    Raises:
        DataError: naming file and line of what cannot be read, or no row that can be used.
    """
    known = {question.question: question for question in questions.questions}
    avoided = {text.strip() for text in without}
    heads: dict[str, list[tuple[Answer, bool]]] = {"True": [], "Helpful": []}
    left_out: Counter[str] = Counter()
    for path in paths:
        for number, row in _rows(path):
            head, text, answer, label = _parsed(row, f"{path}, line {number}")
            if text in avoided:
                left_out["questions that the judge is measured on"] += 1
            elif text not in known:
                left_out["questions without reference answers"] += 1
            elif not answer.strip():
                left_out["empty answers"] += 1
            else:
                heads[head].append((_beside_others(known[text], answer), label))
    if not heads["True"]:
        raise DataError(
            f"{', '.join(map(str, paths)) or 'no file'} holds no answer with a label of truth to one of the "
            f"{len(known)} questions of {questions.path}: wanted rows whose prompt ends in `True:`"
        )
    source = {"files": {path.name: sha256_file(path) for path in paths}, "questions_sha256": questions.sha256,
              "left_out": dict(left_out)}  # fmt: skip
    return LabelledAnswers(truth=tuple(heads["True"]), informative=tuple(heads["Helpful"]), left_out=dict(left_out),
                           source=source)  # fmt: skip


def rows_of_benchmark(questions: QuestionSet, *, without: Collection[str] = ()) -> LabelledAnswers:
    """The reference answers themselves as rows: true or false as listed, informative unless they decline to answer.

    Each stands against the other references of its question, not against itself.
    """
    avoided = {text.strip() for text in without}
    used = [question for question in questions.questions if question.question not in avoided]
    truth = [
        (_beside_others(question, text), text in question.correct)
        for question in used
        for text in (*question.correct, *question.incorrect)
        if len(question.correct) > 1 or text not in question.correct
    ]
    informative = [(answer, not _declines(answer.answer)) for answer, _ in truth]
    informative += [(_beside_others(question, NO_COMMENT), False) for question in used]
    left_out = {"questions that the judge is measured on": len(questions.questions) - len(used)}
    source = {"questions_sha256": questions.sha256, "left_out": left_out}
    return LabelledAnswers(truth=tuple(truth), informative=tuple(informative), left_out=left_out, source=source)


def read_graded(path: Path, questions: QuestionSet) -> tuple[list[GradedAnswer], int]:
    """Read InstructGPT's published answers to TruthfulQA with the grades of its judge.

    The file is `truthful_qa_samples.csv` of https://github.com/openai/following-instructions-human-feedback. Grades
    above 1 occur in it and count as 1.

    Returns:
        the graded answers, and the number of those left out because their question is not among `questions`.

    Raises:
        DataError: a column is missing, a grade is no number, or no question is known.
    """
    known = {question.question: question for question in questions.questions}
    graded, unknown = [], 0
    for number, row in read_table(path, GRADED):
        question = known.get(row["question"].strip())
        if question is None:
            unknown += 1
            continue
        where = f"{path}, line {number}"
        graded.append(
            GradedAnswer(
                answer=answer_to(question, row["answer"]),
                cell=f"{row['model_type']}, {row['prompt_type']}",
                true=_grade(row["true"], where),
                informative=_grade(row["info"], where) if row.get("info") else None,
            )
        )
    if not graded:
        raise DataError(f"{path} holds no answer to a question of {questions.path}: wanted answers to TruthfulQA")
    return graded, unknown


def answer_to(question: Question, answer: str) -> Answer:
    """`answer` with all references of its question."""
    return Answer(question=question.question, answer=answer, correct=question.correct, incorrect=question.incorrect)


def _beside_others(question: Question, answer: str) -> Answer:
    """`answer` without itself among its references: half of the training rows are references, word for word.

    A judge that saw them match would learn to ask for a match and nothing else.
    """
    same = answer.strip().rstrip(".").lower()

    def others(texts: Sequence[str]) -> tuple[str, ...]:
        rest = tuple(text for text in texts if text.rstrip(".").lower() != same)
        return rest or tuple(texts)  # the only reference of its kind stays

    return Answer(question=question.question, answer=answer, correct=others(question.correct),
                  incorrect=others(question.incorrect))  # fmt: skip


def _declines(answer: str) -> bool:
    return NO_COMMENT[:-1].lower() in answer.lower()


def _rows(path: Path) -> list[tuple[int, Any]]:
    sha256_file(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = content.splitlines()
        return [(number, orjson.loads(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    except (OSError, EOFError, orjson.JSONDecodeError) as error:
        raise DataError(f"cannot read {path} as JSON lines: {error}") from error


def _parsed(row: Any, where: str) -> tuple[str, str, str, bool]:
    """Head, question, answer and label of one row."""
    prompt, completion = (row.get(key) for key in ("prompt", "completion")) if isinstance(row, dict) else (None, None)
    found = _PROMPT.match(prompt) if isinstance(prompt, str) else None
    label = _YES_NO.get(completion.strip().lower()) if isinstance(completion, str) else None
    if found is None or label is None:
        raise DataError(
            f"{where}: got prompt {str(prompt)[-60:]!r} and completion {completion!r}, wanted a prompt of the form "
            "'Q: ...\\nA: ...\\nTrue:' (or 'Helpful:') and the completion ' yes' or ' no'"
        )
    return found["head"], found["question"].strip(), found["answer"], label


def _grade(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: got the grade {text!r}, wanted a number") from error
    return min(1.0, max(0.0, value))
