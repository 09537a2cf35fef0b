"""Files are written whole or not at all, and hashed so that a change is noticed."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from .errors import DataError, RunError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
UNFINISHED = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def unfinished_path(target: Path) -> Path:
    """A hidden path beside `target`, new at every call, for what is not whole yet; `clear_unfinished` knows it."""
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a hidden temporary file that takes the place of `path` when the block ends without an error.

    A reader, or a process killed at any moment, sees the old file or the new one, never a part of either. What a
    killed process leaves behind is named `.<name>.<random>.tmp`; `clear_unfinished` removes it.

    Args:
        path: the file to write; missing folders above it are made.

    Yields:
        a binary file in the folder of `path`, so that the final rename stays on one file system.

    Raises:
        RunError: the file cannot be written (disk full, no permission, a folder of that name); `path` is unchanged.
    """
    temporary = unfinished_path(path)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("xb")
        except OSError as error:
            raise _write_fault(path, error) from error
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno in DISK_FULL:
                raise _write_fault(path, error) from error
            raise  # the block's own fault: a file it reads, a connection
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise _write_fault(path, error) from error
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all.

    Raises:
        RunError: the file cannot be written; an earlier file of that name is unchanged.
    """
    with atomic_writer(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def unfinished_folder(target: Path) -> Iterator[Path]:
    """Make a hidden folder beside `target`, to be moved there, or its files, once they are whole.

    Yields:
        the folder, named like an unfinished file of `atomic_writer`; what is left of it goes when the block ends.

    Raises:
        OSError: it cannot be made.
    """
    working = unfinished_path(target)
    working.mkdir(parents=True)
    try:
        yield working
    finally:
        shutil.rmtree(working, ignore_errors=True)


def clear_unfinished(folder: Path, *, is_deep: bool = False, target: str = "") -> None:
    """Remove what killed processes were writing in a folder, or anywhere beneath it, where nobody writes now.

    Args:
        folder: where they wrote.
        is_deep: in the folders beneath it too.
        target: only what was to become the file or folder of this name.
    """
    found = folder.rglob(".*.tmp") if is_deep else folder.glob(".*.tmp")
    for path in [path for path in found if UNFINISHED.fullmatch(path.name)]:
        if target and path.name.rsplit(".", 2)[0] != f".{target}":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def write_json(path: Path, tree: Any) -> None:
    """Write `tree` as indented JSON, whole or not at all.

    Paths become text, dataclasses become objects, and a number that is not finite becomes null (JSON has no other
    way to say "not measured").

    Raises:
        RunError: the file cannot be written; an earlier file of that name is unchanged.
        TypeError: `tree` holds something that JSON cannot say.
    """
    options = JSON_OPTIONS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    write_atomic(path, orjson.dumps(tree, default=_plain, option=options))


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        DataError: the file is missing, unreadable or not JSON.
    """
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "Mend it there, or remove the file to have it made again."
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Give the path of a readable JSON file.") from error


def sha256_file(path: Path) -> str:
    """Hash the bytes of a file.

    Returns:
        64 hexadecimal digits.

    Raises:
        DataError: the file is missing or unreadable.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Give the path of a readable file.") from error


def sha256_of(tree: Any) -> str:
    """Hash a tree of plain values through its canonical JSON (sorted keys, no spaces, ASCII).

    The order of keys does not matter, that of lists does; 1 and 1.0 differ, as do 0.0 and -0.0.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: `tree` holds something other than mappings, lists, text, numbers, booleans, None and paths.
    """
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def code_fingerprint(packages: Sequence[Path]) -> str:
    """Hash every Python file beneath some folders, so that a change of code changes the fingerprint.

    Names count as paths relative to their folder: moving the whole project changes nothing, renaming a module does.

    Returns:
        64 hexadecimal digits.

    Raises:
        RunError: a folder holds no Python file, so that nothing would be fingerprinted.
    """
    hashes: list[list[str]] = []
    for package in packages:
        files = sorted(package.rglob("*.py"))
        if not files:
            raise RunError(
                f"no Python file beneath {package}: the code cannot be fingerprinted. Reinstall tunewell as files."
            )
        hashes.extend([package.name, file.relative_to(package).as_posix(), sha256_file(file)] for file in files)
    return sha256_of(hashes)


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _sync_folder(folder: Path) -> None:
    # Without this, a power cut may forget the rename. Some file systems cannot do it; the file itself is safe.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_fault(path: Path, error: OSError) -> RunError:
    if error.errno in DISK_FULL:
        free = _free_megabytes(path.parent)
        return RunError(
            f"the disk is full: cannot write {path} ({error.strerror}; {free:.1f} MB free). "
            "Nothing that was there is lost. Free some space, or choose a folder on another disk, and start again."
        )
    return RunError(
        f"cannot write {path}: {error.strerror}. Choose a folder that you can write to. Nothing that was there is lost."
    )


def _free_megabytes(folder: Path) -> float:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free / 1e6
