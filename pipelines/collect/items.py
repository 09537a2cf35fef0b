"""Rows become items: what is shown, and what is asked of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...toolkit.data.row_shapes import CHECKS
from ...toolkit.errors import DataError
from ...toolkit.files import sha256_of

Task = Literal["auto", "demonstrate", "rate", "rank", "compare"]
Row = Mapping[str, Any]
STEPS: dict[str, tuple[str, ...]] = {
    "demonstrate": ("demonstrate",),
    "rate": ("rate",),
    "rank": ("rank",),
    "compare": ("rate", "rank"),
}
MOST_COMPLETIONS = 16  # letters and keys of the page reach no further
WANTED = (
    '{"prompt": "..."} to have a demonstration written, {"prompt": "...", "completions": ["...", "..."]} to have '
    'completions rated and ranked, or {"prompt": "...", "completion": "..."} to have one rated'
)


@dataclass(frozen=True)
class Item:
    """One thing to label.

    Attributes:
        hash: of what is shown and asked: the same row twice is one item.
        steps: `demonstrate`, `rate`, `rank`, in the order they are asked.
        body: `prompt` and `completions` as they stood in the row, `veiled` (whether each is to be blurred, the prompt
            first), and `row`, the other columns.
    """

    hash: str
    steps: tuple[str, ...]
    body: dict[str, Any]


def items_of(
    rows: Sequence[Row], task: Task, where: str, is_toxic: Callable[[Sequence[str]], Sequence[bool]] | None = None
) -> list[Item]:
    """Make items of rows.

    Args:
        rows: with `prompt`, and `completions`, `completion` or `chosen` and `rejected` where there is something to
            judge.
        task: what is asked; `auto` asks for a demonstration where there is no completion, for a rating where there is
            one, and for ratings and then a ranking where there are more.
        where: what the rows were read from, for messages.
        is_toxic: says of texts which are to be blurred; None blurs none.

    Raises:
        DataError: a row holds nothing that can be shown, or not what the task needs; the first one, with its number.
    """
    made = [_item(row, task, f"row {number} (counting from 0) of {where}") for number, row in enumerate(rows)]
    if is_toxic is None:
        return made
    texts = [plain(text) for item in made for text in (item.body["prompt"], *item.body["completions"])]
    verdicts = iter(is_toxic(texts))
    for item in made:
        item.body["veiled"] = [bool(next(verdicts)) for _ in range(1 + len(item.body["completions"]))]
    return made


def plain(text: str | Sequence[Row]) -> str:
    """A text, or the contents of chat messages one under the other."""
    return text if isinstance(text, str) else "\n\n".join(str(message["content"]) for message in text)


def _item(row: Row, task: Task, where: str) -> Item:
    completions = _completions(row, where)
    if "prompt" not in row:
        raise DataError(f"{where} has no 'prompt'; it has {', '.join(map(repr, row)) or 'no columns'}. Wanted {WANTED}")
    for text in (row["prompt"], *completions):
        fault = CHECKS["prompt"](text)
        if fault:
            raise DataError(f"{where} has {fault}. Wanted {WANTED}")
    if not plain(row["prompt"]).strip():
        raise DataError(f"{where} has an empty prompt: remove it")
    steps = _steps(task, len(completions), where)
    used = ("prompt", "completions", "completion", "chosen", "rejected")
    others = {key: value for key, value in row.items() if key not in used}
    shown = {"prompt": row["prompt"], "completions": completions if steps != STEPS["demonstrate"] else []}
    return Item(hash=sha256_of([shown, list(steps)]), steps=steps, body=shown | {"veiled": [], "row": others})


def _completions(row: Row, where: str) -> list[Any]:
    if "completions" in row:
        found = row["completions"]
        if not isinstance(found, Sequence) or isinstance(found, str):
            raise DataError(f"{where} has {found!r:.60} in 'completions', wanted a list of texts")
    elif "completion" in row:
        found = [row["completion"]]
    elif "chosen" in row and "rejected" in row:
        found = [row["chosen"], row["rejected"]]
    else:
        found = []
    if len(found) > MOST_COMPLETIONS:
        raise DataError(f"{where} has {len(found)} completions, wanted at most {MOST_COMPLETIONS}: split the row")
    return list(found)


def _steps(task: Task, n_completions: int, where: str) -> tuple[str, ...]:
    """What is asked of an item with so many completions."""
    if task == "auto":
        return STEPS[("demonstrate", "rate", "compare")[min(n_completions, 2)]]
    least = {"demonstrate": 0, "rate": 1, "rank": 2, "compare": 1}[task]
    if n_completions < least:
        raise DataError(
            f"{where} has {n_completions} completions, wanted at least {least} to {task}: use --task auto, or "
            "`tunewell sample` for more completions"
        )
    # One completion can be rated, but there is nothing to rank it against.
    return STEPS["rate"] if task == "compare" and n_completions == 1 else STEPS[task]
