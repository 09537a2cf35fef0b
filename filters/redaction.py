"""Personal data in the texts of a row is hidden, whatever the row's shape."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .personal_data import KINDS, REGIONS, Kind, redact

COLUMNS = ("text", "messages", "prompt", "completion", "completions", "chosen", "rejected")
"Columns of training rows that hold text or messages."


SPOKEN = ("content", "text", "reasoning_content", "thinking")
"What messages, and the parts that a content may have, hold text in; calls of tools are left alone."


@dataclass(frozen=True)
class RedactedRow:
    """A row without personal data."""

    row: dict[str, Any]
    "The row; its other columns, and the order of all, are as they were."

    counts: Mapping[str, int]
    "How many pieces of each kind were hidden; kinds of which there were none are absent."


def redact_row(
    row: Mapping[str, Any], *, kinds: Sequence[Kind] = KINDS, regions: Sequence[str] = REGIONS
) -> RedactedRow:
    """Hide the personal data in all text of a row: both sides of a pair, every message, every completion.

    Args:
        row: of any shape; what is neither text nor messages is left alone.
        kinds: what is hidden.
        regions: see `PersonalDataFilter`.
    """
    counts: Counter[str] = Counter()

    def hidden(value: Any) -> Any:
        if isinstance(value, str):
            result = redact(value, kinds=kinds, regions=regions)
            counts.update(one.kind for one in result.found)
            return result.text
        if isinstance(value, Mapping):
            return {key: hidden(one) if key in SPOKEN else one for key, one in value.items()}
        return [hidden(one) for one in value] if isinstance(value, (list, tuple)) else value

    return RedactedRow({key: hidden(one) if key in COLUMNS else one for key, one in row.items()}, dict(counts))
