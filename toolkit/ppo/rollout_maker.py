"""The making of rollouts: the policy answers prompts, and each token of the answers gets its worth."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from ..model.generation import Completion, Sampling, generate
from ..model.roles import RoleStack
from . import math as ppo_math
from .config import PPOConfig
from .prompts import Prompt
from .rewards import WeightedReward, call_reward
from .roles import ValueFunction
from .rollout import Rollout
from .sequences import (
    Experience,
    Sequences,
    in_batches,
    join,
    log_probabilities_and_entropies,
    states_before_tokens,
    token_log_probabilities,
)
from .written_states import write_and_keep_states


class RolloutMaker:
    """Makes rollouts, one adapter at a time; its passes serve the updates too, so that both compute the same.

    Args:
        stack: with all roles.
        value: the value function.
        rewards: the terms of the reward.
        args: the settings.
        autocast: opens the context of mixed precision.
        reduce: sums a tensor over all processes.
    """

    def __init__(
        self,
        stack: RoleStack,
        value: ValueFunction,
        rewards: Sequence[WeightedReward],
        args: PPOConfig,
        autocast: Callable[[], AbstractContextManager[Any]],
        reduce: ppo_math.Reduce,
    ) -> None:
        self.stack = stack
        self.value = value
        self.rewards = rewards
        self.args = args
        self.autocast = autocast
        self.reduce = reduce
        self.sampling = Sampling(max_new_tokens=args.response_length, temperature=args.temperature, top_p=args.top_p)

    def make(self, prompts: Sequence[Prompt], seeds: Sequence[int], kl_coef: float) -> Rollout:
        """Let the policy answer, and work out what each token of the answers was worth.

        Args:
            prompts: B prompts of this process.
            seeds: B sampling seeds.
            kl_coef: the penalty on the KL divergence from the reference.
        """
        self.stack.model.eval()  # dropout here and another one in the update would pass for a change of the policy
        seconds: dict[str, float] = {}
        with _timed(seconds, "generate"):
            completions, states = self._answers(prompts, seeds)
        with _timed(seconds, "score"), torch.no_grad():
            padding = int(self.stack.tokenizer.pad_token_id or 0)
            sequences = join(prompts, completions, padding, self.args.device)
            logp, entropy, values = self._of_policy_and_value(sequences, states)
            terms = self._terms(prompts, completions, sequences)
            score = torch.stack([terms[term.name] * term.weight for term in self.rewards]).sum(0)
            kl = ppo_math.kl_k1(logp, self._of_reference(sequences), sequences.is_completion)
            experience = self._experience(sequences, completions, logp, values, score, kl, kl_coef)
        return Rollout(prompts, completions, score, terms, kl, entropy, experience, seconds)

    def policy_pass(self, sequences: Sequences) -> tuple[Tensor, ...]:
        """Log-probabilities (B, C) under the policy, and values (B, C) when their head sits on its trunk."""
        with self.autocast():
            states = states_before_tokens(self.stack, sequences)
            logp = token_log_probabilities(self.stack, states, sequences, self.args.temperature)
            return (logp,) if self.value.head is None else (logp, self.value(states))

    def value_pass(self, sequences: Sequences) -> tuple[Tensor]:
        """Values (B, C) under the value adapter."""
        with self.autocast():
            return (self.value(states_before_tokens(self.stack, sequences)),)

    def _answers(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> tuple[list[Completion], Tensor | None]:
        """Completions, and with `reuse_states` the states (B, C, H) from which they were written."""
        batch_size = self.args.local_rollout_forward_batch_size
        with self.autocast(), self.stack.using("policy", summed=True) as model:

            def write(rows: Sequence[int]) -> list[Completion]:
                return generate(
                    model,
                    self.stack.tokenizer,
                    [prompts[row].ids for row in rows],
                    self.sampling,
                    seeds=[seeds[row] for row in rows],
                    batch_size=batch_size,
                )

            if not self.args.reuse_states:
                return write(range(len(prompts))), None
            lengths = [len(prompt.ids) for prompt in prompts]
            return write_and_keep_states(self.stack.base.base_model, lengths, batch_size, write)

    def _of_policy_and_value(self, sequences: Sequences, written: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values, (B, C) each; `written` are states (B, C, H) known already."""
        batch_size, temperature = self.args.local_rollout_forward_batch_size, self.args.temperature

        def of_states(states: Tensor, part: Sequences) -> tuple[Tensor, ...]:
            logp, entropy = log_probabilities_and_entropies(self.stack, states, part, temperature)
            return (logp, entropy) if self.value.head is None else (logp, entropy, self.value(states))

        def score(part: Sequences) -> tuple[Tensor, ...]:
            return of_states(states_before_tokens(self.stack, part), part)

        with self.autocast(), self.stack.using("policy"):
            logp, entropy, *of_head = (
                in_batches(sequences, batch_size, score) if written is None else of_states(written, sequences)
            )
        if of_head:
            return logp, entropy, of_head[0].masked_fill(~sequences.is_completion, 0)
        with self.stack.using("value", summed=self.args.reuse_states):
            (values,) = in_batches(sequences, batch_size, self.value_pass)
        return logp, entropy, values

    def _of_reference(self, sequences: Sequences) -> Tensor:
        """Log-probabilities (B, C) under the reference."""

        def score(part: Sequences) -> tuple[Tensor]:
            states = states_before_tokens(self.stack, part)
            return (token_log_probabilities(self.stack, states, part, self.args.temperature),)

        with self.autocast(), self.stack.using("reference", summed=self.args.reuse_states):
            return in_batches(sequences, self.args.local_rollout_forward_batch_size, score)[0]

    def _terms(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], sequences: Sequences
    ) -> dict[str, Tensor]:
        """The terms of the reward (B,) each, before their weights."""

        def score(part: Sequences) -> tuple[Tensor]:
            return (self.stack.score(part.input_ids, part.attention_mask),)

        terms = {}
        for term in self.rewards:
            if isinstance(term.reward, str):
                with self.autocast(), self.stack.using(term.reward, summed=self.args.reuse_states):
                    (terms[term.name],) = in_batches(sequences, self.args.local_rollout_forward_batch_size, score)
            else:
                scores = call_reward(term.reward, prompts, completions)
                terms[term.name] = torch.tensor(scores, device=sequences.tokens.device)
        return terms

    def _experience(
        self,
        sequences: Sequences,
        completions: Sequence[Completion],
        logp: Tensor,
        values: Tensor,
        score: Tensor,
        kl: Tensor,
        kl_coef: float,
    ) -> Experience:
        """Rewards per token, advantages and returns."""
        args = self.args
        rewards = ppo_math.token_rewards(
            kl,
            score,
            sequences.is_completion,
            torch.tensor([completion.ended for completion in completions], device=kl.device),
            kl_coef=kl_coef,
            reward_clip=args.reward_clip,
            missing_eos_penalty=args.missing_eos_penalty,
        )
        advantages, returns = ppo_math.advantages_and_returns(
            rewards, values, sequences.is_completion, gamma=args.gamma, lam=args.lam
        )
        if args.whiten_advantages:
            advantages = ppo_math.whiten(advantages, sequences.is_completion, self.reduce)
        return Experience(sequences, logp, values, advantages, returns)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
