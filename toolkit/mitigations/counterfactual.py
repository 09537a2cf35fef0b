"""Counterfactual text: every listed word is replaced by its counterpart, all else stays byte for byte."""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .word_pairs import Pair, checked, read_pairs

Row = Mapping[str, Any]
WORD = re.compile(r"[^\W\d_]+")
ORIGIN = "augmented_from"
LISTS = Path(__file__).parent / "lists"


def _words(name: str) -> frozenset[str]:
    lines = (LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


# Where the words of a body's sex stand the swapped text would be false.
INTRINSIC = _words("intrinsic")
# Words that follow an object ("saw her yesterday") and seldom a possessive ("her book"). What follows a possessive
# is an open class, so these are listed. bench/pronoun_rules.py measures the rule on text where the answer is known.
AFTER_OBJECT = _words("after_object")

FOLLOWING = re.compile(r"[ \t]+[\"'\u201c\u2018(]?([^\W\d_]+|\d)")
OR_OTHER = re.compile(r"^ (?:\(or (?:her|his|hers)\)|or (?:her|his|hers)\b|/ ?(?:her|his))", re.IGNORECASE)


@dataclass(frozen=True)
class Swapped:
    """A text with its listed words replaced."""

    text: str
    count: int
    """Words that were replaced."""


class Counterfactual:
    """Replace words by their counterparts (Lu et al. 2018, https://arxiv.org/abs/1807.11714).

    Case is kept for words in lower case, Title case and capitals; punctuation, spaces and all other words are
    untouched. Swapping twice gives the text back as long as no pronoun is misjudged: `her` stands for `his` before a
    noun and for `him` elsewhere, `his` for `her` before a noun and for `hers` elsewhere. That is decided by the word
    that follows, by rules that `bench/pronoun_rules.py` measures: part-of-speech taggers that are kept up need a model
    to be downloaded. First names are left alone, so are texts about bodies (`INTRINSIC`).

    Args:
        pairs: words and counterparts in lower case; None: the bundled list of gender.
        pronouns: also swap her, hers, him and his.
    """

    def __init__(self, pairs: Sequence[Pair] | None = None, *, pronouns: bool = True) -> None:
        pairs = read_pairs() if pairs is None else checked(pairs, "given")
        self.counterpart = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
        self.pronouns: dict[str, Callable[[str], str]] = {}
        if pronouns:
            self.pronouns = {
                "her": lambda rest: "his" if is_possessive(rest) else "him",
                "his": lambda rest: "her" if is_possessive(rest) else "hers",
                "hers": lambda rest: "his",
                "him": lambda rest: "her",
            }

    def swap(self, text: str) -> Swapped:
        """The counterfactual of a text."""
        count = 0

        def replace(match: re.Match[str]) -> str:
            nonlocal count
            word = match.group()
            lower = word.lower()
            other = self.counterpart.get(lower)
            if other is None and lower in self.pronouns:
                other = self.pronouns[lower](text[match.end() :])
            cased = None if other is None else _cased(other, word)
            count += cased is not None
            return word if cased is None else cased

        return Swapped(WORD.sub(replace, text), count)

    def is_about_bodies(self, text: str) -> bool:
        """Whether a text speaks of what its words' gender decides, so that the swapped text would be false."""
        return any(word.lower() in INTRINSIC for word in WORD.findall(text))


@dataclass(frozen=True)
class Augmented:
    """Rows after counterfactual augmentation, and what became of them."""

    rows: list[dict[str, Any]]
    swapped: int
    """Rows that are counterfactuals now."""
    unchanged: int
    """Rows without a listed word."""
    skipped: int
    """Rows that speak of bodies and are left as they were."""


def augment(
    rows: Iterable[Row],
    columns: Sequence[str],
    counterfactual: Counterfactual,
    *,
    mode: Literal["two_sided", "substitute"] = "two_sided",
    share: float = 1.0,
    seed: int = 0,
) -> Augmented:
    """Add or put in the counterfactuals of rows, all columns of a row together.

    `two_sided` adds the counterfactual behind its row (CDA); with a share of 1 both genders then occur equally often.
    `substitute` puts it in its place (CDS, Hall Maudslay et al. 2019, https://arxiv.org/abs/1909.00871, who draw half
    of the documents), so that the set does not grow. A counterfactual names its row in `augmented_from`. Give training
    rows alone: what models are measured on must stay what it is.

    Args:
        rows: texts, or lists of chat messages, in `columns`; other columns are copied.
        columns: swapped together: prompt and completion, or prompt, chosen and rejected.
        counterfactual: the words.
        mode: add or put in place.
        share: part of the rows that is drawn, 0 to 1.
        seed: decides which.
    """
    made, swapped, unchanged, skipped = list[dict[str, Any]](), 0, 0, 0
    rng = random.Random(f"counterfactual {seed}")
    for number, row in enumerate(rows):
        is_drawn = rng.random() < share
        other, count = _swap_row(row, columns, counterfactual)
        is_skipped = any(counterfactual.is_about_bodies(text) for text in _texts(row, columns))
        unchanged += count == 0
        skipped += is_skipped and count > 0
        is_swapped = is_drawn and count > 0 and not is_skipped
        if mode == "two_sided" or not is_swapped:
            made.append(dict(row))
        if is_swapped:
            made.append(other | {ORIGIN: number})
            swapped += 1
    return Augmented(made, swapped, unchanged, skipped)


def is_possessive(rest: str) -> bool:
    """Whether `her` or `his` is a determiner, judged by the text behind it."""
    rest = OR_OTHER.sub("", rest)
    match = FOLLOWING.match(rest)
    if match is None:
        return False  # punctuation, a line break or the end
    following = match.group(1).lower()
    return following not in AFTER_OBJECT and not following.endswith(("ing", "ly"))


def _cased(word: str, like: str) -> str | None:
    """A word in the case of another; None for mixed case, which nothing could restore."""
    if like.islower():
        return word
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word.capitalize() if like.istitle() else None


def _swap_row(row: Row, columns: Sequence[str], counterfactual: Counterfactual) -> tuple[dict[str, Any], int]:
    made, count = dict(row), 0
    for column in columns:
        value = row[column]
        if isinstance(value, str):
            swapped = counterfactual.swap(value)
            made[column], count = swapped.text, count + swapped.count
        else:
            turns = [(turn, counterfactual.swap(turn["content"])) for turn in value]
            made[column] = [dict(turn) | {"content": swapped.text} for turn, swapped in turns]
            count += sum(swapped.count for _, swapped in turns)
    return made, count


def _texts(row: Row, columns: Sequence[str]) -> Iterable[str]:
    for column in columns:
        value = row[column]
        yield from [value] if isinstance(value, str) else (turn["content"] for turn in value)
