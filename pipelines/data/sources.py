"""Rows of any of the known shapes become prompts with what was said of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from ...toolkit.data.hh_dialogues import parse_hh_rows
from ...toolkit.data.row_shapes import CHECKS
from ...toolkit.data.rows import read_rows
from ...toolkit.errors import DataError, SettingsError
from ..collect.export import SUMMARY as EXPORT
from .written import Text, Written, folded

Row = dict[str, Any]

UNCLEAR_SKIPS = ("unclear", "broken", "personal_data")
UNCLEAR_FLAG = "intent_unclear"
LISTS = ("examples", "completions", "ranks", "messages", "prompt_flags")
COLUMNS: tuple[str, ...] = (
    "prompt",
    "use_case",
    "instruction",
    "examples",
    "query",
    "response",
    "messages",
    "completion",
)
COLUMNS += ("completions", "ranks", "chosen", "rejected", "rating")
WANTED = (
    'rows with "prompt" (plain), "prompt" and "use_case", "instruction" and "examples" '
    '([{"query": "...", "response": "..."}, ...]), "instruction", "query" and "response", or "messages"; other names '
    "are told with --column NAME=YOURS"
)


def read_sources(
    sources: Sequence[str], columns: Mapping[str, str], user_column: str, split: str
) -> tuple[list[Written], list[Row]]:
    """Read the prompts of all sources.

    Args:
        sources: files, folders or ids of the hub; an export of `tunewell collect` as its folder or by its files.
        columns: by our name of a column the source's.
        user_column: who wrote a row; a source without it has no users.
        split: which part of a folder or hub data set.

    Returns:
        the prompts, rows that share instruction and user as one; and the rows that could not be used, each with
        `place` and `reason`.

    Raises:
        DataError: a source cannot be read, or a row is of no known shape: the first one, with how many there are.
    """
    found: list[Written] = []
    unusable: list[Row] = []
    files = [file for source in sources for file in _files(source)]
    if not files:
        raise DataError(f"{', '.join(sources)} hold no rows; wanted prompts")
    for source, name in zip(files, _names(files), strict=True):
        rows = [_renamed(row, columns) for row in read_rows(source, split=split)]
        if "prompt" not in rows[0] and {"chosen", "rejected"} <= rows[0].keys():
            rows, bad = _dialogues(rows, source)
            unusable += [{"place": f"{name}, row {one['row'] + 1}", "reason": one["reason"]} for one in bad]
        faults = []
        grouped: dict[tuple[str, str], Written] = {}
        for number, row in enumerate(rows, start=1):
            place = f"{name}, row {row.pop('__row__', number)}"
            try:
                one = _written(row, place, user_column)
            except DataError as error:
                faults.append(f"{place}: {error}")
                continue
            if one.kind == "few_shot" and "query" in row:
                first = grouped.setdefault((folded([one.instruction]), one.user or ""), one)
                if first is not one:
                    first.pairs += one.pairs
                    first.n_rows += 1
                    continue
            found.append(one)
        if faults:
            raise DataError(f"{faults[0]}. Rows of {source} that do not fit: {len(faults)} of {len(rows)}.")
    return found, unusable


def parse_columns(given: Sequence[str]) -> dict[str, str]:
    """Read NAME=YOURS, where NAME is a column's name here and YOURS its name in the sources.

    Raises:
        SettingsError: something else was given.
    """
    parts = [one.partition("=") for one in given]
    faults = [
        f"--column: got {one!r}, wanted NAME=YOURS, with NAME one of {', '.join(COLUMNS)}"
        for one, (name, _, yours) in zip(given, parts, strict=True)
        if name not in COLUMNS or not yours
    ]
    if faults:
        raise SettingsError(faults, "the command line")
    return {name: yours for name, _, yours in parts}


def _files(source: str) -> list[str]:
    """The source; of an export of `tunewell collect`, the files of it, of which some are often empty."""
    folder = Path(source).expanduser()
    files = sorted(folder.glob("*.jsonl")) if (folder / EXPORT).is_file() else [folder]
    if any(file.is_file() for file in files):
        return [str(file) for file in files if not _is_empty_export(file)]
    return [source]


def _is_empty_export(file: Path) -> bool:
    return file.stat().st_size == 0 and (file.parent / EXPORT).is_file()


def _names(sources: Sequence[str]) -> list[str]:
    """The last part of each source; all of it where two would have one name."""
    short = [Path(source).name for source in sources]
    return [name if short.count(name) == 1 else source for name, source in zip(short, sources, strict=True)]


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    taken = {yours: row[yours] for yours in columns.values() if yours in row}
    rest = {name: value for name, value in row.items() if name not in taken}
    return rest | {name: taken[yours] for name, yours in columns.items() if yours in taken}


def _dialogues(rows: Sequence[Row], source: str) -> tuple[list[Row], list[Row]]:
    """Pairs of whole dialogues, which share all but the last answer."""
    try:
        pairs, bad = parse_hh_rows(rows)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    dropped = {one["row"] for one in bad}
    kept = [number for number in range(len(rows)) if number not in dropped]
    return [dict(rows[at]) | pair | {"__row__": at + 1} for at, pair in zip(kept, pairs, strict=True)], bad


def _written(row: Row, place: str, user_column: str) -> Written:
    has_prompt = "prompt" in row or "instruction" in row
    row = {name: _value(name, value) for name, value in row.items() if value is not None and value != ""}
    if has_prompt and not {"prompt", "messages", "instruction"} & row.keys():
        row["prompt"] = ""  # an empty cell is a prompt that nobody could answer: dropped later, with its reason
    one = _prompt_of(row, place)
    user = row.get(user_column)
    one.user = None if user is None else str(user)
    if one.kind != "few_shot":
        _add_labels(one, row)
    flags = row.get("prompt_flags")
    marks = row.get("reason") in UNCLEAR_SKIPS or (isinstance(flags, list) and UNCLEAR_FLAG in flags)
    one.n_unclear = int(marks)
    one.n_answered = int(one.is_labelled and not marks)
    return one


def _value(name: str, value: Any) -> Any:
    """A cell of a table holds a list as JSON and a number as text."""
    if isinstance(value, str) and name in LISTS:
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise DataError(f"got {value[:60]!r} in {name!r}, wanted a list as JSON ({error})") from error
    if isinstance(value, str) and name == "rating":
        try:
            return float(value)
        except ValueError as error:
            raise DataError(f"got {value[:60]!r} in 'rating', wanted a number") from error
    return value


def _prompt_of(row: Row, place: str) -> Written:
    if "instruction" in row and _has_pairs(row):
        _check(row, "text", "instruction")
        return Written("few_shot", place, instruction=row["instruction"], pairs=_pairs(row))
    if "messages" in row:
        _check(row, "messages", "messages")
        last = row["messages"][-1]
        if last["role"] == "assistant" and len(row["messages"]) > 1:
            row |= {"prompt": row["messages"][:-1], "completion": [last]}
        else:
            row |= {"prompt": row["messages"]}
    if "prompt" not in row:
        raise DataError(f"it has {', '.join(map(repr, row))}; wanted {WANTED}")
    _check(row, "prompt", "prompt")
    kind = "use_case" if "use_case" in row else "plain"
    return Written(kind, place, prompt=row["prompt"], use_case=str(row.get("use_case", "")))  # type: ignore[arg-type]


def _has_pairs(row: Row) -> bool:
    return "examples" in row or "query" in row


def _pairs(row: Row) -> list[tuple[str, str]]:
    examples = row.get("examples", [{"query": row.get("query"), "response": row.get("response", "")}])
    pairs = []
    for one in examples if isinstance(examples, list) else [examples]:
        query, response = (one.get("query"), one.get("response") or "") if isinstance(one, Mapping) else (None, "")
        if not isinstance(query, str) or not isinstance(response, str):
            raise DataError(f'got the example {one!r:.60}, wanted {{"query": "...", "response": "..."}}')
        pairs.append((query.strip(), response.strip()))
    return pairs


def _add_labels(one: Written, row: Row) -> None:
    is_simulated = str(row.get("is_simulated", "")).lower() in ("true", "1")
    if "rating" in row and "completion" in row:
        _check(row, "rating", "rating")
        _check(row, "completion", "completion")
        one.ratings.append((row["completion"], row["rating"], is_simulated))
    elif "completion" in row:
        _check(row, "completion", "completion")
        one.demonstrations.append(row["completion"])
    if "completions" in row and "ranks" in row:
        _check(row, "completions", "completions")
        _check(row, "ranks", "ranks")
        if len(row["completions"]) != len(row["ranks"]):
            raise DataError(f"got {len(row['completions'])} completions and {len(row['ranks'])} ranks")
        one.rankings.append((row["completions"], row["ranks"], is_simulated))
    if "chosen" in row and "rejected" in row:
        _check(row, "chosen", "chosen")
        _check(row, "rejected", "rejected")
        one.comparisons.append((row["chosen"], row["rejected"], is_simulated))
    texts: list[Text] = [*one.demonstrations, *(text for pair in one.comparisons for text in pair[:2])]
    texts += [text for text, _, _ in one.ratings] + [text for found, _, _ in one.rankings for text in found]
    if any(isinstance(text, str) == one.is_chat for text in texts):
        raise DataError("it mixes text and lists of messages; wanted prompt and completions of one kind")


def _check(row: Row, check: str, name: str) -> None:
    if fault := CHECKS[check](row[name]):
        raise DataError(f"it has {fault} in {name!r}")
