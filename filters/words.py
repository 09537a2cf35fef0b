"""Text is cut into words for comparing texts: the same words whatever the case, the marks between them, the script."""

import re

from .characters import SPACELESS_SCRIPTS
from .normalise import fold

# Scripts without spaces have no words to see: each of their characters counts as one.
WORD = re.compile(rf"[{SPACELESS_SCRIPTS}]|[^\W_{SPACELESS_SCRIPTS}]+")


def words_of(text: str) -> list[str]:
    """Cut a text into its words, folded (see `normalise`), without what stands between them."""
    return WORD.findall(fold(text))
