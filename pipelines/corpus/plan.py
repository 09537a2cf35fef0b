"""What all workers of a filter run must know, and what makes two runs the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from ...filters.row_text import RowReader
from ...toolkit.errors import RunError, SettingsError
from ...toolkit.files import code_fingerprint, read_json, sha256_file, sha256_of
from ...toolkit.settings.base import BaseSettings
from ...toolkit.settings.reading import to_tree
from ..filter_building import AnyFilter, FilterModel, build_filters
from ..filter_settings import FilterSettings
from .inputs import state_of
from .units import Source, Unit

ROOT = Path(__file__).parents[2]
WORK = ".work"
"Folder of unfinished work inside the output folder."
UNITS = "units"
SUMMARY = "summary.json"
"The last file of a run: where it stands, all else does."


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One filter run.

    Attributes:
        sources: what is read.
        units: how it is cut.
        settings: the filters, every threshold of trigger phrases set.
        model: folder or hub id of the model that scores trigger phrases; empty: none.
        base: how it is held in memory.
        reader: what filters judge of a row.
        out: the output folder.
        passed_over: what lies in the input folders and is not read.
    """

    sources: tuple[Source, ...]
    units: tuple[Unit, ...]
    settings: FilterSettings
    model: str = ""
    base: BaseSettings = field(default_factory=BaseSettings)
    reader: RowReader = field(default_factory=RowReader)
    out: Path
    passed_over: tuple[str, ...] = ()

    @property
    def is_again(self) -> bool:
        """Whether an earlier run is decided again, on its stored scores."""
        return self.sources[0].kind == "run"

    @property
    def needs_model(self) -> bool:
        """Whether a neural model is asked for every row."""
        return self.settings.needs_model and not self.is_again

    @property
    def work(self) -> Path:
        """Where unfinished work lies."""
        return self.out / WORK

    def staged(self, unit: Unit) -> Path:
        """The folder that holds what was made of one unit, until it is published."""
        return self.work / UNITS / unit.name

    def build(self) -> dict[str, AnyFilter]:
        """Build the filters."""
        if self.is_again:
            from .again import stored_filters

            return stored_filters(self)
        return build_filters(self.settings, FilterModel(source=self.model, base=self.base))

    def tree(self) -> dict[str, Any]:
        """Everything that decides the outputs, as plain values."""
        return {
            "inputs": [
                {"file": source.name, "bytes": source.size, "state": source.identity} for source in self.sources
            ],
            "units": len(self.units),
            "filter": to_tree(self.settings),
            "model": {"source": self.model, **to_tree(self.base), "dtype": self._dtype()} if self.model else None,
            "columns": list(self.reader.columns),
            "roles": list(self.reader.roles),
            "files": self._files(),
            "tunewell": __version__,
            "code": code(),
        }

    def _dtype(self) -> str:
        """What `auto` comes to where the run is begun: scores of another type would be other scores."""
        from ...toolkit.model.loading import dtype_name

        return dtype_name(self.base)

    def _files(self) -> dict[str, str]:
        """Hashes of lists, phrases and scorers; of a model's files, which are large, size, time and both ends.

        Those of a run that is decided again are what its scores were made with.
        """
        if self.is_again:
            return dict(read_json(Path(self.sources[0].path) / SUMMARY)["made_with"]["files"])
        found = {str(path): sha256_file(path) for path in self.settings.files()}
        model = Path(self.model) if self.model else None
        weights = sorted(path for path in model.iterdir() if path.is_file()) if model and model.is_dir() else []
        return found | {str(path): state_of(path) for path in weights}


def code() -> str:
    """Hash the code that decides outputs."""
    own = [sha256_file(Path(__file__).parents[1] / f"{name}.py") for name in ("filter_building", "filter_settings")]
    return sha256_of([code_fingerprint([ROOT / "toolkit", ROOT / "filters", Path(__file__).parent]), own])


def check_same(recorded: Mapping[str, Any], wanted: Mapping[str, Any], out: Path) -> None:
    """Refuse to mix the outputs of two different runs.

    Raises:
        RunError: names what differs, and the ways out.
    """
    if recorded == wanted:
        return
    differences = "\n".join(f"  - {line}" for line in _differences(dict(recorded), dict(wanted)))
    raise RunError(
        f"{out} holds the outputs of another filter run:\n{differences}\nNothing was changed. Choose another folder "
        "with --out, or give --set-aside to move those outputs to its sub-folder set-aside/ and start anew."
    )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before = {item["file"]: item["state"] for item in old.pop("inputs", [])}
    now = {item["file"]: item["state"] for item in new.pop("inputs", [])}
    found = [f"{name} was no input" for name in sorted(now.keys() - before.keys())]
    found += [f"{name} was an input" for name in sorted(before.keys() - now.keys())]
    found += [
        f"the input {name} has changed" for name in sorted(before.keys() & now.keys()) if before[name] != now[name]
    ]
    old_leaves, new_leaves = dict(_leaves(old)), dict(_leaves(new))
    for path in sorted(old_leaves.keys() | new_leaves.keys()):
        was, is_now = old_leaves.get(path), new_leaves.get(path)
        if was == is_now or path == "units" or (was in (None, {}) and is_now in (None, {})):
            continue
        if path.startswith("files."):
            verb = "has changed" if was and is_now else "was read too" if was else "was not read"
            found.append(f"the file {path.removeprefix('files.')} {verb}")
        elif path == "code":
            found.append("the code of tunewell has changed")
        else:
            found.append(f"{path} was {was!r}, now {is_now!r}")
    return found or ["it was cut into other units (--unit-mb)"]


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{path}.{key}" if path else str(key))]
    return [(path, tree)]


def check_model(settings: FilterSettings, model: str) -> None:
    """Check that trigger phrases have a model to be scored with.

    Raises:
        SettingsError: they have none.
    """
    if settings.phrases is not None and not model:
        raise SettingsError(
            ["model: got none, wanted a causal model that scores the phrases: --model with a folder or hub id"],
            "the command line",
        )
