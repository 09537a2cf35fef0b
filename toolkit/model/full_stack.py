"""Roles as whole models, for full fine-tuning: the interface of `ModelStack`, and the memory of one model per role."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ModelError
from ..files import read_json, write_json
from .adapter_files import REWARD_META, digest
from .forward import HEAD, at_last_token, head_scores, last_hidden, next_token_logits, zero_head

WEIGHTS = "model.safetensors"


class FullStack:
    """Named whole models, each of which plays one role; `using` is the way to switch between them.

    Roles that are trained are turned to float32, because bfloat16 swallows most of an update at usual learning rates:
    give `bf16=True` to the trainer, which then computes in bfloat16 by autocast.

    Args:
        policy: the causal language model that is trained.
        tokenizer: its tokenizer.
    """

    def __init__(self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.is_direct = False  # there are no adapters
        self.model = _Models()
        self._active = "policy"
        self._biases: dict[str, float] = {}
        self.add("policy", policy, trainable=True)

    # ---- what is there -------------------------------------------------------------------------------------------

    @property
    def base(self) -> PreTrainedModel:
        """The policy's model."""
        return self._role("policy")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all roles, in the order they came."""
        return tuple(self.model.roles)

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return torch.device(self.base.device)

    def parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of one role."""
        return [(f"{name}.{key}", parameter) for key, parameter in self._role(name).named_parameters()]

    def has_head(self, name: str) -> bool:
        """Whether the role is a reward model (a sequence classifier with one label)."""
        return hasattr(self._role(name), HEAD)

    def bias(self, name: str) -> float:
        """What `score` subtracts; 0.0 where none was set."""
        self._role(name)
        return self._biases.get(name, 0.0)

    def set_bias(self, name: str, bias: float) -> None:
        """Set what `score` subtracts."""
        self._role(name)
        self._biases[name] = bias

    def digest(self, name: str) -> str:
        """SHA-256 of a role's weights and bias."""
        return digest(dict(self._role(name).state_dict()), self.bias(name))

    # ---- adding, saving ------------------------------------------------------------------------------------------

    def add(self, name: str, model: PreTrainedModel, *, trainable: bool) -> None:
        """Give a role its model.

        Args:
            name: policy, reference, value, or a reward's name.
            model: a causal language model, or for reward and value a sequence classifier with one label.
            trainable: whether its parameters take gradients outside of `using`.

        Raises:
            ModelError: the name is taken, the model plays another role already, or its vocabulary is another one.
        """
        if name in self.names:
            raise ModelError(f"role {name!r} is already in the stack: restore() its weights, or choose another name")
        for other in self.names:
            if self._role(other) is model:
                raise ModelError(f"got one and the same model for {other!r} and {name!r}, wanted a copy: use copy()")
        size = model.config.get_text_config().vocab_size
        if "policy" in self.names and size != (wanted := self.base.config.get_text_config().vocab_size):
            raise ModelError(
                f"role {name!r} has a vocabulary of {size} tokens, the policy one of {wanted}: use a model with the "
                "policy's tokenizer, or RewardModel for a reward model with a tokenizer of its own"
            )
        module: nn.Module = model
        if trainable:
            module.float()
        elif hasattr(model, HEAD):
            getattr(model, HEAD).float()
        module.eval()
        module.requires_grad_(trainable)
        self.model.roles[name] = module

    def copy(self, source: str, name: str, *, trainable: bool) -> None:
        """Add a role with the weights, head and bias that `source` has now."""
        self.add(name, copy.deepcopy(self._role(source)), trainable=trainable)
        self._biases[name] = self.bias(source)

    def add_scorer(self, name: str, like: str, *, trainable: bool) -> None:
        """Add a role on a copy of another's trunk, with a reward head that gives zero to everything."""
        model = copy.deepcopy(self._role(like))
        setattr(model, HEAD, zero_head(model))
        self.add(name, model, trainable=trainable)

    def save(self, name: str, folder: str | Path) -> None:
        """Write a role as a plain Hugging Face folder, the bias of a reward model beside it."""
        self._role(name).save_pretrained(str(folder), max_shard_size="1TB")
        if name in self._biases:
            write_json(Path(folder) / REWARD_META, {"bias": self._biases[name]})

    def restore(self, name: str, folder: str | Path) -> None:
        """Overwrite the weights of a role with those of a folder that `save` wrote.

        Raises:
            ModelError: the folder has no weights, or those of another model.
        """
        from safetensors.torch import load_model

        path = Path(folder) / WEIGHTS
        if not path.is_file():
            raise ModelError(f"got the folder {folder} without {WEIGHTS}, wanted one that save() wrote")
        try:
            load_model(self._role(name), path, device=str(self.device))
        except RuntimeError as error:
            raise ModelError(f"the weights in {path} are not those of a {name} like this one: {error}") from error
        if (meta := Path(folder) / REWARD_META).is_file():
            self._biases[name] = float(read_json(meta)["bias"])

    # ---- computing -----------------------------------------------------------------------------------------------

    @contextmanager
    def using(self, name: str | None, *, trainable: bool = False, summed: bool = False) -> Iterator[PreTrainedModel]:
        """Compute with one role; afterwards the active one and all gradient flags are as before, also on an error.

        Args:
            name: the role; None is the policy, for there is no bare base.
            trainable: whether this role takes gradients inside; all others never do.
            summed: of no effect on whole models.

        Raises:
            ModelError: when there is no such role.
        """
        chosen = self._role(name or "policy")
        before = self._active
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        try:
            self._active = name or "policy"
            for other in self.names:
                self._role(other).requires_grad_(trainable and other == name)
            yield chosen
        finally:
            self._active = before
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states (B, T, H) of the active role; positions count the real tokens.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, T), 1 at real tokens.
        """
        return last_hidden(self._role(self._active), input_ids, attention_mask)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., H), under the active role."""
        return next_token_logits(self._role(self._active), hidden)

    def head(self, hidden: Tensor) -> Tensor:
        """The active role's reward head on hidden states (..., H): float32 scores (...), bias not subtracted."""
        if not self.has_head(self._active):
            raise ModelError(f"role {self._active!r} has no reward head, wanted a sequence classifier with one label")
        return head_scores(self._role(self._active), hidden)

    def score(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Reward (B,) of whole sequences: the head at the last real token minus the bias."""
        scores = self.head(self.hidden(input_ids, attention_mask))
        return at_last_token(scores, attention_mask) - self.bias(self._active)

    def _role(self, name: str) -> PreTrainedModel:
        if name not in self.model.roles:
            have = ", ".join(self.names) or "none"
            raise ModelError(f"got role {name!r}, wanted one of the stack's ({have}): add() it first")
        return cast(PreTrainedModel, self.model.roles[name])


class _Models(nn.Module):
    """All roles as one module, as a Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.roles = nn.ModuleDict()

    @property
    def config(self) -> Any:
        """The policy's."""
        return self.roles["policy"].config

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Recompute activations in the backward, in every role."""
        for role in self.roles.values():
            enable: Any = role.activation_checkpointing_enable
            enable(**settings)
