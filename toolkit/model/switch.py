"""The switch between the adapters of a model: through PEFT, or past it where LoRA layers compute directly."""

from typing import Any

from peft import PeftModel
from peft.functional import set_adapter
from peft.tuners.lora import LoraLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from .direct import Sums, compute_directly, lora_layers


class AdapterSwitch:
    """Lets one adapter at a time compute, and leaves PEFT out of it where it can.

    PEFT walks through all modules and all adapters at every switch, which takes longer than a pass of a small model;
    PPO switches several times an iteration. Layers that compute directly need not be told, so that only the others
    (reward heads, trained token rows, DoRA and the like) are.
    """

    def __init__(self) -> None:
        self.active: str | None = None
        """Name of the adapter that computes now; None is the bare base."""
        self.direct: str | None = None
        """The same where LoRA layers compute directly with it."""
        self._layers: list[nn.Module] = []
        self._wrappers: list[nn.Module] = []
        self._told: str | None = None
        self._astray: dict[nn.Module, None] = {}
        self._sums: Sums = {}

    def watch(self, model: PeftModel) -> None:
        """Know the layers of a model; call it again when an adapter has come."""
        self._layers = lora_layers(model)
        self._wrappers = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]

    def to(self, model: PeftModel, name: str | None, *, direct: bool, summed: bool = False) -> None:
        """Let an adapter compute; gradient flags may be any afterwards.

        Args:
            model: the model that is watched.
            name: the adapter, or None for the bare base.
            direct: whether plain LoRA layers compute with it directly.
            summed: whether they do so with one product instead of three where they can, see `compute_directly`.
        """
        self.direct = name if direct and name is not None else None
        if self.direct is None or self.active is None:
            self._tell_peft(model, name)
        left = compute_directly(self._layers, self.direct, self._sums if summed else None)
        if self.direct is not None:
            for module in [*self._wrappers, *left]:
                _set_adapter(module, self.direct)
                self._astray[module] = None
        self.active = name

    def forget_sums(self) -> None:
        """Give the memory of summed layers back."""
        self._sums.clear()

    def _tell_peft(self, model: PeftModel, name: str | None) -> None:
        """Switch all layers, or, when most of them have the adapter already, those that were switched past PEFT."""
        if name is None:
            model.base_model.disable_adapter_layers()
            return
        if self.active is None:
            model.base_model.enable_adapter_layers()
        if self.active is None or name != self._told or name != model.active_adapter:
            model.set_adapter(name, inference_mode=True)
        else:
            for module in self._astray:
                _set_adapter(module, name)
        self._told = name
        self._astray.clear()


def _set_adapter(module: Any, name: str) -> None:
    set_adapter(module, name, inference_mode=True, layer_cls=LoraLayer)
