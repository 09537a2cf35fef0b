"""Find out by trial which way of scoring continuations gives a model's own numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import ModelError
from ..model.memory_faults import is_out_of_memory
from .inputs import SHORTEST_LENGTH
from .job import Order, Packer, alike_together, longest_first
from .line import remember, score_in_line
from .packing import Ints, Pack, pack_in_one_row, pack_in_rows
from .parts import Parts
from .rows import encode, score_in_rows

Method = Literal["packed", "cache"]


@dataclass(frozen=True)
class Way:
    """A way of scoring continuations."""

    pack: Packer
    order: Order
    """In which windows are read."""
    remember: Callable[[Parts, Ints], Any]
    """Reads what stands before every prefix."""
    score: Callable[[Parts, Any, Sequence[Ints], Sequence[Sequence[Pack]]], list[list[NDArray[np.float64]]]]
    """From what was remembered, prefixes and the packs of each to the log-likelihoods of each pack's steps."""


WAYS: dict[Method, Way] = {
    "packed": Way(pack_in_one_row, alike_together, remember, score_in_line),
    "cache": Way(pack_in_rows, longest_first, encode, score_in_rows),
}


def choose_method(
    model: PreTrainedModel | PeftModel, parts: Parts, wanted: Literal["auto", "packed", "cache"], max_length: int
) -> tuple[Method, str]:
    """Try the ways of scoring on a few tokens against plain forward passes and take the first that agrees.

    Args:
        model: as it would be called without us.
        parts: the same model, taken apart.
        wanted: "auto" tries packed rows first, then the cache.
        max_length: the longest sequence that will be fed, in tokens.

    Returns:
        the method, and why it was taken.

    Raises:
        ModelError: no method that was asked for gives the model's own numbers.
    """
    expected = _plain(model, parts)
    if not np.isfinite(expected).all():
        raise ModelError(
            "the model gives NaN or infinite logits on a plain forward pass, wanted finite ones: check its weights and "
            "its precision (float16 overflows where bfloat16 does not)"
        )
    methods = cast(list[Method], ["packed", "cache"] if wanted == "auto" else [wanted])
    faults = list[str]()
    for method in methods:
        fault = (unfit_for_packing(parts.config, max_length) if method == "packed" else "") or _disagreement(
            parts, method, expected, _tolerance(model)
        )
        if not fault:
            return method, "; ".join(faults) or f"{method} scores are those of plain forward passes"
        faults.append(f"{method}: {fault}")
    raise ModelError(
        f"cannot score continuations under {type(model).__name__} ({'; '.join(faults)}), wanted a decoder whose "
        "forward pass takes a key-value cache: try attn_implementation='sdpa' or 'eager'"
        + ("" if wanted == "auto" else ", or method='auto'")
    )


def unfit_for_packing(config: PreTrainedConfig, max_length: int) -> str:
    """Why packed rows cannot work, where so few tokens as the trial's would not show it; else nothing."""
    # Attention of our own sees all of a prefix, however far back the model's would look.
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and set(kinds) <= {"full_attention"}:
        return ""
    reach = getattr(config, "sliding_window", None)
    if isinstance(reach, int) and reach < max_length:
        return f"attention reaches back only {reach} tokens (sliding_window)"
    for name in ("attention_chunk_size", "window_size"):
        if isinstance(getattr(config, name, None), int):
            return f"attention is local in some layers ({name})"
    return ""


def _trial(parts: Parts) -> tuple[list[list[int]], list[list[int]]]:
    """Two prefixes of different lengths, and continuations that would copy each other if they saw each other."""
    ids = (np.arange(10) * (parts.vocabulary // 11 or 1) + 1) % parts.vocabulary
    a, b, c, d, e, f, g, h, i, j = ids.tolist()
    return [[a, b, c, d], [a, e, f]], [[g, h, i, j, b], [b, h, i, j, b], [g, i], [c, h, i, j, g]]


def _plain(model: PreTrainedModel | PeftModel, parts: Parts) -> NDArray[np.float64]:
    """(prefixes, continuations), totals from a plain forward pass with one row for each pair."""
    prefixes, continuations = _trial(parts)
    pairs = [(prefix, own) for prefix in prefixes for own in continuations]
    # Right padding after a causal model's last token changes nothing before it.
    rows = [[*prefix, *own, *own[-1:] * SHORTEST_LENGTH][:SHORTEST_LENGTH] for prefix, own in pairs]
    logs = model(input_ids=torch.tensor(rows, device=parts.device), use_cache=False).logits.float().log_softmax(-1)
    totals = [
        sum(float(row[len(prefix) - 1 + at, token]) for at, token in enumerate(own))
        for row, (prefix, own) in zip(logs.cpu(), pairs, strict=True)
    ]
    return np.array(totals).reshape(len(prefixes), len(continuations))


def _totals(parts: Parts, method: Method) -> NDArray[np.float64]:
    prefixes, continuations = _trial(parts)
    way = WAYS[method]
    shared = way.remember(parts, np.array(prefixes[0][:1]))
    rest: list[Ints] = [np.array(prefix[1:]) for prefix in prefixes]
    (pack,) = way.pack(continuations, 100)
    steps = way.score(parts, shared, rest, [[pack]] * len(rest))
    return np.stack([pack.totals(one, len(continuations)) for (one,) in steps])


def _disagreement(parts: Parts, method: Method, expected: NDArray[np.float64], tolerance: float) -> str:
    """What is wrong with a method's numbers; nothing if they are right."""
    try:
        got = _totals(parts, method)
    except Exception as error:  # models refuse our attention and caches in many ways; memory is another matter
        if is_out_of_memory(error):
            raise
        return f"the model raised {type(error).__name__}: {error}"
    worst = float(np.abs(got - expected).max())
    # Not "worst > tolerance": NaN must count as disagreement.
    return "" if worst <= tolerance else f"scores differ by {worst:.2g} nats from those of plain forward passes"


def _tolerance(model: PreTrainedModel | PeftModel) -> float:
    """Nats by which totals of a few tokens may differ: rounding, not a wrong mask."""
    is_single = all(p.dtype in (torch.float32, torch.float64) for p in model.parameters())
    return 5e-4 if is_single and torch.get_float32_matmul_precision() == "highest" else 1.0
