"""Erase a concept while a model decodes: the output layer reads erased states."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import ModelError, SettingsError
from ..model.network import eval_mode
from .erasure import Eraser
from .protected_inputs import BATCH, padded


@dataclass(frozen=True)
class Adaptive:
    """Erase only where the next words lean to one group (A-INLP, Liang et al. 2021, https://arxiv.org/abs/2106.13219).

    The lean of a position is the sum of p(w) cos(e_w, axis) over the likeliest words. Within [low, high] nothing is
    erased; outside, the share that is kept is 1 - |lean| / scale, but not below 1 - strength. The paper has no scale,
    but cosines are as large as a model's embeddings make them: where the largest lean is 0.1 no more than a tenth would
    ever be erased. Signs, bounds and scale belong to one model: take them from `calibrated`.
    """

    axis: Tensor
    """(d,) unit direction in the space of the output embeddings, from one group to the other."""
    low: float
    high: float
    nucleus: float = 0.7
    """Probability of the likeliest words that are looked at."""
    scale: float = 1.0
    """The lean at which all is erased."""

    def kept(self, states: Tensor, weight: Tensor, strength: float) -> Tensor:
        """(..., 1) share of the original state that is kept."""
        lean = self.lean(states, weight)
        share = (1 - lean.abs() / self.scale).clamp(min=1 - strength)
        return torch.where((lean >= self.low) & (lean <= self.high), torch.ones_like(lean), share)[..., None]

    def lean(self, states: Tensor, weight: Tensor) -> Tensor:
        """(...) lean of the next word at each state."""
        exact = weight.float()
        cosines = nn.functional.normalize(exact, dim=-1) @ self.axis.to(exact)
        p, order = (states.float() @ exact.mT).softmax(-1).sort(-1, descending=True)
        is_likely = p.cumsum(-1) - p < self.nucleus
        return (p * is_likely * cosines[order]).sum(-1)


def calibrated(model: Any, axis: Tensor, rows: Sequence[Sequence[int]], *, inside: float = 0.9) -> Adaptive:
    """Bounds that hold the lean of neutral prompts but for the outermost ones; the scale is the largest lean of them.

    Args:
        model: the language model.
        axis: (d,) direction between the groups.
        rows: token ids of neutral prompts.
        inside: share of their positions that is to count as neutral.
    """
    unit = nn.functional.normalize(axis.float(), dim=-1)
    states = torch.cat(head_inputs(model, rows))
    lean = Adaptive(unit, 0.0, 0.0).lean(states, head_of(model).weight.detach())
    low, high = torch.quantile(lean, torch.tensor([(1 - inside) / 2, (1 + inside) / 2]))
    return Adaptive(unit, float(low), float(high), scale=max(float(lean.abs().max()), 1e-12))


@dataclass(frozen=True)
class Erasure:
    """An eraser as a model decodes with it, and the file that keeps it."""

    eraser: Eraser
    strength: float
    adaptive: Adaptive | None = None

    def acting(self, model: Any) -> AbstractContextManager[None]:
        """A context in which the model's output layer reads erased states."""
        return erased(model, self.eraser, self.strength, self.adaptive)

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        parts, plan = self.eraser, {"strength": self.strength}
        tensors = {name: getattr(parts, name).contiguous().clone() for name in ("mean", "left", "right")}
        if self.adaptive is not None:
            tensors["axis"] = self.adaptive.axis.contiguous().clone()
            plan |= {name: getattr(self.adaptive, name) for name in ("low", "high", "nucleus", "scale")}
        save_file(tensors, path, metadata={"erasure": json.dumps(plan)})

    @classmethod
    def load(cls, path: Path) -> "Erasure":
        """Read what `save` wrote.

        Raises:
            ModelError: the file is no erasure.
        """
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            plan = json.loads((file.metadata() or {}).get("erasure", "null"))
        if plan is None or not {"mean", "left", "right"} <= tensors.keys():
            raise ModelError(f"{path} holds {', '.join(sorted(tensors))}, wanted an eraser with its strength")
        strength, axis = plan.pop("strength"), tensors.pop("axis", None)
        return cls(Eraser(**tensors), strength, None if axis is None else Adaptive(axis, **plan))


@contextmanager
def erased(model: Any, eraser: Eraser, strength: float, adaptive: Adaptive | None = None) -> Iterator[None]:
    """Let the output layer read a mixture of each state h and its erased form; strength 0 changes nothing at all.

    The mixture is (1 - strength) h + strength e(h). It acts wherever the output layer is called as a module:
    `generate`, scoring, PPO's log-probabilities. Trainers with a fused head, and other inference engines, pass it by.
    Adapters and 4-bit bases make no difference to it.

    Args:
        model: a causal language model, with adapters or without.
        eraser: of the concept.
        strength: 0 to 1.
        adaptive: erase only where the next words lean; None: everywhere.
    """
    if not 0 <= strength <= 1:
        raise SettingsError([f"strength: got {strength}, wanted 0 (off) to 1"], "the erasure")
    if strength == 0:
        yield
        return

    def hook(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        states: Tensor = arguments[0]
        clean = eraser(states)
        if adaptive is None:
            return (torch.lerp(states, clean, strength), *arguments[1:])
        weight: Any = module.weight
        kept = adaptive.kept(states, weight, strength).to(states.dtype)
        return (kept * states + (1 - kept) * clean, *arguments[1:])

    handle = head_of(model).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def head_inputs(model: Any, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """What the output layer reads at every token of each row: (T, d) each, float32 on the CPU."""
    found: list[Tensor] = []
    handle = head_of(model).register_forward_pre_hook(lambda _, arguments: found.append(arguments[0].float().cpu()))
    states: list[Tensor] = []
    try:
        with eval_mode(model):
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                input_ids, attention_mask = padded(part, next(model.parameters()).device)
                model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
                batch = found.pop()
                states += [batch[index, : len(row)] for index, row in enumerate(part)]
    finally:
        handle.remove()
    return states


def head_of(model: Any) -> Any:
    """The output layer of a causal language model."""
    return model.get_output_embeddings()
