"""Most texts are ruled out by the first letters of their words, before any pattern is looked for."""

from collections.abc import Sequence

import ahocorasick_rs
import numpy as np
from numpy.typing import NDArray

from .matching import ASCII_WORD, Pattern

Integers = NDArray[np.int64]

SHORT, LONG = 4, 8
"Letters that a word is tested by: as many as the pattern has of these."
BITS = 17
"A table of so many bits' numbers, 128 kB, stays in the processor's cache."
MIXERS = {SHORT: np.uint64(0x9E3779B1), LONG: np.uint64(0x9E3779B97F4A7C15)}  # golden ratios, as Knuth hashes
IS_WORD = np.array([chr(code) in ASCII_WORD for code in range(256)])


class Prefilter:
    """Finds where a pattern may begin in folded ASCII text, several times as fast as an automaton finds them.

    A pattern that begins with a letter stands only where a word begins, so the first 4 letters of every word, and
    where those fit the first 8, are looked up in tables of the patterns' first letters. Patterns of fewer letters,
    and those that may begin inside words, are left to an automaton, which is small then.

    Args:
        patterns: in their folded form; those that are not ASCII cannot stand in such a text.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        able = [pattern for pattern in patterns if pattern.folded.isascii()]
        anchored = [pattern.folded.encode() for pattern in able if _is_anchored(pattern)]
        others = [pattern.folded for pattern in able if not _is_anchored(pattern)]
        self._long = _table([one[:LONG] for one in anchored if len(one) >= LONG], LONG)
        self._short = _table([one[:SHORT] for one in anchored if len(one) < LONG], SHORT)
        self._any = _table([one[:SHORT] for one in anchored], SHORT)
        self._automaton = ahocorasick_rs.AhoCorasick(others, store_patterns=False) if others else None

    def places(self, folded: str) -> list[int]:
        """Give all places where a pattern may begin, in order; where none is, no pattern stands."""
        found: list[int] = self._word_places(folded).tolist()
        if self._automaton is not None:
            found += [start for _, start, _ in self._automaton.find_matches_as_indexes(folded)]
            found.sort()
        return found

    def _word_places(self, folded: str) -> Integers:
        # Zeros behind the end: the last word's letters can be read like those of all others.
        letters = np.frombuffer(folded.encode("ascii") + bytes(LONG), dtype=np.uint8)
        is_word = np.empty(len(letters) + 1, dtype=np.bool_)
        is_word[0] = False
        np.take(IS_WORD, letters, out=is_word[1:])
        starts = np.flatnonzero(is_word[1:] > is_word[:-1])
        four = _hashes(letters, starts, SHORT)
        may = self._any[four]
        starts, four = starts[may], four[may]
        return starts[self._short[four] | self._long[_hashes(letters, starts, LONG)]]


def _is_anchored(pattern: Pattern) -> bool:
    is_inside = pattern.is_open_left or pattern.folded[0] not in ASCII_WORD
    return len(pattern.folded) >= SHORT and not is_inside


def _table(prefixes: Sequence[bytes], size: int) -> NDArray[np.bool_]:
    """Mark the hash of every prefix."""
    table = np.zeros(1 << BITS, dtype=np.bool_)
    joined = np.frombuffer(b"".join(prefixes) + bytes(LONG), dtype=np.uint8)
    table[_hashes(joined, np.arange(len(prefixes)) * size, size)] = True
    return table


def _hashes(letters: NDArray[np.uint8], starts: Integers, size: int) -> NDArray[np.uint64]:
    """Hash the letters at some places, a word of the machine at a time."""
    whole = np.ndarray(len(letters) - size + 1, dtype=f"<u{size}", buffer=letters, strides=(1,))
    mixed = whole[starts].astype(np.uint64) * MIXERS[size]
    if size == SHORT:
        mixed &= np.uint64(0xFFFFFFFF)
    return mixed >> np.uint64(8 * size - BITS)
