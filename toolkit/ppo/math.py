"""The formulas of PPO for language models, as pure functions of tensors.

Shapes: B completions of up to C tokens. `is_completion` (B, C) is True at generated tokens, the end-of-sequence token
included, and False at padding behind them; every row has at least one True and its True cells come first.
Log-probabilities are natural logarithms.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes."""


@dataclass(frozen=True)
class ClippedLoss:
    """A clipped PPO loss and how often the clip was at work."""

    loss: Tensor
    """Scalar with gradient."""
    clip_fraction: Tensor
    """Scalar: share of the tokens at which the clipped term is the larger one."""


def kl_k1(logp: Tensor, logp_reference: Tensor, is_completion: Tensor) -> Tensor:
    """Per-token KL estimate of the policy from the reference, kl_t = log pi(a_t) - log pi_ref(a_t).

    Its mean over samples of the policy is the KL divergence; a single value may be negative. This is the k1 estimator
    of http://joschu.net/blog/kl-approx.html and the penalty of https://arxiv.org/abs/1909.08593.

    Args:
        logp: (B, C) under the policy that sampled.
        logp_reference: (B, C) under the reference.
        is_completion: (B, C).

    Returns:
        (B, C), zero at padding.
    """
    return (logp - logp_reference).masked_fill(~is_completion, 0.0)


def token_rewards(
    kl: Tensor,
    score: Tensor,
    is_completion: Tensor,
    has_ended: Tensor,
    *,
    kl_coef: float,
    reward_clip: float | None = None,
    missing_eos_penalty: float | None = None,
) -> Tensor:
    """Reward of each token: r_t = -beta * kl_t, and at the last token also clip(score) - penalty * [did not end].

    The bandit episode of https://arxiv.org/abs/2203.02155, section 3.5: one prompt, one completion, one score.

    Args:
        kl: (B, C) from `kl_k1`.
        score: (B,) reward of the whole completion, its bias already subtracted.
        is_completion: (B, C).
        has_ended: (B,) True where the completion emitted an end-of-sequence token.
        kl_coef: beta.
        reward_clip: scores are clipped to plus or minus this; None does not clip.
        missing_eos_penalty: taken off where the completion did not end; None takes nothing off.

    Returns:
        (B, C), zero at padding.
    """
    if reward_clip is not None:
        score = score.clamp(-reward_clip, reward_clip)
    if missing_eos_penalty is not None:
        score = score - missing_eos_penalty * (~has_ended).to(score.dtype)
    rewards = -kl_coef * kl
    last = is_completion.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, score.to(rewards.dtype)[:, None])


def advantages_and_returns(
    rewards: Tensor, values: Tensor, is_completion: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation, https://arxiv.org/abs/1506.02438.

    delta_t = r_t + gamma * V_{t+1} - V_t, with V = 0 after the last token;
    A_t = delta_t + gamma * lam * A_{t+1};  R_t = A_t + V_t.

    Args:
        rewards: (B, C) from `token_rewards`.
        values: (B, C), V(s_t) in the state before token t.
        is_completion: (B, C).
        gamma: discount.
        lam: lambda.

    Returns:
        Advantages (B, C), not whitened, and returns (B, C), both zero at padding.
    """
    values = values.masked_fill(~is_completion, 0.0)
    rewards = rewards.masked_fill(~is_completion, 0.0)
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(running)
    for t in reversed(range(values.shape[1])):
        # at padding reward and values are zero, so the recursion enters the last token with A = V = 0
        running = rewards[:, t] + gamma * following - values[:, t] + gamma * lam * running
        following = values[:, t]
        advantages[:, t] = running
    return advantages, advantages + values


def masked_mean(x: Tensor, is_counted: Tensor, reduce: Reduce | None = None) -> Tensor:
    """Mean of x (any shape) over the cells where `is_counted` is True, on all processes when `reduce` is given."""
    total = torch.stack([x.masked_fill(~is_counted, 0.0).sum(), is_counted.sum().to(x.dtype)])
    total = reduce(total) if reduce else total
    return total[0] / total[1]


def masked_variance(x: Tensor, is_counted: Tensor, reduce: Reduce | None = None) -> Tensor:
    """Unbiased variance of x over the cells where `is_counted` is True; zero when there is only one."""
    squares = (x - masked_mean(x, is_counted, reduce)).square().masked_fill(~is_counted, 0.0)
    total = torch.stack([squares.sum(), is_counted.sum().to(x.dtype)])
    total = reduce(total) if reduce else total
    return total[0] / (total[1] - 1).clamp(min=1)


def whiten(x: Tensor, is_counted: Tensor, reduce: Reduce | None = None) -> Tensor:
    """Shift and scale x (B, C) to mean zero and deviation one: (x - mean) / (std + 1e-8) over the counted cells.

    Args:
        x: (B, C), for instance advantages.
        is_counted: (B, C).
        reduce: sums over processes, so that all of them whiten with the same mean and deviation.

    Returns:
        (B, C), zero where not counted.
    """
    mean = masked_mean(x, is_counted, reduce)
    deviation = masked_variance(x, is_counted, reduce).sqrt()
    return ((x - mean) / (deviation + 1e-8)).masked_fill(~is_counted, 0.0)


def policy_loss(
    logp: Tensor,
    logp_old: Tensor,
    advantages: Tensor,
    is_completion: Tensor,
    *,
    cliprange: float,
    tokens: Tensor | float | None = None,
) -> ClippedLoss:
    """Clipped surrogate loss, https://arxiv.org/abs/1707.06347 equation 7, as a loss to be minimised.

    rho = exp(logp - logp_old);  L = mean max(-A * rho, -A * clip(rho, 1 - eps, 1 + eps)).

    Args:
        logp: (B, C) under the policy being trained, with gradient.
        logp_old: (B, C) under the policy that sampled.
        advantages: (B, C).
        is_completion: (B, C).
        cliprange: eps.
        tokens: what the sums are divided by; None is this batch's own count. Parts of a larger batch give the count of
            the whole, so that the parts' losses and gradients add up to those of the whole.
    """
    ratio = probability_ratio(logp, logp_old, is_completion)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return _clipped_mean(plain, clipped, is_completion, tokens)


def probability_ratio(logp: Tensor, logp_old: Tensor, is_completion: Tensor) -> Tensor:
    """Ratio of new to old probability, rho = exp(logp - logp_old), (B, C); one at padding."""
    # the mask comes before exp, so that padding can neither overflow nor send a NaN backwards
    return (logp - logp_old).masked_fill(~is_completion, 0.0).exp()


def value_loss(
    values: Tensor,
    values_old: Tensor,
    returns: Tensor,
    is_completion: Tensor,
    *,
    cliprange: float,
    tokens: Tensor | float | None = None,
) -> ClippedLoss:
    """Clipped value loss: Vc = V_old + clip(V - V_old, -c, c);  L = 0.5 * mean max((V - R)^2, (Vc - R)^2).

    Args:
        values: (B, C) of the value function being trained, with gradient.
        values_old: (B, C) at rollout time.
        returns: (B, C).
        is_completion: (B, C).
        cliprange: c.
        tokens: as in `policy_loss`.
    """
    near = values_old + (values - values_old).clamp(-cliprange, cliprange)
    result = _clipped_mean((values - returns).square(), (near - returns).square(), is_completion, tokens)
    return ClippedLoss(0.5 * result.loss, result.clip_fraction)


def _clipped_mean(plain: Tensor, clipped: Tensor, is_counted: Tensor, tokens: Tensor | float | None) -> ClippedLoss:
    count = is_counted.sum() if tokens is None else tokens
    loss = torch.max(plain, clipped).masked_fill(~is_counted, 0.0).sum() / count
    clip_fraction = ((clipped > plain) & is_counted).sum() / count
    return ClippedLoss(loss, clip_fraction)


def explained_variance(values: Tensor, returns: Tensor, is_completion: Tensor, reduce: Reduce | None = None) -> Tensor:
    """1 - Var(R - V) / Var(R) over the completion tokens; NaN, not measured, when the returns do not vary."""
    total = masked_variance(returns, is_completion, reduce)
    rest = masked_variance(returns - values, is_completion, reduce)
    return torch.where(total > 0, 1 - rest / total, torch.full_like(total, torch.nan))


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the softmax of logits (..., V): H = log Z - sum p * logit, shape (...)."""
    return torch.logsumexp(logits, -1) - (logits.softmax(-1) * logits).sum(-1)


def adapted_kl_coef(kl_coef: float, kl: float, *, target: float | None, horizon: float, episodes: int) -> float:
    """One step of the adaptive KL controller, https://arxiv.org/abs/1909.08593 section 2.2.

    e = clip(kl / target - 1, -0.2, 0.2);  beta <- beta * (1 + e * n / horizon).

    Args:
        kl_coef: beta.
        kl: measured KL per sequence, in nats.
        target: wanted KL per sequence, in nats; None keeps beta fixed.
        horizon: episodes over which beta would change by a factor of about 1 + e.
        episodes: n, episodes since the last step.
    """
    if target is None:
        return kl_coef
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)
