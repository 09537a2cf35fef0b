"""Settings under which a run fits a GPU: change one after the other, cheapest first, until every phase does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..toolkit.errors import ModelError
from .needs import GIB, Measure, Need, needs, with_defaults
from .recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """What a recipe needs, and what to change where it does not fit."""

    needs: Sequence[Need]
    budget: float
    """Bytes of the GPU."""
    changes: Sequence[str] = field(default_factory=tuple)
    """Settings, `section.key=value`, that were changed until it fitted (or nothing was left to change)."""

    @property
    def fits(self) -> bool:
        """Whether every phase fits."""
        return all(need.total <= self.budget for need in self.needs)

    def as_json(self) -> dict[str, Any]:
        """For machines: GiB by stage, phase and part."""
        rows = [
            {"stage": need.stage, "phase": need.phase, "total": round(need.total / GIB, 3)}
            | {"parts": {name: round(size / GIB, 3) for name, size in need.parts.items()}}
            for need in self.needs
        ]
        return {"unit": "GiB", "gpu": self.budget / GIB, "fits": self.fits, "needs": rows, "changes": [*self.changes]}


def read_config(model: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """The configuration of a model: of a hub id, of a folder, or of a config.json; no weights are read.

    Raises:
        ModelError: there is none.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"--model: cannot read a configuration from {model!r} ({first}). Wanted a folder or file with config.json, "
            "or an id of the hub with network access or a cached copy; the weights are not needed."
        ) from error


def make_plan(
    recipe: Recipe, measure: Measure, budget: float, change: Callable[[Sequence[str]], Recipe], *, completions: int = 2
) -> Plan:
    """Work out the needs; where they do not fit, change one setting after the other until they do.

    Args:
        recipe: the settings.
        measure: of the model.
        budget: bytes of the GPU.
        change: the same recipe with overrides of the form `section.key=value`.
        completions: of a prompt in the reward model's rows.
    """
    changes: dict[str, Any] = {}
    found = Plan(needs(recipe, measure, completions=completions), budget)
    while not found.fits:
        largest = max((need for need in found.needs if need.total > budget), key=lambda need: need.total)
        step = next(_steps(recipe, largest, completions), None)
        if step is None:
            break
        changes |= step
        lines = tuple(f"{key}={value}" for key, value in changes.items())
        recipe = change(lines)
        found = Plan(needs(recipe, measure, completions=completions), budget, lines)
    return found


def _steps(recipe: Recipe, need: Need, completions: int) -> Iterator[dict[str, Any]]:
    """Changes that save memory where it lacks, the ones that cost least first; each is offered until it is used up."""
    stage = need.stage
    block = with_defaults(getattr(recipe, stage).trainer, on_gpu=True)
    rows, batch = block["per_device_train_batch_size"], block["local_rollout_forward_batch_size"]
    if need.phase in ("training", "updating") and not block["activation_checkpointing"]:
        yield {f"{stage}.trainer.activation_checkpointing": "true"}
    if stage == "ppo" and need.phase in ("generating", "scoring") and batch > 4:
        yield {"ppo.trainer.local_rollout_forward_batch_size": batch // 2}
    if recipe.base.quantization == "none":
        yield {"base.quantization": "nf4"}
    encoded = recipe.reward.gradient_cache or completions * rows
    if stage == "reward" and need.phase == "training" and encoded > 2:
        yield {"reward.gradient_cache": encoded // 2}
    elif need.phase == "training" and rows > 1:
        accumulated = rows * block.get("gradient_accumulation_steps", 1) // (rows // 2)
        yield {f"{stage}.trainer.per_device_train_batch_size": rows // 2,
               f"{stage}.trainer.gradient_accumulation_steps": accumulated}  # fmt: skip
    if need.phase == "updating" and rows > 1:
        yield {"ppo.trainer.per_device_train_batch_size": rows // 2}
    if stage == "ppo" and need.phase in ("generating", "scoring") and batch > 1:
        yield {"ppo.trainer.local_rollout_forward_batch_size": batch // 2}
    if stage == "ppo" and block["value"] == "adapter":
        yield {"ppo.trainer.value": "head"}
    if need.phase in ("training", "updating") and "8bit" not in str(block["optim"]):
        yield {f"{stage}.trainer.optim": "paged_adamw_8bit"}
    name = "max_prompt_tokens" if stage == "ppo" else "max_length"
    length = getattr(getattr(recipe, stage), name) or (512 if stage == "ppo" else 1024)
    if length > 128:
        yield {f"{stage}.{name}": length // 2}
