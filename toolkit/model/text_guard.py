"""What may not stand in the text that a model writes: the interface between generation and whoever objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Objection:
    """A stretch of a text that must not be returned."""

    start: int
    "Its first character."

    end: int
    "The character after its last."

    may_pass: bool
    "Whether letters that follow could still make it part of a longer word to which nobody objects."


class TextGuard(Protocol):
    """Anything that objects to parts of a text, such as `tunewell.filters.BlocklistGuard`."""

    def objections(self, text: str) -> Sequence[Objection]:
        """Find all that is objected to in a text as far as it is written, from left to right.

        Only what reaches the end of the text may pass; everything before the end is decided.
        """
