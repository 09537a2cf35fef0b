"""Texts that repeat an earlier text of the corpus, exactly or nearly, are dropped; the first of them stays."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from ..toolkit.errors import SettingsError
from .base import Repeats
from .words import words_of

Summaries = NDArray[np.uint64]
Integers = NDArray[np.int64]

BLANK = 0
"The summary of a text without words; no other text has it."
SEED = 1
FOUND_AT_THRESHOLD = 0.99
"The bands are chosen so that of the pairs at the threshold this share is compared at all."
COMPARED_OF_BAND = 64
"""A text is compared with the first so many that stay and share a band with it, band by band. Where more share one it
comes from a template, and what tells them apart lies in other bands. Comparing with all takes time that grows with the
square of their number, and of thousands of estimates a little below the threshold chance lifts some above it."""
MIXER = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio in 64 bits, as splitmix64 has it


@dataclass(frozen=True, kw_only=True)
class ExactDuplicateFilter:
    """Drops texts that are, character for character, an earlier text of the corpus.

    Score: 1 for such a text, else 0. Texts are compared by 128 bits of a cryptographic hash (BLAKE2b), so that two
    different ones are taken for equal with a probability below 1e-26 in a billion. That repeated training texts are
    harmful, and memorised, is shown in https://arxiv.org/abs/2107.06499; of its methods, repeated substrings inside
    different documents are not implemented. There is nothing to set, hence no default.
    """

    name: str = "exact_duplicate"
    "Names the filter in recipes and reports."

    @property
    def width(self) -> int:
        """Words of 64 bits in the summary of one text."""
        return 2

    def summarise(self, texts: Sequence[str]) -> Summaries:
        """Hash texts, (texts, 2)."""
        hashes = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
        return np.frombuffer(b"".join(hashes), dtype="<u8").astype(np.uint64).reshape(-1, 2)

    def decide(self, summaries: Summaries) -> Repeats:
        """Find for every text the first one that is equal to it."""
        first = _first_of_equals(summaries)
        is_repeated = first < np.arange(len(summaries))
        return Repeats(
            of=np.where(is_repeated, first, -1), similarity=is_repeated.astype(np.float64), reason="exact_duplicate"
        )


@dataclass(frozen=True, kw_only=True)
class NearDuplicateFilter:
    """Drops texts that share most of their word sequences with an earlier text that stays.

    Score: the estimated Jaccard similarity, between 0 and 1, of the two texts' sets of word sequences ("shingles") to
    the most similar earlier text; none where no earlier text came near enough to be compared. Case, punctuation, white
    space, invisible characters and look-alike letters do not count; scripts without spaces are cut into characters.

    Method: MinHash signatures, of which bands are looked up in tables (Broder 1997; Indyk and Motwani 1998). Five
    words and the threshold 0.8 are the defaults of https://arxiv.org/abs/2107.06499 (section 4.2 and appendix A there);
    its second check, the edit distance of the pairs, and its clusters of chained pairs are not implemented: a text is
    dropped only for one that stays and is itself that similar.

    Errors: with 128 hashes an estimate has a standard deviation of at most 0.035 at 0.8. Of pairs with a true
    similarity of 0.9 nearly all are found, of those at 0.7 nearly none are taken; `chances` computes both sides, and
    docs/filters.md has them measured. Texts with fewer words than a shingle are compared as a whole. Of thousands that
    share a template, a text is compared with a part (`COMPARED_OF_BAND`).

    Raises:
        SettingsError: values that make no sense.
    """

    threshold: float = 0.8
    "A text whose similarity to an earlier one is at least this is dropped."

    shingle_words: int = 5
    "Words in a row that count as one feature; fewer (2 or 3) suit messages of a line or two."

    n_hashes: int = 128
    "Length of a signature: its memory and time grow with it, the error of the estimate falls with its root."

    name: str = "near_duplicate"
    "Names the filter in recipes and reports."

    def __post_init__(self) -> None:
        faults = []
        if not 0 < self.threshold <= 1:
            faults.append(f"threshold: got {self.threshold}, wanted a similarity above 0 and up to 1")
        if self.shingle_words < 1:
            faults.append(f"shingle_words: got {self.shingle_words}, wanted at least 1 word")
        if self.n_hashes < 16 or self.n_hashes % 2:
            faults.append(f"n_hashes: got {self.n_hashes}, wanted an even number, at least 16")
        if faults:
            raise SettingsError(faults, "the near-duplicate filter")

    @property
    def width(self) -> int:
        """Words of 64 bits in the summary of one text: two hashes of 32 bits in each."""
        return self.n_hashes // 2

    def summarise(self, texts: Sequence[str]) -> Summaries:
        """Compute MinHash signatures, (texts, width); that of a text without words is all zero."""
        # One object a text: the batch calls of the library start threads, which do not survive a fork.
        signatures = np.full((len(texts), self.n_hashes), BLANK, dtype=np.uint32)
        for row, text in enumerate(texts):
            if shingles := self._shingles(text):
                sketch = RMinHash(self.n_hashes, SEED)
                sketch.update(shingles)
                signatures[row] = sketch.digest()
        return signatures.view(np.uint64)

    def decide(self, summaries: Summaries) -> Repeats:
        """Find for every text the most similar of the earlier ones that stay; the first of equally similar ones."""
        signatures = np.ascontiguousarray(summaries).view(np.uint32)
        keys, is_shared = self._band_keys(signatures)
        of = np.full(len(signatures), -1, dtype=np.int64)
        similarity = np.full(len(signatures), np.nan)
        kept: dict[int, list[int]] = {}  # by the key of a band: the texts that stay
        for row in np.flatnonzero(is_shared.any(axis=1)).tolist():
            own = keys[row, is_shared[row]].tolist()
            if earlier := sorted({other for key in own for other in kept.get(key, ())}):
                alike = np.count_nonzero(signatures[earlier] == signatures[row], axis=1) / self.n_hashes
                best = int(alike.argmax())
                similarity[row] = alike[best]
                if alike[best] >= self.threshold:
                    of[row] = earlier[best]
                    continue
            for key in own:
                same = kept.setdefault(key, [])
                if len(same) < COMPARED_OF_BAND:
                    same.append(row)
        return Repeats(of=of, similarity=similarity, reason="near_duplicate")

    def chances(self, similarity: float) -> tuple[float, float]:
        """Tell how likely a pair of some true similarity is compared at all, and taken for near duplicates.

        Independent hashes are assumed; the library's vary a little less.
        """
        rows, bands = self.bands
        compared = 1 - (1 - similarity**rows) ** bands
        hashes = np.arange(self.n_hashes + 1)
        logs = np.cumsum(np.log(np.maximum(hashes, 1)))  # of the factorials
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.nan_to_num(hashes * np.log(similarity)) + np.nan_to_num(hashes[::-1] * np.log1p(-similarity))
        shares = np.exp(logs[-1] - logs - logs[::-1] + terms)
        taken = float(shares[hashes >= self.threshold * self.n_hashes].sum()) if similarity < 1 else 1.0
        return compared, min(compared, taken)

    @cached_property
    def bands(self) -> tuple[int, int]:
        """Hashes in a band, and bands: as long as they can be while pairs at the threshold are still compared."""
        fits = [
            rows
            for rows in range(1, self.n_hashes + 1)
            if 1 - (1 - self.threshold**rows) ** (self.n_hashes // rows) >= FOUND_AT_THRESHOLD
        ]
        rows = max(fits, default=1)
        return rows, self.n_hashes // rows

    def _shingles(self, text: str) -> list[str]:
        words = words_of(text)
        last = max(1, len(words) - self.shingle_words + 1) if words else 0
        return [" ".join(words[start : start + self.shingle_words]) for start in range(last)]

    def _band_keys(self, signatures: NDArray[np.uint32]) -> tuple[Summaries, NDArray[np.bool_]]:
        """Hash each band of each text, (texts, bands), and tell where another text has the same."""
        rows, bands = self.bands
        keys = np.empty((len(signatures), bands), dtype=np.uint64)
        is_shared = np.empty(keys.shape, dtype=np.bool_)
        has_words = (signatures != BLANK).any(axis=1)
        for band in range(bands):
            key = np.full(len(signatures), band + 1, dtype=np.uint64)  # so that bands do not meet
            for column in range(band * rows, (band + 1) * rows):
                key = (key ^ signatures[:, column]) * MIXER
                key ^= key >> np.uint64(29)
            keys[:, band] = key
            is_shared[:, band] = _is_repeated(key) & has_words
        return keys, is_shared


def _is_repeated(values: Summaries) -> NDArray[np.bool_]:
    """Tell for each value whether it stands there more than once."""
    order = np.argsort(values, kind="stable")
    same = values[order][1:] == values[order][:-1]
    found = np.zeros(len(values), dtype=np.bool_)
    found[order[1:]] = same
    found[order[:-1]] |= same
    return found


def _first_of_equals(rows: Summaries) -> Integers:
    """Give for each row of (n, 2) the place of the first one equal to it."""
    # A stable sort leaves equal rows in their order, so each run begins with its first.
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    in_order = rows[order]
    is_new = np.ones(len(rows), dtype=np.bool_)
    is_new[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    first = np.empty(len(rows), dtype=np.int64)
    first[order] = order[np.flatnonzero(is_new)[np.cumsum(is_new) - 1]] if len(rows) else 0
    return first
