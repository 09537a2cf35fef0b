"""Rules of length and repetition drop texts that are too short, too long or say the same again and again."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..toolkit.errors import SettingsError
from .base import Limit, Verdict, decide

PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
NGRAM_SIZES = (2, 3, 4)
SHARES = (
    "duplicate_lines",
    "duplicate_paragraphs",
    "duplicate_line_characters",
    "duplicate_paragraph_characters",
    *(f"top_{n}gram" for n in NGRAM_SIZES),
)


@dataclass(frozen=True, kw_only=True)
class LengthFilter:
    """Drops texts that are too short or too long.

    Score: the length in the chosen unit. There is no default, since prompts and web pages differ; for web pages the
    Gopher paper keeps 50 to 100,000 words, https://arxiv.org/abs/2112.11446 (appendix A.1). Of its other quality
    rules (mean word length, symbols, bullets, stop words) none is implemented here.

    Raises:
        SettingsError: no bound, a negative one, or bounds that leave nothing.
    """

    unit: Literal["words", "characters"] = "words"
    "What is counted; words are what white space separates, so scripts without spaces need characters."

    low: int | None = None
    "A text with fewer is dropped."

    high: int | None = None
    "A text with more is dropped."

    name: str = "length"
    "Names the filter in recipes and reports."

    def __post_init__(self) -> None:
        faults = []
        if self.unit not in ("words", "characters"):
            faults.append(f"unit: got {self.unit!r}, wanted 'words' or 'characters'")
        if self.low is None and self.high is None:
            faults.append("low, high: got neither, wanted at least one bound")
        for field, bound in (("low", self.low), ("high", self.high)):
            if bound is not None and bound < 0:
                faults.append(f"{field}: got {bound}, wanted 0 or more {self.unit}")
        if self.low is not None and self.high is not None and self.low > self.high:
            faults.append(f"low, high: got {self.low} and {self.high}, which drop every text; wanted low <= high")
        if faults:
            raise SettingsError(faults, "the length filter")

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The bounds that a stored score is decided by."""
        low = () if self.low is None else (Limit(self.unit, "below", self.low, "too_short"),)
        high = () if self.high is None else (Limit(self.unit, "above", self.high, "too_long"),)
        return low + high

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Give one verdict for each text."""
        return [decide({self.unit: float(self._length(text))}, self.limits) for text in texts]

    def _length(self, text: str) -> int:
        return len(text.split()) if self.unit == "words" else len(text)


@dataclass(frozen=True, kw_only=True)
class RepetitionFilter:
    """Drops texts in which too much is repeated.

    Score: the share, between 0 and 1, that exceeds its bound most, or comes nearest to it; all shares are measured.
    Shares and defaults are those of the Gopher paper, https://arxiv.org/abs/2112.11446 (table A1), chosen there for
    web pages in English of at least 50 words. Words are what white space separates, in lower case. Not implemented:
    the shares of characters in repeated 5-grams to 10-grams. Scripts without spaces have no words to count, so only
    their lines and paragraphs are judged.

    Raises:
        SettingsError: a bound is not between 0 and 1, or min_words is less than 1.
    """

    duplicate_lines: float = 0.30
    "Bound on the share of lines that stood in the text before."

    duplicate_paragraphs: float = 0.30
    "Bound on the share of paragraphs (parted by empty lines) that stood in the text before."

    duplicate_line_characters: float = 0.20
    "Bound on the share of the lines' characters that lie in lines that stood in the text before."

    duplicate_paragraph_characters: float = 0.20
    "Bound on the share of the paragraphs' characters that lie in paragraphs that stood in the text before."

    top_2gram: float = 0.20
    "Bound on the share of the words' characters that lie in the most frequent pair of words."

    top_3gram: float = 0.18
    "The same for three words in a row."

    top_4gram: float = 0.16
    "The same for four words in a row."

    min_words: int = 50
    "Texts with fewer words are marked `too_short`, and their n-grams are not measured: in ten words one pair is much."

    name: str = "repetition"
    "Names the filter in recipes and reports."

    def __post_init__(self) -> None:
        faults = [
            f"{limit.measure}: got {limit.bound}, wanted a share between 0 and 1"
            for limit in self.limits
            if not 0 <= limit.bound <= 1
        ]
        if self.min_words < 1:
            faults.append(f"min_words: got {self.min_words}, wanted at least 1")
        if faults:
            raise SettingsError(faults, "the repetition filter")

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The bounds that stored shares are decided by; each reason has the name of its measure."""
        return tuple(Limit(share, "above", getattr(self, share), share) for share in SHARES)

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Give one verdict for each text; one with too little to repeat is kept and marked."""
        return [self._judge(text) for text in texts]

    def _judge(self, text: str) -> Verdict:
        words = text.lower().split()
        measures = _duplicates("line", text.split("\n")) | _duplicates("paragraph", PARAGRAPH_BREAK.split(text))
        if len(words) < self.min_words:
            return decide(measures, self.limits, marks=("too_short",))
        measures |= {f"top_{n}gram": top_ngram_share(words, n) for n in NGRAM_SIZES}
        return decide(measures, self.limits)


def top_ngram_share(words: Sequence[str], n: int) -> float:
    """Measure the share of all words' characters that lie in the most frequent n-gram.

    One that appears once repeats nothing: the share is 0 then. Of equally frequent ones the longest counts. Overlapping
    appearances ("ha ha ha" holds "ha ha" twice) count each character once.
    """
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    counts = Counter(grams)
    most = max(counts.values(), default=0)
    if most < 2:
        return 0.0
    top = max((gram for gram, count in counts.items() if count == most), key=lambda gram: sum(map(len, gram)))
    inside = {at + i for at, gram in enumerate(grams) if gram == top for i in range(n)}
    return sum(len(words[at]) for at in inside) / sum(map(len, words))


def _duplicates(kind: str, parts: Sequence[str]) -> dict[str, float]:
    """Measure the shares of parts, and of their characters, that stood in the text before; nothing without parts."""
    parts = [stripped for part in parts if (stripped := part.strip())]
    if not parts:
        return {}
    distinct = set(parts)
    n_characters = sum(map(len, parts))
    return {
        f"duplicate_{kind}s": (len(parts) - len(distinct)) / len(parts),
        f"duplicate_{kind}_characters": (n_characters - sum(map(len, distinct))) / n_characters,
    }
