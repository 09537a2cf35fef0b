"""A sample of a corpus is judged, to estimate what a run would remove and how long it would take."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...eval.statistics import share_score
from ...eval.task import Score
from ...toolkit.errors import DataError
from ..console import Console
from ..filter_building import CALIBRATION_SAMPLE, split_filters
from ..report.numbers import duration
from .engines import n_workers_for
from .plan import Plan
from .progress import tell_passed_over
from .sampling import BEGINNING, Sample
from .sizes import growth, rows_in
from .worker import judge_batch


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would do, judged by a sample.

    Attributes:
        rows: rows judged, drawn from those that were read.
        read: rows read.
        unreadable: of those, rows that could not be.
        begun: packed files of which only the beginning was looked at.
        dropped: share that would be dropped, with its interval.
        by_reason: the same by filter and reason; a row counts for the first filter that drops it.
        rows_in_all: estimate from the bytes of a row, unpacked; Parquet and data sets tell.
        seconds_to_load: until the filters were built.
        rows_per_second: of one worker.
        workers: that a run would use.
        compares: whether repeats are removed too, of which a sample tells nothing.
    """

    rows: int
    read: int
    unreadable: int
    begun: tuple[str, ...]
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
            "read": self.read,
            "unreadable": self.unreadable,
            "begun": list(self.begun),
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
            f"{self.rows:,} rows judged of {self.read:,} read for it, {self.unreadable:,} of which could not be read; "
            "nothing was written",
            f"would drop {_percent(self.dropped)}",
            *(f"  {name}: {reason}: {_percent(score)}" for (name, reason), score in self.by_reason.items()),
            f"about {self.rows_in_all:,} rows in all; {self.rows_per_second:,.0f} rows/s a worker, {self.workers} "
            f"worker{'s' * (self.workers != 1)}: about {duration(self.seconds)}",
        ]
        if self.begun:
            lines.append(begun_line(self.begun))
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
    fates: list[tuple[str, str] | None] = []  # filter and reason of each row; None: it would stay
    groups: list[tuple[str, int]] = []  # rows of one place may be alike, and say less than as many from all over
    n_failed = 0
    spent = 0.0
    sample = Sample(plan, n, seed)
    with console.bar("judging a sample") as advance:
        for batch in sample.batches():
            start = time.monotonic()
            part, verdicts, failed = judge_batch(rows, batch)
            spent += time.monotonic() - start
            n_failed += len(failed)
            sample.first_bad = sample.first_bad or next((f"{one.error}: {one.detail}" for one in failed), "")
            for index in range(len(part.texts)):
                first = next(((name, one[index]) for name, one in verdicts.items() if not one[index].keep), None)
                groups.append(("row", len(fates)) if sample.place is None else ("place", sample.place))
                fates.append(None if first is None else (first[0], first[1].reason))
            advance(len(fates), n)
    if not fates:
        names = ", ".join(source.name for source in plan.sources[:3])
        n_bad = sample.unreadable + n_failed
        found = f"{n_bad:,} rows that could not be read, the first {sample.first_bad}" if n_bad else "no rows"
        raise DataError(f"the sample of {names} holds {found}; wanted rows to judge. Check that it is what you meant.")
    if sample.is_whole:
        in_all = sample.read
    else:
        grows = growth(plan.sources)
        per_row = sample.n_bytes / max(sample.read, 1)
        in_all = round(sum(rows_in(source, grows.get(source.kind, 1.0), per_row) for source in plan.sources))
    reasons = Counter(fate for fate in fates if fate is not None)
    return Estimate(
        rows=len(fates), read=sample.read, unreadable=sample.unreadable + n_failed, begun=tuple(sample.begun),
        dropped=_share(fates, groups),
        by_reason={key: _share(fates, groups, key) for key, _ in reasons.most_common()}, rows_in_all=in_all,
        seconds_to_load=loaded - began, rows_per_second=len(fates) / max(spent, 1e-9),
        workers=n_workers_for(plan, workers), compares=bool(comparing),
    )  # fmt: skip


def sample_texts(
    plan: Plan, *, n: int = CALIBRATION_SAMPLE, seed: int = 0, say: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Draw texts from all over the corpus; `say` is told what was not looked at."""
    sample = Sample(plan, n, seed)
    found = [text for batch in sample.batches() for text in batch.texts]
    if sample.begun:
        say(begun_line(sample.begun))
    return found


def begun_line(names: Sequence[str]) -> str:
    """Say which packed files were looked at in part."""
    shown = f"{', '.join(names[:3])}{' and others' * (len(names) > 3)}"
    return f"the sample knows only the beginning ({BEGINNING // 10**6} MB in all, unpacked) of {shown}"


def _share(
    fates: Sequence[tuple[str, str] | None], groups: Sequence[tuple[str, int]], reason: tuple[str, str] | None = None
) -> Score:
    """The share of rows dropped, for one reason or any, with an interval over the places that they are from."""
    hits = [float(fate is not None and reason in (None, fate)) for fate in fates]
    return share_score(hits, groups=None if len(set(groups)) == len(groups) else groups)


def _percent(score: Score) -> str:
    interval = f" ({score.low:.1%} to {score.high:.1%})" if score.low is not None and score.high is not None else ""
    return f"{score.value:.1%}{interval} of rows" if score.value is not None else "not measured"
