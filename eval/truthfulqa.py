"""Questions with true and false reference answers, read from TruthfulQA's files or one's own."""

import csv
import gzip
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from ..toolkit.errors import DataError
from ..toolkit.files import sha256_file

COLUMNS = ("Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its reference answers."""

    question: str
    """The question as the model sees it."""
    best: str
    """The best true answer; also in `correct`."""
    correct: tuple[str, ...]
    """True answers, each once."""
    incorrect: tuple[str, ...]
    """False answers, each once."""
    best_incorrect: str
    """The false answer of the binary form; need not be in `incorrect`."""
    category: str = ""
    """Subject."""
    kind: str = ""
    """TruthfulQA: whether it was written against a model (Adversarial, Non-Adversarial)."""
    group: str = ""
    """Key of questions that belong together (variants of one); empty: it stands alone."""


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Questions with where they came from."""

    questions: tuple[Question, ...]
    """In the order of the file."""
    path: str | None = None
    """The file, if there was one."""
    sha256: str | None = None
    """Hash of the file."""
    mode: str = "strict"
    """strict or parity, see `read_truthfulqa`."""
    n_read: int = 0
    """Questions of the file, those left out included."""
    notes: tuple[str, ...] = ()
    """What was repaired or left out, in words for the report."""


def read_questions(path: Path, *, mode: str = "strict") -> QuestionSet:
    """Read a TruthfulQA CSV, or JSON lines of `{question, best, correct: [...], incorrect: [...]}` (also gzipped).

    Answers of JSON lines are taken as they stand, without a final period being added. `best_incorrect`, `category`
    and `group` are read where present.

    Args:
        path: the file; `.csv` is read as TruthfulQA.
        mode: see `read_truthfulqa`.

    Raises:
        DataError: naming file, line and column of what cannot be used.
    """
    if path.suffix == ".csv":
        return read_truthfulqa(path, mode=mode)
    rows = [(f"{path}, line {line}", row) for line, row in _json_lines(path)]
    return _question_set([_from_json(row, where) for where, row in rows], path, mode)


def read_truthfulqa(path: Path, *, mode: str = "strict") -> QuestionSet:
    """Read a TruthfulQA CSV, with or without byte order mark, with or without `Best Incorrect Answer`.

    Lists are split at semicolons, answers get a final period and are kept once each, and a best answer missing from
    the true ones is put there. Source: Lin, Hilton & Evans 2021, https://arxiv.org/abs/2109.07958; the binary form:
    Evans, Chua & Lin 2025, https://www.lesswrong.com/posts/Bunfwz6JsNd44kgLT.

    Args:
        path: the CSV file.
        mode: `strict` leaves out questions with an answer that is both true and false; `parity` keeps them, as other
            harnesses do.

    Raises:
        DataError: naming file, line and column of what cannot be used.
    """
    sha256_file(path)  # says what is wrong with a path that cannot be read
    try:
        # utf-8-sig: only one of the two published files begins with a byte order mark
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                has = ", ".join(reader.fieldnames or ["none"])
                raise DataError(
                    f"{path} lacks the columns {', '.join(missing)}; it has {has}: "
                    "give TruthfulQA.csv, or JSON lines with question, best, correct and incorrect"
                )
            rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}") from error
    return _question_set([_from_csv(row, where) for where, row in rows], path, mode)


def questions_from_rows(rows: Iterable[Mapping[str, Any]]) -> QuestionSet:
    """Take rows of `{question, best, correct, incorrect}` from memory, answers as they stand.

    Raises:
        DataError: naming the row that cannot be used.
    """
    return _question_set([_from_json(row, f"row {number}") for number, row in enumerate(rows)], None, "strict")


def split_answers(cell: str) -> list[str]:
    """The answers of one cell: between semicolons, trimmed, with a final period, empty ones left out."""
    return [with_period(answer) for answer in map(str.strip, cell.split(";")) if answer]


def with_period(answer: str) -> str:
    """`answer` with a final period."""
    answer = answer.strip()
    return answer if not answer or answer.endswith(".") else answer + "."


def word_f1(first: str, second: str) -> float:
    """F1 of the words that two texts share, case and punctuation aside."""
    a, b = (Counter("".join(c if c.isalnum() else " " for c in text.lower()).split()) for text in (first, second))
    shared = (a & b).total()
    return 2 * shared / (a.total() + b.total()) if shared else 0.0


def _from_csv(row: Mapping[str, str | None], where: str) -> Question:
    best = with_period(row.get("Best Answer") or "")
    return _checked(
        Question(
            question=(row.get("Question") or "").strip(),
            best=best,
            correct=tuple(split_answers(row.get("Correct Answers") or "")),
            incorrect=tuple(split_answers(row.get("Incorrect Answers") or "")),
            best_incorrect=with_period(row.get("Best Incorrect Answer") or ""),
            category=(row.get("Category") or "").strip(),
            kind=(row.get("Type") or "").strip(),
        ),
        where,
    )


def _from_json(row: Mapping[str, Any], where: str) -> Question:
    for name, kind in (("question", str), ("best", str), ("correct", list | tuple), ("incorrect", list | tuple)):
        if not isinstance(row.get(name), kind):
            wanted = "text" if kind is str else "a list of texts"
            raise DataError(f"{where}: {name!r} is {row.get(name)!r}, wanted {wanted}")
    if not all(isinstance(answer, str) for answer in (*row["correct"], *row["incorrect"])):
        raise DataError(f"{where}: the answers are not all text: {row['correct']!r}, {row['incorrect']!r}")
    return _checked(
        Question(
            question=row["question"].strip(),
            best=row["best"].strip(),
            correct=tuple(answer.strip() for answer in row["correct"] if answer.strip()),
            incorrect=tuple(answer.strip() for answer in row["incorrect"] if answer.strip()),
            best_incorrect=str(row.get("best_incorrect") or "").strip(),
            category=str(row.get("category") or ""),
            group=str(row.get("group") or ""),
        ),
        where,
    )


def _checked(question: Question, where: str) -> Question:
    faults = [name for name in ("question", "best", "incorrect") if not getattr(question, name)]
    if faults:
        raise DataError(
            f"{where}: {' and '.join(faults)} empty (question {question.question!r}); wanted a question, its best true "
            "answer and at least one false answer"
        )
    return question


def _question_set(read: Sequence[Question], path: Path | None, mode: str) -> QuestionSet:
    """Repair what can be repaired, and say so."""
    if mode not in ("strict", "parity"):
        raise DataError(f"mode: got {mode!r}, wanted 'strict' or 'parity'")
    if not read:
        raise DataError(f"{path or 'the list of questions'} holds no question, wanted at least one")
    questions, notes = [], []
    counts: Counter[str] = Counter()
    for question in read:
        question, repairs = _repaired(question)
        counts.update(repairs)
        both = sorted(set(question.correct) & set(question.incorrect))
        if both:
            fate = "left out (strict)" if mode == "strict" else "kept (parity)"
            notes.append(f"{fate}: {question.question!r} has answers both true and false: {', '.join(both)}")
        if not both or mode == "parity":
            questions.append(question)
    if not questions:
        raise DataError(f"every question of {path or 'the list'} has an answer both true and false: mend the answers")
    notes += [f"{count} question{'s'[: count != 1]}: {repair}" for repair, count in sorted(counts.items())]
    return QuestionSet(
        questions=tuple(questions),
        path=None if path is None else str(path),
        sha256=None if path is None else sha256_file(path),
        mode=mode,
        n_read=len(read),
        notes=tuple(notes),
    )


def _repaired(question: Question) -> tuple[Question, list[str]]:
    """The question with each answer once, its best answer among the true ones, and a best false answer."""
    repairs = []
    correct, incorrect = tuple(dict.fromkeys(question.correct)), tuple(dict.fromkeys(question.incorrect))
    if len(correct) < len(question.correct) or len(incorrect) < len(question.incorrect):
        repairs.append("answers listed twice, counted once")
    if question.best not in correct:
        correct = (question.best, *correct)
        repairs.append("best answer added to the true ones")
    best_incorrect = question.best_incorrect
    if not best_incorrect:
        best_incorrect = max(incorrect, key=lambda answer: word_f1(answer, question.best))
        repairs.append("best false answer not given, the one nearest in words to the best true answer taken")
    return replace(question, correct=correct, incorrect=incorrect, best_incorrect=best_incorrect), repairs


def _json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}. Give the path of a readable file of JSON lines") from error
    rows = []
    for line, text in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise DataError(f"{path}, line {line} is not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {line} is {type(row).__name__}, wanted an object with question and answers")
        rows.append((line, row))
    return rows
