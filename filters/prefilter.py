"""Most texts are ruled out by their words, before any pattern is looked for."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .matching import ASCII_WORD, Pattern

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

LETTERS = 8
"Letters of a word that are read at once, as one number; of those after them only the count is known."
BITS = 17
"A table of so many bits' numbers, 128 kB, stays in the processor's cache."
SHIFT = np.uint64(64 - BITS)
MASKS = np.array([(1 << 8 * size) - 1 for size in range(LETTERS)] + [2**64 - 1], dtype=np.uint64)
# Odd numbers that mix bits well: the golden ratio, as Knuth hashes, and two of SplitMix64's.
FIRST, SECOND, NEXT = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
LOWER = np.uint8(32)
"The bit that a small letter has and a capital one lacks; digits have it too."
WORDS = re.compile("[A-Za-z0-9]+")


class Prefilter:
    """Finds which ASCII words of simple texts may belong to a pattern, several times as fast as an automaton.

    A pattern stands as whole words, so that its first word is a word of the text, and its first two words are two that
    follow each other there. Simple texts (see `normalise`) have the same ASCII words before and after folding, but for
    their case. Of a word that goes on in other letters ("caf" of "café") the ASCII part is looked for too: more texts
    are looked at than need be, none less.

    Args:
        patterns: all of a list.

    Attributes:
        left_open: those of the patterns, in ASCII, of which no whole word is known, because they may begin or end
            inside one, or hold none. They are not found here.
        other: those that are not ASCII. They are not found here either, and stand in no ASCII text.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        able = [pattern for pattern in patterns if pattern.folded.isascii()]
        self.other = [pattern for pattern in patterns if not pattern.folded.isascii()]
        words = [_whole_words(pattern) for pattern in able]
        self.left_open = [pattern for pattern, own in zip(able, words, strict=True) if not own]
        singles = _hash_words([own[0] for own in words if len(own) == 1])
        firsts, seconds = (_hash_words([own[place] for own in words if len(own) > 1]) for place in (0, 1))
        self._singles, self._pairs = _Known(singles), _Known(_paired(firsts, seconds))

    def suspects(self, texts: Sequence[str]) -> list[int]:
        """Number the texts, all simple, that may hold a pattern of whole words, from first to last."""
        encoded = [text.encode() for text in texts]
        places = self._places(b"\0".join(encoded))
        if not len(places):
            return []
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)) + 1)
        numbers: list[int] = np.unique(np.searchsorted(ends, places, side="right")).tolist()
        return numbers

    def _places(self, text: bytes) -> Integers:
        """Give the places of words with which a pattern may begin."""
        letters, starts, lengths = _words_in(text)
        hashes = _hashes(letters, starts, lengths)
        singles, pairs = self._singles.has(hashes), self._pairs.has(_paired(hashes[:-1], hashes[1:]))
        return starts[np.concatenate((singles, pairs))]


class _Known:
    """A set of hashes that is asked about many at once."""

    def __init__(self, hashes: Hashes) -> None:
        self._all = np.unique(hashes)  # sorted
        self._table = np.zeros(1 << BITS, dtype=np.bool_)
        self._table[self._all >> SHIFT] = True

    def has(self, hashes: Hashes) -> Integers:
        """Places of those that are in the set."""
        may = np.flatnonzero(self._table.take((hashes >> SHIFT).view(np.int64)))
        if not len(may):
            return may
        nearest = np.minimum(np.searchsorted(self._all, hashes[may]), len(self._all) - 1)
        known: Integers = may[self._all[nearest] == hashes[may]]
        return known


def _whole_words(pattern: Pattern) -> list[str]:
    """The first words of a pattern, two at most, that stand in a text as whole words; none: nothing is known."""
    words = WORDS.findall(pattern.folded)
    if pattern.is_open_left and pattern.folded[0] in ASCII_WORD:
        return []
    if pattern.is_open_right and pattern.folded[-1] in ASCII_WORD:
        words = words[:-1]
    return words[:2]


def _words_in(text: bytes) -> tuple[Bytes, Integers, Integers]:
    """The bytes of a text with small letters, where its words begin in it, and how many letters each has."""
    # Zeros behind the end: the last word's letters can be read like those of all others.
    given = np.frombuffer(text + bytes(2 * LETTERS), dtype=np.uint8)
    letters = given | LOWER
    is_word = np.zeros(len(given) + 1, dtype=np.bool_)
    # Numbers below 0 wrap around, so that one comparison tests both bounds.
    np.less(letters - ord("a"), 26, out=is_word[1:])
    is_word[1:] |= given - ord("0") < 10
    edges = np.flatnonzero(is_word[1:] != is_word[:-1])
    starts = np.ascontiguousarray(edges[::2])
    return letters, starts, edges[1::2] - starts


def _hash_words(words: Sequence[str]) -> Hashes:
    return _hashes(*_words_in(" ".join(words).encode("ascii")))


def _hashes(letters: Bytes, starts: Integers, lengths: Integers) -> Hashes:
    """Hash words by their first letters and their length."""
    eight = np.ndarray(len(letters) - LETTERS + 1, dtype="<u8", buffer=letters, strides=(1,))
    hashes: Hashes = eight.take(starts)
    hashes &= MASKS.take(lengths, mode="clip")
    hashes *= FIRST
    hashes += lengths.view(np.uint64) * SECOND
    return hashes


def _paired(first: Hashes, second: Hashes) -> Hashes:
    """Hash two words that follow each other."""
    paired: Hashes = first ^ (second >> np.uint64(23))
    paired *= NEXT
    paired += second
    return paired
