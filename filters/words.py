"""Text is cut into words for comparing texts: the same words whatever the case, the marks between them, the script."""

import re
import unicodedata

from .characters import SPACELESS_SCRIPTS, write_ranges
from .normalise import fold

# Vowel signs and points of Indic scripts, Arabic and Hebrew: part of a word, though no letters.
_SIGNS = write_ranges(
    char for char in map(chr, (*range(0x300, 0x2000), *range(0xA800, 0xAC00)))
    if unicodedata.category(char) in ("Mn", "Mc") and not re.match(f"[{SPACELESS_SCRIPTS}]", char)
)  # fmt: skip
# Scripts without spaces have no words to see: each of their characters counts as one.
WORD = re.compile(rf"[{SPACELESS_SCRIPTS}]|[^\W_{SPACELESS_SCRIPTS}](?:[^\W_{SPACELESS_SCRIPTS}]|[{_SIGNS}])*")


def words_of(text: str) -> list[str]:
    """Cut a text into its words, folded (see `normalise`), without what stands between them."""
    return WORD.findall(fold(text))
