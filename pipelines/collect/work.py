"""The work of a labeler: an item is handed out for a while, answered once, and can be taken back."""

import hashlib
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from sqlite3 import Connection, Row
from typing import Any, Literal

import orjson

from ...toolkit.errors import DataError
from .answer_forms import as_shown, checked_answer, checked_skip
from .store import Labeler, Store

# An item is taken by everybody who has answered it, and by everybody who holds a lease and has not answered.
TAKEN = """
(SELECT count(*) FROM assignments a LEFT JOIN standing s ON s.assignment = a.id
 WHERE a.item = {item} AND a.labeler != :labeler AND (
    (s.kind = 'answer' AND NOT s.is_surplus)
    OR (s.id IS NULL AND EXISTS (SELECT 1 FROM leases l WHERE l.assignment = a.id AND l.until > :now))))
"""
SKIPPED = """
(SELECT count(*) FROM assignments a JOIN standing s ON s.assignment = a.id
 WHERE a.item = {item} AND a.labeler != :labeler AND s.kind = 'skip')
"""
DONE = """
(SELECT count(*) FROM assignments a JOIN standing s ON s.assignment = a.id
 WHERE a.item = {item} AND s.kind = 'answer' AND NOT s.is_surplus)
"""
FREE = f"""
SELECT i.id FROM items i WHERE i.id >= :start
AND (:writes OR i.steps != 'demonstrate')
AND NOT EXISTS (SELECT 1 FROM assignments m WHERE m.item = i.id AND m.labeler = :labeler)
AND {TAKEN.format(item="i.id")} < :overlap AND {SKIPPED.format(item="i.id")} < :skips ORDER BY i.id LIMIT 1
"""
MINE = f"""
SELECT count(*) FROM assignments m JOIN standing o ON o.assignment = m.id
WHERE m.labeler = :me AND {DONE.format(item="m.item")} < :overlap AND {SKIPPED.format(item="m.item")} < :skips
"""
UNFINISHED = f"""
SELECT i.id FROM items i WHERE i.id >= :start
AND {DONE.format(item="i.id")} < :overlap AND {SKIPPED.format(item="i.id")} < :skips ORDER BY i.id
"""


class ConflictError(DataError):
    """The page is behind the study: its item was answered or undone elsewhere, or is not its labeler's."""


@dataclass(frozen=True)
class Assigned:
    """An item as one labeler sees it.

    Attributes:
        id: the assignment.
        item: number of the item.
        steps: what is asked, in order.
        body: prompt, completions and which are veiled, in the order of the row.
        shown: for each place on the page the number of the completion.
        until: when the lease ends, seconds since 1970.
        earlier: the labeler's own undone answer in the order shown, to go on with.
    """

    id: int
    item: int
    steps: tuple[str, ...]
    body: dict[str, Any]
    shown: tuple[int, ...]
    until: float
    earlier: dict[str, Any] | None

    def as_page(self) -> dict[str, Any]:
        """What the labeler's page gets: completions in blind order, nothing of where they came from."""
        veiled = self.body["veiled"] or [False] * (1 + len(self.shown))
        return {
            "assignment": self.id,
            "item": self.item,
            "steps": list(self.steps),
            "prompt": self.body["prompt"],
            "completions": [self.body["completions"][number] for number in self.shown],
            "veiled": [veiled[0], *(veiled[1 + number] for number in self.shown)],
            "earlier": self.earlier,
        }


class Work:
    """Hands out items and takes answers; every call is one transaction.

    Args:
        store: the study; its settings are read here.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._seed = store.setting("study")
        self._overlap, self._skips = store.number("overlap"), store.number("skips")
        self._lease = 60 * store.number("lease_minutes")  # seconds
        self._start = 0  # no item before it is free; only a hint, a full look precedes "nothing left"
        self._counted: tuple[float, int] = (float("-inf"), 0)
        self._counting = threading.Lock()

    def next(self, labeler: Labeler) -> Assigned | None:
        """The item that a labeler is at, or a new one; None when there is nothing left to do.

        The same call twice (two browsers of one name) gives the same item.
        """
        return self.store.together(lambda base: self._next(base, labeler))

    def renew(self, labeler: Labeler, assignment: int) -> float:
        """Hold an item longer, as the page asks while somebody works on it. Returns when the lease ends.

        Raises:
            ConflictError: the item is answered, is not the labeler's, or went to somebody else meanwhile.
        """
        now = self.store.clock()
        with self.store.write() as base:
            row = self._own(base, labeler, assignment)
            if _standing(base, assignment):
                raise ConflictError("this item is answered already")
            if self._is_full(base, row["item"], labeler, now):
                raise ConflictError("this item went to somebody else after its lease ran out")
            until = now + self._lease
            base.execute("INSERT INTO leases (assignment, until, at) VALUES (?, ?, ?)", (assignment, until, now))
        return until

    def submit(
        self,
        labeler: Labeler,
        assignment: int,
        key: str,
        kind: Literal["answer", "skip"],
        body: Any,
        seconds: float | None = None,
    ) -> int:
        """Take an answer or a skip; once it returns the answer is on the disk.

        Args:
            labeler: who answers.
            assignment: what is answered.
            key: made by the page for this answer: the same key again (a double click, a repeated request) changes
                nothing and gives the same number.
            kind: an answer, or a skip.
            body: what the page sent, in the order shown.
            seconds: time spent.

        Returns:
            The number of the answer. An answer that comes when its item has gone to others after the lease ran out is
            kept and marked as surplus.

        Raises:
            FormError: parts are missing or wrong.
            ConflictError: the item is answered already, or is not the labeler's.
        """
        return self.store.together(lambda base: self._submit(base, labeler, assignment, key, kind, body, seconds))

    def submit_and_next(
        self,
        labeler: Labeler,
        assignment: int,
        key: str,
        kind: Literal["answer", "skip"],
        body: Any,
        seconds: float | None = None,
    ) -> tuple[int, Assigned | None]:
        """`submit`, then `next`, in one transaction: one wait for the disk in place of two."""

        def both(base: Connection) -> tuple[int, Assigned | None]:
            number = self._submit(base, labeler, assignment, key, kind, body, seconds)
            return number, self._next(base, labeler)

        return self.store.together(both)

    def undo(self, labeler: Labeler, answer: int) -> Assigned:
        """Take the labeler's last answer back; it stays in the log, and its item is the labeler's again.

        Args:
            labeler: who undoes.
            answer: number of the answer, so that a double click undoes one.

        Raises:
            ConflictError: it is not the labeler's last one.
        """
        now = self.store.clock()
        with self.store.write() as base:
            mine = base.execute(
                "SELECT x.*, u.answer AS is_undone FROM answers x JOIN assignments a ON a.id = x.assignment "
                "LEFT JOIN undone u ON u.answer = x.id WHERE a.labeler = ? AND x.id = ?",
                (labeler.id, answer),
            ).fetchone()
            if mine is None:
                raise ConflictError("there is no such answer of yours")
            if mine["is_undone"] is None:
                if answer != _last(base, labeler):
                    raise ConflictError("only the last answer can be undone, and there is a later one")
                base.execute("INSERT INTO undone (answer, at) VALUES (?, ?)", (answer, now))
            row = self._own(base, labeler, mine["assignment"])
            until = now + self._lease
            base.execute("INSERT INTO leases (assignment, until, at) VALUES (?, ?, ?)", (row["id"], until, now))
            self._start = min(self._start, row["item"])
            return _assigned(base, row, until)

    def progress(self, labeler: Labeler) -> dict[str, Any]:
        """The labeler's own numbers.

        Returns:
            `answered`, `skipped`; `last`: the answer that undo would take back; `left`: items of the study that are
            not finished, counted anew every other second; `yours`: those of them that the labeler has not seen to.
        """
        with self.store.read() as base:
            rows = base.execute(
                "SELECT s.kind, count(*) AS n FROM standing s JOIN assignments a ON a.id = s.assignment "
                "WHERE a.labeler = ? GROUP BY s.kind",
                (labeler.id,),
            ).fetchall()
            last = _last(base, labeler)
            wanted = {"overlap": self._overlap, "skips": self._skips, "labeler": 0, "me": labeler.id}
            (mine,) = base.execute(MINE, wanted).fetchone()
        counts = {row["kind"]: row["n"] for row in rows}
        left = self.left()
        return {
            "answered": counts.get("answer", 0), "skipped": counts.get("skip", 0), "last": last,
            "left": left, "yours": max(0, left - mine),
        }  # fmt: skip

    def left(self) -> int:
        """Items that want more answers."""
        with self._counting:
            now = self.store.clock()
            if now - self._counted[0] > 2:
                wanted = {"overlap": self._overlap, "skips": self._skips, "labeler": 0, "start": 0}
                with self.store.read() as base:
                    (n,) = base.execute(f"SELECT count(*) FROM ({UNFINISHED})", wanted).fetchone()
                self._counted = (now, n)
            return self._counted[1]

    def _submit(
        self,
        base: Connection,
        labeler: Labeler,
        assignment: int,
        key: str,
        kind: Literal["answer", "skip"],
        body: Any,
        seconds: float | None,
    ) -> int:
        now = self.store.clock()
        row = self._own(base, labeler, assignment)
        known = base.execute("SELECT id, assignment FROM answers WHERE key = ?", (key,)).fetchone()
        if known is not None:
            if known["assignment"] != assignment:
                raise ConflictError("this key belongs to another answer")
            return int(known["id"])
        if _standing(base, assignment):
            raise ConflictError("this item is answered already, from another window or browser")
        item = base.execute("SELECT steps FROM items WHERE id = ?", (row["item"],)).fetchone()
        shown = orjson.loads(row["shown"])
        checked = checked_skip(body) if kind == "skip" else checked_answer(body, item["steps"].split(), shown)
        is_surplus = kind == "answer" and self._is_full(base, row["item"], labeler, now)
        done = base.execute(
            "INSERT INTO answers (assignment, key, kind, is_surplus, body, seconds, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (assignment, key, kind, int(is_surplus), orjson.dumps(checked).decode(), seconds, now),
        )
        return int(done.lastrowid or 0)

    def _next(self, base: Connection, labeler: Labeler) -> Assigned | None:
        now = self.store.clock()
        wanted = {"labeler": labeler.id, "now": now, "overlap": self._overlap, "skips": self._skips,
                  "writes": not labeler.is_simulated}  # fmt: skip
        row = self._open(base, wanted) or self._fresh(base, wanted, labeler)
        if row is None:
            return None
        until = now + self._lease
        base.execute("INSERT INTO leases (assignment, until, at) VALUES (?, ?, ?)", (row["id"], until, now))
        return _assigned(base, row, until)

    def _open(self, base: Connection, wanted: Mapping[str, Any]) -> Row | None:
        """The labeler's item that has no answer, the one held last first; one that went to others is let go."""
        rows = base.execute(
            "SELECT a.* FROM assignments a LEFT JOIN standing s ON s.assignment = a.id WHERE a.labeler = :labeler "
            "AND s.id IS NULL ORDER BY (SELECT max(l.id) FROM leases l WHERE l.assignment = a.id) DESC",
            wanted,
        ).fetchall()
        for row in rows:
            taken = base.execute(f"SELECT {TAKEN.format(item=':item')}", {**wanted, "item": row["item"]}).fetchone()[0]
            if taken < wanted["overlap"]:
                return row  # type: ignore[no-any-return]
        return None

    def _fresh(self, base: Connection, wanted: Mapping[str, Any], labeler: Labeler) -> Row | None:
        found = base.execute(FREE, {**wanted, "start": self._start}).fetchone()
        if found is None and self._start:
            found = base.execute(FREE, {**wanted, "start": 0}).fetchone()
        if found is None:
            return None
        first = base.execute(UNFINISHED + "LIMIT 1", {**wanted, "labeler": 0, "start": self._start}).fetchone()
        self._start = min(first["id"] if first else found["id"], found["id"])
        item = base.execute("SELECT * FROM items WHERE id = ?", (found["id"],)).fetchone()
        shown = self._order(item["hash"], labeler, len(orjson.loads(item["body"])["completions"]))
        done = base.execute(
            "INSERT INTO assignments (item, labeler, shown, at) VALUES (?, ?, ?, ?)",
            (item["id"], labeler.id, orjson.dumps(shown).decode(), wanted["now"]),
        )
        return base.execute("SELECT * FROM assignments WHERE id = ?", (done.lastrowid,)).fetchone()  # type: ignore[no-any-return]

    def _order(self, item: str, labeler: Labeler, n: int) -> list[int]:
        """A blind order of completions, another one for every labeler and item."""
        digest = hashlib.sha256(f"{self._seed} {item} {labeler.id}".encode()).digest()
        return random.Random(digest).sample(range(n), n)

    def _own(self, base: Connection, labeler: Labeler, assignment: int) -> Row:
        row = base.execute(
            "SELECT * FROM assignments WHERE id = ? AND labeler = ?", (assignment, labeler.id)
        ).fetchone()
        if row is None:
            raise ConflictError("this item is not yours; the page may belong to another study")
        return row  # type: ignore[no-any-return]

    def _is_full(self, base: Connection, item: int, labeler: Labeler, now: float) -> bool:
        values = {"item": item, "labeler": labeler.id, "now": now}
        taken: int = base.execute(f"SELECT {TAKEN.format(item=':item')}", values).fetchone()[0]
        return taken >= self._overlap


def _standing(base: Connection, assignment: int) -> bool:
    return base.execute("SELECT 1 FROM standing WHERE assignment = ?", (assignment,)).fetchone() is not None


def _last(base: Connection, labeler: Labeler) -> int | None:
    row = base.execute(
        "SELECT max(s.id) FROM standing s JOIN assignments a ON a.id = s.assignment WHERE a.labeler = ?", (labeler.id,)
    ).fetchone()
    return int(row[0]) if row[0] is not None else None


def _assigned(base: Connection, row: Row, until: float) -> Assigned:
    item = base.execute("SELECT * FROM items WHERE id = ?", (row["item"],)).fetchone()
    shown = orjson.loads(row["shown"])
    last = base.execute(
        "SELECT body FROM answers WHERE assignment = ? AND kind = 'answer' ORDER BY id DESC LIMIT 1", (row["id"],)
    ).fetchone()
    return Assigned(
        id=row["id"],
        item=item["id"],
        steps=tuple(item["steps"].split()),
        body=orjson.loads(item["body"]),
        shown=tuple(shown),
        until=until,
        earlier=as_shown(orjson.loads(last["body"]), shown) if last else None,
    )
