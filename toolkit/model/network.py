"""The network that computes: what stands under a PEFT model, and its evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import nn


def network_of(model: Any) -> Any:
    """The transformers model under PEFT's, or the model itself where PEFT has no part in it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """No dropout inside; afterwards every module is in the mode it was in."""
    was_training = [module for module in network.modules() if module.training]
    if was_training:  # a walk through a large model takes longer than a token
        network.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True
