"""Runs in a process of their own, killed after a while: for the programs that compare killed runs with whole ones."""

import os
import signal
import time
import traceback
from collections.abc import Callable


def in_child(run: Callable[..., object], *given: object, kill_after: float | None = None) -> bool:
    """Whether the run finished; False when it was killed first, after so many seconds."""
    pid = os.fork()
    if pid == 0:
        try:
            run(*given)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    end = time.monotonic() + kill_after if kill_after is not None else float("inf")
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if status != 0:
                raise SystemExit(f"a run of {given} ended with status {status}, its traceback stands above")
            return True
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False
