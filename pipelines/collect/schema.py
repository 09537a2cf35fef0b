"""The database of a study: tables that only grow, and the version that says how to read them."""

import os
import secrets
import sqlite3
import time
from pathlib import Path

from ...toolkit.errors import DataError, RunError

APPLICATION = 0x74775C01  # marks a SQLite file as a study, in a field that SQLite keeps for this
VERSION = 1
BUSY_SECONDS = 5.0  # how long a statement waits for another program's lock
TABLES = ("settings", "items", "labelers", "assignments", "leases", "answers", "undone")

# Every table is a log. What a reader needs beside it (who holds an item, which answer stands) is worked out from it.
SCHEMA = """
CREATE TABLE settings (id INTEGER PRIMARY KEY, name TEXT NOT NULL, value TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE items (
    id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, steps TEXT NOT NULL, body TEXT NOT NULL, at REAL NOT NULL
);
CREATE TABLE labelers (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE, is_simulated INTEGER NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE assignments (
    id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items, labeler INTEGER NOT NULL REFERENCES labelers,
    shown TEXT NOT NULL, at REAL NOT NULL, UNIQUE (item, labeler)
);
CREATE INDEX assignments_of_labeler ON assignments (labeler);
CREATE TABLE leases (
    id INTEGER PRIMARY KEY, assignment INTEGER NOT NULL REFERENCES assignments, until REAL NOT NULL, at REAL NOT NULL
);
CREATE INDEX leases_of_assignment ON leases (assignment, until);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY, assignment INTEGER NOT NULL REFERENCES assignments, key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('answer', 'skip')), is_surplus INTEGER NOT NULL, body TEXT NOT NULL,
    seconds REAL, at REAL NOT NULL
);
CREATE INDEX answers_of_assignment ON answers (assignment);
CREATE TABLE undone (answer INTEGER PRIMARY KEY REFERENCES answers, at REAL NOT NULL);
CREATE VIEW standing AS SELECT * FROM answers WHERE id NOT IN (SELECT answer FROM undone);
"""
KEEP = """
CREATE TRIGGER {table}_{event} BEFORE {event} ON {table}
BEGIN SELECT RAISE(ABORT, 'a study only grows: rows of {table} are never changed or removed'); END;
"""
UPGRADES: dict[int, str] = {}
"""For each older version the statements that bring it to the next one."""


def connect(path: Path) -> sqlite3.Connection:
    """Open a database that `open_study` has checked; every commit reaches the disk before it returns."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def open_study(path: Path, *, makes: bool = True) -> None:
    """Make a study, or check that the file is one, and bring an older one up to date after a copy of it was made.

    Args:
        path: the SQLite file.
        makes: whether a missing file is made.

    Raises:
        DataError: the file is something else, damaged, or was made by a later version.
        RunError: it is locked by another program, or cannot be written.
    """
    if not path.exists() and not makes:
        raise DataError(f"got {path}, wanted the database of a study: `tunewell collect serve {path} ROWS` makes one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # Only the owner may read it: it holds what people wrote, and the keys of the page.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = connect(path)
        try:
            _check(connection, path)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise told(error, path) from error
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. Choose a place that you can write to.") from error


def told(error: sqlite3.Error, path: Path) -> DataError | RunError:
    """What a user can do about a fault of the database."""
    words = str(error)
    if "locked" in words or "busy" in words:
        return RunError(
            f"{path} is locked by another program (waited {BUSY_SECONDS:.0f} s). Close what has it open (a database "
            "browser, a backup) and try again; nothing is lost."
        )
    if "full" in words:
        return RunError(f"the disk is full: cannot write {path}. Make room and try again; nothing is lost.")
    if "not a database" in words or "malformed" in words:
        return DataError(f"{path} is no SQLite database, or is damaged ({words}). Name another file, or a backup.")
    return RunError(f"cannot read or write {path}: {words}. Check that the file and its folder can be written.")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise RunError(f"{path}: got journal mode {mode!r}, wanted WAL: put the study on a disk of this machine")
    connection.execute("BEGIN IMMEDIATE")
    try:
        _make_or_upgrade(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _make_or_upgrade(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables == 0:
        _run(connection, SCHEMA + "".join(KEEP.format(table=t, event=e) for t in TABLES for e in ("UPDATE", "DELETE")))
        for name in ("study", "owner_key", "labelers_key"):
            _keep(connection, name, secrets.token_hex(16 if name != "study" else 4))
        _stamp(connection)
    elif application != APPLICATION:
        raise DataError(f"{path} is a database of something else. Name another file for the study.")
    elif version > VERSION:
        raise DataError(
            f"{path} was made by a later tunewell (its version {version}, read here: {VERSION}): update tunewell"
        )
    elif version < VERSION:
        _upgrade(connection, path, version)


def _upgrade(connection: sqlite3.Connection, path: Path, version: int) -> None:
    if version not in UPGRADES:
        raise DataError(f"{path} has version {version}, which no longer can be read (wanted {VERSION})")
    copy = path.with_name(f"{path.name}.version-{version}")
    if not copy.exists():
        other = sqlite3.connect(path)  # sees what was committed before this transaction began
        try:
            other.execute("VACUUM INTO ?", (str(copy),))
        finally:
            other.close()
        os.chmod(copy, 0o600)
    for step in range(version, VERSION):
        _run(connection, UPGRADES[step])
    _stamp(connection)


def _stamp(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _keep(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute("INSERT INTO settings (name, value, at) VALUES (?, ?, ?)", (name, value, time.time()))


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run statements inside the transaction that is open; `executescript` would commit it first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
