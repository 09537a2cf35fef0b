"""Text is folded to one written form, and every folded character knows where it stood in the original.

In order: invisible characters go; compatibility forms (full-width, mathematical, ligatures) become plain letters; a
word that mixes Latin with Cyrillic or Greek look-alikes becomes one script; case is folded; marks that belong to no
letter of their own (strike-through, stress) go from Latin, Greek and Cyrillic; a run of white space becomes one space.

What stays: composed letters ("año" is not "ano"), vowel signs of Indic and Thai scripts, the joiners of Persian and
Hindi, and symbols that would turn into several letters or into digits ("kill™", "kill²" still end in a whole word).
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from .characters import (
    BLANKS,
    CYRILLIC,
    GREEK,
    JOINERS,
    JOINING_SCRIPTS,
    LATIN,
    SPACELESS_SCRIPTS,
    TO_CYRILLIC,
    TO_LATIN,
    character_sets,
    is_low,
    write_any_set,
    write_low_set,
    write_ranges,
)

VERSION = f"2/unicode-{unicodedata.unidata_version}"
"Changes whenever `fold` gives another result for some text; belongs into the fingerprint of a run."

SIMPLE_BLANKS = "\t\n\v\f\r\xa0"
ASCII = bytes(range(128))
ASTRAL = re.compile("[\U00010000-\U0010ffff]")
UNUSUAL = re.compile("[^À-ÖØ-Þà-öø-ÿ¡£§«°»¿–—‘-„…€]")  # noqa: RUF001
"""Matches all but letters and punctuation of Western Europe that are simple in every version of Unicode: many corpora
hold no others, and then the tables, which take 0.1 s to read, are not needed."""


@dataclass(frozen=True)
class Step:
    """One change of a text: what is replaced, by what, and a quick test whether the text holds any of it."""

    pattern: re.Pattern[str]
    replace: Callable[[re.Match[str]], str]
    needed: re.Pattern[str] | None = None

    def concerns(self, text: str) -> bool:
        """Whether the step may change the text."""
        return self.needed is None or self.needed.search(text) is not None


SPACE_RUNS = Step(re.compile(" {2,}"), lambda match: " ")


@dataclass(frozen=True)
class Folded:
    """A folded text with the way back.

    Attributes:
        text: the folded text.
        starts: for each of its characters, where its source begins, in characters of the original.
        ends: for each of its characters, where its source ends.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Give the characters of the original that the folded characters `start` to `end` came from."""
        return self.starts[start], self.ends[end - 1]


def fold(text: str) -> str:
    """Fold a text; the same function serves the list and the documents."""
    if is_simple(text):
        return fold_simple(text)
    for step in _steps_for(text):
        if step.concerns(text):
            text = step.pattern.sub(step.replace, text)
    return text


def fold_with_offsets(text: str) -> Folded:
    """Fold a text as `fold` does, keeping for each character the place it came from."""
    places = range(len(text) + 1)
    if is_simple(text):
        folded = Folded(_lowered(text), places[:-1], places[1:])
        return _tracked(SPACE_RUNS, folded) if "  " in folded.text else folded
    folded = Folded(text, places[:-1], places[1:])
    for step in _steps_for(text):
        if step.concerns(folded.text):
            folded = _tracked(step, folded)
    return folded


def is_simple(text: str) -> bool:
    """Whether folding is a matter of case and white space: all of ASCII, and most text in most scripts."""
    if text.isascii():
        return True
    # Half of a character passes on, to be found.
    rest = text.encode("utf-8", "surrogatepass").translate(None, ASCII).decode("utf-8", "surrogatepass")
    return UNUSUAL.search(rest) is None or _complex().search(rest) is None


def fold_simple(text: str) -> str:
    """Fold a text known to be simple."""
    text = _lowered(text)
    # An ordinary text has single spaces only.
    return SPACE_RUNS.pattern.sub(" ", text) if "  " in text else text


def _lowered(text: str) -> str:
    """Fold case and white space of a simple text, one character for one."""
    text = text.casefold()
    for blank in SIMPLE_BLANKS:
        text = text.replace(blank, " ")
    return text


def _tracked(step: Step, folded: Folded) -> Folded:
    """Take a step, and copy or merge the places of the characters that it replaces."""
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    done = 0
    for match in step.pattern.finditer(folded.text):
        start, end = match.span()
        new = step.replace(match)
        # As many characters as before: each kept its place. Otherwise all of the new came from all of the old.
        kept = end if len(new) == end - start else start
        pieces += (folded.text[done:start], new)
        starts += folded.starts[done:kept]
        ends += folded.ends[done:kept]
        if kept == start:
            starts += [folded.starts[start]] * len(new)
            ends += [folded.ends[end - 1]] * len(new)
            if not new and ends:
                ends[-1] = folded.ends[end - 1]  # what goes belongs to the character before it
        done = end
    pieces.append(folded.text[done:])
    starts += folded.starts[done:]
    ends += folded.ends[done:]
    return Folded("".join(pieces), starts, ends)


def _steps_for(text: str) -> tuple[Step, ...]:
    return _steps(has_astral=ASTRAL.search(text) is not None)


@cache
def _steps(*, has_astral: bool) -> tuple[Step, ...]:
    """Write the steps as regular expressions, at the first text that is not simple.

    Args:
        has_astral: whether the text holds characters above U+FFFF. Sets that name such characters are slow, so texts
            without them get sets without them; the result is the same.
    """
    write, sets = write_any_set if has_astral else write_low_set, character_sets(has_astral=has_astral)
    marks, merging, changed = write(sets.marks), write(sets.merging), write(sets.changed)
    compatibility = Step(
        re.compile(rf"[\s\S]{merging}+|{changed}"), _nfkc, needed=re.compile(write(sets.merging | sets.changed))
    )
    return (
        Step(re.compile("[\ud800-\udfff]"), lambda match: "\ufffd"),  # half of a character: no matcher takes it
        Step(re.compile(f"{write(sets.invisible)}+"), lambda match: ""),
        Step(re.compile(f"(?<![{JOINING_SCRIPTS}])[{JOINERS}]+"), lambda match: ""),
        compatibility,
        # Folding case would make a letter of it. Greek letters that carry it have become one with it.
        Step(re.compile(f"(?<=[0-9{LATIN}{CYRILLIC}])\u0345+"), lambda match: ""),
        Step(
            re.compile(rf"(?:[^\W_{SPACELESS_SCRIPTS}]|{marks})+"),
            _one_script,
            needed=re.compile(f"[{GREEK}{CYRILLIC}]"),
        ),
        Step(re.compile(write(sets.growing)), _casefold),
        Step(re.compile(f"{write(sets.folding)}+"), _casefold),
        compatibility,  # folding case can decompose
        Step(re.compile(f"(?<=[0-9{LATIN}{GREEK}{CYRILLIC}]){marks}+"), lambda match: ""),
        Step(re.compile(f"[{BLANKS}][ {BLANKS}]*| [ {BLANKS}]+"), lambda match: " "),
    )


@cache
def _complex() -> re.Pattern[str]:
    """Match what takes more than a change of case, and all above U+FFFF but pictures, which no step changes."""
    sets = character_sets(has_astral=False)
    chars = sets.invisible | sets.marks | sets.merging | sets.changed | sets.growing
    low = write_ranges(char for char in chars if is_low(char) and char not in SIMPLE_BLANKS)
    blanks = "".join(char for char in BLANKS if char not in SIMPLE_BLANKS)
    high = "\ud800-\udfff\U00010000-\U0001f2ff\U0001fb00-\U0010ffff"
    return re.compile(f"[{low}{GREEK}{CYRILLIC}{JOINERS}{blanks}{high}]")


def _nfkc(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", match.group())


def _casefold(match: re.Match[str]) -> str:
    return match.group().casefold()


def _one_script(match: re.Match[str]) -> str:
    """Spell a word of mixed scripts in one: Latin, unless it holds Cyrillic letters that have no Latin double."""
    word = match.group()
    if not re.search(f"[{LATIN}]", word):
        return word
    letters = (char for char in re.findall(f"[{CYRILLIC}]", word) if char.isalpha())  # marks there cross out any letter
    is_cyrillic = any(ord(char) not in TO_LATIN for char in letters)
    return word.translate(TO_CYRILLIC if is_cyrillic else TO_LATIN)
