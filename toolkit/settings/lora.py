"""Settings of a low-rank adapter, as a recipe writes them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .reading import setting

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """A LoRA adapter (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

    rank: int = setting(16, low=1, high=1024)
    """Rank of the two matrices."""
    alpha: float = setting(32.0, above=0)
    """The update is scaled by alpha over rank."""
    dropout: float = setting(0.0, low=0, below=1, unit="share of activations")
    """Dropout in front of the adapter."""
    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: names of modules, or `all-linear`."""

    def config(self, *, task: str = "CAUSAL_LM", modules_to_save: list[str] | None = None) -> "LoraConfig":
        """The same for PEFT."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            task_type=task,
            modules_to_save=modules_to_save,
        )
