"""Dialogues of the Anthropic HH corpus become chat messages and preference rows.

A dialogue is one text of turns, each opened by two line breaks and `Human:` or `Assistant:`; a row holds two
dialogues that share everything but the last answer. Data and paper: https://github.com/anthropics/hh-rlhf.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from ..errors import DataError

Message = dict[str, str]

HHReason = Literal[
    "not_a_dialogue",  # no speaker, or text before the first one
    "starts_with_assistant",
    "ends_with_human",
    "same_speaker_twice",  # chat templates want speakers to alternate
    "empty_turn",
    "speaker_label_inside_turn",  # "Assistant: Human: ...": the collectors' page ran two turns together
    "different_prompts",
    "same_answer",  # no preference can be learned
]
REASONS: tuple[HHReason, ...] = get_args(HHReason)
ROLES = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
LABEL = re.compile(r"\b(?:Human|Assistant):")


class HHPairs(NamedTuple):
    """What became of the rows of an HH file: `len(pairs) + len(rejected)` is the number of rows.

    Attributes:
        pairs: rows of `prompt` (messages), `chosen` and `rejected` (one message each).
        rejected: for each row that cannot be used its number (`row`, from 0), `reason` and `detail`.
    """

    pairs: list[dict[str, list[Message]]]
    rejected: list[dict[str, Any]]


class _UnusableError(DataError):
    """A row that cannot become a pair, with the reason as one of a few words."""

    def __init__(self, reason: HHReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


def parse_hh(text: str) -> list[Message]:
    """Split a dialogue into chat messages.

    Each text loses the white space around it, nothing else; turns may be empty and speakers may follow themselves.

    Args:
        text: turns opened by two line breaks and `Human:` or `Assistant:`; the first may lack the line breaks.

    Raises:
        DataError: the text does not begin with a speaker.
    """
    before, *parts = TURN.split(text)
    if before or not parts:
        raise _UnusableError("not_a_dialogue", f"got {text[:60]!r}; wanted text that begins with 'Human:'")
    return [
        {"role": ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def hh_pair(row: Mapping[str, Any]) -> dict[str, list[Message]]:
    """Turn one row of two dialogues into a conversational preference row.

    Args:
        row: `chosen` and `rejected`, each a dialogue as text.

    Returns:
        `prompt`: the messages that both share, which alternate from user to user; `chosen` and `rejected`: the
        assistant's last message.

    Raises:
        DataError: the row has no such texts, or cannot be used; the message begins with one of `REASONS`.
    """
    for name in ("chosen", "rejected"):
        if not isinstance(row.get(name), str):
            columns = ", ".join(map(repr, row)) or "none"
            raise DataError(f"wanted the text {name!r}; got a row with the columns {columns}")
    chosen, rejected = (_checked(parse_hh(row[name]), name) for name in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise _UnusableError("different_prompts", "the two dialogues differ before the last answer")
    if chosen[-1] == rejected[-1]:
        raise _UnusableError("same_answer", "the chosen answer is the rejected one")
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def parse_hh_rows(rows: Iterable[Mapping[str, Any]]) -> HHPairs:
    """Turn rows of two dialogues into preference rows; a row that cannot be used is kept with its reason.

    Raises:
        DataError: a row has no texts `chosen` and `rejected`, or no row can be used.
    """
    result = HHPairs([], [])
    for number, row in enumerate(rows):
        try:
            result.pairs.append(hh_pair(row))
        except _UnusableError as error:
            result.rejected.append({"row": number, "reason": error.reason, "detail": error.detail})
        except DataError as error:
            raise DataError(f"row {number} (counting from 0) is not of the HH corpus: {error}") from error
    if not result.pairs:
        first = f": row 0 is {result.rejected[0]['reason']} ({result.rejected[0]['detail']})" if result.rejected else ""
        raise DataError(f"none of {len(result.rejected)} rows is a usable pair of HH dialogues{first}")
    return result


def _checked(messages: list[Message], name: str) -> list[Message]:
    roles = [message["role"] for message in messages]
    if roles[0] != "user":
        raise _UnusableError("starts_with_assistant", f"{name} does not begin with the human")
    if any(role == following for role, following in itertools.pairwise(roles)):
        raise _UnusableError("same_speaker_twice", f"{name} has two turns of one speaker in a row")
    if roles[-1] != "assistant":
        raise _UnusableError("ends_with_human", f"{name} has no last answer")
    for number, message in enumerate(messages):
        if not message["content"]:
            raise _UnusableError("empty_turn", f"turn {number} of {name} is empty")
        if label := LABEL.search(message["content"]):
            raise _UnusableError("speaker_label_inside_turn", f"turn {number} of {name} holds {label[0]!r}")
    return messages
