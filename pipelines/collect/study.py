"""A study is opened with its settings, and rows are added to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from ...toolkit.data.rows import read_rows
from ...toolkit.errors import SettingsError
from .items import Task, items_of
from .store import Store

TOXIC_ABOVE = 0.5  # of a scorer's 0 to 1


def open_with_settings(path: Path, **settings: int | None) -> Store:
    """Open or make a study; settings that are given hold from now on.

    Raises:
        SettingsError: a setting below 1.
        DataError, RunError: see `open_study`.
    """
    faults = [
        f"--{name.partition('_')[0]}: got {value}, wanted at least 1"
        for name, value in settings.items()
        if value is not None and value < 1
    ]
    if faults:
        raise SettingsError(faults, "the command line")
    store = Store(path)
    for name, value in settings.items():
        if value is not None:
            store.keep(name, value)
    return store


def add_rows(store: Store, source: str, task: str = "auto", blur: str | None = None) -> tuple[int, int]:
    """Add the rows of a file to a study.

    Args:
        store: the study.
        source: a file, a folder or an id of the hub.
        task: see `items_of`.
        blur: a toxicity scorer, see `open_scorer`; texts that it scores above 0.5 are blurred until asked for.

    Returns:
        how many items are new, and how many the study knew.

    Raises:
        SettingsError: the task is unknown.
        DataError: a row cannot be an item.
    """
    if task not in get_args(Task):
        raise SettingsError([f"--task: got {task!r}, wanted one of {', '.join(get_args(Task))}"], "the command line")
    rows = read_rows(source)
    items = items_of(rows, cast(Task, task), source, _judge(blur) if blur else None)
    new = store.add(items)
    return new, len(items) - new


def _judge(spec: str) -> Any:
    from ...toolkit.toxicity.scorer import open_scorer

    scorer = open_scorer(spec)

    def is_toxic(texts: Sequence[str]) -> list[bool]:
        return [bool(score > TOXIC_ABOVE) for score in scorer.score(texts)]

    return is_toxic
