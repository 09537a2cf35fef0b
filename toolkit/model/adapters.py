"""Named LoRA adapters on one base model, of which one computes at a time."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PeftModelForCausalLM, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import ModelError
from .forward import HEAD, zero_head
from .switch import AdapterSwitch


class Adapters:
    """The adapters of one base, in PEFT's hands, with what PEFT does to the others at each step undone.

    The base is never changed. Adapters and reward heads are kept in float32, also on a 4-bit base, because bfloat16
    swallows most of an update at usual learning rates. One adapter belongs to one forward and its backward: under
    gradient checkpointing the backward runs the forward again, with the adapter that is active *then*.

    Args:
        base: the causal language model, in any precision, 4-bit included.
    """

    def __init__(self, base: PreTrainedModel) -> None:
        self.base = base
        self._peft: PeftModel | None = None
        self._switch = AdapterSwitch()
        self._found: dict[str, list[tuple[str, nn.Parameter]]] = {}
        self.is_direct = False
        """Whether `using` leaves PEFT's bookkeeping out of every LoRA layer; for code that calls nothing of PEFT's."""

    # ---- what is there -------------------------------------------------------------------------------------------

    @property
    def model(self) -> PeftModel:
        """The base with all its adapters, for code that wants a PEFT model."""
        if self._peft is None:
            raise ModelError("the stack has no adapter yet, wanted at least one: call add() or load() first")
        return self._peft

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all adapters, in the order they came."""
        return () if self._peft is None else tuple(self._peft.peft_config)

    @property
    def active(self) -> str | None:
        """Name of the adapter that computes now; None is the bare base."""
        return self._switch.active

    def config(self, name: str) -> LoraConfig:
        """A copy of an adapter's LoRA configuration."""
        return copy.deepcopy(self.model.peft_config[self._known(name)])

    def parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of one adapter, its reward head included."""
        if self._known(name) not in self._found:
            kinds = r"lora_\w+|modules_to_save|trainable_tokens_delta"
            pattern = re.compile(rf"(^|\.)({kinds})\.{re.escape(name)}(\.|$)")
            self._found[name] = [(key, value) for key, value in self.model.named_parameters() if pattern.search(key)]
        return list(self._found[name])

    def has_head(self, name: str) -> bool:
        """Whether the adapter brings a reward head."""
        head = getattr(self.base, HEAD, None)
        return isinstance(head, ModulesToSaveWrapper) and self._known(name) in head.modules_to_save

    def weights(self, name: str) -> dict[str, Tensor]:
        """The adapter's tensors under the names of a PEFT file; they share memory with the model."""
        # PEFT 0.21 asks every layer with trained token rows for those of this adapter, and fails where there are none.
        lacking = {f"{place}.token_adapter.trainable_tokens_delta" for place in self._places_without_rows(name)}
        every = self.model.state_dict() | {f"{key}.{name}": torch.empty(0) for key in lacking}
        state: dict[str, Tensor] = get_peft_model_state_dict(
            self.model, state_dict=every, adapter_name=self._known(name), save_embedding_layers=False
        )
        return {key: tensor for key, tensor in state.items() if key not in lacking}

    # ---- adding, changing, deleting ------------------------------------------------------------------------------

    def add(self, name: str, config: LoraConfig, *, trainable: bool) -> None:
        """Add a fresh adapter, which does not change what the model computes until it is trained.

        Args:
            name: a new name of letters, digits and underscores.
            config: its shape; `modules_to_save=["score"]` gives it a reward head.
            trainable: whether its parameters take gradients outside of `using`.

        Raises:
            ModelError: when the name is taken or malformed, or the configuration does not fit the base.
        """
        self._check_new(name)
        config = copy.deepcopy(config)
        start = config.init_lora_weights
        if isinstance(start, str) and start.lower().startswith(("pissa", "olora", "corda")):
            raise ModelError(
                f"got init_lora_weights={start!r} for adapter {name!r}, which rewrites the base under all other "
                'adapters, wanted an initialisation that leaves the base alone: use True or "gaussian"'
            )
        if HEAD in (config.modules_to_save or ()):
            self._attach_head()
        if config.target_modules == "all-linear" and hasattr(self.base, HEAD):
            config.exclude_modules = rf"{HEAD}(\..*)?"
        self._inject(name, config)
        self.to_float32(name)
        self._require_grad(name, trainable)

    def _write(self, name: str, weights: dict[str, Tensor]) -> None:
        """Overwrite the adapter's tensors with others under the same names."""
        # As in `weights`: PEFT wants rows for every layer where some adapter has them, and drops what it cannot place.
        fill = {f"{place}.token_adapter.trainable_tokens_delta": torch.empty(0)
                for place in self._places_without_rows(name)}  # fmt: skip
        set_peft_model_state_dict(self.model, weights | fill, adapter_name=name)

    def to_float32(self, name: str) -> None:
        """Turn an adapter to float32, for instance after a trainer turned it to bfloat16."""
        for _, parameter in self.parameters(name):
            parameter.data = parameter.data.float()

    def delete(self, name: str) -> None:
        """Forget an adapter; when it was the active one, the first of the others becomes active."""
        self._known(name)
        self._found.clear()
        others = [other for other in self.names if other != name]
        if not others:
            self.model.unload()
            self._peft = None
            self._switch = AdapterSwitch()
            return
        with self._same_flags():
            if self.active == name:
                self._switch.to(self.model, others[0], direct=False)
            self.model.delete_adapter(name)

    # ---- computing -----------------------------------------------------------------------------------------------

    @contextmanager
    def using(self, name: str | None, *, trainable: bool = False, summed: bool = False) -> Iterator[PeftModel]:
        """Compute with one adapter; afterwards the adapter and all gradient flags are as before, also on an error.

        Args:
            name: the adapter, or None for the bare base.
            trainable: whether this adapter takes gradients inside; all others never do. Run the backward inside too.
            summed: whether layers in float32 on a CPU compute with W + s B A where `is_direct` holds: one product
                instead of three, without gradients, for the memory of a second set of their weights, which is kept
                for the next adapter until one is trained.

        Raises:
            ModelError: when there is no such adapter.
        """
        if name is not None:
            self._known(name)
        before, was_direct = self._switch.active, self._switch.direct is not None
        # a switch touches adapters alone; PPO switches so often that walks through all modules would be felt
        flags = [(value, value.requires_grad) for other in self.names for _, value in self.parameters(other)]
        try:
            if trainable:
                self._switch.forget_sums()
            self._switch.to(self.model, name, direct=self.is_direct, summed=summed)
            for other in self.names:
                self._require_grad(other, trainable and other == name)
            yield self.model
        finally:
            self._switch.to(self.model, before, direct=was_direct)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    # ---- private -------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> str:
        if name not in self.names:
            have = ", ".join(self.names) or "none"
            raise ModelError(f"got adapter {name!r}, wanted one of the stack's ({have}): add() or load() it first")
        return name

    def _check_new(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z]\w*", name) or "lora" in name or name in (HEAD, "default"):
            raise ModelError(f"got adapter name {name!r}, wanted a word such as policy, reference, reward or value")
        if name in self.names:
            raise ModelError(f"adapter {name!r} is already in the stack: delete() it first, or restore() its weights")

    def _attach_head(self) -> None:
        """Give the base a slot for reward heads; each adapter that saves `score` gets its own copy of it."""
        if not hasattr(self.base, HEAD):
            self.base.score = zero_head(self.base).requires_grad_(False)

    def _inject(self, name: str, config: LoraConfig) -> None:
        self._found.clear()
        if self._peft is None:
            self._peft = PeftModelForCausalLM(self.base, config, adapter_name=name)
            self._switch.active = name
        else:
            with self._same_flags():
                self._peft.add_adapter(name, config)
        self._switch.watch(self._peft)
        # PEFT makes new layers in training mode: their dropout would make every score of a loaded model random.
        self._peft.train(self.base.training)
        self._show_bias()

    def _show_bias(self) -> None:
        """Let an output layer whose rows are trained show its bias: TRL's fused head asks for it, PEFT hides it."""
        head: Any = self.base.get_output_embeddings()  # type: ignore[no-untyped-call]
        if isinstance(head, TrainableTokensWrapper) and "bias" not in head.__dict__:
            object.__setattr__(head, "bias", head.original_module.bias)

    def _places_without_rows(self, name: str) -> list[str]:
        """Layers in which other adapters have trained token rows, and this one has none."""
        return [
            place
            for place, module in self.model.named_modules()
            if isinstance(module, TrainableTokensWrapper)
            and name not in module.token_adapter.trainable_tokens_delta
            and not module.token_adapter.tied_adapter
        ]

    def _require_grad(self, name: str, flag: bool) -> None:
        for _, parameter in self.parameters(name):
            parameter.requires_grad_(flag)

    @contextmanager
    def _same_flags(self) -> Iterator[None]:
        """Undo what PEFT does to `requires_grad` when adapters come, go and take turns."""
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        try:
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
