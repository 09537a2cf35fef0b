"""Tasks are done by this process, by a pool of processes of this machine, or by another engine with the same face."""

import multiprocessing
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Protocol

from ...toolkit.errors import RunError, SettingsError
from .plan import Plan
from .worker import Done, Task, Worker, perform, start_worker

POLL = 0.2  # seconds between two looks at the progress
GPUS = Path("/proc/driver/nvidia/gpus")
ENGINES = ("local", "ray")
PRELOADED = [f"{__package__}.worker", "tunewell.filters.blocklist", "pyarrow.parquet"]
ATTEMPTS = 3
"How often a pool is made anew when one of its processes dies, before that is told."


class Progress(Protocol):
    """Shows how far a run is."""

    def __call__(self, n_bytes: int) -> None:
        """Tell that so many bytes more have been read."""


class Engine(Protocol):
    """Does tasks, in any order, each at least once; a task done twice gives the same files."""

    @property
    def name(self) -> str:
        """For the record."""

    @property
    def n_workers(self) -> int:
        """Tasks done at the same time."""

    def run(self, plan: Plan, tasks: Sequence[Task], progress: Progress) -> Generator[Done, None, None]:
        """Do all tasks; yields each as soon as it is done."""


class InProcess:
    """Does one task after the other in this process: quickest to start, simplest to debug."""

    name = "local"
    n_workers = 1

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def run(self, plan: Plan, tasks: Sequence[Task], progress: Progress) -> Generator[Done, None, None]:
        """Do all tasks, in order."""
        self._worker = self._worker or Worker(plan, progress)
        for task in tasks:
            yield self._worker.perform(task)


class LocalPool:
    """Does tasks in several processes of this machine, each with its own models and, where there are some, a GPU.

    Args:
        n_workers: processes.
    """

    name = "local"

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers

    def run(self, plan: Plan, tasks: Sequence[Task], progress: Progress) -> Generator[Done, None, None]:
        """Do all tasks; those that a dying process takes with it are done again by a new pool."""
        left = {task.unit.number: task for task in tasks}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for done in self._pool_run(plan, list(left.values()), progress):
                    del left[done.task.unit.number]
                    yield done
                return
            except BrokenProcessPool as error:
                if attempt == ATTEMPTS:
                    raise RunError(
                        f"a worker process died, {ATTEMPTS} times; most often the machine ran out of memory. Give the "
                        f"same command with fewer --workers (now {self.n_workers}): it goes on where it stopped."
                    ) from error

    def _pool_run(self, plan: Plan, tasks: Sequence[Task], progress: Progress) -> Iterator[Done]:
        # Workers are forked from a clean process that has imported what they need, and nothing that minds a fork.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        read_bytes = context.Value("q", 0)
        tickets = context.Value("i", 0)
        pool = ProcessPoolExecutor(
            min(self.n_workers, len(tasks)), context, initializer=_begin, initargs=(plan, read_bytes, tickets, gpus())
        )
        try:
            waiting = {pool.submit(perform, task) for task in tasks}
            shown = 0
            while waiting:
                finished, waiting = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
                progress(read_bytes.value - shown)
                shown = read_bytes.value
                yield from _in_order(finished)
        except BaseException:
            stop_processes(pool)
            raise
        pool.shutdown()


def _in_order(finished: set["Future[Done]"]) -> Iterator[Done]:
    yield from sorted((one.result() for one in finished), key=lambda done: done.task.unit.number)


def stop_processes(pool: ProcessPoolExecutor) -> None:
    """End a pool's processes at once: what they have not finished would be done again anyway."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(5)


def _begin(plan: Plan, read_bytes: Any, tickets: Any, gpu_names: Sequence[str]) -> None:
    """Make a process of the pool a worker, with the next GPU, that ends when its parent does."""
    with tickets.get_lock():
        ticket, tickets.value = tickets.value, tickets.value + 1
    if gpu_names:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_names[ticket % len(gpu_names)]

    def report(n_bytes: int) -> None:
        with read_bytes.get_lock():
            read_bytes.value += n_bytes

    start_worker(plan, report)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def gpus() -> list[str]:
    """The GPUs that workers may share out, as CUDA_VISIBLE_DEVICES names them; found without loading torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(list(GPUS.iterdir())))] if GPUS.is_dir() else []


def n_workers_for(plan: Plan, wanted: int | None) -> int:
    """How many workers to start: as asked for, or one for each GPU or core, but none that would idle."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = wanted or (len(gpus()) if plan.needs_model and gpus() else cores)
    return max(1, min(count, len(plan.units)))


def local_engine(plan: Plan, wanted: int | None) -> Engine:
    """This process for one worker, a pool for more."""
    count = n_workers_for(plan, wanted)
    return InProcess() if count == 1 else LocalPool(count)


def engine_faults(name: str, workers: int | None, address: str | None = None) -> list[str]:
    """Say what is wrong with the options of `find_engine`, before anything is opened."""
    faults = []
    if name not in ENGINES:
        faults.append(f"--engine: got {name!r}, wanted one of {', '.join(ENGINES)}")
    if address is not None and name == "local":
        faults.append("--address: goes with --engine ray")
    if workers is not None and workers < 1:
        faults.append(f"--workers: got {workers}, wanted at least 1")
    return faults


@contextmanager
def find_engine(name: str, plan: Plan, workers: int | None, address: str | None = None) -> Iterator[Engine]:
    """Open an engine by its name, and close it at the end.

    Args:
        name: `local` or `ray`.
        plan: what it will do.
        workers: processes; None: as many as there is room for.
        address: of a Ray cluster; None starts one on this machine.

    Raises:
        SettingsError: there is no such engine, or an option that it does not take.
        MissingPackageError: Ray is not installed.
    """
    if faults := engine_faults(name, workers, address):
        raise SettingsError(faults, "the command line")
    if name == "local":
        yield local_engine(plan, workers)
    else:
        from .ray_engine import ray_engine

        with ray_engine(plan, workers, address) as engine:
            yield engine
