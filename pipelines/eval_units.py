"""What is asked of whom: the models and tasks that a user names, with all that decides each result."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import __version__
from ..eval.task import Task
from ..eval.tasks import TASKS, find_task
from ..toolkit.errors import DataError, SettingsError
from ..toolkit.files import code_fingerprint, sha256_file, sha256_of
from ..toolkit.settings.reading import apply_overrides, build, to_tree
from .model_source import ADAPTERS, ModelSource, find_model, with_memory

ROOT = Path(__file__).parents[1]
WHERE = "the command line"
_ROLES = (*ADAPTERS, "base")
_UNSAFE = re.compile(r"[^\w.+-]+")
# What decides the answers of a model folder; its training leftovers do not.
_DECIDES = ("*.safetensors", "*.json", "*.model", "*.jinja", "tokenizer*", "vocab*", "merges*")


@dataclass(frozen=True)
class NamedModel:
    """A model under the name that it has in results and tables."""

    name: str
    source: ModelSource

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes the model the same in another call: hashes of its files and how it is held in memory."""
        from ..toolkit.model.loading import dtype_name

        source = self.source
        return {
            "base": _content_of(source.base),
            "adapter": None if source.adapter is None else _content_of(str(source.adapter)),
            "revision": source.settings.revision,
            "dtype": dtype_name(source.settings),
            "quantization": source.settings.quantization,
        }

    def as_json(self) -> dict[str, Any]:
        """The model as the record holds it."""
        source = self.source
        return {
            "name": self.name,
            "given": source.given,
            "base": source.base,
            "adapter": None if source.adapter is None else str(source.adapter),
            "role": source.role or None,
            "sha256": sha256_of(self.identity),
            "files": self.identity,
            "device": source.settings.device,
        }


@dataclass(frozen=True)
class Unit:
    """One task to be asked of one model."""

    model: NamedModel
    task: str
    settings: Task

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The settings as plain values."""
        return dict(to_tree(self.settings))

    @cached_property
    def files(self) -> dict[str, str]:
        """Hashes of the local files that the task reads."""
        return {str(path): content_hash(path) for path in self.settings.files()}

    @cached_property
    def fingerprint(self) -> str:
        """Changes with anything that may change the result."""
        code = code_fingerprint([ROOT / "toolkit", ROOT / "eval"])
        files = list(self.files.values())  # a moved file is the same file
        settings = {key: value for key, value in self.tree.items() if str(value) not in self.files}
        return sha256_of([self.task, settings, files, self.model.identity, __version__, code])


def read_models(given: Sequence[str], **memory: Any) -> list[NamedModel]:
    """Find the models that a user names as `[NAME=]MODEL[@ROLE]`.

    Args:
        given: each a run (its role after `@`: ppo, sft or base), a stage or adapter folder, a model folder, a hub id.
        memory: how to hold them, see `with_memory`.

    Raises:
        SettingsError: no model, two of the same name, or settings that mean nothing.
        ModelError: a model that is not there.
    """
    if not given:
        raise SettingsError(
            ["--model: got none, wanted at least one: a run, an adapter or model folder, a hub id"], WHERE
        )
    models = []
    for text in given:
        name, place = _split_name(text)
        path, role = _split_role(place)
        source = with_memory(find_model(path, role=role), **memory)
        models.append(NamedModel(_UNSAFE.sub("-", name or source.name).strip("-.") or "model", source))
    names = [model.name for model in models]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(
            [
                f"--model: two models have the name {name!r}: tell them apart with --model NAME=MODEL"
                for name in doubled
            ],
            WHERE,
        )
    return models


def read_tasks(words: Sequence[str], settings: Mapping[str, Any] | None = None) -> dict[str, Task]:
    """Build tasks from their names and settings.

    Args:
        words: names of tasks, `task.key=value`, and `key=value` for every task that has such a key.
        settings: a tree of settings by task, beneath those of `words`.

    Returns:
        by name, in the order given.

    Raises:
        SettingsError: every fault of names and settings at once.
    """
    names = list(dict.fromkeys(word for word in words if "=" not in word))
    faults: list[str] = []
    classes: dict[str, type[Task]] = {}
    for name in names:
        try:
            classes[name] = find_task(name)
        except SettingsError as error:
            faults += error.faults
    if not names:
        faults.append(f"task: got none, wanted at least one of {', '.join(TASKS)}")
    overrides, more = _spread([word for word in words if "=" in word], classes)
    tree, wrong = apply_overrides(settings or {}, overrides)
    faults += more + wrong + [_no_such_section(key, classes) for key in tree if key not in classes and key not in names]
    tasks: dict[str, Task] = {}
    for name, cls in classes.items():
        try:
            tasks[name] = build(cls, tree.get(name) or {}, path=name, where=WHERE)
        except SettingsError as error:
            faults += error.faults
    if faults:
        raise SettingsError(faults, WHERE)
    missing = [path for task in tasks.values() for path in task.files() if not path.exists()]
    if missing:
        raise DataError("\n".join(_missing_file(path) for path in dict.fromkeys(missing)))
    return tasks


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return sha256_of({file.relative_to(path).as_posix(): sha256_file(file) for file in files})
    return sha256_file(path)


def _spread(overrides: Sequence[str], classes: Mapping[str, type[Task]]) -> tuple[list[str], list[str]]:
    """Write `key=value` once for every task that has the key."""
    spread, faults = [], []
    for override in overrides:
        key = override.partition("=")[0]
        if "." in key:
            spread.append(override)
            continue
        takers = [name for name, cls in classes.items() if key in _keys(cls)]
        spread += [f"{name}.{override}" for name in takers]
        if not takers and classes:
            known = sorted({key for cls in classes.values() for key in _keys(cls)})
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            faults.append(f"{key}: no task here has such a setting{hint}; `tunewell eval --explain` lists them")
    return spread, faults


def _keys(cls: type[Task]) -> set[str]:
    return {field.name for field in fields(cls)}


def _no_such_section(key: str, classes: Mapping[str, type[Task]]) -> str:
    near = difflib.get_close_matches(key, classes, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{key}: settings for a task that is not asked{hint}; asked are {', '.join(classes) or 'none'}"


def _missing_file(path: Path) -> str:
    near = (
        difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
        if path.parent.is_dir()
        else []
    )
    hint = f" Did you mean {path.with_name(near[0])}?" if near else ""
    return f"{path} does not exist; wanted the file that a task reads.{hint}"


def _split_name(text: str) -> tuple[str, str]:
    name, separator, place = text.partition("=")
    return (name, place) if separator and "/" not in name else ("", text)


def _split_role(place: str) -> tuple[str, str | None]:
    path, separator, role = place.rpartition("@")
    # What stands behind the @ of a folder that is there was meant as a role, known or not.
    is_role = role in _ROLES or (Path(path).expanduser().is_dir() and not Path(place).expanduser().exists())
    return (path, role) if separator and is_role else (place, None)


def _content_of(place: str) -> str:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return place  # an id of the hub; the revision stands beside it
    files = sorted({file for pattern in _DECIDES for file in folder.glob(pattern) if file.is_file()})
    return sha256_of({file.name: sha256_file(file) for file in files})
