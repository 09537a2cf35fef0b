"""Many strings are found in one pass over a text, where they stand as whole words."""

import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import ahocorasick_rs

from .characters import JOINERS, SPACELESS_SCRIPTS

Place = tuple[int, int, int]  # start and end in a folded text, number of the pattern

DFA_CHARACTERS = 20_000
"""Up to this many characters in all patterns the automaton is of the kind that is fastest while it fits the processor's
cache: it takes about 150 bytes for each."""
ASCII_WORD = frozenset(string.ascii_letters + string.digits)
WORDS = re.compile("[A-Za-z0-9]+")
SPACELESS = re.compile(f"[{SPACELESS_SCRIPTS}]")


@dataclass(frozen=True)
class Pattern:
    """One line of a list."""

    text: str
    "As listed."

    folded: str
    "What is looked for in a folded text."

    is_open_left: bool = False
    "Whether a word may go on to the left of a match (a leading * in the list)."

    is_open_right: bool = False
    "Whether a word may go on to the right of a match (a trailing * in the list)."


class Matcher:
    """Finds strings in a text: the leftmost-longest of those that stand as whole words.

    The automaton reports all matches, overlapping ones too, as fast as it would report the longest alone: where the
    longest does not end with a word ("kill all" in "kill allied"), a shorter one may.
    """

    def __init__(self, strings: Sequence[str], patterns: Sequence[Pattern]) -> None:
        kinds = ahocorasick_rs.Implementation
        is_small = sum(map(len, strings)) <= DFA_CHARACTERS
        self._patterns = patterns
        self._automaton = ahocorasick_rs.AhoCorasick(
            strings,
            matchkind=ahocorasick_rs.MatchKind.Standard,
            implementation=kinds.DFA if is_small else kinds.ContiguousNFA,
            store_patterns=False,
        )

    def places(self, text: str, is_wanted: Callable[[int, int], bool] = lambda start, end: True) -> list[Place]:
        """Find the places that do not overlap, from left to right, among those wanted."""
        return leftmost_longest(place for place in self.standing(text) if is_wanted(place[0], place[1]))

    def standing(self, text: str) -> list[Place]:
        """Find all places, those that overlap too."""
        found = self._automaton.find_matches_as_indexes(text, overlapping=True)
        return [
            (start, end, number) for number, start, end in found if stands(text, start, end, self._patterns[number])
        ]


def stands(text: str, start: int, end: int, pattern: Pattern) -> bool:
    """Whether a pattern that is written at a place stands there as whole words, as far as it has to."""
    return (pattern.is_open_left or not _is_inside_word(text, start)) and (
        pattern.is_open_right or not _is_inside_word(text, end)
    )


def leftmost_longest(places: Iterable[Place]) -> list[Place]:
    """Of places that overlap the leftmost, then the longest."""
    chosen: list[Place] = []
    for place in sorted(places, key=lambda place: (place[0], -place[1])):
        if not chosen or place[0] >= chosen[-1][1]:
            chosen.append(place)
    return chosen


def whole_words(pattern: Pattern) -> list[str]:
    """The first words of a pattern, two at most, that stand in a text as whole words; none: nothing is known.

    Words are of ASCII letters and digits here; a pattern that is not ASCII has none.
    """
    if not pattern.folded.isascii() or (pattern.is_open_left and pattern.folded[0] in ASCII_WORD):
        return []
    words = WORDS.findall(pattern.folded)
    if pattern.is_open_right and pattern.folded[-1] in ASCII_WORD:
        words = words[:-1]
    return words[:2]


def _is_inside_word(text: str, at: int) -> bool:
    """Whether the characters before and after a position belong to one word of a script with spaces."""
    if at == 0 or at == len(text):
        return False
    before, after = text[at - 1], text[at]
    if before.isascii() and after.isascii():
        return before in ASCII_WORD and after in ASCII_WORD
    if _kind(after) not in ("letter", "mark"):
        return False
    while _kind(before) == "mark" and at > 1:
        at -= 1  # a mark belongs to what it is drawn on
        before = text[at - 1]
    return _kind(before) == "letter"


@cache
def _kind(char: str) -> str:
    """Say what a character means for word boundaries: a letter (or digit), a mark, or anything else."""
    if SPACELESS.match(char):
        return "else"
    category = unicodedata.category(char)
    if category[0] == "M":
        return "mark"
    return "letter" if category[0] == "L" or category in ("Nd", "Nl") or char in JOINERS else "else"
