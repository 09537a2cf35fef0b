"""The same tasks on a Ray cluster: workers are actors, and the tasks of one that is lost are done by another."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...toolkit.errors import MissingPackageError, RunError
from .engines import Progress
from .plan import Plan
from .worker import Done, Task, Worker

MOST_LOSSES = 3
"How often the same task may lose its worker before the run stops: it is then the task that kills."
POLL = 1.0  # seconds between two looks at the cluster
PATIENCE = 300.0
"Seconds to wait for room on the cluster before the run stops."


class RayEngine:
    """Does tasks on actors of a Ray cluster, each with a core and, where a model and GPUs are there, a GPU.

    Args:
        plan: of the run.
        workers: actors; None: as many as the cluster has room for.
    """

    name = "ray"

    def __init__(self, plan: Plan, workers: int | None) -> None:
        import ray

        self._ray: Any = ray
        room: dict[str, float] = self._ray.cluster_resources()
        self._gpus = 1 if plan.needs_model and room.get("GPU", 0) >= 1 else 0
        most = int(room.get("GPU", 0) if self._gpus else room.get("CPU", 1))
        self.n_workers = max(1, min(workers or most, len(plan.units)))

    def run(self, plan: Plan, tasks: Sequence[Task], progress: Progress) -> Iterator[Done]:
        """Do all tasks; those that a lost node takes with it are done by another."""
        ray = self._ray
        # The cluster decides about restarts too late for us: a lost actor is replaced here, its task given out again.
        actor = ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0)(Worker)
        waiting = list(reversed(tasks))
        losses: Counter[int] = Counter()
        running: dict[Any, tuple[Task, Any]] = {}
        idle = [actor.remote(plan) for _ in range(min(self.n_workers, len(tasks)))]
        last = time.monotonic()
        while waiting or running:
            while waiting and idle:
                worker, task = idle.pop(), waiting.pop()
                running[worker.perform.remote(task)] = (task, worker)
            ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL)
            if not ready and time.monotonic() - last > PATIENCE and not self._has_room():
                raise RunError(f"no node of the Ray cluster has had a core for {PATIENCE:.0f} s: its nodes are lost")
            for reference in ready:
                last = time.monotonic()
                task, worker = running.pop(reference)
                try:
                    done = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from error
                except ray.exceptions.RayError as error:  # the worker, its node, or the way to it is gone
                    losses[task.unit.number] += 1
                    if losses[task.unit.number] > MOST_LOSSES:
                        raise RunError(
                            f"unit {task.unit.number} lost its Ray worker {MOST_LOSSES + 1} times ({error}). Most "
                            "often a node ran out of memory: give a smaller --unit-mb, or fewer --workers."
                        ) from error
                    waiting.append(task)
                    idle.append(actor.remote(plan))
                    continue
                idle.append(worker)
                yield done
        for worker in idle:
            ray.kill(worker)

    def _has_room(self) -> bool:
        nodes: list[dict[str, Any]] = self._ray.nodes()
        return any(node["Alive"] and node["Resources"].get("CPU") for node in nodes)


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
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise RunError(
                f"cannot join a Ray cluster at {address or 'this machine'}: {error}. Start one with `ray start --head` "
                "and give what it prints as --address."
            ) from error
    try:
        yield RayEngine(plan, workers)
    finally:
        if not was_running:
            ray.shutdown()
