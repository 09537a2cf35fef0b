"""Null-space projection of updates: training leaves what the model does on protected texts as it is.

The UPDATE is projected, after the optimiser's step. Projecting the gradient before it protects almost nothing: Adam
scales every coordinate by itself and weight decay pulls towards zero, and both leave the null space.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import ModelError
from ..model.network import eval_mode
from .null_space import basis_by_energy, basis_by_ratio, orthonormal, without
from .protected_inputs import ProtectedInputs, padded
from .settings import ProtectSettings

FILE = "protected.safetensors"
ALL, ROWS, FROZEN = "gradients", "rows:", "frozen"


@dataclass(frozen=True)
class Room:
    """How much of a layer's input is protected."""

    layer: str
    protected: int
    """Protected directions."""
    size: int
    """All directions."""


class UpdateProjection(TrainerCallback):
    """Callback that takes the protected directions out of every optimiser step: for SFT, reward and PPO alike.

    A linear layer y = W x does the same as before on protected inputs X if and only if the update has ΔW Xᵀ = 0. With
    the whole space of X protected this holds for every layer in turn, so the model's outputs on the protected texts
    are unchanged exactly, not to first order. In LoRA, W is B A: a fresh A is first put into the null space (B is
    zero, so nothing changes), and from then on B is free; the A of an adapter that is trained further is not touched,
    and B is kept off the directions that A makes of X. Biases, norms and embeddings of protected tokens are frozen
    where they are trained at all.

    With `method: ogd` (https://arxiv.org/abs/1910.07104) the gradients of the outputs are stored instead, and the
    update of all parameters together is kept orthogonal to them: first order only, and memory grows with texts times
    parameters.

    Args:
        rows: token ids of the protected texts.
        settings: method and strength.
        activate: context in which the model computes with the adapter that is trained and only its parameters require
            gradients; None: as it is.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        settings: ProtectSettings,
        activate: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.rows, self.settings = rows, settings
        self.activate = activate or nullcontext
        self.bases: dict[str, Tensor] = {}
        """(d, k) orthonormal columns by input; of the gradients (n, k)."""
        self.source: dict[str, str] = {}
        """What guards each trained parameter: the name of a basis, `rows:` with token ids, or `frozen`."""
        self._parameters: dict[str, nn.Parameter] = {}
        self._before: dict[str, Tensor] = {}

    # ---- what the Trainer calls ----------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the protected directions, or read those of the checkpoint, and watch the optimiser."""
        self.start(kwargs["model"], Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", state.global_step)
        self.watch(kwargs["optimizer"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the protected directions into the checkpoint: the model they were found on is gone by then."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self.save(folder / FILE)

    # ---- what it does --------------------------------------------------------------------------------------------

    def start(self, model: nn.Module, checkpoint: Path, step: int) -> None:
        """Find the protected directions of a model at its first step, or read those of a checkpoint.

        Raises:
            ModelError: the checkpoint holds none, or those of other layers.
        """
        with self.activate():
            self._parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
            if step:
                self.load(checkpoint / FILE)
            elif self.settings.method == "ogd":
                self.bases = {ALL: orthonormal(self._gradients(model)).mT.contiguous()}
                self.source = dict.fromkeys(self._parameters, ALL)
            else:
                self._protect_layers(model)

    def watch(self, optimizer: Any) -> None:
        """Project each step of an optimiser from now on."""
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it, and skips steps that overflowed
        inner.register_step_pre_hook(lambda *_: self.snapshot())
        handle = inner.register_step_post_hook(lambda *_: self.project())
        # First of all hooks: PPO's moving average must see the weights as they stay.
        inner._optimizer_step_post_hooks.move_to_end(handle.id, last=False)

    def snapshot(self) -> None:
        """Remember the parameters before a step."""
        self._before = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def project(self) -> None:
        """Take the protected part out of what the step has changed."""
        if self.settings.strength == 0:
            return  # adding the update to the weights before would round, and zero is to be exactly nothing
        updates = {name: parameter - self._before[name] for name, parameter in self._parameters.items()}
        for name, kept in self._projected(updates).items():
            update = updates[name]
            blended = kept if self.settings.strength == 1 else torch.lerp(update, kept, self.settings.strength)
            self._parameters[name].copy_(self._before[name] + blended)
        self._before = {}

    def save(self, path: Path) -> None:
        """Write the protected directions as safetensors."""
        tensors = {name: basis.float().contiguous() for name, basis in self.bases.items()}
        save_file(tensors, path, metadata={"source": json.dumps(self.source), "method": self.settings.method})

    def load(self, path: Path) -> None:
        """Read what `save` wrote.

        Raises:
            ModelError: it is missing, or belongs to other parameters.
        """
        if not path.is_file():
            raise ModelError(f"{path} is missing: this training began without protected texts. Start it afresh.")
        with safe_open(path, framework="pt") as file:
            self.source = json.loads(file.metadata()["source"])
            self.bases = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if self.source.keys() != self._parameters.keys():
            raise ModelError(f"{path} protects other layers than those that are trained: start afresh")

    def rooms(self) -> list[Room]:
        """Protected and all directions of every input."""
        return [Room(name, basis.shape[1], basis.shape[0]) for name, basis in self.bases.items()]

    def warnings(self) -> list[str]:
        """A sentence for layers that have no room left to learn in."""
        rooms = [room for room in self.rooms() if ".lora_B." not in room.layer]  # A can learn where B cannot
        full = [room for room in rooms if room.protected == room.size]
        if not full:
            return []
        return [
            f"The protected texts have full rank ({full[0].protected} of {full[0].size} directions) in {len(full)} of "
            f"{len(rooms)} layer inputs, such as {full[0].layer}: nothing can be learned there. Protect fewer "
            "texts, or lower mitigations.protect.energy."
        ]

    # ---- private -------------------------------------------------------------------------------------------------

    def _protect_layers(self, model: nn.Module) -> None:
        inputs = ProtectedInputs(model)
        inputs.read(self.rows)
        self.bases = {name: self._basis(covariance) for name, covariance in inputs.covariance.items()}
        embeddings = _weights_of(model, nn.Embedding)
        tied = _shared(model, embeddings, _weights_of(model, nn.Linear))
        seen = ROWS + json.dumps(sorted(inputs.tokens_seen))
        for name, parameter in self._parameters.items():
            if ".lora_B." in name:
                self.source[name] = self._protect_low_rank(name, parameter, inputs)
            elif name in tied:
                self.source[name] = FROZEN  # what it does as the output layer concerns every text
            elif name in embeddings:
                self.source[name] = seen
            else:
                self.source[name] = inputs.source.get(name, FROZEN)

    def _protect_low_rank(self, name: str, up: nn.Parameter, inputs: ProtectedInputs) -> str:
        """The basis that guards B; a fresh A is put into the null space."""
        below = name.replace(".lora_B.", ".lora_A.")
        down, place = self._parameters[below], inputs.source[below]
        with torch.no_grad():
            if not up.any():  # fresh: B A is zero, whatever A is
                kept = without(down.double(), self.bases[place].to(down.device, torch.float64))
                down.copy_(torch.lerp(down.double(), kept, self.settings.strength))
            covariance = inputs.covariance[place]
            made = down.to(covariance.dtype) @ covariance @ down.to(covariance.dtype).mT
        own = name.removesuffix(".weight")
        scale = covariance.trace() * down.double().square().sum()  # what A would make of inputs that it lets through
        is_nothing = made.trace() <= 1e-10 * scale
        self.bases[own] = made.new_zeros(made.shape[0], 0).double() if is_nothing else self._basis(made)
        return own

    def _basis(self, covariance: Tensor) -> Tensor:
        if self.settings.method == "nscl":
            return basis_by_ratio(covariance, self.settings.ratio)
        return basis_by_energy(covariance, self.settings.energy)

    def _projected(self, updates: dict[str, Tensor]) -> dict[str, Tensor]:
        if ALL in self.bases:
            return self._without_gradients(updates)
        return {name: self._without_inputs(name, update) for name, update in updates.items()}

    def _without_inputs(self, name: str, update: Tensor) -> Tensor:
        source = self.source[name]
        if source == FROZEN:
            return torch.zeros_like(update)
        if source.startswith(ROWS):
            return update.index_fill(0, torch.tensor(json.loads(source[len(ROWS) :]), device=update.device), 0.0)
        basis = self._on(source, update)
        return update if basis.shape[1] == 0 else without(update, basis)

    def _without_gradients(self, updates: dict[str, Tensor]) -> dict[str, Tensor]:
        flat = torch.cat([update.reshape(-1) for update in updates.values()])
        kept = without(flat, self._on(ALL, flat))
        parts = torch.split(kept, [update.numel() for update in updates.values()])
        return {name: part.view_as(updates[name]) for name, part in zip(updates, parts, strict=True)}

    def _on(self, source: str, like: Tensor) -> Tensor:
        """A basis in the place and precision of an update, moved once."""
        basis = self.bases[source]
        if basis.device != like.device or basis.dtype != like.dtype:
            basis = self.bases[source] = basis.to(like.device, like.dtype)
        return basis

    def _gradients(self, model: nn.Module) -> Iterator[Tensor]:
        """The gradient of each protected text's output: mean logit of its own tokens, or its score."""
        call: Any = model
        parameters = list(self._parameters.values())
        device = parameters[0].device
        with eval_mode(model):
            for row in self.rows:
                input_ids, attention_mask = padded([row], device)
                with torch.enable_grad():
                    out = call(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits.float()
                    own = out[:, :-1].gather(2, input_ids[:, 1:, None]).mean() if out.ndim == 3 else out.sum()
                    found = torch.autograd.grad(own, parameters, allow_unused=True)
                yield torch.cat(
                    [
                        (torch.zeros_like(parameter) if gradient is None else gradient).reshape(-1)
                        for parameter, gradient in zip(parameters, found, strict=True)
                    ]
                )


def _weights_of(model: nn.Module, kind: type[nn.Module]) -> set[str]:
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kind)}


def _shared(model: nn.Module, names: set[str], others: set[str]) -> set[str]:
    """Those of the names whose parameter is also there under one of the other names."""
    every = dict(model.named_parameters(remove_duplicate=False))
    addresses = {every[name].data_ptr() for name in others & every.keys()}
    return {name for name in names & every.keys() if every[name].data_ptr() in addresses}
