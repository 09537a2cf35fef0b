"""The text that generated tokens stand for, as it is returned: up to an end token or a stop string."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

TAIL = 8
HALF_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class TextReader:
    """Turns generated ids into text.

    Attributes:
        tokenizer: decodes; special tokens are left out.
        ends: token ids that end a completion.
        stop: strings that end a completion and are cut off.
    """

    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    stop: tuple[str, ...]

    def read(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The returned text, and whether an end token or a stop string ends it."""
        length = self.up_to_end(ids)
        return self.cut(self.decode(ids[:length]), has_end=length > 0 and ids[length - 1] in self.ends)

    def cut(self, text: str, *, has_end: bool) -> tuple[str, bool]:
        """Cut a decoded text before the first stop string, and tell whether it has ended."""
        found = [text.index(string) for string in self.stop if string in text]
        return (text[: min(found)], True) if found else (text, has_end)

    def decode(self, ids: Sequence[int]) -> str:
        """The whole text of ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def decode_next(self, ids: Sequence[int], text: str, token: int) -> str:
        """The whole text of ids and one more token, at the cost of the last few.

        What a token adds depends on its neighbours: bytes of one character, blanks around marks.

        Args:
            ids: tokens so far.
            text: theirs.
            token: the next one.
        """
        tail = list(ids[-TAIL:])
        before, after = self.decode(tail), self.decode([*tail, token])
        if before.endswith(HALF_CHARACTER) or not after.startswith(before):
            return self.decode([*ids, token])
        return text + after[len(before) :]

    def up_to_end(self, ids: Sequence[int]) -> int:
        """How many tokens there are up to the first end token, that one included."""
        return next((place + 1 for place, token in enumerate(ids) if token in self.ends), len(ids))

    def up_to_stop(self, ids: Sequence[int]) -> int:
        """How many tokens it takes until the text holds a stop string: what comes after it is padding."""
        if not self.stop:
            return len(ids)
        lengths = range(1, len(ids) + 1)
        return next((length for length in lengths if self.cut(self.decode(ids[:length]), has_end=False)[1]), len(ids))
