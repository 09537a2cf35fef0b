"""Rows are checked for the columns and types that a stage needs, before it starts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from ..errors import DataError

RowShape = Literal["text", "prompt", "prompt_completion", "messages", "preference", "ranking", "rating"]
Role = Literal["system", "developer", "user", "assistant", "tool"]

COLUMNS: dict[RowShape, tuple[str, ...]] = {
    "text": ("text",),
    "prompt": ("prompt",),
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "ranking": ("prompt", "completions", "ranks"),
    "rating": ("prompt", "completion", "rating"),
}
# The last two are ours; the others are TRL's dataset formats.
EXAMPLES: dict[RowShape, str] = {
    "text": '{"text": "..."}',
    "prompt": '{"prompt": "..."}',
    "prompt_completion": '{"prompt": "...", "completion": "..."}',
    "messages": '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
    "preference": '{"prompt": "...", "chosen": "...", "rejected": "..."}',
    "ranking": '{"prompt": "...", "completions": ["...", "..."], "ranks": [1, 2]}',
    "rating": '{"prompt": "...", "completion": "...", "rating": 4}',
}
CHAT = " A text may also be a list of {'role': ..., 'content': ...} messages, in all rows alike."
CURE = (
    " `tunewell data build FILE --out DIR` makes such rows of others: --column prompt=question names columns, and "
    "`chosen` and `rejected` may be whole dialogues."
)


def require_columns(rows: Iterable[Mapping[str, Any]], wanted: RowShape, where: str) -> None:
    """Check that every row has the columns of a shape, with values of the right types.

    A prompt, completion, chosen or rejected is text (standard rows) or a list of messages (conversational rows);
    TRL decides by the first row, so all rows must be of one kind. Other columns are allowed.

    Args:
        rows: the rows.
        wanted: the shape that the next stage reads.
        where: what the rows were read from, for the message.

    Raises:
        DataError: for the first row that does not fit: its number, the columns it has, what is missing or wrong,
            an example of a row that fits, and how many rows do not fit.
    """
    first_fault = cure = ""
    total = count = 0
    kinds: dict[str, int] = {}
    for number, row in enumerate(rows):
        total += 1
        fault = _fault_of(row, wanted, kinds, number)
        if fault:
            count += 1
            if not first_fault and wanted != "text" and any(name not in row for name in COLUMNS[wanted]):
                cure = CURE
            first_fault = first_fault or f"row {number} (counting from 0) of {where} {fault}"
    if first_fault:
        chat = "" if wanted in ("text", "messages") else CHAT
        raise DataError(
            f"{first_fault}. Wanted rows like {EXAMPLES[wanted]}.{chat}{cure} Rows that do not fit: {count} of {total}."
        )


def _fault_of(row: Mapping[str, Any], wanted: RowShape, kinds: dict[str, int], number: int) -> str:
    """What is wrong with one row, or nothing; notes in `kinds` the first row of each kind."""
    missing = [name for name in COLUMNS[wanted] if name not in row]
    if missing:
        return f"has no {_listed(missing)}; it has {_listed(list(row)) if row else 'no columns at all'}"
    for name in COLUMNS[wanted]:
        fault = CHECKS[name](row[name])
        if fault:
            return f"has {fault} in {name!r}"
    if wanted == "ranking" and len(row["completions"]) != len(row["ranks"]):
        return f"has {len(row['completions'])} completions and {len(row['ranks'])} ranks; wanted one rank for each"
    if wanted in ("preference", "ranking") and row.get("margin") is not None and (fault := _rating(row["margin"])):
        return f"has {fault} in 'margin'"
    if wanted == "text":
        return ""
    return _fault_of_kind(row, wanted, kinds, number)


def _fault_of_kind(row: Mapping[str, Any], wanted: RowShape, kinds: dict[str, int], number: int) -> str:
    texts: list[Any] = []
    for name in COLUMNS[wanted]:
        if name == "completions":
            texts.extend(row[name])
        elif name not in ("ranks", "rating"):
            texts.append(row[name])
    found = {"text" if isinstance(text, str) else "messages" for text in texts}
    if len(found) > 1:
        return "mixes text and lists of messages; wanted the same for all of a row"
    kind = found.pop()
    kinds.setdefault(kind, number)
    other = next((name for name in kinds if name != kind), None)
    if other is not None:
        return f"holds {kind}, but row {kinds[other]} holds {other}; wanted all rows of one kind"
    return ""


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else f"{_shown(value)} where text was wanted"


def _messages(value: Any) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return f"{_shown(value)} where a list of messages was wanted"
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            return f"the message {_shown(message)} where {{'role': ..., 'content': ...}} was wanted"
        if message["role"] not in get_args(Role):
            return f"the role {message['role']!r} where one of {', '.join(get_args(Role))} was wanted"
        if not isinstance(message["content"], str):
            return f"a message with content {_shown(message['content'])} where text was wanted"
    return ""


def _text_or_messages(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _messages(value)
    return "" if isinstance(value, str) else f"{_shown(value)} where text or a list of messages was wanted"


def _completions(value: Any) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < 2:
        return f"{_shown(value)} where a list of two or more completions was wanted"
    return next((fault for fault in map(_text_or_messages, value) if fault), "")


def _ranks(value: Any) -> str:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if is_list and all(isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1 for rank in value):
        return ""
    return f"{_shown(value)} where whole numbers from 1 were wanted (1 is best, equal numbers are a tie)"


def _rating(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "" if is_number and value == value else f"{_shown(value)} where a number was wanted"


CHECKS: dict[str, Callable[[Any], str]] = {
    "text": _text,
    "prompt": _text_or_messages,
    "completion": _text_or_messages,
    "chosen": _text_or_messages,
    "rejected": _text_or_messages,
    "messages": _messages,
    "completions": _completions,
    "ranks": _ranks,
    "rating": _rating,
}


def _listed(names: Sequence[str]) -> str:
    return f"column{'s' if len(names) != 1 else ''} {', '.join(map(repr, names))}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
