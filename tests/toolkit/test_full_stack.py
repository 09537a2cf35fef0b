import pytest
import torch
from stack_fakes import PEFT_WARNING, WORDS, base, batch, config, tokenizer
from test_ppo_trainer import RESUMABLE, ROWS, TEXTS, StopAfter, count_w7, history, low_words, measured, trainer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from tunewell.toolkit.errors import ModelError
from tunewell.toolkit.model.full_stack import FullStack

pytestmark = [pytest.mark.filterwarnings(PEFT_WARNING)]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def full_stack():
    made = FullStack(base(), tokenizer())
    made.copy("policy", "reference", trainable=False)
    torch.manual_seed(7)
    made.add("reward", LlamaForSequenceClassification(config()), trainable=False)
    made.set_bias("reward", 0.25)
    return made


def digests(made):
    return {name: made.digest(name) for name in made.names}


@pytest.mark.parametrize("value", ["adapter", "head"])
def test_whole_models_learn_and_reference_and_reward_stay(tmp_path, value):
    made = full_stack()
    before = digests(made)
    ppo = trainer(
        tmp_path, made, [(low_words, 1.0), ("reward", 0.1)], value=value, max_steps=8, rollout_batch_size=32,
        num_mini_batches=4, per_device_train_batch_size=8, response_length=8, learning_rate=4e-3,
        activation_checkpointing=True,
    )  # fmt: skip
    ppo.train()
    scores = history(ppo, "objective/score_low_words")
    assert sum(scores[-2:]) > sum(scores[:2]) + 0.6
    assert history(ppo, "objective/kl")[0] == pytest.approx(0, abs=1e-5)
    after = digests(made)
    assert {name for name in before if before[name] != after[name]} == {"policy"}
    assert ("value" in after) == (value == "adapter")
    assert not any("value_head" in name for name, _ in made.parameters("policy"))


def test_a_stopped_run_of_whole_models_goes_on_bit_for_bit(tmp_path):
    whole_stack, again_stack = full_stack(), full_stack()
    whole = trainer(tmp_path / "whole", whole_stack, ptx_dataset=TEXTS, reward="reward", **RESUMABLE)
    whole.train()
    stopped = trainer(
        tmp_path / "parts", full_stack(), ptx_dataset=TEXTS, reward="reward", callbacks=[StopAfter(2)], **RESUMABLE
    )
    stopped.train()
    again = trainer(tmp_path / "parts", again_stack, ptx_dataset=TEXTS, reward="reward", **RESUMABLE)
    again.train(resume_from_checkpoint=True)
    assert measured(again)[2:4] == measured(whole)[2:4]
    assert digests(again_stack) == digests(whole_stack)


def test_a_saved_role_is_a_plain_folder_and_comes_back_with_its_bias(tmp_path):
    made = full_stack()
    made.save("policy", tmp_path / "policy")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    ids, mask = batch()
    with torch.no_grad(), made.using("policy"):
        expected = made.logits(made.hidden(ids, mask))[1]
        torch.testing.assert_close(loaded(input_ids=ids).logits[1], expected, atol=1e-5, rtol=1e-5)
    made.save("reward", tmp_path / "reward")
    other = full_stack()
    other.set_bias("reward", 0.0)
    other.restore("reward", tmp_path / "reward")
    assert other.digest("reward") == made.digest("reward")


def test_roles_that_cannot_be_are_named(tmp_path):
    made = full_stack()
    with pytest.raises(ModelError, match="one and the same model for 'policy' and 'value'"):
        made.add("value", made.base, trainable=True)
    with pytest.raises(ModelError, match="'reward' is already in the stack"):
        made.add("reward", base(), trainable=False)
    other = LlamaForCausalLM(LlamaConfig(**(config().to_dict() | {"vocab_size": 2 * WORDS})))
    with pytest.raises(ModelError, match=r"vocabulary of 512 tokens, the policy one of 256.*RewardModel"):
        made.add("judge", other, trainable=False)
    with pytest.raises(ModelError, match=r"got role 'judge', wanted one of the stack's \(policy, reference, reward\)"):
        made.digest("judge")
    with pytest.raises(ModelError, match=r"without model\.safetensors"):
        made.restore("policy", tmp_path)
    made.save("reward", tmp_path / "reward")
    with pytest.raises(ModelError, match="are not those of a policy like this one"):
        made.restore("policy", tmp_path / "reward")
    with pytest.raises(ModelError, match="'policy' has no reward head"), made.using("policy"):
        made.score(*batch())
    with pytest.raises(ModelError, match="'reference' is missing"):
        trainer(tmp_path, FullStack(base(), tokenizer()), count_w7, rows=ROWS)
