"""What each phase of a run's stages takes of a GPU's memory, part by part, from the settings and the model's shape."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..toolkit.errors import ModelError
from ..toolkit.footprint.parts import Shapes, cache_bytes, optimiser_bytes, shapes
from ..toolkit.footprint.passes import Pass, working_bytes
from ..toolkit.reward.scoring import TOKENS_PER_PASS
from ..toolkit.settings.lora import LoraSettings
from .recipe import Recipe
from .training import with_present_names

GIB = 2**30
RUNTIME = 0.6 * GIB
"""CUDA's own context and libraries: assumed, not measured."""
SLACK = 0.06
"""Share that PyTorch's allocator loses to rounding and gaps: assumed as well."""


@dataclass(frozen=True)
class Need:
    """Memory of one phase of one stage, in bytes by part."""

    stage: str
    phase: str
    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(self.parts.values())


def needs(recipe: Recipe, measure: "Measure", *, completions: int = 2, on_gpu: bool = True) -> list[Need]:
    """Memory that each phase of each stage takes at its peak.

    Args:
        recipe: the settings; `base.model` is not looked at.
        measure: of the model.
        completions: of a prompt in the reward model's rows; comparisons have two.
        on_gpu: bfloat16 with CUDA's own share; else float32 as on a CPU, tensors alone.

    Raises:
        ModelError: the adapters' target modules are not in the model.
    """
    return list(_Stages(recipe, measure, completions, on_gpu).all())


class Measure:
    """Measures of one model, each taken once: a plan asks for the same ones again and again."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self._shapes: dict[str, Shapes] = {}
        self._working: dict[tuple[str, torch.dtype, Pass], int] = {}

    def shapes(self, lora: LoraSettings) -> Shapes:
        """How many numbers the model and one adapter hold."""
        if repr(lora) not in self._shapes:
            try:
                self._shapes[repr(lora)] = shapes(self.config, lora.config())
            except ValueError as error:
                raise ModelError(f"lora.target_modules: {error}") from error
        return self._shapes[repr(lora)]

    def working(self, lora: LoraSettings, dtype: torch.dtype, one: Pass) -> int:
        """What a pass takes beside all that stays."""
        key = (repr(lora), dtype, one)
        if key not in self._working:
            self._working[key] = working_bytes(self.config, lora.config(), dtype, one)
        return self._working[key]


class _Stages:
    """The phases of one recipe on one model."""

    def __init__(self, recipe: Recipe, measure: Measure, completions: int, on_gpu: bool) -> None:
        self.recipe, self.measure, self.config, self.on_gpu = recipe, measure, measure.config, on_gpu
        self.completions = completions
        self.quantization = recipe.base.quantization
        self.dtype = _dtype(recipe.base.dtype, on_gpu)
        # A 4-bit base computes in bfloat16 under autocast on a CPU too (see training.trainer_arguments).
        self.is_autocast = on_gpu or self.quantization != "none"
        self.window = int(getattr(self.config.get_text_config(), "max_position_embeddings", None) or 1024)

    def all(self) -> Iterator[Need]:
        if "sft" in self.recipe.stages:
            yield self._sft()
        if "reward" in self.recipe.stages:
            yield from self._reward()
        if "ppo" in self.recipe.stages:
            yield from self._ppo()

    def _sft(self) -> Need:
        block = with_defaults(self.recipe.sft.trainer, self.on_gpu)
        length = min(self.recipe.sft.max_length or 1024, self.window)
        count = self.measure.shapes(self.recipe.sft.lora)
        one = Pass(rows=block["per_device_train_batch_size"], tokens=length, predicted=length, kind="sft",
                   is_checkpointed=block["activation_checkpointing"], is_autocast=self.is_autocast)  # fmt: skip
        return self._need("sft", "training", count, 1, count.lora, block, self._working(self.recipe.sft.lora, one))

    def _reward(self) -> Iterator[Need]:
        block = with_defaults(self.recipe.reward.trainer, self.on_gpu)
        length = min(self.recipe.reward.max_length or 1024, self.window)
        count = self.measure.shapes(self.recipe.reward.lora)
        rows = self.completions * block["per_device_train_batch_size"]
        one = Pass(rows=min(rows, self.recipe.reward.gradient_cache or rows), tokens=length, predicted=0,
                   is_checkpointed=block["activation_checkpointing"], is_autocast=self.is_autocast)  # fmt: skip
        trained = count.lora + count.head
        working = self._working(self.recipe.reward.lora, one)
        yield self._need("reward", "training", count, 1, trained, block, working, has_output=False)
        # afterwards the base is loaded as a language model, and demonstrations and held-out rows are scored with it
        several = max(1, min(32, TOKENS_PER_PASS // length))
        one = Pass(rows=several, tokens=length, predicted=0, is_trained=False, is_autocast=False)
        need = self._need("reward", "scoring", count, 1, 0, block, self._working(self.recipe.reward.lora, one))
        yield Need("reward", "scoring", {name: size for name, size in need.parts.items() if size})

    def _ppo(self) -> Iterator[Need]:
        block = with_defaults(self.recipe.ppo.trainer, self.on_gpu)
        lora = self.recipe.sft.lora
        count = self.measure.shapes(lora)
        new = block["response_length"]
        prompt = min(self.recipe.ppo.max_prompt_tokens or 512, max(1, self.window - new))
        has_adapter = block["value"] == "adapter"
        trained = count.lora + (count.lora if has_adapter else 0) + count.head
        adapters = 2 + self.recipe.reward.members + has_adapter  # policy, reference, rewards, value
        shared = {"tokens": prompt + new, "is_checkpointed": block["activation_checkpointing"],
                  "is_autocast": self.is_autocast}  # fmt: skip
        rows = block["per_device_train_batch_size"]
        passes = [Pass(rows=rows, predicted=new, kind="ppo", **shared)]
        if has_adapter:
            passes.append(Pass(rows=rows, predicted=0, kind="ppo", **shared))
        if block["ptx_coef"]:
            length = block["ptx_block_size"]
            passes.append(Pass(rows=rows, predicted=length - 1, kind="ppo", **(shared | {"tokens": length})))
        update = max(self._working(lora, one) for one in passes)
        yield self._need("ppo", "updating", count, adapters, trained, block, update)
        batch = min(block["local_rollout_forward_batch_size"], block["rollout_batch_size"])
        scoring = Pass(rows=batch, tokens=prompt + new, predicted=new, kind="ppo", is_trained=False,
                       is_autocast=self.is_autocast)  # fmt: skip
        need = self._need("ppo", "scoring", count, adapters, trained, block, self._working(lora, scoring))
        yield Need("ppo", "scoring", {name: size for name, size in need.parts.items() if name != "gradients"})
        yield self._generating(need, batch, prompt + new)

    def _generating(self, scoring: Need, rows: int, tokens: int) -> Need:
        vocabulary = int(self.config.get_text_config().vocab_size)
        parts = {
            name: size for name, size in scoring.parts.items() if name not in ("gradients", "activations", "slack")
        }
        parts["KV cache"] = cache_bytes(self.config, rows, tokens, torch.bfloat16 if self.is_autocast else self.dtype)
        parts["activations"] = rows * vocabulary * 4 * 4  # logits, their float32 copy, the noise, their sum
        return Need("ppo", "generating", self._with_slack(parts))

    def _need(
        self,
        stage: str,
        phase: str,
        count: Shapes,
        adapters: int,
        trained: int,
        block: Mapping[str, Any],
        working: float,
        *,
        has_output: bool = True,
    ) -> Need:
        parts = {
            "weights": count.weights(self.dtype, self.quantization, has_output=has_output),
            "adapters": 4.0 * (adapters * count.lora + count.head * (stage != "sft")),
            "gradients": 4.0 * trained,
            "optimiser": optimiser_bytes(str(block["optim"])) * trained,
            "activations": working,
        }
        return Need(stage, phase, self._with_slack(parts))

    def _with_slack(self, parts: Mapping[str, float]) -> dict[str, float]:
        if not self.on_gpu:
            return dict(parts)
        kept = {name: size for name, size in parts.items() if name not in ("runtime", "slack")}
        return kept | {"slack": SLACK * sum(kept.values()), "runtime": RUNTIME}

    def _working(self, lora: LoraSettings, one: Pass) -> float:
        unpacked = 2 * self.measure.shapes(lora).largest if self.quantization == "nf4" else 0
        return self.measure.working(lora, self.dtype, one) + unpacked


def _dtype(name: str, on_gpu: bool) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if on_gpu else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def with_defaults(given: Mapping[str, Any], on_gpu: bool) -> dict[str, Any]:
    """A trainer's block with the defaults of what decides memory."""
    from dataclasses import fields

    from ..toolkit.ppo.config import PPOConfig

    ours = {one.name: one.default for one in fields(PPOConfig)}
    names = ("response_length", "rollout_batch_size", "local_rollout_forward_batch_size", "value", "ptx_coef",
             "ptx_block_size", "per_device_train_batch_size", "optim")  # fmt: skip
    return {name: ours[name] for name in names} | {"activation_checkpointing": on_gpu} | with_present_names(given)
