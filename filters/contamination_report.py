"""What of a benchmark is in a corpus: item by item, with the texts that give it away."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .contamination import ContaminationFilter


@dataclass
class ItemFound:
    """One benchmark item that is in the corpus.

    Attributes:
        item: names it.
        passage: its first passage, for readers.
        texts: how many texts hold some of it.
        coverage: largest share of its n-grams in one text.
        examples: places of the first few of those texts.
    """

    item: str
    passage: str
    texts: int = 0
    coverage: float = 0.0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BenchmarkFound:
    """How much of one benchmark is in the corpus.

    Attributes:
        benchmark: names it.
        items: how many it has.
        unseen: those too short to be looked for.
        found: those of which at least one n-gram is in the corpus.
        whole: those of which a whole passage is.
    """

    benchmark: str
    items: int
    unseen: int
    found: int
    whole: int


MOST_EXAMPLES = 5


class ContaminationReport:
    """Gathers what a contamination filter finds, text by text.

    Args:
        judge: the filter.
    """

    def __init__(self, judge: ContaminationFilter) -> None:
        self._judge = judge
        self._found: dict[str, ItemFound] = {}

    def add(self, texts: Iterable[tuple[str, str]]) -> None:
        """Look through texts, each given with a name of its place, such as `part-00003.jsonl:17`."""
        for place, text in texts:
            for overlap in self._judge.overlaps(text):
                label = overlap.item.label
                one = self._found.setdefault(label, ItemFound(label, overlap.item.passages[0]))
                one.texts += 1
                one.coverage = max(one.coverage, overlap.coverage)
                if len(one.examples) < MOST_EXAMPLES:
                    one.examples.append(place)

    @property
    def items(self) -> list[ItemFound]:
        """The items found, those most covered first."""
        return sorted(self._found.values(), key=lambda one: (-one.coverage, -one.texts, one.item))

    @property
    def benchmarks(self) -> list[BenchmarkFound]:
        """One row for each benchmark, in the order of their items."""
        unseen = self._judge.unseen
        rows = []
        for name in dict.fromkeys(item.benchmark for item in self._judge.items):
            own = [item for item in self._judge.items if item.benchmark == name]
            found = [self._found[item.label] for item in own if item.label in self._found]
            rows.append(
                BenchmarkFound(
                    benchmark=name,
                    items=len(own),
                    unseen=sum(item.label in unseen for item in own),
                    found=len(found),
                    whole=sum(one.coverage == 1 for one in found),
                )
            )
        return rows
