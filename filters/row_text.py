"""The part of a row that filters judge is put together as one text, and every place of it is found again in the row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from ..toolkit.data.row_shapes import Role
from ..toolkit.errors import DataError, SettingsError

Place = tuple[str | int, ...]
"""Where a part stands in a row, for instance `("chosen", 1, "content")`: column, number of the message, key."""

BETWEEN = "\n\n"
"Stands between two parts. A listed phrase may be found across it, as across any white space."

JUDGED: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "messages": ("messages",),
    "chosen": ("prompt", "chosen"),
    "completions": ("prompt", "completions"),
    "rating": ("prompt",),
    "completion": ("prompt", "completion"),
    "prompt": ("prompt",),
}
"The columns that are judged, by the first of these keys that a row has. What is marked as bad is left alone."


@dataclass(frozen=True)
class RowText:
    """What is judged of one row.

    Attributes:
        text: all parts, one after the other.
        parts: for each its place in the row, and where it starts and ends in `text`.
    """

    text: str
    parts: tuple[tuple[Place, int, int], ...]

    def locate(self, span: tuple[int, int]) -> tuple[Place, tuple[int, int]] | None:
        """Find the part that a span of the text begins in, and the span inside it; None for an empty row."""
        start, end = span
        for place, first, last in self.parts:
            if start < last:
                begins = max(start, first)
                return place, (begins - first, max(min(end, last), begins) - first)
        return None


@dataclass(frozen=True, kw_only=True)
class RowReader:
    """Puts together what filters judge of a row, whatever its shape; a row is then kept or dropped as a whole.

    A preference pair is judged by `prompt` and `chosen`: `rejected` is meant to be bad, so judging it would drop the
    pairs that teach most. For the same reason a ranking is judged by its prompt and the completions of the best rank,
    and a rating by its prompt alone.

    Raises:
        SettingsError: roles that do not exist.
    """

    columns: tuple[str, ...] = ()
    """Columns to judge, those that a row lacks included as a fault; none given: by the shape of each row."""

    roles: tuple[Role, ...] = get_args(Role)
    """Of a chat only the messages of these roles are judged; all of them: every message, whatever it calls its role."""

    def __post_init__(self) -> None:
        known = get_args(Role)
        faults = [f"roles: got {role!r}, wanted some of {', '.join(known)}" for role in self.roles if role not in known]
        if not self.roles:
            faults.append(f"roles: got none, wanted at least one of {', '.join(known)}")
        if faults:
            raise SettingsError(faults, "the choice of what to judge")

    def read(self, row: Mapping[str, Any]) -> RowText:
        """Put together the text of one row; empty where the chat has no message of the chosen roles.

        Raises:
            DataError: a column is missing, holds neither text nor messages, or the row has nothing to judge.
        """
        found = [part for column in self._columns(row) for part in self._parts(column, row)]
        parts: list[tuple[Place, int, int]] = []
        start = 0
        for place, text in found:
            parts.append((place, start, start + len(text)))
            start += len(text) + len(BETWEEN)
        return RowText(BETWEEN.join(text for _, text in found), tuple(parts))

    def _columns(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        if self.columns:
            missing = [column for column in self.columns if column not in row]
            if missing:
                raise DataError(f"the row has no column {missing[0]!r}; it has {_names(row)}")
            return self.columns
        kind = next((key for key in JUDGED if key in row), None)
        if kind is None:
            raise DataError(
                f"the row has nothing to judge: it has {_names(row)}, wanted one of {', '.join(JUDGED)}; a column of "
                "another name is told with --column NAME"
            )
        # The prompt of a pair may stand inside its two dialogues.
        return tuple(column for column in JUDGED[kind] if column in row or column != "prompt")

    def _parts(self, column: str, row: Mapping[str, Any]) -> list[tuple[Place, str]]:
        value = row[column]
        if column == "completions" and isinstance(value, Sequence) and not isinstance(value, str):
            best = _best(row.get("ranks"), len(value))
            return [part for number in best for part in self._texts((column, number), value[number])]
        return self._texts((column,), value)

    def _texts(self, place: Place, value: Any) -> list[tuple[Place, str]]:
        """Read a text, or the messages of a chat that have a chosen role."""
        if isinstance(value, str):
            return [(place, value)]
        if not isinstance(value, Sequence):
            raise DataError(f"the row holds {value!r:.40} in {_shown(place)}, wanted text or a list of messages")
        parts = []
        for number, message in enumerate(value):
            if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
                where = _shown((*place, number))
                raise DataError(f"the row holds {message!r:.40} in {where}, wanted {{'role': ..., 'content': text}}")
            if self._is_judged(message, (*place, number)):
                parts.append(((*place, number, "content"), message["content"]))
        return parts

    @cached_property
    def _judges_all(self) -> bool:
        return set(self.roles) == set(get_args(Role))

    def _is_judged(self, message: Mapping[str, Any], place: Place) -> bool:
        if self._judges_all:
            return True
        role, known = message.get("role"), get_args(Role)
        if role not in known:
            # Whether it is meant cannot be told, and a message that nobody judges would be kept.
            raise DataError(f"the row holds the role {role!r:.40} in {_shown(place)}, wanted one of {', '.join(known)}")
        return role in self.roles


def _best(ranks: Any, n: int) -> list[int]:
    """Numbers of the completions of the best rank (1 is best, equal numbers are a tie)."""
    if not isinstance(ranks, Sequence) or len(ranks) != n or not all(isinstance(rank, int) for rank in ranks):
        raise DataError(f"the row holds {ranks!r:.40} as ranks of {n} completions, wanted a whole number for each")
    return [number for number, rank in enumerate(ranks) if rank == min(ranks)]


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "no columns at all"


def _shown(place: Place) -> str:
    return ".".join(map(str, place))
