"""The four roles of PPO on one base: policy and value are trained, reference and reward are frozen."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..model.roles import RoleStack
from .rewards import WeightedReward

TRAINED = ("policy", "value")


class ValueFunction:
    """V(s): an adapter that starts as the reward model, or a linear head on the policy's own last states.

    Args:
        stack: gets the role `value`, unless it has one, or the module `model.value_head`.
        form: "adapter" (the paper's way: a model of its own) or "head" (no extra forward or backward).
        rewards: the first of these that is an adapter is what a new value adapter starts from; without one it starts
            as a fresh adapter whose values are zero.
    """

    def __init__(self, stack: RoleStack, form: str, rewards: Sequence[WeightedReward]) -> None:
        self.stack = stack
        self.head: nn.Linear | None = None
        if form == "head":
            size = int(stack.base.config.get_text_config().hidden_size)
            self.head = nn.Linear(size, 1, device=stack.device, dtype=torch.float32)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
            stack.model.value_head = self.head  # a part of the model, so that device moves and optimisers see it
        elif "value" not in stack.names:
            source = next((term.reward for term in rewards if isinstance(term.reward, str)), None)
            if source is not None:
                stack.copy(source, "value", trainable=True)
            else:
                stack.add_scorer("value", "policy", trainable=True)
        elif not stack.has_head("value"):
            raise ModelError("the adapter 'value' has no reward head, wanted one: delete() it, then it is made anew")

    def parameters(self) -> list[nn.Parameter]:
        """What the value loss alone trains."""
        if self.head is not None:
            return list(self.head.parameters())
        return [parameter for _, parameter in self.stack.parameters("value")]

    def __call__(self, states: Tensor) -> Tensor:
        """Values (B, C) in float32 of states (B, C, H) that the role which carries the value function computed."""
        if self.head is None:
            return self.stack.head(states) - self.stack.bias("value")
        with torch.autocast(states.device.type, enabled=False):
            values: Tensor = self.head(states.float())
        return values.squeeze(-1)


def check_roles(stack: RoleStack, rewards: Sequence[WeightedReward]) -> None:
    """Refuse a stack in which a role is missing, or a tokenizer that confuses padding with the end of a text.

    Raises:
        ModelError: with all that is missing.
    """
    faults = [f"adapter {name!r} is missing: load() it" for name in ("policy",) if name not in stack.names]
    if "reference" not in stack.names:
        faults.append("adapter 'reference' is missing: load() the SFT adapter again under this name, or copy() it")
    for term in rewards:
        if isinstance(term.reward, str) and term.reward not in stack.names:
            faults.append(f"reward adapter {term.reward!r} is missing: load() a reward model's folder under this name")
        elif isinstance(term.reward, str) and not stack.has_head(term.reward):
            faults.append(f"adapter {term.reward!r} has no reward head: load() a reward model's folder instead")
    tokenizer = stack.tokenizer
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        faults.append("the tokenizer has no padding token of its own: add one that is not the end-of-sequence token")
    if faults:
        raise ModelError("PPO cannot start on this stack:\n" + "\n".join(f"  - {fault}" for fault in faults))


def require_grad_of_trained(stack: RoleStack) -> None:
    """Let gradients flow to policy and value adapters alone, which is what an optimiser then collects."""
    for name in stack.names:
        for _, parameter in stack.parameters(name):
            parameter.requires_grad_(name in TRAINED)


def check_logits(stack: RoleStack) -> None:
    """Refuse models whose logits are not simply the output embedding of the last states.

    Raises:
        ModelError: when the model scales or caps its logits, so that log-probabilities made here would be wrong.
    """
    ids = torch.arange(4, device=stack.device)[None]
    with torch.no_grad(), stack.using("policy") as model:
        model.eval()  # dropout would make any two passes differ
        ours = stack.logits(stack.hidden(ids, torch.ones_like(ids))).float()
        theirs = model(input_ids=ids).logits.float()
    if not torch.allclose(ours, theirs, rtol=0.05, atol=0.05 * float(theirs.abs().max())):
        raise ModelError(
            f"{type(stack.base).__name__} changes its logits after the output embedding (scaling or capping), which "
            "PPO does not support: use a model that does not"
        )
