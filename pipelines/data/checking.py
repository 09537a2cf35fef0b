"""Training files are searched for the prompts of evaluation files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...filters import BenchmarkItem
from ...toolkit.data.rows import read_rows
from ...toolkit.errors import SettingsError
from .splitting import find_leaks

ASKED = ("prompt", "question", "Question")
"""Columns that hold what an evaluation asks."""
SAID = ("text", "messages", "prompt", "completion", "completions", "chosen", "rejected", "question")


def check_leaks(training: Sequence[str], against: Sequence[str], n_words: int) -> dict[str, Any]:
    """Find training rows that hold an evaluation prompt.

    Args:
        training: files of rows of any shape.
        against: files of the evaluation.
        n_words: see `find_leaks`.

    Returns:
        `rows` and `items` looked at; `leaks`: for each row found its place (`training`) and that of the prompt.

    Raises:
        DataError: a file cannot be read.
        SettingsError: `n_words` is below 1.
    """
    if n_words < 1:
        raise SettingsError([f"--leak-words: got {n_words}, wanted at least 1"], "the command line")
    items = [
        BenchmarkItem(Path(path).name, number, passages)
        for path in against
        for number, row in enumerate(read_rows(path), start=1)
        if (passages := tuple(_texts({key: row[key] for key in ASKED if key in row} or row)))
    ]
    places, texts = [], []
    for path in training:
        for number, row in enumerate(read_rows(path), start=1):
            places.append(f"{Path(path).name}, row {number}")
            texts.append(list(_texts({key: row[key] for key in SAID if key in row} or row)))
    found = find_leaks(texts, items, n_words)
    leaks = [{"training": places[number], "evaluation": label} for number, label in found.items()]
    return {"rows": len(texts), "items": len(items), "leaks": leaks}


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, however deep, but for system messages, which many rows share."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, Mapping):
        if value.get("role") not in ("system", "developer"):
            for key, one in value.items():
                if key != "role":
                    yield from _texts(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _texts(one)
