"""Merge an adapter into its 16-bit base, and measure how far the merged model is from the one that was trained."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...toolkit.errors import ModelError, RunError
from ...toolkit.files import clear_unfinished, unfinished_folder, write_json
from ...toolkit.model.generation import end_tokens
from ...toolkit.model.tokens import encode_plain, start_ids
from ...toolkit.settings.base import BaseSettings
from ..at_decoding import wanted_at_decoding
from ..console import Console
from ..model_source import ModelSource, answering
from ..prompt_form import FORM, prompt_form
from .card import CARD, write_card

DType = Literal["bfloat16", "float16", "float32"]
# Plain sentences written for this project; what they say does not matter, that they are English does.
PROBES = (
    "The baker closed the shop early because the flour had not arrived, and nobody in the street knew why.",
    "Question: How many legs does a spider have?\nAnswer: A spider has eight legs.",
    "Please write a short and friendly letter to a neighbour whose dog barks at night.",
    "When the river froze, the children walked across it to school, which saved them half an hour.",
    "I do not know who is right, but I can tell you what each of them said and where they said it.",
)
NOTICEABLE = 0.01
"""KL in nats per token above which a merged model is told to differ: about a hundred times the rounding of bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far the merged model is from base and adapter as they were trained."""

    kl: float
    """Mean KL divergence of the next-token distributions, trained from merged, in nats per token."""
    largest: float
    """The largest of them, in nats."""
    tokens: int
    """Tokens of fixed English text that it was measured on."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export_model` wrote."""

    folder: Path
    """The Hugging Face folder."""
    model: str
    """Which model it is."""
    dtype: DType
    """Precision of its weights."""
    trained_on: str
    """How the base was held while the adapter was trained: `float32`, `bfloat16`, `nf4` ..."""
    difference: Difference | None
    """None where it was not measured."""
    warnings: tuple[str, ...]
    """What a user has to know."""


def export_model(
    source: ModelSource, out: Path, console: Console, *, dtype: DType = "bfloat16", is_checked: bool = True
) -> Exported:
    """Merge an adapter into its base in 16 bits and write a folder that `transformers` loads by itself.

    A 4-bit base is loaded again in `dtype`: merging into the 4-bit weights would round the adapter away.

    Args:
        source: the model, from `find_model`.
        out: folder to write; must be new or empty. It appears whole or not at all.
        console: shows progress.
        dtype: precision of the written weights.
        is_checked: compare the merged model with base and adapter as trained (loads the base once more).

    Raises:
        ModelError: the model has no adapter, or cannot be loaded.
        RunError: `out` holds something, or cannot be written.
    """
    if source.adapter is None:
        what = "a plain model already" if Path(source.base).is_dir() else "no folder here, and a plain model on the hub"
        raise ModelError(
            f"{source.given} has no adapter to merge: it is {what}. Wanted the folder of a run or of an adapter"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"got --out {out}, which holds something already: name a folder that is new or empty")
    trained = _predictions(source, console) if is_checked else None
    model, tokenizer = _merged(source, dtype, console)
    difference = None if trained is None else _difference(trained, model, tokenizer)
    exported = Exported(
        folder=out,
        model=source.name,
        dtype=dtype,
        trained_on=_held_as(source.settings),
        difference=difference,
        warnings=tuple(_warnings(source, difference)),
    )
    _write(model, tokenizer, source, exported)
    return exported


def _predictions(source: ModelSource, console: Console) -> list[Tensor]:
    """Next-token log-probabilities of the probes, each (T, V), by base and adapter as they were trained."""
    console.say(f"loading {source.base} as it was trained on ({_held_as(source.settings)})")
    stack = source.load()
    with answering(stack) as model:
        return [_log_probabilities(model, ids) for ids in _probe_ids(stack.tokenizer)]


def _merged(source: ModelSource, dtype: DType, console: Console) -> tuple[Any, Any]:
    """The base in `dtype` with the adapter in its weights, and its tokenizer."""
    console.say(f"loading {source.base} in {dtype}, merging {source.adapter}")
    stack = source.load(replace(source.settings, quantization="none", dtype=dtype))
    with stack.using("policy") as model:
        # The sum is rounded once: PEFT adds the float32 update of a whole layer to its weight.
        merged: Any = model.merge_and_unload(safe_merge=True)
    return merged, stack.tokenizer


def _difference(trained: list[Tensor], model: Any, tokenizer: Any) -> Difference:
    rows = []
    for was, ids in zip(trained, _probe_ids(tokenizer), strict=True):
        now = _log_probabilities(model, ids)
        rows.append((was.exp() * (was - now)).sum(-1))  # KL(trained || merged) per position
    every = torch.cat(rows)
    return Difference(kl=float(every.mean().clamp(min=0)), largest=float(every.max().clamp(min=0)), tokens=len(every))


def _probe_ids(tokenizer: Any) -> list[list[int]]:
    return [[*start_ids(tokenizer), *encode_plain(tokenizer, text)] for text in PROBES]


@torch.no_grad()
def _log_probabilities(model: Any, ids: list[int]) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits
    return logits[0].float().log_softmax(-1).cpu()


def _held_as(settings: BaseSettings) -> str:
    from ...toolkit.model.loading import dtype_of

    return settings.quantization if settings.quantization != "none" else str(dtype_of(settings)).removeprefix("torch.")


def _warnings(source: ModelSource, difference: Difference | None) -> list[str]:
    found = []
    if acting := wanted_at_decoding(source):
        found.append(
            f"{', '.join(f'mitigations.{name}' for name in acting)} of its recipe: acts while the model writes, and in "
            "no other software, so this folder answers without it. Figures of the run may be those with it."
        )
    if source.settings.quantization != "none":
        measured = f", {difference.kl:.2g} nats per token apart" if difference else ""
        found.append(
            f"the adapter was trained on a {source.settings.quantization} base and is merged into the 16-bit one: the "
            f"two answer alike, not the same{measured}. Evaluate the folder before you rely on it."
        )
    elif difference and difference.kl > NOTICEABLE:
        found.append(
            f"the merged model is {difference.kl:.2g} nats per token from the trained one, more than rounding explains "
            f"({NOTICEABLE}). Evaluate it before you rely on it, or export with --dtype float32."
        )
    return found


def _write(model: Any, tokenizer: Any, source: ModelSource, exported: Exported) -> None:
    """Write everything beside the target first, so that a kill leaves no half of a model under its name."""
    from transformers import GenerationConfig

    out = exported.folder
    clear_unfinished(out.parent, target=out.name)  # a model of a killed export may be large
    try:
        with unfinished_folder(out) as part:
            model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
                eos_token_id=sorted(end_tokens(model, tokenizer)), pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
            )  # fmt: skip
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            form = prompt_form(source)
            write_json(part / FORM, form)
            write_card(part / CARD, source, form, exported)
            if out.is_dir():
                out.rmdir()
            os.replace(part, out)
    except PermissionError as error:
        raise RunError(f"cannot write {out}: {error.strerror}. Choose a folder that you can write to.") from error
