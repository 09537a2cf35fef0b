"""Find a task of the installed lm-eval and its rows, on the hub or in a local file."""

import difflib
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ..toolkit.errors import DataError, MissingPackageError
from ..toolkit.files import sha256_file


def load_harness_task(
    task: str, *, data: Path | None = None, shots: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Load a task, a group or a tag of the installed lm-eval, with its rows.

    Args:
        task: its name, such as `hellaswag`, or the path of a task file (YAML).
        data: a local file of JSON lines in the task's own columns, in place of the data set of the hub.
        shots: solved examples before each question; None: as the task says.
        seed: of the choice of examples.

    Returns:
        lm-eval's own `tasks` and `groups`.

    Raises:
        MissingPackageError: lm-eval is not installed.
        DataError: lm-eval knows no such task, or cannot read its rows.
    """
    if find_spec("lm_eval") is None:
        raise MissingPackageError("lm-eval", f"the task {task!r} of lm-evaluation-harness", extra="benchmarks")
    from lm_eval.tasks import TaskManager

    where = _task_file(task)
    manager = TaskManager(include_defaults=where is None)
    if where is None and task not in manager.task_index:
        near = difflib.get_close_matches(task, manager.all_tasks, n=3)
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        raise DataError(
            f"lm-eval {version('lm_eval')} knows no task {task!r}{hint} `lm-eval ls tasks` lists them all; a task file "
            "of your own is given by its path"
        )
    with tempfile.TemporaryDirectory(prefix="tunewell-harness-") as folder:
        spec = task if where is None else str(where)
        if data is not None:
            spec = str(_with_own_data(where or manager.task_index[task].yaml_path, task, data, Path(folder)))
        try:
            loaded = manager.load([spec])
        except Exception as error:  # the hub, the network, datasets, the task file: each raises its own
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(
                f"lm-eval cannot load the task {task!r} ({reason}). It needs the data set of the task from the hub (or "
                "a cached copy), or its rows in a local file of JSON lines"
            ) from error
        for one in loaded["tasks"].values():
            _set_shots(one, shots, seed)
    return dict(loaded)


def _task_file(task: str) -> Path | None:
    """The file of a task: given by its path, or found by its name, which spares lm-eval the reading of all others."""
    if Path(task).suffix in (".yaml", ".yml"):
        if not Path(task).is_file():
            raise DataError(f"got the task file {task}, which is not there")
        return Path(task).resolve()
    import lm_eval

    folder = Path(str(lm_eval.__file__)).parent / "tasks"
    named = [path for path in sorted(folder.rglob(f"{glob_safe(task)}.yaml")) if _names(path) == task]
    return named[0] if len(named) == 1 else None


def glob_safe(name: str) -> str:
    """`name` without what a file pattern would read as a wildcard."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name).replace("/", "")


def _names(path: Path) -> str | None:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip().strip("\"'") for line in lines if line.startswith("task:")), None)


def _with_own_data(where: Path | None, task: str, data: Path, folder: Path) -> Path:
    """A task file in `folder` that is the given one, but for its rows."""
    sha256_file(data)  # says what is wrong with a path that cannot be read
    if where is None:
        raise DataError(f"{task!r} is a group of tasks: a local file of rows serves a single task")
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(where, resolve_func=False, recursive=True)
    split = config.get("test_split") or config.get("validation_split") or "validation"
    if not isinstance(config.get("task"), str):
        raise DataError(f"{task!r} is a group of tasks: a local file of rows serves a single task")
    own = {
        "include": str(where),
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(data.resolve())},
            "cache_dir": str(folder / "cache"),
            "keep_in_memory": True,
        },
        # Other parts of the data set are not in the file; examples come from the same rows.
        "training_split": None,
        "fewshot_split": split,
    }
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(own), encoding="utf-8")
    return path


def _set_shots(task: Any, shots: int | None, seed: int) -> None:
    if shots is not None and task.get_config("num_fewshot") != 0:  # a task that says 0 has its shots in its text
        task.set_config(key="num_fewshot", value=shots)
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)
