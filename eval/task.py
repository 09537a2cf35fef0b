"""What an evaluation returns: figures that travel with their company, and every item behind them."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from ..toolkit.errors import DataError, ModelError
from ..toolkit.files import read_json, sha256_file, sha256_of, write_json
from ..toolkit.settings.reading import setting

Row = TypeVar("Row")
MOST_UNSCORED = 0.01  # share of items without a value above which a figure would mislead


@dataclass(frozen=True, kw_only=True)
class Score:
    """A figure with all that is needed to judge it; None stands for what could not be measured."""

    value: float | None
    """The figure itself."""
    low: float | None
    """Lower end of the 95 % interval; None where too few items were seen for one."""
    high: float | None
    """Upper end of the 95 % interval."""
    se: float | None
    """Standard error."""
    n: int
    """Items that the value is made of."""
    unscored: int = 0
    """Items that have no value and are left out of it."""
    chance: float | None = None
    """What guessing would give."""
    higher_is_better: bool | None
    """None where neither direction is better (a length, a difference between two halves)."""

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite: what is missing is None, never NaN."""
        for name in ("value", "low", "high", "se", "chance"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise DataError(f"Score.{name}: got {number}, wanted a finite number, or None for what is missing")
        if self.n < 0 or self.unscored < 0:
            raise DataError(f"Score: got n={self.n} and unscored={self.unscored}, wanted counts of 0 or more")

    def as_json(self) -> dict[str, Any]:
        """The figure as one JSON object."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task asked of one model."""

    name: str
    """Name of the task."""
    scores: dict[str, Score]
    """Figures by name."""
    items: list[dict[str, Any]]
    """One per item: `id` (hash of its row), `values` (measured, by figure; None = unscored, absent = the figure is not
    about this item), `weights` (by figure, where items do not count alike), `group` (where items belong together), and
    the texts."""
    details: dict[str, Any] = field(default_factory=dict)
    """Data set (path, sha256, n), preset, decoding, scorer, notes: what makes two results comparable."""

    def as_json(self) -> dict[str, Any]:
        """The result as one JSON object, items included."""
        scores = {name: score.as_json() for name, score in self.scores.items()}
        return {"name": self.name, "scores": scores, "items": self.items, "details": self.details}


@dataclass(frozen=True)
class Label:
    """How a figure is shown to people."""

    text: str
    """Its name, such as "Truthful answers (MC1)"."""
    unit: str | None = "share"
    """`share` is shown in percent; None has no unit; any other word is written behind the figure."""
    note: str = ""
    """What it is, in one sentence."""


class Progress(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` is done."""


class Ask(Protocol):
    """A prepared task, to be asked of one model after the other."""

    def __call__(
        self, model: Any, tokenizer: Any, *, progress: Progress | None = None, kept: Path | None = None
    ) -> TaskResult:
        """Ask one model, with whatever adapter is active.

        Args:
            model: a causal language model.
            tokenizer: of the model.
            progress: moves a bar.
            kept: a file where long work may be kept as it is done; a later call with the same file goes on from it.
        """


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task with its settings: the fields of a subclass are what a user may set, the text under each its help.

    A subclass stands in `tasks.TASKS`. Its module loads torch and other heavy libraries inside `prepare` and `Ask`, not
    at its top, so that faults of the settings are told at once.
    """

    labels: ClassVar[Mapping[str, Label]]
    """The figures that a report draws, first the one that stands for the task."""

    limit: int | None = setting(None, low=1, unit="items")
    """Take only this many items, drawn by the seed (files go by subject); null takes all."""
    seed: int = setting(0, low=0)
    """Of sampling and of the bootstrap."""
    resamples: int = setting(10_000, low=100)
    """Bootstrap resamples behind each interval."""
    tokens_per_batch: int = setting(8192, low=64, unit="tokens")
    """Bound on the memory of one forward pass."""

    def drawn(self, rows: Sequence[Row]) -> list[Row]:
        """`limit` of the rows in their order, those of a smaller limit among them; all of them where it is null."""
        places = random.Random(self.seed).sample(range(len(rows)), len(rows))[: self.limit]
        return [rows[place] for place in sorted(places)]

    def files(self) -> list[Path]:
        """Local files and folders that decide the result; a change of one makes an earlier result stale."""
        return []

    def prepare(self) -> Ask:
        """Read and check the data and open the scorers, before any model is loaded.

        Raises:
            TunewellError: data or scorers that cannot be used.
        """
        raise NotImplementedError


def write_result(result: TaskResult, path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    write_json(path, result.as_json())


def read_result(path: Path) -> TaskResult:
    """Read a result that `write_result` wrote.

    Raises:
        DataError: the file is missing, not JSON, or not a result.
    """
    tree = read_json(path)
    try:
        scores = {name: _score(row) for name, row in tree["scores"].items()}
        return TaskResult(name=tree["name"], scores=scores, items=tree["items"], details=tree["details"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not the result of an evaluation task ({error!r}): wanted an object with "
            f"{', '.join(field.name for field in fields(TaskResult))}. Run the evaluation again."
        ) from error


def _score(row: dict[str, Any]) -> Score:
    return Score(**row)


def row_ids(rows: Iterable[Any]) -> list[str]:
    """Name every row by its content, so that two runs over the same rows can be paired.

    Args:
        rows: plain values (text, numbers, lists, mappings).

    Returns:
        16 hexadecimal digits of a SHA-256 each; the second of two equal rows gets `-2`, the third `-3`.
    """
    seen: Counter[str] = Counter()
    names = []
    for row in rows:
        name = sha256_of(row)[:16]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def file_record(path: Path | None, *, n: int, n_used: int) -> dict[str, Any]:
    """What a result records of its data set.

    Args:
        path: the file, recorded with its hash; None for rows that came from no file of the user's.
        n: rows that there are.
        n_used: rows that were asked.
    """
    found = {"path": None, "sha256": None} if path is None else {"path": str(path), "sha256": sha256_file(path)}
    return {**found, "n": n, "n_used": n_used}


def check_scored(unscored: int, n: int, what: str, *, force: bool = False) -> None:
    """Stop when too many of `n` items have no value.

    Args:
        unscored: how many have none.
        n: how many there are.
        what: what was to be scored, in the plural, with the likely cause.
        force: go on all the same.

    Raises:
        ModelError: more than one in a hundred has no value.
    """
    if not force and unscored > MOST_UNSCORED * n:
        raise ModelError(
            f"{unscored} of {n} {what} got no score; at most {MOST_UNSCORED:.0%} may go without, or the figure would "
            "mislead. Mend the cause, or force it (force=true, --force) to take the figure over the rest."
        )
