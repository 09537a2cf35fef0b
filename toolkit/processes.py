"""Several processes of one run, as `accelerate launch` starts them: which one this is, and waiting for the others."""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=7)
"""Others wait for the first process through filters, scoring and evaluation, which take hours on a real corpus."""


def count() -> int:
    """How many processes share this run; 1 unless a launcher says otherwise (`WORLD_SIZE`)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number() -> int:
    """Which of them this is (`RANK`); 0 is the one that writes."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return number() == 0


def join(*, on_cpu: bool) -> None:
    """Meet the other processes of the run; nothing happens when there are none.

    Args:
        on_cpu: the run computes on the CPU, so the processes talk through it.
    """
    if count() > 1:
        _state(on_cpu=on_cpu)


def wait() -> None:
    """Go on when all processes have come here."""
    if count() > 1:
        _state().wait_for_everyone()


def first_before_others() -> AbstractContextManager[None]:
    """A block that the first process goes through alone, and the others when it is done."""
    order: AbstractContextManager[None] = _state().main_process_first() if count() > 1 else nullcontext()
    return order


def _state(*, on_cpu: bool = False) -> Any:
    from accelerate import PartialState  # type: ignore[import-untyped]

    # The first one made decides for all later ones, those of the trainers included.
    return PartialState(cpu=on_cpu, timeout=PATIENCE)
