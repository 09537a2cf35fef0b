import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from tunewell.toolkit.ppo import math as ppo_math

# two completions, of three tokens and of two; the last cell is padding and holds rubbish that must not matter
IS_COMPLETION = tensor([[True, True, True], [True, True, False]])
RUBBISH = 1e4


def close(got, wanted):
    torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(wanted), atol=1e-6, rtol=1e-5)


def test_kl_is_the_difference_of_log_probabilities_at_completion_tokens():
    logp = tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, RUBBISH]])
    reference = tensor([[-1.5, -1.0, -3.0], [-2.0, -0.5, -RUBBISH]])
    close(ppo_math.kl_k1(logp, reference, IS_COMPLETION), tensor([[0.5, -1.0, 0.0], [1.0, -0.5, 0.0]]))


def test_the_score_enters_at_the_last_token_and_the_kl_penalty_at_every_one():
    kl = tensor([[0.5, -1.0, 0.0], [1.0, -0.5, 0.0]])
    score, has_ended = tensor([3.0, -4.0]), tensor([True, False])
    plain = ppo_math.token_rewards(kl, score, IS_COMPLETION, has_ended, kl_coef=0.1)
    close(plain, tensor([[-0.05, 0.1, 3.0], [-0.1, -3.95, 0.0]]))
    changed = ppo_math.token_rewards(
        kl, score, IS_COMPLETION, has_ended, kl_coef=0.1, reward_clip=2.0, missing_eos_penalty=1.0
    )
    # the clip comes first: min(3, 2) = 2 and max(-4, -2) = -2, then -1 where no end-of-sequence token came
    close(changed, tensor([[-0.05, 0.1, 2.0], [-0.1, -2.95, 0.0]]))


def test_advantages_and_returns_by_hand():
    rewards = tensor([[1.0, 0.0, 2.0], [0.5, -1.0, RUBBISH]])
    values = tensor([[0.5, 1.0, 1.5], [2.0, 1.0, RUBBISH]])
    advantages, returns = ppo_math.advantages_and_returns(rewards, values, IS_COMPLETION, gamma=0.9, lam=0.5)
    # row 0: delta = [1 + 0.9*1 - 0.5, 0 + 0.9*1.5 - 1, 2 - 1.5] = [1.4, 0.35, 0.5]; A_t = delta_t + 0.45 A_{t+1}
    # A_2 = 0.5; A_1 = 0.35 + 0.225 = 0.575; A_0 = 1.4 + 0.25875 = 1.65875
    # row 1: delta = [0.5 + 0.9*1 - 2, -1 - 1] = [-0.6, -2]; A_1 = -2; A_0 = -0.6 - 0.9 = -1.5
    close(advantages, tensor([[1.65875, 0.575, 0.5], [-1.5, -2.0, 0.0]]))
    close(returns, tensor([[2.15875, 1.575, 2.0], [0.5, -1.0, 0.0]]))


@given(st.integers(1, 6), st.floats(0.5, 1.0), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_with_lambda_one_returns_are_the_discounted_sums_of_rewards(length, gamma, seed):
    torch.manual_seed(seed)
    rewards, values = torch.randn(3, length, dtype=torch.double), torch.randn(3, length, dtype=torch.double)
    is_completion = torch.ones(3, length, dtype=torch.bool)
    _, returns = ppo_math.advantages_and_returns(rewards, values, is_completion, gamma=gamma, lam=1.0)
    discount = gamma ** torch.arange(length, dtype=torch.double)
    expected = torch.stack([(rewards[:, t:] * discount[: length - t]).sum(1) for t in range(length)], 1)
    torch.testing.assert_close(returns, expected)


def test_whitening_uses_counted_cells_alone_and_may_span_processes():
    x = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, RUBBISH]])
    white = ppo_math.whiten(x, IS_COMPLETION)
    # mean 3, unbiased variance (4 + 1 + 0 + 1 + 4) / 4 = 2.5
    close(white, tensor([[-2.0, -1.0, 0.0], [1.0, 2.0, 0.0]]) / math.sqrt(2.5))

    # two "processes", a row each, whose sums are added up by hand
    def shared(row):
        calls = iter(
            [
                lambda local: tensor([6.0 + 9.0, 3.0 + 2.0]),  # sum and count
                lambda local: tensor([6.0 + 9.0, 3.0 + 2.0]),
                lambda local: tensor([5.0 + 5.0, 5.0]),  # squared distances from 3: 4+1+0 and 1+4
            ]
        )
        return ppo_math.whiten(x[row : row + 1], IS_COMPLETION[row : row + 1], lambda local: next(calls)(local))

    close(torch.cat([shared(0), shared(1)]), white)
    close(ppo_math.whiten(tensor([[5.0]]), tensor([[True]])), tensor([[0.0]]))


def test_policy_loss_by_hand():
    logp_old = torch.zeros(2, 3)
    logp = tensor([[math.log(1.5), math.log(0.5), 0.0], [math.log(1.5), math.log(0.5), RUBBISH]])
    advantages = tensor([[1.0, 1.0, 2.0], [-1.0, -1.0, RUBBISH]])
    result = ppo_math.policy_loss(logp, logp_old, advantages, IS_COMPLETION, cliprange=0.2)
    # the larger of -1.5 and -1.2, of -0.5 and -0.8, then -2, the larger of 1.5 and 1.2, of 0.5 and 0.8
    close(result.loss, (-1.2 - 0.5 - 2.0 + 1.5 + 0.8) / 5)
    close(result.clip_fraction, 2 / 5)


def test_value_loss_by_hand():
    old = torch.zeros(2, 3)
    values = tensor([[0.1, 1.0, -1.0], [0.5, 0.0, RUBBISH]])
    returns = tensor([[1.0, 1.0, 1.0], [0.0, 2.0, -RUBBISH]])
    result = ppo_math.value_loss(values, old, returns, IS_COMPLETION, cliprange=0.2)
    # the larger of 0.81 and 0.81, of 0 and 0.64, of 4 and 1.44, of 0.25 and 0.04, of 4 and 4
    close(result.loss, 0.5 * (0.81 + 0.64 + 4.0 + 0.25 + 4.0) / 5)
    close(result.clip_fraction, 1 / 5)


def test_gradients_are_those_of_a_plain_reference_and_padding_gets_none():
    torch.manual_seed(0)
    logp_old, advantages, returns, old = (torch.randn(4, 5, dtype=torch.double) for _ in range(4))
    is_completion = torch.arange(5) < tensor([[5], [3], [1], [4]])
    logp = (logp_old + 0.3 * torch.randn(4, 5)).requires_grad_()
    values = (old + 0.3 * torch.randn(4, 5)).requires_grad_()
    ours = (
        ppo_math.policy_loss(logp, logp_old, advantages, is_completion, cliprange=0.2).loss
        + 0.1 * ppo_math.value_loss(values, old, returns, is_completion, cliprange=0.2).loss
    )
    got = torch.autograd.grad(ours, [logp, values])

    total = torch.zeros((), dtype=torch.double)
    for row, column in is_completion.nonzero().tolist():
        ratio = (logp[row, column] - logp_old[row, column]).exp()
        surrogate = torch.min(ratio * advantages[row, column], ratio.clamp(0.8, 1.2) * advantages[row, column])
        value, before, target = values[row, column], old[row, column], returns[row, column]
        near = torch.min(torch.max(value, before - 0.2), before + 0.2)
        total = total - surrogate + 0.05 * torch.max((value - target) ** 2, (near - target) ** 2)
    plain = total / is_completion.sum()
    close(ours, plain)
    for one, other in zip(got, torch.autograd.grad(plain, [logp, values]), strict=True):
        close(one, other)
        assert one[~is_completion].abs().max() == 0


def test_parts_of_a_batch_add_up_to_the_whole():
    torch.manual_seed(1)
    logp, old, advantages = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 3)
    whole = ppo_math.policy_loss(logp, old, advantages, IS_COMPLETION, cliprange=0.2)
    parts = [
        ppo_math.policy_loss(
            logp[row], old[row], advantages[row], IS_COMPLETION[row], cliprange=0.2, tokens=IS_COMPLETION.sum()
        )
        for row in ([0], [1])
    ]
    close(whole.loss, sum(part.loss for part in parts))
    close(whole.clip_fraction, sum(part.clip_fraction for part in parts))


def test_explained_variance_is_one_when_right_zero_at_the_mean_and_nan_without_variation():
    returns = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, RUBBISH]])
    close(ppo_math.explained_variance(returns, returns, IS_COMPLETION), 1.0)
    close(ppo_math.explained_variance(torch.full((2, 3), 3.0), returns, IS_COMPLETION), 0.0)
    close(ppo_math.explained_variance(returns / 2, returns, IS_COMPLETION), 0.75)
    assert ppo_math.explained_variance(returns, torch.ones(2, 3), IS_COMPLETION).isnan()


def test_entropy_of_a_fair_coin_is_log_two():
    close(ppo_math.entropy(tensor([[1.0, 1.0], [0.0, -200.0]])), tensor([math.log(2), 0.0]))


def test_the_adaptive_coefficient_follows_the_target_and_its_steps_are_bounded():
    step = {"target": 5.0, "horizon": 100.0, "episodes": 10}
    assert ppo_math.adapted_kl_coef(0.2, 5.5, **step) == pytest.approx(0.2 * (1 + 0.1 * 0.1))
    assert ppo_math.adapted_kl_coef(0.2, 50.0, **step) == pytest.approx(0.2 * (1 + 0.2 * 0.1))
    assert ppo_math.adapted_kl_coef(0.2, 0.0, **step) == pytest.approx(0.2 * (1 - 0.2 * 0.1))
    assert ppo_math.adapted_kl_coef(0.2, 50.0, **(step | {"target": None})) == 0.2
