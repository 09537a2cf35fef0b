"""Muon: momentum whose direction is made orthogonal, for the weight matrices of hidden layers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix with the singular vectors of the given one and singular values near one (between about 0.7 and 1.2).

    A quintic Newton-Schulz iteration (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/). In float32:
    torch's own iteration is in bfloat16, which most CPUs have no instructions for and emulate many times slower.

    Args:
        matrix: (M, N), float32.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)  # the iteration converges where the spectral norm is at most one
    for _ in range(STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay.

    Args:
        params: matrices only.
        lr: learning rate; the singular values of an update of an (M, N) matrix are about lr * max(1, M / N) ** 0.5.
        momentum: share of the old momentum that is kept in each step.
        weight_decay: share of a weight taken away in each step, times `lr`.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step; a closure is not supported and must be None."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, parameter: Tensor, lr: float, momentum: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        average.lerp_(parameter.grad, 1 - momentum)  # type: ignore[arg-type]
        direction = orthogonalised(parameter.grad.lerp(average, momentum))  # type: ignore[union-attr]
        rows, columns = parameter.shape
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(direction, alpha=-lr * max(1.0, rows / columns) ** 0.5)
