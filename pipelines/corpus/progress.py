"""How far a filter run is: megabytes read, rows a second, the share dropped so far, the time left."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..console import Advance, Console
from ..report.numbers import duration
from .plan import Plan
from .sizes import growth

MEGABYTE = 1_000_000
NAMED = 5


class RunProgress:
    """Counts bytes as workers read them, and rows as units are done.

    Args:
        advance: moves the bar.
        weights: by unit, about how many bytes its rows have, unpacked; what was done earlier left out.
        before: the same of the units that were done earlier, in all.
    """

    def __init__(self, advance: Advance, weights: Mapping[int, float], before: float = 0) -> None:
        self._advance, self._before = advance, before
        self._left = dict(weights)
        self._began = time.monotonic()
        self._bytes = 0
        self._counted = {"read": 0, "dropped": 0, "bytes": 0}

    def __call__(self, n_bytes: int) -> None:
        """Tell that so many bytes more have been read."""
        self._bytes += n_bytes
        self._show()

    def count(self, number: int, record: Mapping[str, Any]) -> None:
        """Take the sums of a unit that is done, whose size is known from now on."""
        self._left.pop(number, None)
        for segment in record["segments"]:
            for name in self._counted:
                self._counted[name] += segment[name]
        self._show()

    def _show(self) -> None:
        seconds = time.monotonic() - self._began
        # Engines that tell nothing between units are shown by the units alone.
        done = max(self._bytes, self._counted["bytes"])
        read = self._counted["read"]
        parts = []
        if read and seconds > 0:
            rows = read / max(self._counted["bytes"], 1) * done
            parts += [f"{rows / seconds:,.0f} rows/s", f"{self._counted['dropped'] / read:.1%} dropped"]
        # How far a file grows when it is unpacked was estimated on a part of it.
        total = max(self._counted["bytes"] + sum(self._left.values()), done)
        if done and total > done:
            parts.append(f"{duration((total - done) / done * seconds)} left")
        whole = int((self._before + done) // MEGABYTE)
        self._advance(whole, max(int((self._before + total) // MEGABYTE), whole, 1), "MB  " + ", ".join(parts))


def tell_passed_over(plan: Plan, console: Console) -> None:
    """Warn of what lies in the input folders and is not read."""
    if plan.passed_over:
        console.warn(passed_over_line(plan.passed_over))


def passed_over_line(names: Sequence[str]) -> str:
    """Say what lies in the input folders and is not read."""
    more = f" and {len(names) - NAMED:,} more (all are in run.json)" if len(names) > NAMED else ""
    return f"Passed over in the input folders, as no files of rows: {', '.join(names[:NAMED])}{more}."


@contextmanager
def progress_bar(
    console: Console, title: str, plan: Plan, done_before: Mapping[int, Mapping[str, Any]]
) -> Iterator[RunProgress]:
    """Show a bar over the judging of all units."""
    grows = growth(plan.sources)
    weights = {
        unit.number: sum(one.weight * grows.get(plan.sources[one.source].kind, 1.0) for one in unit.segments)
        for unit in plan.units
        if unit.number not in done_before
    }
    before = sum(segment["bytes"] for record in done_before.values() for segment in record["segments"])
    with console.bar(title) as advance:
        yield RunProgress(advance, weights, before)
