"""An exponential moving average of some parameters, as InstructGPT keeps of its policies."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import ModelError


class MovingAverage:
    """average <- decay * average + (1 - decay) * parameter, after each optimiser step.

    Args:
        parameters: names and parameters; the average starts at their present values.
        decay: InstructGPT used 0.992 (https://arxiv.org/abs/2203.02155, appendix C.4).
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.averages: dict[str, Tensor] = {
            name: parameter.detach().float().clone() for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the present values."""
        for name, parameter in self.parameters.items():
            average = self.averages[name].to(parameter.device)
            self.averages[name] = average.lerp_(parameter.float(), 1 - self.decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the parameters by their averages."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.averages[name])

    def save(self, path: Path) -> None:
        """Write the averages."""
        save_file({name: average.cpu().contiguous() for name, average in self.averages.items()}, path)

    def load(self, path: Path) -> None:
        """Read averages that `save` wrote.

        Raises:
            ModelError: when they are of other parameters.
        """
        averages = load_file(path)
        if averages.keys() != self.averages.keys():
            raise ModelError(f"the averages in {path} are of other parameters than the policy has now: start afresh")
        self.averages = averages
