"""Most texts are ruled out by their words, before any pattern is looked for."""

import re
from collections.abc import Sequence

import ahocorasick_rs
import numpy as np
from numpy.typing import NDArray

from .matching import ASCII_WORD, Pattern

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

LETTERS = 8
"Letters of a word that are read at once, as one number; those after the next eight do not count."
BITS = 17
"A table of so many bits' numbers, 128 kB, stays in the processor's cache."
SHIFT = np.uint64(64 - BITS)
MASKS = np.array([(1 << 8 * size) - 1 for size in range(LETTERS)] + [2**64 - 1], dtype=np.uint64)
# Odd numbers that mix bits well: the golden ratio, as Knuth hashes, and two of SplitMix64's.
FIRST, SECOND, NEXT = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
IS_WORD = np.array([chr(code) in ASCII_WORD for code in range(256)])
WORDS = re.compile("[A-Za-z0-9]+")


class Prefilter:
    """Finds which words of folded ASCII text may belong to a pattern, several times as fast as an automaton.

    A pattern stands as whole words, so that its first word is a word of the text, and its first two words are two that
    follow each other there. Patterns that may begin or end inside a word, or hold no word, are left to an automaton,
    which is small then.

    Args:
        patterns: in their folded form; those that are not ASCII cannot stand in such a text.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        able = [pattern for pattern in patterns if pattern.folded.isascii()]
        words = [_whole_words(pattern) for pattern in able]
        others = [pattern.folded for pattern, own in zip(able, words, strict=True) if not own]
        singles = _hash_words([own[0] for own in words if len(own) == 1])
        firsts, seconds = (_hash_words([own[place] for own in words if len(own) > 1]) for place in (0, 1))
        self._singles, self._pairs = _Known(singles), _Known(_paired(firsts, seconds))
        self._automaton = ahocorasick_rs.AhoCorasick(others, store_patterns=False) if others else None

    def places(self, folded: str) -> list[int]:
        """Give a place inside each text, or part of one, in which a pattern may stand; where none is, none stands."""
        # Zeros behind the end: the last word's letters can be read like those of all others.
        letters = np.frombuffer(folded.encode("ascii") + bytes(2 * LETTERS), dtype=np.uint8)
        starts, lengths = _words_in(letters)
        hashes = _hashes(letters, starts, lengths)
        found: list[int] = starts[self._singles.has(hashes)].tolist()
        found += starts[:-1][self._pairs.has(_paired(hashes[:-1], hashes[1:]))].tolist()
        if self._automaton is not None:
            found += [start for _, start, _ in self._automaton.find_matches_as_indexes(folded)]
        return found


class _Known:
    """A set of hashes that is asked about many at once."""

    def __init__(self, hashes: Hashes) -> None:
        self._all = np.unique(hashes)  # sorted
        self._table = np.zeros(1 << BITS, dtype=np.bool_)
        self._table[self._all >> SHIFT] = True

    def has(self, hashes: Hashes) -> Integers:
        """Places of those that are in the set."""
        may: Integers = np.flatnonzero(self._table[hashes >> SHIFT])
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


def _words_in(letters: NDArray[np.uint8]) -> tuple[Integers, Integers]:
    """Where words begin, and how many letters each has."""
    is_word = np.zeros(len(letters) + 1, dtype=np.bool_)
    np.take(IS_WORD, letters, out=is_word[1:])
    edges = np.flatnonzero(is_word[1:] != is_word[:-1])
    return edges[::2], edges[1::2] - edges[::2]


def _hash_words(words: Sequence[str]) -> Hashes:
    letters = np.frombuffer(" ".join(words).encode("ascii") + bytes(2 * LETTERS), dtype=np.uint8)
    return _hashes(letters, *_words_in(letters))


def _hashes(letters: NDArray[np.uint8], starts: Integers, lengths: Integers) -> Hashes:
    """Hash words, eight letters at a time; behind them stand letters enough to be read."""
    eight = np.ndarray(len(letters) - LETTERS + 1, dtype="<u8", buffer=letters, strides=(1,))
    hashes = (eight[starts] & MASKS[np.minimum(lengths, LETTERS)]) * FIRST
    longer = np.flatnonzero(lengths > LETTERS)
    rest = eight[starts[longer] + LETTERS] & MASKS[np.minimum(lengths[longer] - LETTERS, LETTERS)]
    hashes[longer] ^= rest * SECOND
    return hashes


def _paired(first: Hashes, second: Hashes) -> Hashes:
    """Hash two words that follow each other."""
    paired: Hashes = (first ^ (second >> np.uint64(23))) * NEXT + second
    return paired
