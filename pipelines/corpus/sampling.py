"""A sample of rows is drawn from all over a corpus, none twice, however its files are packed."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from .batches import Batch
from .plan import Plan
from .segments import batch_at, read_segment
from .units import Segment

PLACES = 100
"Places of the corpus that a sample is drawn from, evenly spread with a random shift."
SMALL = 4_000_000
"A corpus of so many bytes is read whole."
BEGINNING = 32_000_000
"Bytes, unpacked, that are read in all of gzip and zstd files, each of which can be entered at its beginning alone."
FEWEST = 64
"Rows that are read at a place, of which the sample takes some; more where it takes more."
TURNS = 3
"How often places are drawn where rows that cannot be read, or were drawn before, leave too few."
LAST = 64_000
"Bytes before the end of a file behind which no place lies: there may be no row that begins there."


@dataclass
class Sample:
    """Draws rows, and counts what was read for it.

    Places are spread over the bytes of a corpus: a file, or a part of one, with longer rows than the others has fewer
    rows than its share of the sample says.

    Args:
        plan: of the run.
        n: rows wanted; fewer are drawn where the corpus holds fewer.
        seed: decides which.

    Attributes:
        read: rows that were read, those too that were not drawn or cannot be judged.
        n_bytes: that they had.
        unreadable: rows of them that could not be read.
        first_bad: what was wrong with the first of those; empty: there is none.
        begun: names of the packed files of which only the beginning was looked at.
        place: number of the place that the last batch is from, whose rows may be alike; None: its rows are drawn from
            all that was read.
    """

    plan: Plan
    n: int
    seed: int
    read: int = 0
    n_bytes: int = 0
    unreadable: int = 0
    first_bad: str = ""
    begun: list[str] = field(default_factory=list)
    place: int | None = None
    _places_seen: int = 0
    _taken: dict[int, set[int]] = field(default_factory=dict)
    _beginning: int = BEGINNING

    @property
    def is_whole(self) -> bool:
        """Whether the corpus is so small that all of it is read."""
        return sum(source.size for source in self.plan.sources) <= SMALL

    def batches(self) -> Iterator[Batch]:
        """Draw the rows, batch by batch in the order of the corpus."""
        rng = random.Random(self.seed)
        if self.is_whole:
            segments = [segment for unit in self.plan.units for segment in unit.segments]
            read = (read_segment(self.plan.sources[one.source], one, self.plan.reader) for one in segments)
            yield from self._spread(chain.from_iterable(read), self.n, rng)
            return
        left = self.n
        for turn in range(TURNS):
            places = self._places(rng)
            places_left = sum(map(len, places.values()))
            streams = [number for number in places if self.plan.sources[number].kind in ("gz", "zst")]
            self._beginning = BEGINNING // max(len(streams), 1)
            for number, own in places.items():
                quota = -(-left * len(own) // places_left)
                is_stream = number in streams
                draw = self._of_stream if is_stream else self._of_places
                for batch in draw(number, own, quota, rng) if left > 0 and not (is_stream and turn) else ():
                    left -= len(batch.texts)
                    yield batch
                places_left -= len(own)

    def _places(self, rng: random.Random) -> dict[int, list[float]]:
        """By the number of the source: places in it, from 0 to 1."""
        total = sum(source.size for source in self.plan.sources)
        count = min(PLACES, max(1, self.n // 8))
        ends, end = [], 0
        for source in self.plan.sources:
            end += source.size
            ends.append(end)
        found: dict[int, list[float]] = {}
        number = 0
        for place in range(count):
            at = (place + rng.random()) / count * total
            while at >= ends[number] and number < len(ends) - 1:
                number += 1
            size = self.plan.sources[number].size
            found.setdefault(number, []).append((at - ends[number] + size) / size)
        return found

    def _of_places(self, number: int, places: list[float], quota: int, rng: random.Random) -> Iterator[Batch]:
        """Draw an even share of a batch at each place."""
        source, taken = self.plan.sources[number], self._taken.setdefault(number, set())
        for index, place in enumerate(places):
            share = -(-quota // (len(places) - index))
            found = batch_at(source, place, self.plan.reader, max(FEWEST, 2 * share), LAST)
            if found is None:
                continue
            batch, first = found
            self._count(batch)
            keys = [first + key for key in (batch.lines if source.kind != "jsonl" else batch.offsets).tolist()]
            new = [row for row, key in enumerate(keys) if key not in taken]
            rows = sorted(rng.sample(new, min(share, len(new))))
            taken.update(keys[row] for row in rows)
            quota -= len(rows)
            self.place = self._places_seen
            self._places_seen += 1
            yield batch.some(rows)

    def _of_stream(self, number: int, places: list[float], quota: int, rng: random.Random) -> Iterator[Batch]:
        """Draw from the beginning of a packed file."""
        source, found, n_bytes = self.plan.sources[number], list[Batch](), 0
        for batch in read_segment(source, Segment(number, 0, source.size, 0), self.plan.reader):
            if n_bytes >= self._beginning:
                self.begun.append(source.name)
                break
            found.append(batch)
            n_bytes += batch.n_bytes
        yield from self._spread(found, quota, rng)

    def _spread(self, batches: Iterable[Batch], n: int, rng: random.Random) -> Iterator[Batch]:
        """Draw from some batches an even share of each."""
        every = list(batches)
        rows = sum(len(batch.texts) for batch in every)
        wanted, seen, taken = min(n, rows), 0, 0
        for batch in every:
            self._count(batch)
            seen += len(batch.texts)
            share = wanted * seen // max(rows, 1) - taken
            taken += share
            self.place = None
            yield batch.some(sorted(rng.sample(range(len(batch.texts)), share)))

    def _count(self, batch: Batch) -> None:
        self.read += batch.n_lines - batch.blank
        self.n_bytes += batch.n_bytes
        self.unreadable += len(batch.bad)
        if not self.first_bad and batch.bad:
            self.first_bad = f"{batch.bad[0].error}: {batch.bad[0].detail}"
