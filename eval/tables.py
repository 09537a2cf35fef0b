"""Rows of CSV and TSV files, every fault named by file and line."""

import csv
from collections.abc import Sequence
from pathlib import Path

from ..toolkit.errors import DataError
from ..toolkit.files import sha256_file


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV file (or TSV, by its name) with or without byte order mark, each with the number of its last line.

    Raises:
        DataError: it cannot be read, or a column is missing.
    """
    sha256_file(path)  # says what is wrong with a path that cannot be read
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                has = ", ".join(reader.fieldnames or ["none"])
                raise DataError(f"{path} lacks the columns {', '.join(missing)}; it has {has}")
            rows = [(reader.line_num, {key: value or "" for key, value in row.items() if key}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table in UTF-8: {error}") from error
    if not rows:
        raise DataError(f"{path} holds no row, wanted at least one")
    return rows
