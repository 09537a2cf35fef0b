"""The passages of benchmark files that training data must not hold."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..toolkit.data.rows import read_rows
from ..toolkit.errors import DataError
from ..toolkit.files import sha256_of

ANSWER_LISTS = ("Correct Answers", "Incorrect Answers")
"Columns of TruthfulQA that hold several answers, parted by semicolons."
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]+")


@dataclass(frozen=True)
class BenchmarkItem:
    """One question, task or document of a benchmark."""

    benchmark: str
    "Names the benchmark: the file without its folder, or with it where two files have one name."

    row: int
    "Number of its row in the file, the first is 1."

    passages: tuple[str, ...]
    "Every text of it that would give it away: the question, the answers, the document."

    @property
    def label(self) -> str:
        """Names the item in verdicts and reports."""
        return f"{self.benchmark}, row {self.row}"


def read_benchmarks(paths: Iterable[str | Path]) -> tuple[BenchmarkItem, ...]:
    """Read benchmark files: JSONL, CSV, TSV (each also .gz or .zst), Parquet, or whatever `datasets` reads.

    Every text of a row counts as a passage, whatever its column and however deep; lists of answers of TruthfulQA are
    parted. Addresses and numbers are left out.

    Raises:
        DataError: a file that cannot be read or holds no text.
    """
    items: list[BenchmarkItem] = []
    given = list(dict.fromkeys(map(str, paths)))
    same = Counter(Path(path).name for path in given)
    for path in given:
        name = Path(path).name
        found = list(items_of(read_rows(path), name if same[name] == 1 else path))
        if not found:
            raise DataError(f"{path} holds no text, wanted the questions or documents of a benchmark")
        items += found
    return tuple(items)


def items_of(rows: Iterable[Mapping[str, Any]], benchmark: str) -> Iterator[BenchmarkItem]:
    """Take the passages of rows; a row without any is no item."""
    for number, row in enumerate(rows, start=1):
        passages = tuple(dict.fromkeys(passage for key, value in row.items() for passage in _passages(key, value)))
        if passages:
            yield BenchmarkItem(benchmark, number, passages)


def hash_of(items: Sequence[BenchmarkItem]) -> str:
    """16 hexadecimal digits that name items by their texts."""
    return sha256_of([[item.label, *item.passages] for item in items])[:16]


def _passages(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, str):
        for part in value.split(";") if key in ANSWER_LISTS else (value,):
            text = part.strip()
            if text and not ADDRESS.fullmatch(text):
                yield text
    elif isinstance(value, Mapping):
        for inner, one in value.items():
            yield from _passages(str(inner), one)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for one in value:
            yield from _passages(key, one)
