"""The standing answers of a study, read in one state with their items and labelers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from .store import Store


@dataclass(frozen=True)
class Answer:
    """One answer that stands.

    Attributes:
        id: number, in the order given.
        item: number of the item.
        labeler: number of the labeler.
        name: the labeler's.
        is_simulated: whether a program answered.
        kind: `answer` or `skip`.
        is_surplus: whether the item had gone to others when the answer came.
        body: the answer in the order of the row.
        seconds: time spent; None where the page did not tell.
        at: seconds since 1970.
    """

    id: int
    item: int
    labeler: int
    name: str
    is_simulated: bool
    kind: str
    is_surplus: bool
    body: dict[str, Any]
    seconds: float | None
    at: float


def standing_answers(store: Store) -> list[Answer]:
    """All answers that were not undone, in the order given."""
    query = (
        "SELECT s.*, a.item, l.id AS labeler, l.name, l.is_simulated FROM standing s "
        "JOIN assignments a ON a.id = s.assignment JOIN labelers l ON l.id = a.labeler ORDER BY s.id"
    )
    with store.read() as base:
        rows = base.execute(query).fetchall()
    return [
        Answer(
            id=row["id"],
            item=row["item"],
            labeler=row["labeler"],
            name=row["name"],
            is_simulated=bool(row["is_simulated"]),
            kind=row["kind"],
            is_surplus=bool(row["is_surplus"]),
            body=orjson.loads(row["body"]),
            seconds=row["seconds"],
            at=row["at"],
        )
        for row in rows
    ]


def item_bodies(store: Store) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of every item, in order."""
    with store.read() as base:
        for row in base.execute("SELECT id, body FROM items ORDER BY id"):
            yield row["id"], orjson.loads(row["body"])
