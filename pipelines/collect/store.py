"""The study's log and what is worked out from it: who holds which item, which answer stands."""

import secrets
import sqlite3
import threading
import time
import unicodedata
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import orjson

from ...toolkit.errors import DataError
from .items import Item
from .schema import connect, open_study, told

LONGEST_NAME = 60  # characters
DEFAULTS = {"overlap": 1, "skips": 2, "lease_minutes": 30}
T = TypeVar("T")
CHUNK = 500  # rows written in one transaction, so that labelers at work never wait long


@dataclass(frozen=True)
class Labeler:
    """Somebody who labels.

    Attributes:
        id: number in the study.
        name: as typed.
        key: secret that proves who it is.
        is_simulated: whether it is a program.
    """

    id: int
    name: str
    key: str
    is_simulated: bool


class Store:
    """One study. Threads may share it.

    Args:
        path: the SQLite file, made if missing.
        makes: whether a missing file is made.
        clock: seconds since 1970; tests move it.

    Raises:
        DataError, RunError: see `open_study`.
    """

    def __init__(self, path: Path, *, makes: bool = True, clock: Callable[[], float] = time.time) -> None:
        self._idle: list[sqlite3.Connection] = []
        # No __del__: in a circle of references the connections may be finalised before it.
        weakref.finalize(self, _close, self._idle)
        self._waiting: deque[_Job] = deque()
        self._writer = ThreadPoolExecutor(1, "study")
        self._labelers: dict[str, Labeler] = {}
        open_study(path, makes=makes)
        self.path, self.clock = path, clock
        # SQLite lets one write at a time and has the others poll; a lock of ours wakes them at once, in turn.
        self._writing = threading.Lock()

    def close(self) -> None:
        """Close all connections that are not in use; they are opened again when needed."""
        _close(self._idle)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: it is on the disk when the block ends, or nothing of it ever was.

        Raises:
            RunError: the database stays locked by another program, or the disk is full.
        """
        with self._writing, self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def together(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """Do one thing in a transaction that others who wait share: many answers at once cost one wait for the disk.

        One thread does all that is waiting, in turn, each within a savepoint, so that the fault of one undoes nothing
        of another. It returns when the transaction is on the disk.

        Raises:
            Exception: whatever `act` raises; nothing of it is kept then.
            RunError: the database stays locked by another program, or the disk is full.
        """
        mine = _Job(act)
        self._waiting.append(mine)
        self._writer.submit(self._do_all)  # finds nothing to do where an earlier turn has done it
        mine.is_over.wait()
        if mine.error is not None:
            raise mine.error
        return cast(T, mine.result)

    def _do_all(self) -> None:
        """Do what is waiting in one transaction."""
        jobs: list[_Job] = []
        while self._waiting:
            jobs.append(self._waiting.popleft())
        if not jobs:
            return
        try:
            with self.write() as connection:
                for job in jobs:
                    job.run(connection)
        except Exception as error:  # the transaction as a whole: nobody's part of it is kept
            for job in jobs:
                job.result, job.error = None, error
        for job in jobs:
            job.is_over.set()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Read one state of the study, whatever others write meanwhile."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            yield connection

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses; a transaction left open is taken back."""
        try:
            connection = self._idle.pop() if self._idle else connect(self.path)
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._idle.append(connection)
        except sqlite3.Error as error:
            raise told(error, self.path) from error

    # Settings: the last value of a name holds.

    def setting(self, name: str) -> str:
        """A setting's value as text.

        Raises:
            KeyError: it was never set and has no default.
        """
        with self.read() as base:
            row = base.execute("SELECT value FROM settings WHERE name = ? ORDER BY id DESC LIMIT 1", (name,)).fetchone()
        return str(row[0]) if row else str(DEFAULTS[name])

    def number(self, name: str) -> int:
        """A setting that is a whole number."""
        return int(self.setting(name))

    def keep(self, name: str, value: object) -> None:
        """Set a setting from now on."""
        if name in DEFAULTS and self.setting(name) == str(value):
            return
        with self.write() as base:
            base.execute("INSERT INTO settings (name, value, at) VALUES (?, ?, ?)", (name, str(value), self.clock()))

    # Items.

    def add(self, items: Sequence[Item]) -> int:
        """Add items; those that the study holds already are left as they are. Returns how many are new."""
        before = self.count("items")
        for start in range(0, len(items), CHUNK):
            rows = [
                (item.hash, " ".join(item.steps), orjson.dumps(item.body).decode(), self.clock())
                for item in items[start : start + CHUNK]
            ]
            with self.write() as base:
                base.executemany("INSERT OR IGNORE INTO items (hash, steps, body, at) VALUES (?, ?, ?, ?)", rows)
        return self.count("items") - before

    def count(self, table: str) -> int:
        """Rows of a table or view."""
        with self.read() as base:
            return int(base.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    # Labelers.

    def labeler(self, key: str) -> Labeler | None:
        """Whose key this is."""
        if key not in self._labelers:
            with self.read() as base:
                row = base.execute("SELECT * FROM labelers WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            self._labelers[key] = _labeler(row)  # never changes
        return self._labelers[key]

    def named(self, name: str) -> Labeler | None:
        """The labeler of a name, as `clean_name` writes it."""
        with self.read() as base:
            row = base.execute("SELECT * FROM labelers WHERE name = ?", (name,)).fetchone()
        return _labeler(row) if row else None

    def join(self, name: str, *, is_simulated: bool = False) -> Labeler:
        """The labeler of a name, new or known.

        Raises:
            DataError: the name cannot be one, or belongs to the other kind of labeler.
        """
        name = clean_name(name)
        with self.write() as base:
            base.execute(
                "INSERT OR IGNORE INTO labelers (name, key, is_simulated, at) VALUES (?, ?, ?, ?)",
                (name, secrets.token_urlsafe(24), int(is_simulated), self.clock()),
            )
            found = _labeler(base.execute("SELECT * FROM labelers WHERE name = ?", (name,)).fetchone())
        if found.is_simulated != is_simulated:
            kind = "a simulated labeler" if found.is_simulated else "a person"
            raise DataError(f"the name {name!r} belongs to {kind} in this study: choose another")
        return found


class _Job:
    """Something to do within a shared transaction, and what came of it."""

    def __init__(self, act: Callable[[sqlite3.Connection], object]) -> None:
        self.act = act
        self.result: object = None
        self.error: Exception | None = None
        self.is_over = threading.Event()

    def run(self, connection: sqlite3.Connection) -> None:
        """Do it within a savepoint; faults of the database itself end the whole transaction."""
        connection.execute("SAVEPOINT job")
        try:
            self.result = self.act(connection)
        except sqlite3.Error:
            raise
        except Exception as error:
            connection.execute("ROLLBACK TO job")
            self.error = error
        connection.execute("RELEASE job")


def clean_name(name: Any) -> str:
    """A labeler's name with its spaces tidied; it is text and nothing else, never part of a path.

    Raises:
        DataError: empty, too long, or with characters that cannot be seen.
    """
    if not isinstance(name, str):
        raise DataError("wanted a name")
    tidy = " ".join(unicodedata.normalize("NFC", name).split())
    if not tidy or len(tidy) > LONGEST_NAME:
        raise DataError(f"got a name of {len(tidy)} characters, wanted 1 to {LONGEST_NAME}")
    if not tidy.isprintable():
        raise DataError("the name holds characters that cannot be seen: type it again")
    return tidy


def _labeler(row: sqlite3.Row) -> Labeler:
    return Labeler(id=row["id"], name=row["name"], key=row["key"], is_simulated=bool(row["is_simulated"]))


def _close(connections: list[sqlite3.Connection]) -> None:
    while connections:
        connections.pop().close()
