"""Rows of a folder or of the hub, read by `datasets`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError

Row = dict[str, Any]
SAVED = ("state.json", "dataset_dict.json")
KINDS = {".jsonl": "JSON", ".ndjson": "JSON", ".json": "JSON", ".csv": "CSV", ".tsv": "TSV", ".parquet": "Parquet"}
ABOUT = ("dataset_info.json", "dataset_infos.json")
"Files that describe a data set and hold no rows."


def rows_of_folder(path: Path, split: str, limit: int | None) -> list[Row]:
    """Read a folder that `datasets` saved, or one with files of one kind.

    Args:
        path: the folder.
        split: which part of it.
        limit: the largest number of rows to read; None reads all.

    Raises:
        DataError: it holds no files, or files of several kinds, or cannot be read.
    """
    files = [entry for entry in path.rglob("*") if entry.is_file()]
    if not files:
        raise DataError(f"the folder {path} holds no files; wanted a data set. Check that it is the folder you meant.")
    if not is_saved(path):
        check_one_kind(path, files)
    return rows_of_dataset(str(path), split, limit, is_saved=is_saved(path))


def is_saved(path: Path) -> bool:
    """Whether `datasets` saved this folder."""
    return any((path / name).is_file() for name in SAVED)


def _says_which(card: Path) -> bool:
    """Whether a data set's card tells which of its files are read."""
    return card.is_file() and "data_files:" in card.read_text("utf-8", errors="replace")


def check_one_kind(path: Path, files: Sequence[Path]) -> None:
    """Refuse files of several kinds: `datasets` would read the commonest and pass over the others without a word.

    Args:
        path: the folder.
        files: all in it.

    Raises:
        DataError: names the kinds. Where the card of the data set tells which files are read, all are well.
    """
    if _says_which(path / "README.md"):
        return
    kinds = Counter(
        next((KINDS[suffix.lower()] for suffix in reversed(file.suffixes) if suffix.lower() in KINDS), "")
        for file in files
        if file.name not in ABOUT and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    found = [f"{count} {kind}" for kind, count in kinds.most_common() if kind]
    if len(found) > 1:
        raise DataError(
            f"the folder {path} holds files of several kinds ({', '.join(found)}), of which only one would be read. "
            "Name the files themselves, or give each kind a folder of its own."
        )


def rows_of_dataset(name: str, split: str, limit: int | None, *, is_saved: bool) -> list[Row]:
    """Read a data set of the hub or a folder.

    Args:
        name: id or folder.
        split: which part of it.
        limit: the largest number of rows to read; None reads all.
        is_saved: it is a folder that `datasets` saved.

    Raises:
        DataError: it cannot be read.
    """
    import datasets

    try:
        if is_saved:
            loaded = datasets.load_from_disk(name)
            data = loaded[split] if isinstance(loaded, Mapping) else loaded
        else:
            data = datasets.load_dataset(name, split=split)
        return [dict(row) for row in (data if limit is None else islice(data, limit))]
    except Exception as error:  # the library raises all kinds, from its own to those of the network
        cause: BaseException = error  # what is wrong with the rows stands behind a DatasetGenerationError of no words
        while cause.__cause__ is not None:
            cause = cause.__cause__
        problem = f"{type(cause).__name__}: {cause}".strip()
        raise DataError(
            f"cannot read the split {split!r} of {name} ({problem}). Give a file, a folder, or the id of a data set of "
            "the hub, and one of its splits."
        ) from error
