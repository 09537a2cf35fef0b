"""A filter judges texts: each verdict keeps the measured score beside the decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True, kw_only=True)
class Verdict:
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

    measures: Mapping[str, float] = field(default_factory=dict)
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


def decide(measures: Mapping[str, float | None], limits: Sequence[Limit], *, marks: Sequence[str] = ()) -> Verdict:
    """Decide from measured values alone, so that a new bound needs no new measuring.

    The limit that is exceeded most speaks (the first of equals), or, when none is exceeded, the one nearest to it.
    A measure that is absent, None or NaN breaks no limit.

    Args:
        measures: values by name, for instance a row of the score store.
        limits: bounds on them.
        marks: handed on to the verdict.

    Returns:
        A verdict without span and matched text, which the values do not hold.
    """
    known = {name: value for name, value in measures.items() if value is not None and value == value}
    limit = deciding_limit(known, limits)
    if limit is None:
        return Verdict(keep=True, score=None, measures=known, marks=tuple(marks))
    value = known[limit.measure]
    is_broken = limit.excess(value) > 0
    return Verdict(
        keep=not is_broken,
        score=value,
        reason=limit.reason if is_broken else "",
        measures=known,
        marks=tuple(marks),
    )


def deciding_limit(known: Mapping[str, float], limits: Sequence[Limit]) -> Limit | None:
    """Find the limit with the largest excess, the first of equals; None when no limited measure is known."""
    measured = [limit for limit in limits if limit.measure in known]
    return max(measured, key=lambda limit: limit.excess(known[limit.measure]), default=None)
