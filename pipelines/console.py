"""What a person sees while a run works: stage titles, progress bars and notes, all on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` is done, with a short detail behind the bar."""


def _nothing(done: int, total: int, detail: str = "") -> None:
    """Show no progress."""


class Console:
    """Writes to standard error; standard output is left to results.

    Args:
        is_quiet: show nothing but warnings.
    """

    def __init__(self, *, is_quiet: bool = False) -> None:
        self.is_quiet = is_quiet
        self._rich = RichConsole(file=sys.stderr, highlight=False, soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        """Print one line."""
        if not self.is_quiet:
            self._rich.print(text, style=style, markup=False)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._rich.print(f"warning: {text}", style="yellow", markup=False)

    @contextmanager
    def bar(self, title: str) -> Iterator[Advance]:
        """Show a progress bar; call what it yields with (done, total, a short detail).

        Without a terminal it prints a line at most every ten seconds instead.
        """
        if self.is_quiet:
            yield _nothing
        elif self._rich.is_terminal:
            with self._live_bar(title) as advance:
                yield advance
        else:
            yield self._lines(title)

    @contextmanager
    def working(self, title: str) -> Iterator[Callable[[str], None]]:
        """Show that something of unknown length goes on; call what it yields to say what."""
        if self.is_quiet:
            yield lambda text: None
        elif self._rich.is_terminal:
            with self._rich.status(f"  {title}") as status:
                yield lambda text: status.update(f"  {text}")
        else:
            yield lambda text: self.say(f"  {text}")

    @contextmanager
    def _live_bar(self, title: str) -> Iterator[Advance]:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
        )
        with Progress(*columns, console=self._rich, transient=True) as progress:
            task = progress.add_task(title, total=None, detail="")

            def advance(done: int, total: int, detail: str = "") -> None:
                progress.update(task, completed=done, total=total, detail=detail)

            yield advance

    def _lines(self, title: str) -> Advance:
        last = time.monotonic()

        def advance(done: int, total: int, detail: str = "") -> None:
            nonlocal last
            if time.monotonic() - last >= 10:
                last = time.monotonic()
                self.say(f"  {title}: {done} of {total} {detail}".rstrip())

        return advance
