"""Against numbers that TRL 1.12's PPOTrainer gave; `python bench/ppo_parity.py --write FILE` records them anew."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from stack_fakes import PEFT_WARNING
from torch import tensor
from tunewell.toolkit.ppo import math as ppo_math

ROOT = Path(__file__).resolve().parents[2]
RECORDED = json.loads((Path(__file__).parent / "trl_ppo_parity.json").read_text())

pytestmark = [pytest.mark.filterwarnings(PEFT_WARNING)]


@pytest.fixture
def parity(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")  # where a script finds what it imports
    return importlib.import_module("ppo_parity")


@pytest.mark.parametrize("case", ["full", "lora"])
def test_the_first_update_gives_the_numbers_of_trls_last_ppo_trainer(parity, case, tmp_path):
    theirs = RECORDED[case]
    assert len(set(map(len, theirs["prompts"]))) > 2  # padding and positions are put to the test
    assert abs(theirs["policy_losses"][1]) > 1e-3  # the second pass sees a policy that the first one has changed
    differences = parity.compare(case, theirs, tmp_path)
    assert {"logp", "values", "scores", "whitened", "returns", "policy_losses", "value_losses"} <= differences.keys()
    assert {name: value for name, value in differences.items() if value > 1e-4} == {}


def test_a_completion_that_ends_early_is_rated_one_token_later_by_trl_and_nothing_else_differs(parity):
    """TRL pays the score in the state behind the end token, ours at the end token, which is the last action."""
    theirs = RECORDED["ended"]
    lengths = tensor([len(ids) for ids in theirs["completions"]])
    assert lengths.min() < lengths.max() == parity.SETTINGS["response_length"]
    steps = torch.arange(parity.SETTINGS["response_length"])
    is_completion, is_rated = steps < lengths[:, None], steps <= lengths[:, None]
    logp, reference, values, scores = (tensor(theirs[name]) for name in ("logp", "logp_reference", "values", "scores"))
    ended = tensor([ids[-1] == parity.EOS for ids in theirs["completions"]])
    rewards = ppo_math.token_rewards(
        ppo_math.kl_k1(logp, reference, is_completion), scores, is_rated, ended, kl_coef=parity.SETTINGS["kl_coef"]
    )
    advantages, returns = ppo_math.advantages_and_returns(
        rewards, values, is_rated, gamma=parity.SETTINGS["gamma"], lam=parity.SETTINGS["lam"]
    )
    torch.testing.assert_close(rewards, tensor(theirs["rewards"]), atol=1e-4, rtol=0)
    torch.testing.assert_close(returns, tensor(theirs["returns"]), atol=1e-4, rtol=0)
    white = ppo_math.whiten(advantages, is_completion)
    torch.testing.assert_close(white, tensor(theirs["whitened"]), atol=1e-4, rtol=0)
