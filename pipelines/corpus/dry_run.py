"""A sample of a corpus is judged, to estimate what a run would remove and how long it would take."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ...eval.statistics import share_score
from ...eval.task import Score
from ...toolkit.errors import DataError
from ..console import Console
from ..filter_building import CALIBRATION_SAMPLE, split_filters
from ..report.numbers import duration
from .batches import Batch
from .engines import n_workers_for
from .plan import Plan
from .progress import tell_passed_over
from .segments import read_segment
from .sizes import growth, rows_in
from .units import Segment, Source
from .worker import judge_batch

PLACES = 40
"Places of the corpus that a sample is drawn from, evenly spread with a random shift."
WINDOW = 16_000_000
SMALL = 4_000_000
"A corpus of so many bytes is read whole."


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would do, judged by a sample.

    Attributes:
        rows: rows judged.
        unreadable: rows of the sample that could not be read.
        dropped: share that would be dropped, with its interval.
        by_reason: the same by filter and reason; a row counts for the first filter that drops it.
        rows_in_all: estimate from the bytes of a row, unpacked; Parquet and data sets tell.
        seconds_to_load: until the filters were built.
        rows_per_second: of one worker.
        workers: that a run would use.
        compares: whether repeats are removed too, of which a sample tells nothing.
    """

    rows: int
    unreadable: int
    dropped: Score
    by_reason: dict[tuple[str, str], Score]
    rows_in_all: int
    seconds_to_load: float
    rows_per_second: float
    workers: int
    compares: bool

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.seconds_to_load + self.rows_in_all / self.rows_per_second / self.workers

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "rows": self.rows,
            "unreadable": self.unreadable,
            "dropped": self.dropped.as_json(),
            "by_reason": [
                {"filter": name, "reason": reason, **score.as_json()}
                for (name, reason), score in self.by_reason.items()
            ],
            "rows_in_all": self.rows_in_all,
            "rows_per_second_of_a_worker": round(self.rows_per_second, 1),
            "workers": self.workers,
            "seconds": round(self.seconds, 1),
        }

    def as_text(self) -> str:
        """A few lines for people."""
        lines = [
            f"{self.rows:,} rows judged, {self.unreadable:,} could not be read; nothing was written",
            f"would drop {_percent(self.dropped)}",
            *(f"  {name}: {reason}: {_percent(score)}" for (name, reason), score in self.by_reason.items()),
            f"about {self.rows_in_all:,} rows in all; {self.rows_per_second:,.0f} rows/s a worker, {self.workers} "
            f"worker{'s' * (self.workers != 1)}: about {duration(self.seconds)}",
        ]
        if self.compares:
            lines.append("repeats are removed over the whole corpus; a sample does not tell how many")
        return "\n".join(lines)


def estimate(plan: Plan, n: int, console: Console, *, workers: int | None = None, seed: int = 0) -> Estimate:
    """Judge a sample.

    Args:
        plan: of the run.
        n: rows to judge.
        console: shows progress.
        workers: that the run would use.
        seed: of the sample.

    Raises:
        DataError: the sample holds no row that could be judged, so that there is nothing to estimate from.
    """
    began = time.monotonic()
    tell_passed_over(plan, console)
    rows, comparing = split_filters(plan.build())
    loaded = time.monotonic()
    reasons: Counter[tuple[str, str]] = Counter()
    judged = unreadable = dropped = n_bytes = n_lines = 0
    spent = 0.0
    first_bad = ""
    with console.bar("judging a sample") as advance:
        for batch, share in _sample(plan, n, seed):
            n_bytes, n_lines = n_bytes + batch.n_bytes, n_lines + batch.n_lines - batch.blank
            unreadable += len(batch.bad)
            part = batch.some(range(min(share, len(batch.texts))))
            start = time.monotonic()
            part, verdicts, failed = judge_batch(rows, part)
            spent += time.monotonic() - start
            judged, unreadable = judged + len(part.texts), unreadable + len(failed)
            first_bad = first_bad or next((f"{one.error}: {one.detail}" for one in (*batch.bad, *failed)), "")
            for index in range(len(part.texts)):
                first = next(((name, one[index]) for name, one in verdicts.items() if not one[index].keep), None)
                if first is not None:
                    dropped += 1
                    reasons[first[0], first[1].reason] += 1
            advance(judged, n)
    if not judged:
        names = ", ".join(source.name for source in plan.sources[:3])
        found = f"{unreadable:,} rows that could not be read, the first {first_bad}" if unreadable else "no rows"
        raise DataError(f"the sample of {names} holds {found}; wanted rows to judge. Check that it is what you meant.")
    total = sum(source.size for source in plan.sources)
    if total <= SMALL:
        in_all = n_lines
    else:
        grows = growth(plan.sources)
        per_row = n_bytes / max(n_lines, 1)
        in_all = round(sum(rows_in(source, grows.get(source.kind, 1.0), per_row) for source in plan.sources))
    return Estimate(
        rows=judged, unreadable=unreadable, dropped=_share(dropped, judged),
        by_reason={key: _share(count, judged) for key, count in reasons.most_common()}, rows_in_all=in_all,
        seconds_to_load=loaded - began, rows_per_second=judged / max(spent, 1e-9),
        workers=n_workers_for(plan, workers), compares=bool(comparing),
    )  # fmt: skip


def sample_texts(plan: Plan, *, n: int = CALIBRATION_SAMPLE, seed: int = 0) -> list[str]:
    """Draw texts from all over the corpus."""
    return [text for batch, share in _sample(plan, n, seed) for text in batch.texts[:share]]


def _sample(plan: Plan, n: int, seed: int) -> Iterator[tuple[Batch, int]]:
    """Read a batch at each of some places, and tell how many of its rows to take."""
    total = sum(source.size for source in plan.sources)
    if total <= SMALL:
        yield from _sample_of_all(plan, n)
        return
    rng = random.Random(seed)
    places = min(PLACES, max(1, n // 8))
    left = n
    for number in range(places):
        at = int((number + rng.random()) / places * total)
        batch = next(iter(_from(plan, at)), None)
        if batch is None:
            continue
        share = -(-left // (places - number))
        yield batch, share
        left -= min(share, len(batch.texts))


def _sample_of_all(plan: Plan, n: int) -> Iterator[tuple[Batch, int]]:
    """Read a small corpus whole, so that no row is taken twice, and take an even share of each batch."""
    batches = [
        batch
        for unit in plan.units
        for segment in unit.segments
        for batch in read_segment(plan.sources[segment.source], segment, plan.reader)
    ]
    rows = sum(len(batch.texts) for batch in batches)
    wanted, seen, taken = min(n, rows), 0, 0
    for batch in batches:
        seen += len(batch.texts)
        share = wanted * seen // max(rows, 1) - taken
        taken += share
        yield batch, share


def _from(plan: Plan, at: int) -> Iterator[Batch]:
    """Read on from a byte of the whole corpus; of a compressed file, from its beginning."""
    for number, source in enumerate(plan.sources):
        if at < source.size:
            yield from islice(read_segment(source, _segment(number, source, at), plan.reader), 1)
            return
        at -= source.size


def _segment(number: int, source: Source, at: int) -> Segment:
    if source.kind == "jsonl":
        # Whole lines that begin here: near the end of a file there may be none, so its last stretch is taken.
        start = min(at, max(0, source.size - WINDOW // 8))
        return Segment(number, start, min(source.size, start + WINDOW), WINDOW)
    if source.parts:
        start = min(at * source.parts // source.size, source.parts - 1)
        return Segment(number, start, source.parts if source.kind == "dataset" else start + 1, 0)
    return Segment(number, 0, source.size, source.size)


def _share(count: int, n: int) -> Score:
    return share_score([1.0] * count + [0.0] * (n - count))


def _percent(score: Score) -> str:
    interval = f" ({score.low:.1%} to {score.high:.1%})" if score.low is not None and score.high is not None else ""
    return f"{score.value:.1%}{interval} of rows" if score.value is not None else "not measured"
