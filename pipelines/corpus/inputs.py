"""What a user names as input becomes a list of sources: files, the files of folders, data sets, standard input."""

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...toolkit.data.dataset_rows import check_one_kind, is_saved
from ...toolkit.data.rows import is_hub_id, nearest
from ...toolkit.errors import DataError, RunError, SettingsError
from ...toolkit.files import atomic_writer
from .units import Kind, Source

SUFFIXES: dict[tuple[str, ...], Kind] = {
    (".jsonl",): "jsonl", (".ndjson",): "jsonl", (".json",): "jsonl",
    (".jsonl", ".gz"): "gz", (".ndjson", ".gz"): "gz", (".json", ".gz"): "gz",
    (".jsonl", ".zst"): "zst", (".ndjson", ".zst"): "zst", (".json", ".zst"): "zst",
    (".parquet",): "parquet",
}  # fmt: skip
SETTING = re.compile(r"[a-z_.]+=")
STDIN = "-"
STDIN_FILE = "stdin.jsonl"
CURES = {
    ".txt": "Where each line is a document, convert it: jq -Rc '{{text: .}}' {path} > {stem}.jsonl",
    ".csv": "Convert it: python -c \"import pandas; pandas.read_csv('{path}').to_json('{stem}.jsonl', "
    "orient='records', lines=True)\"",
    ".tsv": "Convert it: python -c \"import pandas; pandas.read_table('{path}').to_json('{stem}.jsonl', "
    "orient='records', lines=True)\"",
}
"How files are made rows that are common and cannot be read in pieces."
EDGE = 64 << 10
"Bytes at either end of a file that tell, with its size and time, whether it has changed."


def find_sources(inputs: Sequence[str], out: Path, *, split: str = "train", stdin: Path | None = None) -> list[Source]:
    """Find out what the inputs are.

    Args:
        inputs: files, folders, ids of the hub, or `-` for standard input.
        out: the output folder, which may not lie in an input folder.
        split: of data sets.
        stdin: where standard input was put by `keep_stdin`.

    Returns:
        at least one source, the files of a folder in the order of their names.

    Raises:
        SettingsError: every input that cannot be used, with the reason.
    """
    faults: list[str] = []
    found: list[Source] = []
    for given in inputs:
        try:
            found += _sources_of(given, out, split, stdin)
        except DataError as error:
            faults.append(str(error))
    seen: dict[str, str] = {}
    for source in found:
        if source.path in seen and source.kind != "dataset":
            faults.append(f"{source.name} is given twice. Name it once")
        seen[source.path] = source.name
    if not inputs:
        faults.append("got no input, wanted files, folders, an id of the hub, or - for standard input")
    if found and split != "train" and all(source.kind != "dataset" for source in found):
        faults.append(f"--split: got {split!r}, but none of the inputs is a data set. Leave it out")
    if faults:
        raise SettingsError(faults, "the inputs")
    return found


def keep_stdin(folder: Path) -> Path:
    """Write standard input to a file, so that several workers can read it."""
    path = folder / STDIN_FILE
    with atomic_writer(path) as file:
        while chunk := sys.stdin.buffer.read(1 << 20):
            file.write(chunk)
    return path


def _sources_of(given: str, out: Path, split: str, stdin: Path | None) -> Iterator[Source]:
    path = Path(given).expanduser()
    if given == STDIN:
        if stdin is None:
            raise DataError("standard input was not kept")
        yield _file(stdin, "stdin", "jsonl", has_time=False)
    elif path.is_dir():
        yield from _folder(given, path, out, split)
    elif path.exists():
        yield _file(path, given, kind_of(path))
    elif is_hub_id(given):
        yield _dataset(given, given, split)
    else:
        hint = f"A setting is given with --set {given}" if SETTING.match(given) else nearest(path)
        raise DataError(f"{given} does not exist. {hint}")


def passed_over(inputs: Sequence[str]) -> list[str]:
    """Name what lies in the folders of a run's inputs and is not read, hidden files and folders left out."""
    found: list[str] = []
    for given in inputs:
        path = Path(given).expanduser()
        if given == STDIN or not path.is_dir() or is_saved(path):
            continue
        visible = _visible(path)
        files = [one for one in visible if one.is_file()]
        if any(map(_kind_or_none, files)):  # else the whole folder is left to `datasets`
            found += [str(Path(given) / one.relative_to(path)) for one in files if _kind_or_none(one) is None]
            # Links to folders are not followed: they may lead in a circle.
            links = [one for one in visible if one.is_symlink() and one.is_dir()]
            found += [f"{Path(given) / one.relative_to(path)} (a link to a folder)" for one in links]
    return found


def kind_of(path: Path) -> Kind:
    """Tell by its name how a file is read.

    Raises:
        DataError: its name says nothing that is known.
    """
    kind = _kind_or_none(path)
    if kind is None:
        wanted = ", ".join("".join(suffixes) for suffixes in SUFFIXES)
        cure = CURES.get(path.suffix.lower(), "Convert or rename it").format(path=path, stem=path.with_suffix(""))
        raise DataError(f"{path}: got a {path.suffix or 'nameless'} file, wanted one of {wanted}. {cure}")
    return kind


def _kind_or_none(path: Path) -> Kind | None:
    suffixes = tuple(suffix.lower() for suffix in path.suffixes)
    return SUFFIXES.get(suffixes[-2:], SUFFIXES.get(suffixes[-1:]))


def _folder(given: str, path: Path, out: Path, split: str) -> Iterator[Source]:
    if out.resolve().is_relative_to(path.resolve()):
        raise DataError(f"the output folder {out} lies in the input folder {given}, so that a second run would read it")
    if is_saved(path):
        yield _dataset(given, str(path.resolve()), split)
        return
    files = [one for one in _visible(path) if one.is_file()]
    readable = [file for file in files if _kind_or_none(file)]
    if readable:
        for file in readable:
            yield _file(file, str(Path(given) / file.relative_to(path)), kind_of(file))
    elif files:
        check_one_kind(path, files)
        yield _dataset(given, str(path.resolve()), split)
    else:
        raise DataError(f"the folder {given} holds no files, wanted files of rows. Check that it is the one you meant")


def _visible(path: Path) -> list[Path]:
    """All in a folder that is not hidden: hidden files and folders belong to programs (caches, checkpoints)."""
    return [
        one for one in sorted(path.rglob("*")) if not any(part.startswith(".") for part in one.relative_to(path).parts)
    ]


def _file(path: Path, name: str, kind: Kind, *, has_time: bool = True) -> Source:
    try:
        state, identity = path.stat(), state_of(path) if has_time else _whole(path)
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror}. Give the path of a readable file") from error
    groups = _row_groups(path, name) if kind == "parquet" else 0
    return Source(
        name=name,
        path=str(path.resolve()),
        kind=kind,
        size=state.st_size,
        parts=groups,
        identity=identity,
        modified=state.st_mtime_ns if has_time else None,
    )


def check_unchanged(source: Source) -> None:
    """Make sure that a file is still the one that was found: nobody could say what half of it would mean.

    Raises:
        RunError: it was written to, or is gone.
    """
    if source.modified is None:
        return
    try:
        state = Path(source.path).stat()
    except OSError as error:
        raise RunError(f"the input {source.name} cannot be read any more: {error.strerror}. {_WAIT}") from error
    if (state.st_size, state.st_mtime_ns) != (source.size, source.modified):
        raise RunError(
            f"the input {source.name} was written to while the run read it (it had {source.size:,} bytes, now "
            f"{state.st_size:,}). {_WAIT}"
        )


_WAIT = "Let nothing write to the inputs, or filter a copy, and give the same command again with --set-aside."


def state_of(path: Path) -> str:
    """Hash what tells that a file has changed, without reading all of it: size, time, both ends."""
    state = path.stat()
    return hashlib.sha256(f"{state.st_size} {state.st_mtime_ns} {_edges(path, state.st_size)}".encode()).hexdigest()


def _edges(path: Path, size: int) -> str:
    """Hash both ends of a file."""
    with path.open("rb") as file:
        head = file.read(EDGE)
        file.seek(max(0, size - EDGE))
        return hashlib.sha256(head + file.read(EDGE)).hexdigest()


def _whole(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _row_groups(path: Path, name: str) -> int:
    import pyarrow
    from pyarrow import parquet

    try:
        return int(parquet.read_metadata(path).num_row_groups)
    except pyarrow.ArrowException as error:
        raise DataError(f"{name} is damaged or not Parquet: {error}. Write or fetch it again") from error


def _dataset(name: str, path: str, split: str) -> Source:
    data = open_dataset(path, split)
    return Source(
        name=name,
        path=path,
        kind="dataset",
        size=max(int(getattr(data, "size_in_bytes", None) or data.data.nbytes), 1),
        parts=len(data),
        identity=str(data._fingerprint),
        split=split,
    )


def open_dataset(path: str, split: str) -> Any:
    """Open a data set of the hub, or a folder, through `datasets`: memory-mapped, so that rows are read where wanted.

    Raises:
        DataError: it cannot be loaded, or has no such split.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        if is_saved(Path(path)):
            loaded = datasets.load_from_disk(path)
            if isinstance(loaded, dict):
                return loaded[split]
            if split not in ("train", str(loaded.split)):
                raise ValueError("it was saved as one data set, without splits")
            return loaded
        return datasets.load_dataset(path, split=split)
    except Exception as error:  # the library raises all kinds, from its own to those of the network
        problem = f"{type(error).__name__}: {error}".strip()
        raise DataError(
            f"cannot read the split {split!r} of {path} ({problem}). Give a file, a folder, or the id of a data set of "
            "the hub, and one of its splits with --split"
        ) from error
