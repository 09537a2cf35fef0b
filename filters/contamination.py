"""Texts are dropped that share long word sequences with the items of a benchmark."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..toolkit.errors import SettingsError
from .base import Limit, Verdict, decide
from .benchmark_texts import BenchmarkItem, hash_of
from .normalise import fold, fold_with_offsets
from .words import WORD, words_of

SHORTEST = 8


@dataclass(frozen=True)
class Overlap:
    """What one text shares with one benchmark item."""

    item: BenchmarkItem
    "The item."

    ngrams: int
    "Word sequences of the text that stand in the item."

    coverage: float
    "Share, between 0 and 1, of the item's own word sequences that stand in the text."

    words: tuple[int, int]
    "First word of the text that is shared, and the word after the first shared sequence; counted from 0."


@dataclass(frozen=True)
class Passage:
    """One passage of an item, cut into words.

    Attributes:
        item: number of the item.
        words: of the passage.
        n: words in a sequence: as many as set, or all of a shorter passage.
    """

    item: int
    words: tuple[str, ...]
    n: int


@dataclass(frozen=True, kw_only=True)
class ContaminationFilter:
    """Drops texts that give away benchmark items, so that an evaluation measures more than memory.

    Score: the number of places in the text where an n-gram (n words in a row) of a benchmark begins (`ngrams`); the
    largest share of one item's n-grams that are in the text (`coverage`, 1: the whole item) and the number of items
    (`items`) are measured too. The verdict names the item of which most was found, and the span where it begins.

    The default, one shared 13-gram, is that of the GPT-3 paper, https://arxiv.org/abs/2005.14165 (appendix C), as is
    the least, 8 words: passages of 8 to 12 words must be there whole; shorter ones say too little and are not looked
    for (`unseen` names the items that have no longer one). Words are folded, so case, punctuation and disguises do
    not count. Not implemented of the paper: removing only the 200 characters around a match, ignoring n-grams that are
    common in the training data, and choosing n by benchmark. A paraphrase or translation is not found.

    Raises:
        SettingsError: no items, or values that make no sense.
    """

    items: tuple[BenchmarkItem, ...]
    "What must not be in the data, for instance from `read_benchmarks`."

    n_words: int = 13
    "Words of an n-gram."

    shortest: int = SHORTEST
    "A passage with fewer words than an n-gram, but at least this many, is looked for as a whole."

    max_ngrams: int = 0
    "A text with more places is dropped."

    name: str = "contamination"
    "Names the filter in recipes and reports."

    def __post_init__(self) -> None:
        faults = []
        if not self.items:
            faults.append("items: got none, wanted the items of at least one benchmark")
        if not 1 <= self.shortest <= self.n_words:
            faults.append(
                f"shortest, n_words: got {self.shortest} and {self.n_words}, wanted at least 1 word, and "
                "shortest <= n_words"
            )
        if self.max_ngrams < 0:
            faults.append(f"max_ngrams: got {self.max_ngrams}, wanted 0 or more")
        if faults:
            raise SettingsError(faults, "the contamination filter")

    @property
    def id(self) -> str:
        """Names all that scores depend on."""
        return f"{hash_of(self.items)}/n_words={self.n_words}/shortest={self.shortest}"

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The bound that a stored score is decided by."""
        return (Limit("ngrams", "above", self.max_ngrams, "benchmark_item"),)

    @property
    def unseen(self) -> frozenset[str]:
        """Labels of the items of which no passage is long enough to be looked for."""
        seen = {passage.item for passage in self._passages}
        return frozenset(item.label for number, item in enumerate(self.items) if number not in seen)

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Give one verdict for each text."""
        return [self._verdict(text) for text in texts]

    def overlaps(self, text: str) -> list[Overlap]:
        """Find all items of which the text holds an n-gram, those most covered first."""
        shared: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))  # item, passage: its places
        places: dict[int, dict[int, int]] = defaultdict(dict)  # item: place in the text, end there
        done: set[str] = set()
        for at, end, ngram, found in self._ngrams_in(words_of(text)):
            for number, starts in found.items():
                item = self._passages[number].item
                places[item][at] = max(end, places[item].get(at, 0))
                if ngram not in done:
                    shared[item][number].update(starts)
            done.add(ngram)
        overlaps = [
            Overlap(self.items[item], len(starts), self._coverage(shared[item]), min(starts.items()))
            for item, starts in places.items()
        ]
        return sorted(overlaps, key=lambda overlap: (-overlap.coverage, -overlap.ngrams))

    def _ngrams_in(self, words: Sequence[str]) -> Iterator[tuple[int, int, str, dict[int, list[int]]]]:
        """Find the n-grams of a text that are a benchmark's: first word, the word after the last, itself, passages."""
        heads, ngrams = self._index
        for at in range(len(words) - self.shortest + 1):
            for n in heads.get(" ".join(words[at : at + self.shortest]), ()):
                ngram = " ".join(words[at : at + n])
                if at + n <= len(words) and ngram in ngrams:
                    yield at, at + n, ngram, ngrams[ngram]

    def _coverage(self, shared: dict[int, set[int]]) -> float:
        """Share of the best covered passage."""
        sizes = {number: len(self._passages[number].words) - self._passages[number].n + 1 for number in shared}
        return max(len(starts) / sizes[number] for number, starts in shared.items())

    def _verdict(self, text: str) -> Verdict:
        found = self.overlaps(text)
        if not found:
            return decide({"ngrams": 0.0, "coverage": 0.0, "items": 0.0}, self.limits)
        most = found[0]
        ngrams = len({at for at, _, _, _ in self._ngrams_in(words_of(text))})
        measures = {"ngrams": float(ngrams), "coverage": most.coverage, "items": float(len(found))}
        return decide(measures, self.limits, span=_characters(text, *most.words), matched=most.item.label)

    @cached_property
    def _passages(self) -> list[Passage]:
        cut = [(item, tuple(words_of(text))) for item, one in enumerate(self.items) for text in one.passages]
        return [
            Passage(item, words, min(len(words), self.n_words)) for item, words in cut if len(words) >= self.shortest
        ]

    @cached_property
    def _index(self) -> tuple[dict[str, list[int]], dict[str, dict[int, list[int]]]]:
        """By the first words of n-grams: how long they are. By an n-gram: the passages, and its places in each."""
        heads: dict[str, list[int]] = defaultdict(list)
        ngrams: dict[str, dict[int, list[int]]] = defaultdict(dict)
        for number, passage in enumerate(self._passages):
            for place in range(len(passage.words) - passage.n + 1):
                words = passage.words[place : place + passage.n]
                ngrams[" ".join(words)].setdefault(number, []).append(place)
                sizes = heads[" ".join(words[: self.shortest])]
                if passage.n not in sizes:
                    sizes.append(passage.n)
        return dict(heads), dict(ngrams)

    def __getstate__(self) -> dict[str, object]:
        # Each process makes the index anew, which is quicker than sending it.
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}


def _characters(text: str, first: int, end: int) -> tuple[int, int]:
    """Give the characters of a text that some of its words take."""
    places = [match.span() for match in WORD.finditer(fold(text))]
    return fold_with_offsets(text).span(places[first][0], places[end - 1][1])
