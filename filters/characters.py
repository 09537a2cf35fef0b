"""Which characters the folding of text is about, from Python's Unicode tables."""

import itertools
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

# Ranges for the inside of a regular expression's set.
LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u02af\u1d00-\u1dbf\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff\uab30-\uab6f"
GREEK = "\u0370-\u03ff\u1f00-\u1fff"
CYRILLIC = "\u0400-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f"
# Scripts that spell with joiners: Arabic, Syriac and their neighbours, Indic and other Brahmic scripts, Mongolian.
JOINING_SCRIPTS = (
    "\u0600-\u08ff\ufb50-\ufdff\ufe70-\ufefc\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\u1900-\u1c4f"
    "\ua800-\ua8ff\ua980-\uaa7f\U00010a00-\U00010fff\U00011000-\U00011fff"
)
# Scripts written without spaces between words, or (Hangul) with particles glued to them.
SPACELESS_SCRIPTS = (
    "\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u19e0-\u19ff\u2e80-\ua4cf\ua960-\ua97f\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\uac00-\ud7ff\uf900-\ufaff\U00016fe0-\U00018dff\U0001aff0-\U0001b2ff\U00020000-\U0003ffff"
)
JOINERS = "\u200c\u200d"
BLANKS = "\t\n\v\f\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# All characters but those that no step changes: surrogates, ideographs, syllables of Hangul, private use.
LOW = (range(0x3400), range(0xA000, 0xAC00), range(0xD7A4, 0xD800), range(0xF900, 0x10000))
HIGH = (range(0x10000, 0x20000), range(0x2F800, 0x2FA20), range(0xE0000, 0xE0200))

# Format characters that are drawn all the same: number and verse signs of Arabic, Syriac and Kaithi.
VISIBLE_FORMATS = frozenset(map(chr, (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)))
# Not of category Cf, but drawn as nothing: grapheme joiner, Hangul fillers, variation selectors.
OTHER_INVISIBLES = frozenset(
    map(chr, (0x34F, 0x115F, 0x1160, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)

TO_LATIN = str.maketrans(
    "АВЕЅІЈКМНОРСТУХѴԚԜӀавԁеһіјкмноӏрԛсѕтѵԝхуг" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαγεηικμνορτυχω",
    "ABESIJKMHOPCTYXVQWlabdehijkmholpqcstvwxyr" + "ABEZHIKMNOPTYXayenikuvoptuxw",
)
TO_CYRILLIC = str.maketrans("ABCEHKMOPTXYIJSaceopxykijs", "АВСЕНКМОРТХУІЈЅасеорхукіјѕ")


@dataclass(frozen=True)
class CharacterSets:
    """The characters that each step of the folding changes.

    Attributes:
        invisible: drawn as nothing.
        marks: drawn on top of other characters.
        merging: may become one with the character before them under NFKC.
        changed: become something else under NFKC by themselves.
        folding: have a case that is folded to one character.
        growing: have a case that is folded to several.
    """

    invisible: frozenset[str]
    marks: frozenset[str]
    merging: frozenset[str]
    changed: frozenset[str]
    folding: frozenset[str]
    growing: frozenset[str]


@cache
def character_sets(*, has_astral: bool = True) -> CharacterSets:
    """Read Python's Unicode tables once, in about 0.1 s, or a fifth of that.

    Args:
        has_astral: read what stands above U+FFFF too.
    """
    chars = [chr(code) for codes in (*LOW, *(HIGH if has_astral else ())) for code in codes]
    forms = {char: form for char in chars if (form := unicodedata.normalize("NFKC", char)) != char}
    changed = frozenset(char for char, form in forms.items() if _stays_what_it_is(char, form))
    seconds = _second_halves(chars)
    return CharacterSets(
        invisible=frozenset(filter(_is_invisible, chars)),
        marks=frozenset(char for char in chars if unicodedata.category(char) in ("Mn", "Me")),
        merging=seconds | {char for char in changed if forms[char][0] in seconds},
        changed=changed,
        folding=frozenset(char for char in chars if len(folded := char.casefold()) == 1 and folded != char),
        growing=frozenset(char for char in chars if len(char.casefold()) > 1),
    )


def write_low_set(chars: Iterable[str]) -> str:
    """Write those characters that are not above U+FFFF as a regular expression."""
    return f"[{write_ranges(filter(is_low, chars))}]"


def write_any_set(chars: Iterable[str]) -> str:
    """Write characters as a regular expression that walks along the list of high ones only for a high one."""
    chars = list(chars)
    low = write_low_set(chars)
    high = write_ranges(itertools.filterfalse(is_low, chars))
    return f"(?:{low}|(?![\0-\uffff])[{high}])" if high else low


def write_ranges(chars: Iterable[str]) -> str:
    """Write characters as the inside of a regular expression's set, neighbours as ranges."""
    runs: list[list[int]] = []
    for code in sorted(map(ord, chars)):
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in runs)


def is_low(char: str) -> bool:
    """Whether a character is not above U+FFFF."""
    return char <= "\uffff"


def _is_invisible(char: str) -> bool:
    is_format = unicodedata.category(char) == "Cf" and char not in VISIBLE_FORMATS and char not in JOINERS
    return is_format or char in OTHER_INVISIBLES


def _stays_what_it_is(char: str, form: str) -> bool:
    """Whether NFKC leaves a symbol a symbol: ™ would become two letters, … three full stops, and ² a digit."""
    category = unicodedata.category(char)
    return category != "No" and (len(form) == 1 or category[0] in "LM" or category == "Nl")


def _second_halves(chars: Iterable[str]) -> frozenset[str]:
    """Find the second halves of all canonical compositions: marks, vowel signs, vowels and finals of Hangul."""
    pairs = (unicodedata.decomposition(char).split() for char in chars)
    seconds = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and not pair[0].startswith("<")}
    seconds |= {char for char in chars if unicodedata.combining(char)}
    return frozenset(seconds | set(map(chr, (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)))))
