"""A filter judges texts: each verdict keeps the measured score beside the decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Summaries = NDArray[np.uint64]


class Verdict(NamedTuple):
    """What a filter found in one text, and what follows from it."""

    keep: bool
    "Whether the text stays."

    score: float | None
    "The measured value the decision was made on, in the filter's own unit; None: it could not be measured."

    reason: str = ""
    "Names the fault, one of a few words per filter; empty when the text is kept."

    span: tuple[int, int] | None = None
    "Start and end of the evidence, in characters of the text as it was given; None: nowhere in particular."

    matched: str = ""
    "The listed pattern or the trigger phrase that the span matches best."

    measures: Mapping[str, float] = {}
    "Every value measured, by name, for the score store; what could not be measured is absent."

    marks: tuple[str, ...] = ()
    "Circumstances worth counting, such as `too_short`, `windowed` or `obfuscated`."


class Filter(Protocol):
    """Anything that judges texts without changing them."""

    @property
    def name(self) -> str:
        """Names the filter in recipes, reports and the score store."""

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Give one verdict for each text, in order; a verdict does not depend on the other texts."""


class CorpusFilter(Protocol):
    """Anything that judges a text by the texts that came before it.

    Each text is summarised by itself, in any process and in any order; one process then decides over the summaries
    of the whole corpus, which fit in memory where the texts do not.
    """

    @property
    def name(self) -> str:
        """Names the filter in recipes, reports and the score store."""

    @property
    def width(self) -> int:
        """Words of 64 bits in the summary of one text."""

    def summarise(self, texts: Sequence[str]) -> "Summaries":
        """Summarise texts as (texts, width); a summary does not depend on the other texts, the machine or the run."""

    def decide(self, summaries: "Summaries") -> "Repeats":
        """Compare every text with those before it.

        Args:
            summaries: (texts, width) of the whole corpus in reading order, without what other filters have dropped:
                a text is dropped only for one that stays.

        Returns:
            what each text repeats, by its place among the summaries.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Repeats:
    """For every text of a corpus the earlier one that it repeats: two arrays, where verdicts would fill the memory."""

    of: "NDArray[np.int64]"
    "(texts,) place of the earlier text, which is itself kept, that each repeats; -1: none, so it is kept."

    similarity: "NDArray[np.float64]"
    "(texts,) between 0 and 1: to that text, or to the most similar earlier one compared; NaN: compared with none."

    reason: str
    "Names the fault of those that repeat another."

    def __len__(self) -> int:
        return len(self.of)

    def verdict(self, index: int) -> Verdict:
        """Give the verdict on one text; `matched` names the place of the text that it repeats."""
        similarity, first = float(self.similarity[index]), int(self.of[index])
        is_measured = similarity == similarity
        return Verdict(
            keep=first < 0,
            score=similarity if is_measured else None,
            reason=self.reason if first >= 0 else "",
            matched=str(first) if first >= 0 else "",
            measures={"similarity": similarity} if is_measured else {},
        )


@dataclass(frozen=True)
class Limit:
    """A bound on one measure; a value equal to the bound keeps the text."""

    measure: str
    "The name of the measure."

    drops: Literal["above", "below"]
    "On which side of the bound a text is dropped."

    bound: float
    "In the unit of the measure."

    reason: str
    "The fault that a text beyond the bound has."

    def excess(self, value: float) -> float:
        """How far a value lies beyond the bound; 0 or less: the text may stay."""
        return value - self.bound if self.drops == "above" else self.bound - value


def decide(
    measures: Mapping[str, float | None],
    limits: Sequence[Limit],
    *,
    marks: Sequence[str] = (),
    span: tuple[int, int] | None = None,
    matched: str = "",
) -> Verdict:
    """Decide from measured values alone, so that a new bound needs no new measuring.

    The limit that is exceeded most speaks (the first of equals), or, when none is exceeded, the one nearest to it.
    A measure that is absent, None or NaN breaks no limit.

    Args:
        measures: values by name, for instance a row of the score store.
        limits: bounds on them.
        marks: handed on to the verdict, as are
        span: the place of the evidence, which the values do not hold,
        matched: and what stands there.
    """
    known = {name: value for name, value in measures.items() if value is not None and value == value}
    limit = deciding_limit(known, limits)
    if limit is None:
        return Verdict(keep=True, score=None, measures=known, marks=tuple(marks), span=span, matched=matched)
    value = known[limit.measure]
    is_broken = limit.excess(value) > 0
    return Verdict(
        keep=not is_broken,
        score=value,
        reason=limit.reason if is_broken else "",
        measures=known,
        marks=tuple(marks),
        span=span,
        matched=matched,
    )


def deciding_limit(known: Mapping[str, float], limits: Sequence[Limit]) -> Limit | None:
    """Find the limit with the largest excess, the first of equals; None when no limited measure is known."""
    measured = [limit for limit in limits if limit.measure in known]
    if len(measured) < 2:
        return measured[0] if measured else None
    return max(measured, key=lambda limit: limit.excess(known[limit.measure]))
