"""What a user may name as a model: a run, a stage of it, an adapter folder, a plain model folder, or a hub id."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.errors import ModelError
from ..toolkit.files import read_json
from ..toolkit.model.adapter_files import BASE_META, CONFIG, REWARD_META
from ..toolkit.settings.base import BaseSettings, names_path
from ..toolkit.settings.reading import build, to_tree
from ..toolkit.stage import RECORD

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from ..toolkit.model.stack import ModelStack

RUN = "run.json"
ADAPTERS = {"ppo": "policy", "sft": "sft"}
"""The adapters of a run that answer, the last trained first, and the artifact that holds each."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model's parts lie.

    Attributes:
        given: what the user named.
        base: folder or hub id of the base model.
        adapter: LoRA folder on top of it; None is the base alone.
        role: `ppo`, `sft` or `base` in a run; empty elsewhere.
        run: the run's folder; None where it is no run.
        settings: how the base was held in memory when the adapter was trained.
    """

    given: str
    base: str
    adapter: Path | None = None
    role: str = ""
    run: Path | None = None
    settings: BaseSettings = BaseSettings()

    @property
    def name(self) -> str:
        """A short name for tables and files, such as `embedded-ppo`."""
        stem = Path(self.given).name or self.given
        return f"{stem}-{self.role}" if self.role else stem

    def load(self, settings: BaseSettings | None = None) -> "ModelStack":
        """Load base and adapter; the adapter's name in the stack is `policy`.

        Args:
            settings: how to hold the base in memory; None: as it was when the adapter was trained.

        Raises:
            ModelError: base or adapter cannot be loaded, or do not belong together.
        """
        from ..toolkit.model.loading import load_base
        from ..toolkit.model.stack import ModelStack

        stack = ModelStack(*load_base(self.base, settings or self.settings))
        if self.adapter is not None:
            stack.load("policy", self.adapter)
        return stack


def find_model(given: str, *, role: str | None = None) -> ModelSource:
    """Find out what a user means by a model.

    Args:
        given: the folder of a run (its last trained adapter is taken), of one of its stages, of a PEFT adapter, of a
            plain Hugging Face model, or an id of the hub.
        role: in a run: `ppo`, `sft` or `base`; None takes the last that was trained.

    Raises:
        ModelError: there is no such folder or role, with what there is.
    """
    folder = Path(given).expanduser()
    if (folder / RUN).is_file():
        return _of_run(given, folder, role)
    if (folder / RECORD).is_file() and (folder.parent / RUN).is_file():
        stage = folder.name.split("-", 1)[-1]
        if stage == "reward":
            raise ModelError(_scores_only(given))
        return _of_run(given, folder.parent, role or (stage if stage in ADAPTERS else None))
    if role is not None:
        raise ModelError(
            f"got the role {role!r} for {given}, which is no run: leave the role out, or name a run's folder"
        )
    if (folder / CONFIG).is_file():
        if (folder / REWARD_META).is_file():
            raise ModelError(_scores_only(given))
        base = _base_of(folder)
        return ModelSource(given=given, base=base, adapter=folder, settings=BaseSettings(model=base))
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(
            f"got the folder {given}, wanted one with {RUN} (a run), {CONFIG} (an adapter) or config.json (a model)"
        )
    if folder.is_file() or (names_path(given) and not folder.exists()):
        what = "the file" if folder.is_file() else "the path"
        raise ModelError(f"got {what} {given}, wanted a folder that exists (a run, an adapter, a model) or a hub id")
    if "/" in given and not folder.exists() and (runs := sorted(one.parent for one in folder.parent.glob(f"*/{RUN}"))):
        # NAME/NAME may be an id of the hub, but not where the first is a folder of runs here: no use in asking it.
        raise ModelError(f"got {given}, which does not exist. Runs there: {', '.join(map(str, runs[:10]))}")
    return ModelSource(given=given, base=given, settings=BaseSettings(model=given))


def _scores_only(given: str) -> str:
    return (
        f"got {given}, which holds a reward model: it scores answers and writes none. Name the run, or the folder of "
        "its stage sft or ppo"
    )


def _of_run(given: str, run: Path, role: str | None) -> ModelSource:
    record = read_json(run / RUN)
    tree = _artifacts(run, record)
    trained = [name for name, artifact in ADAPTERS.items() if tree.get(artifact)]
    taken = role or next(iter(trained), "base")
    if taken != "base" and taken not in trained:
        raise ModelError(f"got the role {taken!r}, wanted one that {run} has trained: {', '.join([*trained, 'base'])}")
    own = build(BaseSettings, record["settings"]["base"], where=f"{run / RUN}")
    adapter = None if taken == "base" else run / str(tree[ADAPTERS[taken]])
    base = str(tree.get("base") or own.model)
    return ModelSource(given=given, base=base, adapter=adapter, role=taken, run=run, settings=own)


def _artifacts(run: Path, record: dict[str, Any]) -> dict[str, str | None]:
    """The artifacts after the last finished stage, paths relative to the run."""
    stages = record.get("stages", {})
    if not stages:
        raise ModelError(f"got the run {run}, in which no stage is finished: run it to its end (`tunewell run`)")
    tree: dict[str, str | None] = read_json(run / list(stages.values())[-1]["folder"] / RECORD)["artifacts"]
    return tree


def _base_of(adapter: Path) -> str:
    """The base that an adapter says it was trained on."""
    named = read_json(adapter / BASE_META).get("name") if (adapter / BASE_META).is_file() else None
    base = named or read_json(adapter / CONFIG).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"the adapter {adapter} does not say which base it was trained on: write it into {CONFIG}")
    return str(base)


def with_memory(source: ModelSource, **changes: Any) -> ModelSource:
    """The same model held otherwise in memory, such as `quantization="nf4"`; None leaves a setting as it is.

    Raises:
        SettingsError: a value that means nothing.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(
        source, settings=build(BaseSettings, to_tree(source.settings) | given, where="the options of the model")
    )


def answering(stack: "ModelStack") -> AbstractContextManager["PeftModel | PreTrainedModel"]:
    """The model of a stack that `ModelSource.load` made, with its adapter active if it has one."""
    return stack.using("policy") if stack.names else nullcontext(stack.base)
