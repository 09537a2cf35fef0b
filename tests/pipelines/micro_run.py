"""The smallest run of all five stages, made once, and the command line called in this process."""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

MICRO = (
    "filter.blocklist=null", "filter.phrases=null", "data.limit=40",
    "base.tiny.hidden_size=64", "base.tiny.layers=1", "base.tiny.heads=2", "base.tiny.steps=5",
    "sft.trainer.max_steps=2", "reward.trainer.max_steps=2",
    "ppo.trainer.max_steps=1", "ppo.trainer.rollout_batch_size=8", "ppo.trainer.num_mini_batches=2",
    "ppo.trainer.per_device_train_batch_size=4", "ppo.trainer.response_length=8",
    "eval.limit=4", "eval.samples_per_prompt=1", "eval.max_new_tokens=8",
)  # fmt: skip
STAGES = ("01-filter", "02-sft", "03-reward", "04-ppo", "05-eval")
# Notices of deprecation between transformers, TRL and PEFT, which the command line silences as well.
QUIET = ("ignore::FutureWarning", "ignore::DeprecationWarning")


@dataclass(frozen=True)
class Called:
    """What one call of the command line gave."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Made:
    """The micro run: its folder and what making it printed."""

    folder: Path
    called: Called


@functools.cache
def micro_run(base: Path) -> Made:
    """The run, made once for all workers, each of which gets a copy.

    Args:
        base: the worker's folder for temporary files.
    """
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / "micro.lock"):
        if not (shared / "micro.json").exists():
            (shared / "micro.json").write_text(json.dumps(_make(shared / "micro-run")))
    called = Called(**json.loads((shared / "micro.json").read_text()))
    shutil.copytree(shared / "micro-run", base / "micro")
    out = called.out.replace(str(shared / "micro-run"), str(base / "micro"))
    return Made(folder=base / "micro", called=Called(called.code, out, called.err))


def _make(folder: Path) -> dict[str, object]:
    """In a process of its own, so that what it prints is what a user's terminal would get."""
    command = [sys.executable, "-m", "tunewell.pipelines.cli", "run", *MICRO, "--json", "--out", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=200)
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


@contextmanager
def libraries_as_before() -> Iterator[None]:
    """Undo what the command line changes in libraries for a whole process."""
    import datasets
    import torch
    import transformers

    logs = transformers.utils.logging
    verbosity, threads, has_bars = logs.get_verbosity(), torch.get_num_threads(), logs.is_progress_bar_enabled()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        logs.set_verbosity(verbosity)
        if has_bars:
            logs.enable_progress_bar()
        datasets.enable_progress_bars()


def call(monkeypatch, capsys, *arguments: str) -> Called:
    """Call the command line in this process, as if it had been typed."""
    from tunewell.pipelines.cli import main

    monkeypatch.setattr(sys, "argv", ["tunewell", *map(str, arguments)])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    printed = capsys.readouterr()
    return Called(code, printed.out, printed.err)


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
