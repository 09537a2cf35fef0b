"""The settings of PPO beside those of transformers' TrainingArguments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SchedulerType

from ..errors import SettingsError


@dataclass
class PPOConfig(TrainingArguments):
    """Settings of `PPOTrainer`; all of TrainingArguments apply too.

    One training step (`max_steps`, `save_steps`, `logging_steps`) is one PPO iteration: a rollout of
    `rollout_batch_size` episodes and `num_ppo_epochs * num_mini_batches` optimiser steps on it.
    `per_device_train_batch_size` is the number of sequences of one forward and backward pass. The learning rate is
    constant after `warmup_steps` iterations that start at a tenth of it.
    """

    logging_steps: float = 1
    """As in TrainingArguments: iterations between two log entries, which hold means over them."""
    lr_scheduler_type: SchedulerType | str = "constant_with_warmup"
    """As in TrainingArguments; here the warm-up begins at a tenth of the learning rate, not at zero."""

    rollout_batch_size: int = 64
    """Episodes (prompts with one completion each) of one iteration, over all processes."""
    num_mini_batches: int = 8
    """Optimiser steps that one pass over a rollout is divided into."""
    num_ppo_epochs: int = 1
    """Passes over each rollout, reshuffled every time."""
    local_rollout_forward_batch_size: int = 32
    """Sequences per batch, on each process, while generating and scoring."""
    reuse_states: bool = False
    """Take the policy's old log-probabilities from the states that generation left, as TRL's PPOTrainer did, instead of
    from a pass of their own. Faster by that pass; but what rounding makes different between the two (in bfloat16 far
    more than in float32) then looks like a change of the policy, so that ratio and KL start near 1 and 0, not there.
    In float32 on a CPU the passes of reference, reward and value adapter then use weights with the adapter added in."""
    response_length: int = 64
    """Longest completion in tokens."""
    temperature: float = 1.0
    """Divides the logits, both in sampling and in the log-probabilities."""
    top_p: float = 1.0
    """Sampling keeps the likeliest tokens that together have this probability; 1 keeps all."""

    kl_coef: float = 0.02
    """Penalty on the KL divergence from the reference, per nat."""
    kl_target: float | None = None
    """Wanted KL per sequence in nats: adapts the coefficient; None keeps it fixed."""
    kl_horizon: int = 10_000
    """Episodes over which an adaptive coefficient may change by about a fifth."""
    kl_ceiling: float | None = None
    """KL per sequence in nats at which training stops and the last good checkpoint becomes the result; None: never."""
    reward_clip: float | None = None
    """Scores are clipped to plus or minus this; None does not clip."""
    missing_eos_penalty: float | None = None
    """Taken off the score of a completion that does not end in an end-of-sequence token; None takes nothing off."""

    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """Lambda of generalised advantage estimation."""
    whiten_advantages: bool = True
    """Shift and scale the advantages of a rollout to mean zero and deviation one."""
    cliprange: float = 0.2
    """How far the probability ratio may move from 1 before it stops paying."""
    cliprange_value: float = 0.2
    """How far a value may move from its old estimate before it stops paying."""

    value: Literal["adapter", "head"] = "adapter"
    """The value function: an adapter that starts as the reward model, or a linear head on the policy's last states."""
    vf_coef: float = 0.1
    """Weight of the value loss."""
    value_learning_rate: float | None = None
    """Learning rate of the value function; None is that of the policy."""

    ptx_coef: float = 0.0
    """Weight of the language-model loss (nats per token) on the ptx texts in each optimiser step; 0 is off."""
    ptx_batch_size: int = 8
    """Blocks of ptx text per optimiser step, over all processes."""
    ptx_block_size: int = 256
    """Tokens of one block of ptx text."""

    ema_decay: float | None = None
    """Decay per optimiser step of a moving average of the policy, which replaces it at the end; None is off."""
    save_rollouts: bool = True
    """Write every rollout to `rollouts/step-N.jsonl` in the output folder."""

    def __post_init__(self) -> None:
        """Check all settings of ours at once."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.remove_unused_columns = False  # reward functions get all columns
        self.data_seed = self.seed if self.data_seed is None else self.data_seed
        faults = [*self._ranges(), *self._divisions()]
        if self.gradient_accumulation_steps != 1:
            faults.append(
                f"gradient_accumulation_steps: got {self.gradient_accumulation_steps}, wanted 1: accumulation follows "
                "from rollout_batch_size, num_mini_batches and per_device_train_batch_size"
            )
        if self.save_total_limit is not None and self.save_total_limit < 2:
            faults.append(f"save_total_limit: got {self.save_total_limit}, wanted at least 2 or null for no limit")
        if self.value not in ("adapter", "head"):
            faults.append(f"value: got {self.value!r}, wanted 'adapter' or 'head'")
        if faults:
            raise SettingsError(faults, "the PPO settings")

    def _ranges(self) -> list[str]:
        """Faults of single numbers."""
        at_least_one = (
            "rollout_batch_size num_mini_batches num_ppo_epochs local_rollout_forward_batch_size response_length "
            "kl_horizon ptx_batch_size ptx_block_size"
        )
        positive = "temperature kl_target kl_ceiling reward_clip cliprange cliprange_value value_learning_rate"
        not_negative = "kl_coef missing_eos_penalty vf_coef ptx_coef"
        share = "gamma lam ema_decay"
        checks: list[tuple[str, Callable[[float], bool], str]] = [
            (f"{at_least_one} per_device_train_batch_size", lambda x: x >= 1, "at least 1"),
            (positive, lambda x: x > 0, "more than 0"),
            (not_negative, lambda x: x >= 0, "0 or more"),
            (share, lambda x: 0 <= x <= 1, "between 0 and 1"),
            ("top_p", lambda x: 0 < x <= 1, "more than 0 and at most 1"),
        ]
        return [
            f"{name}: got {value}, wanted {wanted}"
            for names, is_right, wanted in checks
            for name in names.split()
            if (value := getattr(self, name)) is not None and not is_right(value)
        ]

    def _divisions(self) -> list[str]:
        """Faults of batches that do not divide."""
        processes = int(self.world_size)
        parts = processes * max(1, self.num_mini_batches)
        if self.rollout_batch_size % parts:
            return [
                f"rollout_batch_size: got {self.rollout_batch_size}, wanted a multiple of {parts} "
                f"({processes} processes x {self.num_mini_batches} num_mini_batches)"
            ]
        mini_batch = self.rollout_batch_size // parts
        faults = []
        if mini_batch and self.per_device_train_batch_size > 0 and mini_batch % self.per_device_train_batch_size:
            faults.append(
                f"per_device_train_batch_size: got {self.per_device_train_batch_size}, wanted a divisor of "
                f"{mini_batch} (rollout_batch_size over processes and num_mini_batches)"
            )
        if self.ptx_coef and self.ptx_batch_size % processes:
            faults.append(f"ptx_batch_size: got {self.ptx_batch_size}, wanted a multiple of {processes} processes")
        return faults


def check_data(args: PPOConfig, prompts: int, held_out: int | None, has_ptx: bool, window: int | None = None) -> None:
    """Hold the settings against the data.

    Args:
        args: the settings.
        prompts: how many there are to train on.
        held_out: how many there are to evaluate on; None without evaluation.
        has_ptx: whether there are texts for PPO-ptx.
        window: longest sequence of the model, in tokens; None where its configuration names none.

    Raises:
        SettingsError: with all that does not fit.
    """
    faults = []
    if held_out is not None and held_out < args.world_size:
        faults.append(
            f"eval_dataset: got {held_out} prompts, wanted at least one for each of {args.world_size} processes"
        )
    if held_out is None and args.eval_strategy != "no":
        when = IntervalStrategy(args.eval_strategy).value
        faults.append(f"eval_strategy: got {when!r} without an eval_dataset, wanted 'no', or rows to evaluate on")
    if args.ptx_coef and has_ptx and window is not None and args.ptx_block_size > window:
        faults.append(
            f"ptx_block_size: got {args.ptx_block_size}, wanted at most {window}, the longest sequence of the model"
        )
    if prompts < args.rollout_batch_size:
        faults.append(f"rollout_batch_size: got {args.rollout_batch_size}, wanted at most {prompts}, the prompts given")
    if bool(args.ptx_coef) != has_ptx:
        faults.append(
            f"ptx_coef: got {args.ptx_coef} {'with' if has_ptx else 'without'} ptx texts, wanted both or none"
        )
    if faults:
        raise SettingsError(faults, "the PPO settings")
