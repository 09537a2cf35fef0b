"""An answer is checked against what was asked, and put from the order shown into the order of the row."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...toolkit.errors import DataError
from .questions import COMPLETION_FLAGS, PROMPT_FLAGS, RATINGS, SKIP_REASONS, Choice

LONGEST_TEXT = 1_000_000  # characters of a demonstration


class FormError(DataError):
    """An answer with parts missing or wrong; `faults` names them all."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(faults))


def checked_answer(body: Any, steps: Sequence[str], shown: Sequence[int]) -> dict[str, Any]:
    """Check a whole answer.

    Args:
        body: what the page sent: `completion` for a demonstration, `ratings` and `flags` (in the order shown) for
            ratings, `ranks` (in the order shown) for a ranking, and `prompt_flags`.
        steps: what was asked.
        shown: for each place on the page the number of the completion in the row.

    Returns:
        The answer in the order of the row, ranks without gaps.

    Raises:
        FormError: all that is missing or wrong; a half answer is none.
    """
    if not isinstance(body, Mapping):
        raise FormError([f"got {type(body).__name__}, wanted an answer"])
    faults: list[str] = []
    answer: dict[str, Any] = {"prompt_flags": _flags(body.get("prompt_flags", []), PROMPT_FLAGS, "the prompt", faults)}
    if "demonstrate" in steps:
        answer["completion"] = _text(body.get("completion"), faults)
    if "rate" in steps:
        answer["ratings"] = _numbers(body.get("ratings"), shown, RATINGS, "rating", faults)
        flags = body.get("flags", [[] for _ in shown])
        if not _is_list(flags) or len(flags) != len(shown):
            faults.append(f"wanted one list of flags for each of {len(shown)} completions")
        else:
            names = [_flags(one, COMPLETION_FLAGS, f"completion {_letter(at)}", faults) for at, one in enumerate(flags)]
            answer["flags"] = _as_in_row(names, shown)
    if "rank" in steps:
        ranks = _numbers(body.get("ranks"), shown, range(1, len(shown) + 1), "rank", faults)
        places = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
        answer["ranks"] = [places[rank] for rank in ranks]
    if faults:
        raise FormError(faults)
    return answer


def checked_skip(body: Any) -> dict[str, Any]:
    """Check the reason for skipping an item.

    Raises:
        FormError: no reason, or one that is not offered.
    """
    reason = body.get("reason") if isinstance(body, Mapping) else None
    note = body.get("note", "") if isinstance(body, Mapping) else ""
    known = [choice.name for choice in SKIP_REASONS]
    if reason not in known:
        raise FormError([f"got the reason {reason!r:.40}, wanted one of {', '.join(known)}"])
    if not isinstance(note, str) or len(note) > 2000:
        raise FormError(["wanted a note of at most 2,000 characters"])
    if reason == "other" and not note.strip():
        raise FormError(["say which other reason"])
    return {"reason": reason, "note": note.strip()}


def as_shown(answer: Mapping[str, Any], shown: Sequence[int]) -> dict[str, Any]:
    """An answer back in the order that its labeler saw, to go on with it."""
    return {
        key: [value[number] for number in shown] if key in ("ratings", "flags", "ranks") else value
        for key, value in answer.items()
    }


def _text(value: Any, faults: list[str]) -> str:
    if not isinstance(value, str) or not value.strip():
        faults.append("the completion is empty: write one, or skip the item")
    elif len(value) > LONGEST_TEXT:
        faults.append(f"the completion has {len(value):,} characters, wanted at most {LONGEST_TEXT:,}")
    elif _is_broken(value):
        faults.append("the completion holds half a character (a lone surrogate): type it again")
    return value if isinstance(value, str) else ""


def _is_broken(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _numbers(value: Any, shown: Sequence[int], wanted: range, name: str, faults: list[str]) -> list[int]:
    if not _is_list(value) or len(value) != len(shown):
        faults.append(f"wanted a {name} for each of {len(shown)} completions")
        return []
    for at, number in enumerate(value):
        if number is None:
            faults.append(f"completion {_letter(at)} has no {name}")
        elif isinstance(number, bool) or not isinstance(number, int) or number not in wanted:
            faults.append(
                f"completion {_letter(at)} has the {name} {number!r:.20}, wanted {wanted.start} to {wanted.stop - 1}"
            )
    return _as_in_row(list(value), shown) if not faults else []


def _flags(value: Any, known: Sequence[Choice], of: str, faults: list[str]) -> list[str]:
    names = [choice.name for choice in known]
    if not _is_list(value) or not all(isinstance(one, str) and one in names for one in value):
        faults.append(f"unknown flags of {of}: {value!r:.60}")
        return []
    return [name for name in names if name in value]


def _as_in_row(values: list[Any], shown: Sequence[int]) -> list[Any]:
    placed: list[Any] = [None] * len(shown)
    for value, number in zip(values, shown, strict=True):
        placed[number] = value
    return placed


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
