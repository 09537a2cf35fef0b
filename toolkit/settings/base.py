"""Settings of the base model: which one, how it is held in memory, and the shape of the tiny one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .reading import setting

TINY = "tiny"
MODEL_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja", ".py")
"""Endings of the files of a model's folder that it is loaded from."""


@dataclass(frozen=True, kw_only=True)
class TinySettings:
    """Shape and training of a tiny base model."""

    vocabulary: int = setting(1024, low=260, high=65536, unit="tokens")
    """Largest number of tokens of the byte-level BPE vocabulary."""
    hidden_size: int = setting(192, low=64, high=4096)
    """Width of the model; a multiple of 64, so that 4-bit weights pack."""
    layers: int = setting(4, low=1, high=64)
    """Number of transformer blocks."""
    heads: int = setting(4, low=1, high=64)
    """Number of attention heads."""
    context: int = setting(512, low=32, high=8192, unit="tokens")
    """Longest sequence."""
    steps: int = setting(350, low=1, unit="optimiser steps")
    """Length of the training."""
    tokens_per_step: int = setting(1024, low=128, unit="tokens")
    """Size of one optimiser step."""
    learning_rate: float = setting(8e-3, above=0)
    """Peak learning rate of AdamW (embeddings and norms), after a warm-up of 20 steps, with cosine decay."""
    muon_learning_rate: float = setting(0.02, above=0)
    """Peak learning rate of Muon (all other matrices), with the same schedule."""

    def faults(self) -> list[str]:
        """Sizes that do not fit each other."""
        found = []
        if self.hidden_size % 64:
            found.append(f"hidden_size: got {self.hidden_size}, wanted a multiple of 64")
        if self.hidden_size % (2 * self.heads):
            found.append(f"heads: got {self.heads}, wanted a divisor of half of hidden_size ({self.hidden_size // 2})")
        return found


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """The base model of a run."""

    model: str = TINY
    """An id of the hub, a folder, or `tiny`: a small Llama trained on the corpus at first use and cached."""
    corpus: str | None = None
    """Text that the tiny model is trained on: a file of rows with `text`; null takes the run's own corpus."""
    revision: str | None = None
    """Branch, tag or commit of the hub model; pin a commit to repeat a run exactly."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` holds the base in 4 bits (double quantisation, bitsandbytes): QLoRA."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights in memory; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; `auto` takes the GPU when there is one."""
    pad_token: str | None = None
    """Padding token to use, or to add. Null: the tokenizer's own; where it has none, or pads with its end token, a
    spare special token of its vocabulary, else `<|pad|>` is added."""
    control_tokens: bool = False
    """Add the safety control tokens <|safe|>, <|unsafe|>, <|think|>, <|/think|>, for `mitigations.control`."""
    trust_remote_code: bool = False
    """Let the model run Python code that comes with its weights."""
    tiny: TinySettings = TinySettings()
    """Shape and training of the tiny model."""

    def files(self) -> list[Path]:
        """The files of a base that is a folder: what decides a result beside these settings."""
        folder = Path(self.model)
        if self.model == TINY or not folder.is_dir():
            return []
        return [path for path in sorted(folder.iterdir()) if path.suffix in MODEL_FILES and path.is_file()]


def names_path(model: str) -> bool:
    """Whether the name of a model can only be a path: ids of the hub are NAME or OWNER/NAME."""
    return Path(model).expanduser().is_absolute() or model.startswith(".") or model.count("/") > 1
