"""Most texts are ruled out by their words, before any pattern is looked for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .matching import WORDS, Pattern, Place, stands, whole_words

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

LETTERS = 8
"Letters of a word that are read at once, as one number; of those after them only the count is known."
BITS = 17
"A table of so many bits' numbers, 128 kB, stays in the processor's cache."
WIDTH = np.uint64(64)
SHIFT = WIDTH - np.uint64(BITS)
MASKS = np.array([(1 << 8 * size) - 1 for size in range(LETTERS)] + [2**64 - 1], dtype=np.uint64)
# Odd numbers that mix bits well: the golden ratio, as Knuth hashes, and two of SplitMix64's.
FIRST, SECOND, NEXT = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
SINGLE, BEGINS = np.uint8(1), np.uint8(2)
"What is marked in the slot of a word: that it is a pattern, that it begins one of several words."
LOWER = np.uint8(32)
"The bit that a small letter has and a capital one lacks; digits have it too."


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
        self._patterns = patterns
        self._by_first: dict[str, list[tuple[int, int]]] = {}
        self.left_open: list[Pattern] = []
        self.other: list[Pattern] = []
        words = []
        for number, pattern in enumerate(patterns):
            if own := whole_words(pattern):
                words.append(own)
                self._by_first.setdefault(own[0], []).append((pattern.folded.index(own[0]), number))
            else:
                (self.left_open if pattern.folded.isascii() else self.other).append(pattern)
        singles = _hash_words([own[0] for own in words if len(own) == 1])
        firsts, seconds = (_hash_words([own[place] for own in words if len(own) > 1]) for place in (0, 1))
        pairs = _paired(firsts, seconds)
        self._kinds = _table(singles) * SINGLE + _table(firsts) * BEGINS
        self._pairs = _table(pairs)
        self._known = np.unique(np.concatenate((singles, pairs)))  # sorted

    def suspects(self, texts: Sequence[str], sizes: Integers) -> dict[int, list[int]]:
        """Number the texts, all simple, that may hold a pattern of whole words.

        Args:
            texts: the texts.
            sizes: (texts,) of each, in characters.

        Returns:
            by number the characters of a text at which the first word of such a pattern may begin.
        """
        places = self._places(texts)
        found: dict[int, list[int]] = {}
        if len(places):
            ends = np.cumsum(sizes + 1)
            numbers = np.searchsorted(ends, places, side="right")
            begins = ends[numbers] - sizes[numbers] - 1
            for number, place in zip(numbers.tolist(), (places - begins).tolist(), strict=True):
                found.setdefault(number, []).append(place)
        return found

    def standing(self, folded: str, places: Sequence[int]) -> list[Place]:
        """Find the patterns of whole words whose first word begins at one of some places of a folded text."""
        found = []
        for place in set(places):
            word = WORDS.match(folded, place)
            for offset, number in self._by_first.get(word.group() if word else "", ()):
                start, pattern = place - offset, self._patterns[number]
                end = start + len(pattern.folded)
                if start >= 0 and folded.startswith(pattern.folded, start) and stands(folded, start, end, pattern):
                    found.append((start, end, number))
        return found

    def _places(self, texts: Sequence[str]) -> Integers:
        """Give the places of words with which a pattern may begin, in texts that stand one character apart."""
        letters, starts, lengths = _words_in(texts)
        hashes = _hashes(letters, starts, lengths)
        # Most words begin no pattern, which one look at a small table tells.
        kinds = self._kinds.take(_slots(hashes))
        first = np.flatnonzero(kinds != 0)
        single = first[(kinds.take(first) & SINGLE) != 0]
        paired = _paired(hashes.take(first), hashes.take(first + 1, mode="clip"))
        begins = np.flatnonzero(self._pairs.take(_slots(paired)))
        known = self._are_known(np.concatenate((hashes.take(single), paired.take(begins))))
        places: Integers = starts[np.concatenate((single, first.take(begins)))[known]]
        return places

    def _are_known(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Whether hashes are those of patterns; True: it is."""
        if not len(self._known):
            return np.zeros(len(hashes), dtype=np.bool_)
        nearest = np.minimum(np.searchsorted(self._known, hashes), len(self._known) - 1)
        are_known: NDArray[np.bool_] = self._known.take(nearest) == hashes
        return are_known


def _table(hashes: Hashes) -> NDArray[np.bool_]:
    """Mark the slots of hashes; one in an unmarked slot is none of them."""
    table = np.zeros(1 << BITS, dtype=np.bool_)
    table[_slots(hashes)] = True
    return table


def _slots(hashes: Hashes) -> Integers:
    return (hashes >> SHIFT).view(np.int64)


def _words_in(texts: Sequence[str]) -> tuple[Bytes, Integers, Integers]:
    """Put texts together, one byte apart, with small letters; where words begin, and how many letters each has.

    Every character becomes one byte. Which one does not matter where it is no letter or digit of ASCII.
    """
    # Zeros behind the end: the last word's letters can be read like those of all others.
    joined = "\0".join([*texts, "\0" * 2 * LETTERS]).encode("latin-1", "replace")
    given = np.frombuffer(joined, dtype=np.uint8, count=len(joined) // LETTERS * LETTERS)
    letters = given | LOWER
    is_word = np.zeros(len(given) + 1, dtype=np.bool_)
    # Numbers below 0 wrap around, so that one comparison tests both bounds.
    np.less(letters - ord("a"), 26, out=is_word[1:])
    is_word[1:] |= given - ord("0") < 10
    edges = np.flatnonzero(is_word[1:] != is_word[:-1])
    starts = np.ascontiguousarray(edges[::2])
    return letters, starts, edges[1::2] - starts


def _hash_words(words: Sequence[str]) -> Hashes:
    return _hashes(*_words_in(words))


def _hashes(letters: Bytes, starts: Integers, lengths: Integers) -> Hashes:
    """Hash words by their first letters and their length."""
    eights = letters.view("<u8")
    at, shift = starts >> 3, ((starts & 7) << 3).view(np.uint64)
    hashes: Hashes = eights.take(at) >> shift
    hashes |= eights.take(at + 1) << (WIDTH - shift)  # a shift by all 64 bits gives 0
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
