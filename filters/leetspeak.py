"""Digits and symbols that stand for letters are read as letters, in words that mix both."""

import re

SYMBOLS = "0134578@$!|+\u20ac"
LETTERS = "oieastbasiite"
TO_LETTERS = str.maketrans(SYMBOLS, LETTERS)

_SYMBOL = f"[{re.escape(SYMBOLS)}]"
_LETTER = r"[^\W\d_]"
# The symbol first: a search for one of few characters is quick, and most texts have no symbol inside a word.
_HINT = re.compile(rf"{_SYMBOL}(?:(?={_LETTER})|(?<={_LETTER}{_SYMBOL}))")
# !, | and + count only between others: the exclamation mark after a word is not a letter of it.
_TOKEN = re.compile(r"[\w@$\u20ac](?:[\w@$\u20ac!|+]*[\w@$\u20ac])?")
_HAS_LETTER = re.compile(_LETTER)


def leetspeak_places(folded: str) -> list[int]:
    """Find where a letter stands beside a symbol in a folded text."""
    return [match.start() for match in _HINT.finditer(folded)]


def read_leetspeak(folded: str) -> str:
    """Read the symbols of mixed words as letters; every character keeps its place."""
    return _TOKEN.sub(_read_token, folded)


def skeleton(text: str) -> str:
    """Make i and l one letter, because 1, ! and | stand for either."""
    return text.replace("l", "i")


def _read_token(match: re.Match[str]) -> str:
    token = match.group()
    return token.translate(TO_LETTERS) if _HAS_LETTER.search(token) else token
