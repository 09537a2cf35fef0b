"""The gradients of one PPO optimiser step: policy, value and ptx, one role at a time, their backwards added up."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from . import math as ppo_math
from .config import PPOConfig
from .ptx import PtxStream
from .rollout_maker import RolloutMaker
from .sequences import Experience, every_token, states_before_tokens, token_log_probabilities

Totals = defaultdict[str, Tensor]


class Updater:
    """Adds up gradients; whoever owns the optimiser steps.

    Every loss is divided by the tokens of the whole mini-batch on all processes, so that the parts into which it is cut
    (rows that fit in memory, processes) add up to its mean, however long their completions are.

    Args:
        maker: its passes compute what the rollout computed, so that an unchanged policy has a ratio of exactly 1.
        args: the settings.
        accelerator: accelerate's, which runs the backwards.
        ptx: the stream of texts; None trains on rollouts alone.
        reduce: sums a tensor over all processes.
    """

    def __init__(
        self,
        maker: RolloutMaker,
        args: PPOConfig,
        accelerator: Any,
        ptx: PtxStream | None,
        reduce: ppo_math.Reduce,
    ) -> None:
        self.maker = maker
        self.stack = maker.stack
        self.args = args
        self.accelerator = accelerator
        self.ptx = ptx
        self.reduce = reduce
        self.policy_parameters = [parameter for _, parameter in self.stack.parameters("policy")]
        self.value_parameters = maker.value.parameters()

    def mini_batches(self, episodes: int, seed: int) -> list[Tensor]:
        """Rows of every optimiser step of one iteration, reshuffled in each pass over the rollout."""
        order = torch.Generator().manual_seed(seed)
        return [
            rows
            for _ in range(self.args.num_ppo_epochs)
            for rows in torch.randperm(episodes, generator=order).chunk(self.args.num_mini_batches)
        ]

    def gradients(self, experience: Experience, rows: Tensor) -> dict[str, Tensor]:
        """Add up the gradients of one mini-batch on all processes.

        Returns:
            scalars over all processes: losses (policy, value, ptx), clip fractions, the mean probability ratio.
        """
        shortest_first = rows[experience.sequences.attention_mask.sum(1).cpu()[rows].argsort(stable=True)]
        parts = [experience.take(part) for part in torch.split(shortest_first, self.args.per_device_train_batch_size)]
        tokens = self.reduce(experience.sequences.is_completion[rows].sum().float())
        totals: Totals = defaultdict(lambda: torch.zeros((), device=self.args.device))
        with self.stack.using("policy", trainable=True):
            for part in parts:
                self._policy_backward(part, tokens, totals)
            if self.ptx is not None:
                self._ptx_backward(self.ptx, totals)
        if self.maker.value.head is None:
            with self.stack.using("value", trainable=True):
                for part in parts:
                    (values,) = self.maker.value_pass(part.sequences)
                    self.accelerator.backward(self._value_loss(values, part, tokens, totals))
        self._sum_gradients()
        return {name: self.reduce(value) for name, value in totals.items()}

    def loss(self, figures: dict[str, Tensor]) -> Tensor:
        """The weighted sum of a mini-batch's losses."""
        parts = [figures["policy/loss"], self.args.vf_coef * figures["value/loss"]]
        if self.ptx is not None:
            parts.append(self.args.ptx_coef * figures["ptx/loss"])
        return torch.stack(parts).sum()

    def clip(self) -> Tensor:
        """Clip policy and value gradients apart, and return their joint norm before.

        Apart, because a value loss that runs away must not shrink the policy's step.
        """
        groups = (self.policy_parameters, self.value_parameters)
        norms = [nn.utils.clip_grad_norm_(group, self.args.max_grad_norm) for group in groups]
        total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total

    def norm(self) -> Tensor:
        """The joint norm of all gradients."""
        both = [*self.policy_parameters, *self.value_parameters]
        return nn.utils.get_total_norm([one.grad for one in both if one.grad is not None])

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Let activation checkpointing work, which acts on blocks in train mode only, without turning dropout on."""
        blocks = [module for module in self.stack.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        for block in blocks:
            block.training = bool(self.args.activation_checkpointing)
        try:
            yield
        finally:
            for block in blocks:
                block.training = False

    def _policy_backward(self, part: Experience, tokens: Tensor, totals: Totals) -> None:
        """The clipped surrogate loss of some rows; with a head on the trunk, the value loss in the same backward."""
        is_completion = part.sequences.is_completion
        logp, *of_head = self.maker.policy_pass(part.sequences)
        clipped = ppo_math.policy_loss(
            logp, part.logp, part.advantages, is_completion, cliprange=self.args.cliprange, tokens=tokens
        )
        loss = clipped.loss
        if of_head:
            loss = loss + self._value_loss(of_head[0], part, tokens, totals)
        self.accelerator.backward(loss)
        with torch.no_grad():
            ratio = ppo_math.probability_ratio(logp, part.logp, is_completion)
            totals["policy/loss"] += clipped.loss
            totals["policy/clip_fraction"] += clipped.clip_fraction
            totals["policy/ratio"] += ratio.masked_fill(~is_completion, 0).sum() / tokens

    def _value_loss(self, values: Tensor, part: Experience, tokens: Tensor, totals: Totals) -> Tensor:
        """The clipped value loss of some rows with its weight."""
        clipped = ppo_math.value_loss(
            values,
            part.values,
            part.returns,
            part.sequences.is_completion,
            cliprange=self.args.cliprange_value,
            tokens=tokens,
        )
        totals["value/loss"] += clipped.loss.detach()
        totals["value/clip_fraction"] += clipped.clip_fraction
        return self.args.vf_coef * clipped.loss

    def _ptx_backward(self, ptx: PtxStream, totals: Totals) -> None:
        """The language-model loss on the next blocks of text, in a backward of its own."""
        input_ids, attention_mask = ptx.take(self.args.ptx_batch_size)
        texts = every_token(input_ids, attention_mask)
        tokens = texts.is_completion.sum()
        mine = torch.arange(len(texts)).chunk(self.args.world_size)[self.args.process_index]
        for rows in torch.split(mine, self.args.per_device_train_batch_size):
            part = texts.take(rows).to(self.args.device)
            with self.accelerator.autocast():
                states = states_before_tokens(self.stack, part)
                loss = -token_log_probabilities(self.stack, states, part, temperature=1.0).sum() / tokens
            self.accelerator.backward(self.args.ptx_coef * loss)
            totals["ptx/loss"] += loss.detach()

    def _sum_gradients(self) -> None:
        """Add up the gradients of all processes; each loss was already divided by the tokens of all of them."""
        if self.accelerator.num_processes > 1:
            for parameter in [*self.policy_parameters, *self.value_parameters]:
                if parameter.grad is not None:
                    parameter.grad = self.reduce(parameter.grad)
