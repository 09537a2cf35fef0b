"""Learning rates of PPO: constant after a warm-up, and another one for the value function."""

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant_after_warmup(optimizer: Optimizer, warmup: int) -> LambdaLR:
    """A constant rate after `warmup` steps that rise from a tenth of it (https://arxiv.org/abs/2203.02155, C.4)."""
    return LambdaLR(optimizer, lambda step: min(1.0, 0.1 + 0.9 * step / warmup) if warmup else 1.0)


def give_own_rate(optimizer: Optimizer, parameters: Sequence[nn.Parameter], learning_rate: float) -> None:
    """Move parameters into groups of their own with another learning rate."""
    wanted = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        mine = [parameter for parameter in group["params"] if id(parameter) in wanted]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in wanted]
        rest = {key: value for key, value in group.items() if key != "params"}
        optimizer.add_param_group({**rest, "params": mine, "lr": learning_rate})
