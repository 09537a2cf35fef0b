"""A list of words and phrases is found in texts, however they are written, as whole words."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import ahocorasick_rs
import numpy as np

from ..toolkit.errors import SettingsError
from .base import Limit, Verdict, decide
from .leetspeak import leetspeak_places, read_leetspeak, skeleton
from .matching import Matcher, Pattern, Place, leftmost_longest
from .normalise import VERSION, fold, fold_simple, fold_with_offsets, is_simple
from .prefilter import Integers, Prefilter

TEXTS_AT_ONCE = 512
CHARACTERS_AT_ONCE = 130_000
"So much is looked through as one: what is made of it on the way stays in the processor's cache."
LONG = 1_000_000
"Longer texts are looked through alone."
SEAM = "\0"
"Stands between texts that are looked through as one; no pattern holds it, so nothing matches across it."


class Hit(NamedTuple):
    """One listed pattern in a text; start and end are characters of the text as it was given."""

    start: int
    end: int
    pattern: Pattern
    is_obfuscated: bool
    "Whether digits or symbols had to be read as letters."


class Blocklist:
    """Words and phrases ready to be found.

    A list has one pattern a line. Empty lines, and lines that begin with `#`, are skipped. A pattern matches whole
    words; `*` before or after it lifts that on its side (`kill*` also matches "killer"). A backslash at the start
    takes the rest of the line as it is. Letters of scripts without spaces (Chinese, Japanese, Korean, Thai, Lao,
    Khmer, Burmese) have no word boundaries. Case, width, invisible characters and look-alikes do not count (see
    `normalise`); white space in a pattern matches any white space. An underscore ends a word, as in _emphasis_.

    Args:
        patterns: at least one, each with its own folded form.

    Attributes:
        patterns: as given.
        id: names the patterns and the version of the folding; lists with equal ids find the same.
    """

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self.patterns = tuple(patterns)
        found = repr((VERSION, sorted((p.folded, p.is_open_left, p.is_open_right) for p in self.patterns)))
        self.id = f"blocklist:{hashlib.sha256(found.encode()).hexdigest()[:16]}"

    def __reduce__(self) -> tuple[type["Blocklist"], tuple[tuple[Pattern, ...]]]:
        # Automata cannot be pickled: each process builds its own, in a fraction of a second.
        return Blocklist, (self.patterns,)

    def __len__(self) -> int:
        return len(self.patterns)

    @classmethod
    def from_file(cls, path: Path) -> "Blocklist":
        """Read a UTF-8 list.

        Raises:
            SettingsError: the file cannot be read, or has faults: all of them, with their line numbers.
        """
        try:
            content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        except OSError as error:
            raise SettingsError([f"cannot read the list: {error.strerror}. Give a text file"], str(path)) from error
        return cls.from_lines(content.decode("utf-8", "surrogateescape").split("\n"), where=str(path))

    @classmethod
    def from_lines(cls, lines: Iterable[str], *, where: str = "the blocklist") -> "Blocklist":
        """Read a list from its lines.

        Raises:
            SettingsError: all faults of the list, with their line numbers (the first line is 1).
        """
        patterns: dict[str, Pattern] = {}
        line_of: dict[str, int] = {}
        faults: list[str] = []
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            pattern = _read_pattern(text)
            fault = _fault(pattern, patterns.get(pattern.folded), line_of.get(pattern.folded))
            if fault:
                faults.append(f"line {number}: got {text!a}, {fault}")
            else:
                line_of[pattern.folded] = number
                patterns[pattern.folded] = pattern
        if not patterns and not faults:
            faults.append("got no pattern, wanted at least one: write one word or phrase in each line")
        if faults:
            raise SettingsError(faults, where)
        return cls(patterns.values())

    def find(self, text: str, *, leetspeak: bool = False) -> list[Hit]:
        """Find the patterns in a text: at each place the leftmost, then the longest, that stands as whole words.

        Args:
            text: any text, lone surrogates included.
            leetspeak: also look for patterns spelled with digits and symbols ("k1ll"), beside the plain matches.

        Returns:
            matches that do not overlap, from left to right.
        """
        folded = fold(text)
        plain = self._plain.places(folded)
        spelled = self._spelled(folded, plain) if leetspeak and leetspeak_places(folded) else []
        if not plain and not spelled:
            return []
        way_back, obfuscated = fold_with_offsets(text), set(spelled)
        return [
            Hit(*way_back.span(place[0], place[1]), self.patterns[place[2]], place in obfuscated)
            for place in sorted(plain + spelled)
        ]

    def find_in(self, texts: Sequence[str], *, leetspeak: bool = False) -> Iterator[tuple[int, list[Hit]]]:
        """Find the patterns in many texts, faster than one by one where most texts hold none.

        Yields:
            the number of each text with matches, from first to last, and what `find` finds in it.
        """
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        # As many at once as their average length allows.
        step = max(1, min(TEXTS_AT_ONCE, len(texts) * CHARACTERS_AT_ONCE // max(1, int(sizes.sum()))))
        suspects = {
            first + number: places
            for first in range(0, len(texts), step)
            for number, places in self._suspects(
                texts[first : first + step], sizes[first : first + step], leetspeak
            ).items()
        }
        for number in sorted(suspects):
            if hits := self._find_at(texts[number], suspects[number], leetspeak):
                yield number, hits

    def _suspects(self, texts: Sequence[str], sizes: Integers, leetspeak: bool) -> dict[int, list[int] | None]:
        """Look through simple texts as one, and number those that may hold something, together with all others.

        With each go the places at which something may begin; None: they are not known.
        """
        others = set(_others(texts, sizes))
        simple: Sequence[int] = range(len(texts))
        if others:
            simple = [number for number in simple if number not in others]
            found = self._prefilter.suspects([texts[number] for number in simple], sizes[simple])
        else:
            found = self._prefilter.suspects(texts, sizes)
        suspects: dict[int, list[int] | None] = {simple[place]: places for place, places in found.items()}
        suspects |= dict.fromkeys(others)
        if leetspeak or self._prefilter.left_open:
            suspects |= dict.fromkeys(self._suspects_among(texts, simple, leetspeak, self._left_open))
        if self._prefilter.other:
            # Patterns that are not ASCII stand in no ASCII text.
            able = [number for number in simple if not texts[number].isascii()]
            suspects |= dict.fromkeys(self._suspects_among(texts, able, False, self._other))
        return suspects

    def _find_at(self, text: str, places: list[int] | None, leetspeak: bool) -> list[Hit]:
        """Find what `find` finds, where it is known at which places of the text it can be."""
        if places is not None and text.isascii():
            folded = fold_simple(text)
            if len(folded) == len(text):  # so that places are the same in all three
                found = leftmost_longest(self._prefilter.standing(folded, places))
                return [Hit(start, end, self.patterns[number], False) for start, end, number in found]
        return self.find(text, leetspeak=leetspeak)

    def _suspects_among(
        self, texts: Sequence[str], numbers: Sequence[int], leetspeak: bool, automaton: ahocorasick_rs.AhoCorasick
    ) -> list[int]:
        """Look through some simple texts as one for the strings of an automaton."""
        if not numbers:
            return []
        folded = fold_simple(SEAM.join([texts[number] for number in numbers]))
        found = [start for _, start, _ in automaton.find_matches_as_indexes(folded)]
        found += leetspeak_places(folded) if leetspeak else []
        if not found:
            return []
        if folded.count(SEAM) != len(numbers) - 1:  # a text holds the seam itself
            return list(numbers)
        suspects, at, done = [], 0, 0
        for start in sorted(found):
            at += folded.count(SEAM, done, start)
            done = start
            suspects.append(numbers[at])
        return suspects

    def _spelled(self, folded: str, plain: Sequence[Place]) -> list[Place]:
        """Find the patterns that hold a symbol read as a letter, where no plain match is."""
        read = read_leetspeak(folded)
        is_symbol = [old != new for old, new in zip(folded, read, strict=True)]
        is_taken = [False] * len(folded)
        for start, end, _ in plain:
            is_taken[start:end] = [True] * (end - start)
        return self._leet.places(
            skeleton(read), lambda start, end: any(is_symbol[start:end]) and not any(is_taken[start:end])
        )

    @cached_property
    def _prefilter(self) -> Prefilter:
        return Prefilter(self.patterns)

    @cached_property
    def _left_open(self) -> ahocorasick_rs.AhoCorasick:
        return _automaton(self._prefilter.left_open)

    @cached_property
    def _other(self) -> ahocorasick_rs.AhoCorasick:
        return _automaton(self._prefilter.other)

    @cached_property
    def _plain(self) -> Matcher:
        return Matcher([pattern.folded for pattern in self.patterns], self.patterns)

    @cached_property
    def _leet(self) -> Matcher:
        return Matcher([skeleton(pattern.folded) for pattern in self.patterns], self.patterns)


@dataclass(frozen=True)
class BlocklistFilter:
    """Drops texts that hold listed words or phrases.

    Score: the number of matches that do not overlap (`matches`); the share of the text's characters that lie in
    matches is measured too (`matched_share`). The default, no match allowed, is ours. Removing documents by listed
    words is one of the mitigations that the InstructGPT paper names, https://arxiv.org/abs/2203.02155, after
    https://arxiv.org/abs/2010.07079; the classifiers, the training and the control words of the latter are not
    implemented here. A list knows no meaning: it also drops quotations and reports of what it lists, and text by and
    about the groups that listed words insult.
    """

    patterns: Blocklist
    "The list."

    max_matches: int = 0
    "A text with more matches is dropped."

    leetspeak: bool = False
    "Whether to read digits and symbols inside words as letters in a second pass; such matches mark the verdict."

    name: str = "blocklist"
    "Names the filter in recipes and reports."

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The bound that a stored score is decided by."""
        return (Limit("matches", "above", self.max_matches, "listed_phrase"),)

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Give one verdict for each text; its span is the first match."""
        # One object for all texts without a match, which are most.
        limits = self.limits
        verdicts = [decide({"matches": 0.0, "matched_share": 0.0}, limits)] * len(texts)
        for number, hits in self.patterns.find_in(texts, leetspeak=self.leetspeak):
            verdicts[number] = _verdict(texts[number], hits, limits)
        return verdicts


def _verdict(text: str, hits: Sequence[Hit], limits: Sequence[Limit]) -> Verdict:
    covered = sum([hit.end - hit.start for hit in hits])
    return decide(
        {"matches": float(len(hits)), "matched_share": covered / len(text)},
        limits,
        marks=("obfuscated",) if any(hit.is_obfuscated for hit in hits) else (),
        span=(hits[0].start, hits[0].end),
        matched=hits[0].pattern.text,
    )


def _others(texts: Sequence[str], sizes: Integers) -> list[int]:
    """Number the texts that are not looked through as one with others: those that are not simple, or too long."""
    foreign = [number for number, text in enumerate(texts) if not text.isascii()]
    others: list[int] = np.flatnonzero(sizes > LONG).tolist()
    if not is_simple("".join([texts[number] for number in foreign])):
        others += [number for number in foreign if not is_simple(texts[number])]
    return others


def _automaton(patterns: Sequence[Pattern]) -> ahocorasick_rs.AhoCorasick:
    return ahocorasick_rs.AhoCorasick([pattern.folded for pattern in patterns], store_patterns=False)


def _read_pattern(text: str) -> Pattern:
    """Read a line: a star on either side, or a backslash before what is taken as it is."""
    if text.startswith("\\"):
        return Pattern(text, fold(text[1:]).strip(" "))
    inner = text.removeprefix("*").removesuffix("*")
    return Pattern(text, fold(inner).strip(" "), text.startswith("*"), text.endswith("*"))


def _fault(pattern: Pattern, first: Pattern | None, first_line: int | None) -> str | None:
    """Say what is wrong with a pattern, and how to mend it."""
    if not pattern.text.isascii() and any("\ud800" <= char <= "\udfff" for char in pattern.text):
        return "which is not UTF-8 text (bad bytes, or half of a surrogate pair). Save the list as UTF-8"
    if not pattern.folded:
        return "of which nothing is left when invisible characters and stars go. Remove the line"
    if SEAM in pattern.folded:
        return "which holds a NUL character. Remove it"
    if len(pattern.folded) == 1 and pattern.folded.isascii():
        return "a single character, which would match nearly every text. Remove the line, or write a longer pattern"
    if first is None:
        return None
    if (first.is_open_left, first.is_open_right) != (pattern.is_open_left, pattern.is_open_right):
        return f"the text of line {first_line} with other stars. A list holds each once: give it the stars of both"
    return f"which finds the same as line {first_line}. Remove one of them"
