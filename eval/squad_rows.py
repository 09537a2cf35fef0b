"""Questions about passages, some without an answer, read from SQuAD v2 in its own format or as rows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..toolkit.data.rows import read_rows
from ..toolkit.errors import DataError
from ..toolkit.files import read_json, sha256_file
from .short_answers import normalised

_KINDS = {"text": str, "a list": list, "an object": Mapping, "true or false": bool}


@dataclass(frozen=True, kw_only=True)
class PassageQuestion:
    """A question about a passage."""

    id: str
    """As the data set names it; no two questions share one."""
    title: str
    """Of the article; may be empty."""
    passage: str
    """What holds the answer, or does not."""
    question: str
    """What is asked."""
    answers: tuple[str, ...]
    """Reference answers, each once; none: the passage does not answer the question."""


@dataclass(frozen=True, kw_only=True)
class PassageQuestions:
    """Questions with where they came from."""

    questions: tuple[PassageQuestion, ...]
    """In the order of the source."""
    source: str
    """File, folder or id of the hub."""
    sha256: str | None
    """Hash of the file, where it is one."""


def read_squad(source: str, *, split: str = "validation") -> PassageQuestions:
    """Read SQuAD v2 (Rajpurkar, Jia & Liang 2018, https://arxiv.org/abs/1806.03822).

    Args:
        source: a `.json` file in the data set's own format (`data`, `paragraphs`, `qas`), or rows of `id`, `context`,
            `question` and `answers: {text: [...], answer_start: [...]}` in whatever `read_rows` reads, the id
            `rajpurkar/squad_v2` of the hub included. `is_impossible` and `title` may be missing.
        split: part of a folder or a data set of the hub.

    Raises:
        DataError: naming the place and the field of what cannot be used, with what was got and wanted.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() == ".json":
        questions = list(_official(path))
    else:
        rows = read_rows(source, split=split)
        questions = [_from_row(row, where) for row, where in zip(rows, _places(path, len(rows)), strict=True)]
    if not questions:
        raise DataError(f"{source} holds no question, wanted at least one in data[].paragraphs[].qas")
    if doubled := [name for name, count in Counter(one.id for one in questions).items() if count > 1]:
        raise DataError(
            f"{source}: {len(doubled)} ids stand there more than once (such as {', '.join(doubled[:3])}); wanted one "
            "for each question. Remove the second of each"
        )
    return PassageQuestions(
        questions=tuple(questions), source=source, sha256=sha256_file(path) if path.is_file() else None
    )


def _official(path: Path) -> Iterator[PassageQuestion]:
    tree = read_json(path)
    if not isinstance(tree, Mapping):
        raise DataError(f"{path}: got {type(tree).__name__}, wanted an object with 'data' (SQuAD's own format)")
    for a, article in enumerate(_field(tree, "data", "a list", str(path))):
        there = f"{path}, data[{a}]"
        for p, paragraph in enumerate(_field(article, "paragraphs", "a list", there)):
            where = f"{there}.paragraphs[{p}]"
            passage = _field(paragraph, "context", "text", where)
            for q, row in enumerate(_field(paragraph, "qas", "a list", where)):
                here = f"{where}.qas[{q}]"
                answers = _field(row, "answers", "a list", here)
                texts = [_field(one, "text", "text", f"{here}.answers[{n}]") for n, one in enumerate(answers)]
                yield _question(row, passage, str(article.get("title") or ""), texts, here)


def _from_row(row: Any, where: str) -> PassageQuestion:
    passage = _field(row, "context", "text", where)
    texts = list(_field(_field(row, "answers", "an object", where), "text", "a list", f"{where}, answers"))
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise DataError(f"{where}, answers: 'text' holds {wrong[0]!r}, wanted texts alone")
    return _question(row, passage, str(row.get("title") or ""), texts, where)


def _question(row: Any, passage: str, title: str, answers: Sequence[str], where: str) -> PassageQuestion:
    if "is_impossible" in row and _field(row, "is_impossible", "true or false", where) == bool(answers):
        raise DataError(
            f"{where}: 'is_impossible' is {row['is_impossible']}, yet there are {len(answers)} answers; wanted answers "
            "where it is false and none where it is true"
        )
    # As in the official script a reference of which nothing remains, such as a lone article, does not count.
    known = tuple(dict.fromkeys(answer for answer in answers if normalised(answer))) or tuple(answers)
    name, question = _field(row, "id", "text", where), _field(row, "question", "text", where).strip()
    for field, value in (("id", name), ("question", question), ("context", passage.strip())):
        if not value:
            raise DataError(f"{where}: {field!r} is empty, wanted text")
    return PassageQuestion(id=name, title=title, passage=passage, question=question, answers=known)


def _field(row: Any, name: str, wanted: str, where: str) -> Any:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: got {type(row).__name__}, wanted an object with {name!r}")
    if name not in row:
        raise DataError(f"{where}: {name!r} is missing, wanted {wanted}; there are {', '.join(row) or 'no fields'}")
    if not isinstance(row[name], _KINDS[wanted]):
        raise DataError(f"{where}: {name!r} is {row[name]!r:.80}, wanted {wanted}")
    return row[name]


def _places(path: Path, rows: int) -> list[str]:
    """Where each row stands: its line in a plain JSONL file, else its number."""
    if not (path.is_file() and path.suffix == ".jsonl"):
        return [f"{path}, row {number}" for number in range(1, rows + 1)]
    with path.open("rb") as file:
        return [f"{path}, line {number}" for number, line in enumerate(file, start=1) if line.strip()]
