"""What PPO asks of the models that play its roles, whether they are adapters on one base or models of their own."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RoleStack(Protocol):
    """Named roles (policy, reference, reward, value), one of which computes at a time.

    `ModelStack` keeps them as adapters on one base model, `FullStack` as whole models. Both are used alike: switch with
    `using`, then ask for `hidden`, `logits`, `head` or `score`.
    """

    tokenizer: PreTrainedTokenizerBase
    is_direct: bool
    """Whether adapters may be computed without PEFT's bookkeeping; of no effect on whole models."""

    @property
    def base(self) -> PreTrainedModel:
        """The model that writes: the one under all adapters, or the policy's own."""

    @property
    def model(self) -> nn.Module:
        """All that is trained or frozen, as one module for an optimiser and for device moves."""

    @property
    def names(self) -> Sequence[str]:
        """Names of all roles."""

    @property
    def device(self) -> torch.device:
        """Where the roles compute."""

    def parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of one role."""

    def has_head(self, name: str) -> bool:
        """Whether the role has a reward head."""

    def bias(self, name: str) -> float:
        """What `score` subtracts."""

    def digest(self, name: str) -> str:
        """Equal digests, equal behaviour."""

    def copy(self, source: str, name: str, *, trainable: bool) -> None:
        """Add a role with the weights, head and bias that another has now."""

    def add_scorer(self, name: str, like: str, *, trainable: bool) -> None:
        """Add a role shaped like another, with a reward head that gives zero to everything."""

    def save(self, name: str, folder: str | Path) -> None:
        """Write a role as a plain folder."""

    def restore(self, name: str, folder: str | Path) -> None:
        """Overwrite the weights of a role with those of a folder."""

    def using(
        self, name: str | None, *, trainable: bool = False, summed: bool = False
    ) -> AbstractContextManager[PeftModel | PreTrainedModel]:
        """Compute with one role; afterwards everything is as before."""

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states (B, T, H) of the active role."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., H)."""

    def head(self, hidden: Tensor) -> Tensor:
        """The active role's reward head on hidden states (..., H), in float32, bias not subtracted."""

    def score(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Reward (B,) of whole sequences."""
