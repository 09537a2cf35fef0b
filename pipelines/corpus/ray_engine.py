"""The same tasks on a Ray cluster: workers are actors, and the tasks of one that is lost are done by another."""

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ...toolkit.errors import MissingPackageError, RunError
from .engines import Progress
from .plan import Plan
from .worker import Done, Task, Worker

MOST_LOSSES = 3
"How often the same task may lose its worker before the run stops: it is then the task that kills."
POLL = 1.0  # seconds between two looks at the cluster
PATIENCE = 300.0
"Seconds to wait for a worker when the cluster has room for none, before the run stops."

KNOCK = 10.0  # seconds


class RayWorker(Worker):
    """A worker that works where the run was started, and can say that it is ready and how far it is.

    Args:
        plan: of the run.
        folder: what the paths of the plan start from; all nodes have it.
    """

    def __init__(self, plan: Plan, folder: str) -> None:
        os.chdir(folder)
        super().__init__(plan, self._note)
        self._unit, self._bytes = -1, 0

    def perform(self, task: Task) -> Done:
        """Do one task."""
        self._bytes, self._unit = 0, task.unit.number
        return super().perform(task)

    def _note(self, n_bytes: int) -> None:
        self._bytes += n_bytes

    def report_in(self) -> None:
        """Return: that is all that has to be known."""

    def bytes_read(self, unit: int) -> int:
        """Bytes read of a unit, while it is worked at; called beside `perform`."""
        return self._bytes if unit == self._unit else 0


class RayEngine:
    """Does tasks on actors of a Ray cluster, each with a core and, where a model and GPUs are there, a GPU.

    Args:
        plan: of the run.
        workers: actors; None: as many as the cluster has room for.
    """

    name = "ray"

    def __init__(self, plan: Plan, workers: int | None) -> None:
        import ray

        room: dict[str, float] = ray.cluster_resources()
        self.n_gpus = 1 if plan.needs_model and room.get("GPU", 0) >= 1 else 0
        most = int(room.get("GPU", 0) if self.n_gpus else room.get("CPU", 1))
        self.n_workers = max(1, min(workers or most, len(plan.units)))

    def run(self, plan: Plan, tasks: Sequence[Task], progress: Progress) -> Generator[Done, None, None]:
        """Do all tasks; those that a lost node takes with it are done by another."""
        crew = _Crew(plan, min(self.n_workers, len(tasks)), self.n_gpus, progress)
        try:
            yield from crew.do(tasks)
        finally:
            crew.dismiss()


class _Crew:
    """The actors of one run.

    Only an actor that has reported in is given a task: one that replaces a lost actor may wait for room for ever, and
    would keep its task from those that work.
    """

    def __init__(self, plan: Plan, size: int, n_gpus: int, progress: Progress) -> None:
        import ray

        self._ray: Any = ray
        self._plan = plan
        # The cluster decides about restarts too late for us: a lost actor is replaced here.
        # Two calls at once: one works, the other is asked how far it is.
        self._actor = ray.remote(num_cpus=1, num_gpus=n_gpus, max_restarts=0, max_concurrency=2)(RayWorker)
        self._watch = _Watch(progress)
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, tuple[Task, Any]] = {}
        self._idle: list[Any] = []
        self._losses: Counter[int] = Counter()
        self._failed_starts = 0
        for _ in range(size):
            self._hire()

    def do(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """Do all tasks, in the order in which they are done."""
        waiting = list(reversed(tasks))
        last = time.monotonic()
        while waiting or self._running:
            while waiting and self._idle:
                self._give(waiting.pop())
            ready, _ = self._ray.wait([*self._running, *self._starting], num_returns=1, timeout=POLL)
            self._watch.look(self._running)
            if ready or self._running:
                last = time.monotonic()
            elif time.monotonic() - last > PATIENCE:
                raise RunError(
                    f"no worker has had room on the Ray cluster for {PATIENCE:.0f} s: its nodes are lost or busy with "
                    "other work (`ray status` tells). Give the same command again to go on where it stopped."
                )
            for reference in ready:
                if reference in self._starting:
                    self._greet(reference)
                elif isinstance(found := self._outcome(reference), Task):
                    waiting.append(found)
                else:
                    yield found

    def dismiss(self) -> None:
        """End all actors, those too that have not begun."""
        for actor in (*self._idle, *self._starting.values(), *(actor for _, actor in self._running.values())):
            self._ray.kill(actor)

    def _hire(self) -> None:
        actor = self._actor.remote(self._plan, os.getcwd())
        self._starting[actor.report_in.remote()] = actor

    def _greet(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts > MOST_LOSSES:
                raise RunError(
                    f"workers cannot be started on the Ray cluster: {error}. Every node needs the same tunewell and "
                    "Python, and sees the inputs and the output folder under the same paths."
                ) from error
            self._hire()
        else:
            self._failed_starts = 0
            self._idle.append(actor)

    def _give(self, task: Task) -> None:
        actor = self._idle.pop()
        self._running[actor.perform.remote(task)] = (task, actor)

    def _outcome(self, reference: Any) -> Done | Task:
        """What a task found, or the task itself when its worker was lost."""
        task, actor = self._running.pop(reference)
        try:
            done: Done = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from error
        except self._ray.exceptions.RayError as error:  # the worker, its node, or the way to it is gone
            self._watch.forget(task.unit.number)
            self._losses[task.unit.number] += 1
            if self._losses[task.unit.number] > MOST_LOSSES:
                raise RunError(
                    f"unit {task.unit.number} lost its Ray worker {MOST_LOSSES + 1} times ({error}). Most often a node "
                    "ran out of memory: give a smaller --unit-mb, or fewer --workers."
                ) from error
            self._hire()
            return task
        self._watch.settle(done)
        self._idle.append(actor)
        return done


class _Watch:
    """Asks the actors at work how far they are, and tells the bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told: dict[int, int] = {}  # bytes by unit at work
        self._asked: dict[Any, int] = {}
        self._last = 0.0

    def look(self, running: Mapping[Any, tuple[Task, Any]]) -> None:
        """Take the answers that have come, and ask anew where none is awaited."""
        import ray

        units = {task.unit.number: actor for task, actor in running.values() if not task.is_publishing}
        ready, _ = ray.wait([*self._asked], num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        for reference in ready:
            unit = self._asked.pop(reference)
            with suppress(ray.exceptions.RayError):  # a lost actor is seen by its task
                if unit in units:
                    self._tell(unit, ray.get(reference))
        if time.monotonic() - self._last >= POLL:
            self._last = time.monotonic()
            for unit in units.keys() - set(self._asked.values()):
                self._asked[units[unit].bytes_read.remote(unit)] = unit

    def settle(self, done: Done) -> None:
        """Tell what had not been told of a unit that is done."""
        unit = done.task.unit.number
        if not done.task.is_publishing:
            self._tell(unit, sum(segment["bytes"] for segment in done.record["segments"]))
        self._told.pop(unit, None)

    def forget(self, unit: int) -> None:
        """Take back what was told of a unit that has to be begun anew."""
        self._tell(unit, 0)

    def _tell(self, unit: int, n_bytes: int) -> None:
        self._progress(n_bytes - self._told.get(unit, 0))
        self._told[unit] = n_bytes


@contextmanager
def ray_engine(plan: Plan, workers: int | None, address: str | None) -> Iterator[RayEngine]:
    """Join a Ray cluster, or start one on this machine, and leave it at the end.

    Args:
        plan: of the run; the output folder and the inputs must be seen by all nodes under the same paths.
        workers: actors; None: as many as the cluster has room for.
        address: of the cluster; None starts one here.

    Raises:
        MissingPackageError: Ray is not installed.
        RunError: the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError("ray", "--engine ray", extra="cluster") from error
    was_running = ray.is_initialized()
    if not was_running:
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except (OSError, ValueError, ray.exceptions.RayError) as error:
            raise RunError(
                f"cannot join a Ray cluster at {address or 'this machine'}: {error}. Start one with `ray start --head` "
                f"and give what it prints as --address.{_about_tokens(address)}"
            ) from error
    try:
        yield RayEngine(plan, workers)
    finally:
        if not was_running:
            ray.shutdown()


def _about_tokens(address: str | None) -> str:
    """Ray sends no token to a cluster that is named, unless told to, and does not say that this is what it lacks."""
    if address is None or "RAY_AUTH_MODE" in os.environ:
        return ""
    return (
        " If there is one, it may ask for a token, as clusters do that are started where ~/.ray/auth_token lies: set "
        "RAY_AUTH_MODE=token here, and have the same token."
    )


def _knock(address: str | None) -> None:
    """Ask whether somebody listens at HOST:PORT: Ray itself would ask for two minutes before it says no."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK).close()
