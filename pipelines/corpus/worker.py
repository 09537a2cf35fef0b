"""What one worker process does with one unit: judge its rows, or publish what was made of it."""

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...filters.base import CorpusFilter, Filter, Verdict
from ...toolkit.errors import TunewellError
from ...toolkit.files import read_json
from ..filter_building import split_filters
from .batches import Bad, Batch
from .inputs import check_unchanged
from .plan import Plan
from .publishing import Edges, publish
from .segments import read_segment
from .staging import RECORD, UnitWriter, staged_folder
from .units import Unit

Report = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes:
        unit: what it is done to.
        is_publishing: whether the unit has been judged and is to be published.
        lines_before: by segment, how many lines its source has before it; for publishing.
        measures: the columns of the score store, by filter; for publishing.
        edges: the edges of histograms, by filter and measure; for publishing.
    """

    unit: Unit
    is_publishing: bool = False
    lines_before: tuple[int, ...] = ()
    measures: Mapping[str, Sequence[str]] = field(default_factory=dict)
    edges: Edges = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A task with what it found."""

    task: Task
    record: Mapping[str, Any]


class Worker:
    """Does tasks of one plan, one after the other; models are loaded once, at the first row."""

    def __init__(self, plan: Plan, report: Report | None = None) -> None:
        self._plan = plan
        self._report = report or (lambda n_bytes: None)

    @cached_property
    def _filters(self) -> tuple[dict[str, Filter], dict[str, CorpusFilter]]:
        return split_filters(self._plan.build())

    def perform(self, task: Task) -> Done:
        """Do one task; one that was done before is not done again."""
        if task.is_publishing:
            return Done(task, publish(self._plan, task.unit, task.lines_before, task.measures, task.edges))
        staged = self._plan.staged(task.unit)
        if not (staged / RECORD).is_file():
            self._judge(task.unit)
        return Done(task, read_json(staged / RECORD))

    def _judge(self, unit: Unit) -> None:
        rows, comparing = self._filters
        with (
            staged_folder(self._plan.staged(unit)) as folder,
            closing(UnitWriter(folder, rows, comparing)) as writer,
        ):
            for segment in unit.segments:
                writer.begin(segment.source)
                source = self._plan.sources[segment.source]
                if source.kind == "run":
                    from .again import read_part

                    for batch, verdicts in read_part(source, segment, self._plan.reader, rows):
                        writer.add(batch, verdicts)
                        self._report(batch.n_bytes)
                    continue
                check_unchanged(source)
                for batch in read_segment(source, segment, self._plan.reader, self._plan.settings.pace):
                    batch, verdicts, failed = judge_batch(rows, batch)
                    writer.add(batch, verdicts, failed)
                    self._report(batch.n_bytes)
                check_unchanged(source)
            writer.finish()


def judge_batch(filters: Mapping[str, Filter], batch: Batch) -> tuple[Batch, dict[str, Sequence[Verdict]], list[Bad]]:
    """Let every filter judge every row, those that another drops too: the score store lacks nothing.

    When a filter fails on a batch it is asked row by row, and only the rows that it fails on are set aside.
    """
    verdicts: dict[str, Sequence[Verdict]] = {}
    failed: list[Bad] = []
    for name, one in filters.items():
        try:
            verdicts[name] = one.judge(batch.texts) if batch.texts else []
        except (TunewellError, OSError, MemoryError):
            raise  # a fault of the settings or the machine, not of a row
        except Exception:
            batch, kept, bad = _without_failures(name, one, batch)
            failed += bad
            verdicts = {other: [found[index] for index in kept] for other, found in verdicts.items()}
            verdicts[name] = one.judge(batch.texts) if batch.texts else []
    return batch, verdicts, failed


def _without_failures(name: str, one: Filter, batch: Batch) -> tuple[Batch, list[int], list[Bad]]:
    kept: list[int] = []
    bad: list[Bad] = []
    for index, text in enumerate(batch.texts):
        try:
            one.judge([text])
            kept.append(index)
        except Exception as error:
            detail = f"the filter {name} failed: {type(error).__name__}: {error}"
            bad.append(
                Bad(
                    line=int(batch.lines[index]),
                    offset=int(batch.offsets[index]),
                    error="filter_failed",
                    detail=detail,
                    raw=batch.raws[index],
                )
            )
    return batch.some(kept), kept, bad


_own: list[Worker] = []
"The worker of this process, where it is one of a pool."


def start_worker(plan: Plan, report: Report | None) -> None:
    """Make this process a worker."""
    # Ctrl-C reaches every process of the terminal; the one that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _own[:] = [Worker(plan, report)]


def perform(task: Task) -> Done:
    """Do one task in a worker process."""
    return _own[0].perform(task)
