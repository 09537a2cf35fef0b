"""The model card: what the model was made from, how it measured, and what it must not be trusted with."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from ... import __version__
from ...toolkit.files import read_json, write_atomic
from ..model_source import RUN, ModelSource
from ..prompt_form import PromptForm

if TYPE_CHECKING:
    from .merge import Exported

CARD = "README.md"
SHOWN = ("truthfulness", "toxicity", "reward", "perplexity", "filter", "ppo")
LIMITS = (
    "Filters and training lower the rate of toxic and untrue answers; they do not bring it to zero.",
    "The figures above hold for the data that they were measured on, and for nothing else.",
    "The licence and the limits of the base model and of the training data still apply.",
)


def write_card(path: Path, source: ModelSource, form: PromptForm, exported: "Exported") -> None:
    """Write the card; what the run did not measure is named, and all foreign text is escaped."""
    record = read_json(source.run / RUN) if source.run else {}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tunewell.pipelines.export", "."),
        autoescape=False,  # this is Markdown: every value goes through `plain`, which knows its special characters
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    text = environment.get_template("card.md.j2").render(
        front=_front(source),
        title=plain(source.name),
        model=plain(_short(source.base)),
        version=__version__,
        is_chat=form.is_chat,
        form=plain(form.as_text()),
        facts=list(_facts(source, exported, record)),
        difference=exported.difference,
        rows=list(_rows(record)),
        filters=_filters(record),
        results=list(_results(record, source.role)),
        not_measured=[plain(text) for text in _not_measured(source, record)],
        limits=[*map(plain, exported.warnings), *LIMITS],
    )
    write_atomic(path, re.sub(r"\n{3,}", "\n\n", text))


def plain(text: object) -> str:
    """Text that means nothing to Markdown or HTML: names and settings come from the user's files."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", line)


def _short(base: str) -> str:
    """The base's id on the hub, or the last part of its folder: a path of somebody's disk is nobody's business."""
    return Path(base).name if Path(base).is_dir() else base


def _front(source: ModelSource) -> str:
    tags = ["tunewell", "lora", *([source.role] if source.role else [])]
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    if not Path(source.base).is_dir():
        front["base_model"] = source.base
    return yaml.safe_dump(front, sort_keys=True, allow_unicode=True)


def _facts(source: ModelSource, exported: "Exported", record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Base model", plain(_short(source.base))
    yield "Adapter", {"ppo": "LoRA, trained by SFT and PPO", "sft": "LoRA, trained by SFT"}.get(source.role, "LoRA")
    yield "Base held in training as", plain(exported.trained_on)
    yield "Weights written as", exported.dtype
    if record:
        yield "Recipe", plain(record["name"])
        yield "Stages", plain(", ".join(record["stages"]))
        yield "Seed", plain(record["seed"])
        yield "Data", plain(_data(record["settings"]["data"]))
        versions = record["versions"]
        yield (
            "Versions",
            plain(", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "peft"))),
        )


def _data(settings: Mapping[str, Any]) -> str:
    if settings["source"] == "world":
        return "tunewell's embedded world: a demonstration, of no use outside it"
    files = [Path(value).name for name in ("path", "corpus", "demonstrations", "comparisons", "prompts")
             if (value := settings.get(name))]  # fmt: skip
    return ", ".join(files)


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    for stage, entry in record.get("stages", {}).items():
        for name, count in entry["rows"].items():
            yield plain(stage), plain(name), count


def _filters(record: Mapping[str, Any]) -> str:
    settings = record.get("settings", {}).get("filter", {})
    used = [f"{name} ({value})" for name, value in settings.items() if isinstance(value, str) and value]
    return plain(", ".join(used)) or "none"


def _results(record: Mapping[str, Any], role: str) -> Iterator[tuple[str, str, str, int | str]]:
    """The figures of this model and of its base, not those of a later adapter."""
    for name, figure in record.get("results", {}).items():
        model = name.rsplit(".", 1)[-1]
        is_of_another = model in ("sft", "ppo") and model != role
        if name.split(".")[0] not in SHOWN or is_of_another or (name.startswith("ppo.") and role != "ppo"):
            continue
        value, low, high = (figure.get(part) for part in ("value", "low", "high"))
        interval = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
        yield plain(name), "not measured" if value is None else f"{value:.4g}", interval, figure.get("n") or ""


def _not_measured(source: ModelSource, record: Mapping[str, Any]) -> Iterator[str]:
    if not record.get("results"):
        yield "truthfulness, toxicity, bias and alignment tax: no run with an evaluation stands behind this adapter"
        return
    entry = record["stages"].get("eval")
    path = source.run / entry["folder"] / "not_measured.json" if source.run and entry else None
    if path is None or not path.is_file():
        return
    for item in read_json(path):
        yield ": ".join(str(value) for value in item.values()) if isinstance(item, dict) else str(item)
