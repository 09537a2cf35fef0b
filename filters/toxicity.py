"""Texts are dropped that a toxicity scorer finds toxic in any part."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..toolkit.errors import SettingsError
from ..toolkit.toxicity.scorer import Floats, ToxicityScorer
from .base import Limit, Verdict, decide

Window = tuple[int, int]  # start and end, in characters

BLANK = re.compile(r"\s+")
LAST_BLANK = re.compile(r"\s(?=\S*\Z)")


@dataclass(frozen=True, kw_only=True)
class ToxicityFilter:
    """Drops texts that a toxicity scorer finds toxic, as a whole or in any window of them.

    Score: the scorer's, between 0 and 1; for a text longer than a window the highest of its windows, since a mean
    would let a long innocent text hide an insult. The verdict's span is that window. A text that the scorer cannot
    score (an empty one, for instance) is kept without a score and marked.

    Removing text by a classifier's score is one of the mitigations that the InstructGPT paper names,
    https://arxiv.org/abs/2203.02155. The default threshold, 0.5, is where RealToxicityPrompts calls a text toxic,
    https://arxiv.org/abs/2009.11462, by a scorer that is not here; yours should be set on labelled rows
    (`tunewell toxicity train` prints precision and recall). Classifiers mark names, dialects and talk about groups as
    toxic, and strong filtering costs text by and about the groups that are insulted, https://arxiv.org/abs/2109.07445;
    the remedies studied there, for models and for prompts, are not implemented. The scorer that filters should not be
    the one that later marks the model.

    Raises:
        SettingsError: values that make no sense.
    """

    scorer: ToxicityScorer
    "Scores texts: Detoxify, any sequence classifier, a trained TF-IDF model or a word list."

    threshold: float = 0.5
    "A text with a higher score is dropped."

    window: int = 1000
    "Characters scored at once, about 250 tokens of English; a longer text is cut between words into windows."

    overlap: int = 200
    "Characters that two neighbouring windows share, so that what the end of one cuts is whole in the next."

    name: str = "toxicity"
    "Names the filter in recipes and reports."

    def __post_init__(self) -> None:
        faults = []
        if not 0 <= self.threshold <= 1:
            faults.append(f"threshold: got {self.threshold}, wanted a score between 0 and 1")
        if self.window < 1:
            faults.append(f"window: got {self.window}, wanted at least 1 character")
        if not 0 <= self.overlap < max(self.window, 1):
            faults.append(f"overlap: got {self.overlap}, wanted 0 or more and less than the window of {self.window}")
        if faults:
            raise SettingsError(faults, "the toxicity filter")

    @property
    def id(self) -> str:
        """Names all that scores depend on; the threshold is no part of it."""
        return f"{self.scorer.id}/window={self.window}/overlap={self.overlap}"

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The bound that a stored score is decided by."""
        return (Limit("toxicity", "above", self.threshold, "toxic"),)

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Give one verdict for each text; its span is the window that scores highest."""
        windows = [self._windows(text) for text in texts]
        parts = [text[start:end] for text, own in zip(texts, windows, strict=True) for start, end in own]
        scores = self.scorer.score(parts) if parts else np.zeros(0)
        ends = np.cumsum([len(own) for own in windows])
        return [
            self._verdict(own, scores[end - len(own) : end]) for own, end in zip(windows, ends.tolist(), strict=True)
        ]

    def _verdict(self, windows: Sequence[Window], scores: Floats) -> Verdict:
        is_scored = ~np.isnan(scores)
        marks = ("windowed",) if len(windows) > 1 else ()
        if not is_scored.any():
            return decide({}, self.limits, marks=(*marks, "unscored"))
        if not is_scored.all():
            marks = (*marks, "partly_unscored")
        worst = int(np.nanargmax(scores))
        verdict = decide({"toxicity": float(scores[worst])}, self.limits, marks=marks)
        return verdict._replace(span=windows[worst])

    def _windows(self, text: str) -> list[Window]:
        """Cut a text into windows that end and begin between words, where there are blanks to cut at."""
        if len(text) <= self.window:
            return [(0, len(text))]
        starts = range(0, len(text) - self.overlap, self.window - self.overlap)
        return [self._between_words(text, start, min(start + self.window, len(text))) for start in starts]

    def _between_words(self, text: str, start: int, end: int) -> Window:
        """Move both ends of a window inwards to blanks, at most by half of the overlap, so that nothing is left out."""
        # A word cut in two can read as another one, and a worse one.
        half = self.overlap // 2
        first = BLANK.search(text, start, start + half) if start else None
        last = LAST_BLANK.search(text, end - half, end) if end < len(text) else None
        return first.end() if first else start, last.start() if last else end
