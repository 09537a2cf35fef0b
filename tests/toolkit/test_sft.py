import dataclasses
import math
import random

import pytest
import torch
from datasets import Dataset
from stack_fakes import EOS, PEFT_WARNING, base, lora, reward_folder, stack, tokenizer
from transformers import EarlyStoppingCallback
from trl import SFTConfig
from tunewell.toolkit.errors import DataError, TrainingError
from tunewell.toolkit.files import read_json
from tunewell.toolkit.finite import largest_weight
from tunewell.toolkit.model.generation import Sampling
from tunewell.toolkit.model.stack import ModelStack
from tunewell.toolkit.ppo.prompts import tokenize_prompts
from tunewell.toolkit.sft.examples import completion_example, mixed_texts
from tunewell.toolkit.sft.trainer import FineTuner, RewardProbe

pytestmark = [
    pytest.mark.filterwarnings(PEFT_WARNING),
    # TRL asks transformers 5.23 for options under their old names
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
    # transformers' data loaders ask for pinned memory on a machine without a GPU
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]


def examples(count: int = 8, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        words = [f"w{rng.randrange(6, 200)}" for _ in range(rng.randrange(5, 12))]
        made.append(
            completion_example({"prompt": " ".join(words[:3]), "completion": " " + " ".join(words[3:])}, tokenizer())
        )
    return made


def tuner(folder, rows, *, made=None, probe=None, held_out=None, **settings) -> tuple[FineTuner, ModelStack]:
    if made is None:
        made = ModelStack(base(), tokenizer())
        torch.manual_seed(1)
        made.add("policy", lora(), trainable=True)
    arguments = SFTConfig(
        str(folder), report_to="none", use_cpu=True, disable_tqdm=True, max_length=64,
        **({"bf16": False, "save_strategy": "no", "gradient_checkpointing": False, "max_steps": 2} | settings),
    )  # fmt: skip
    trainer = FineTuner(
        model=made.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer(),
        probe=probe,
        row_numbers={tuple(row["input_ids"]): number for number, row in enumerate(rows)},
    )
    return trainer, made


# ---- examples ----------------------------------------------------------------------------------------------------


def test_the_loss_counts_the_completion_and_its_end_alone():
    made = completion_example({"prompt": "w6 w7", "completion": " w8"}, tokenizer())
    assert made == {"input_ids": [6, 7, 8, EOS], "labels": [-100, -100, 8, EOS]}


def test_of_a_chat_the_answer_counts_and_not_what_the_template_puts_before_it():
    prompt, completion = [{"role": "user", "content": "w6"}], [{"role": "assistant", "content": "w8"}]
    made = completion_example({"prompt": prompt, "completion": completion}, tokenizer())
    user, assistant = 3, 4
    assert made["input_ids"] == [user, 6, assistant, 8, EOS]
    assert made["labels"] == [-100, -100, -100, 8, EOS]


def test_a_tenth_of_all_rows_is_pretraining_text_cut_to_length_and_every_token_of_it_counts():
    texts = [" ".join(f"w{6 + (index + step) % 200}" for step in range(40)) for index in range(3)]
    made = mixed_texts(texts, tokenizer(), rows=90, share=0.1, length=16, seed=0)
    assert len(made) == 10
    assert {len(row["input_ids"]) for row in made} == {16}
    assert all(row["labels"] == row["input_ids"] for row in made)
    assert made == mixed_texts(texts, tokenizer(), rows=90, share=0.1, length=16, seed=0)
    assert made != mixed_texts(texts, tokenizer(), rows=90, share=0.1, length=16, seed=1)
    with pytest.raises(DataError, match=r"no text of two tokens or more among 1 documents .*sft\.ptx_share to 0"):
        mixed_texts([""], tokenizer(), rows=90, share=0.1, length=16, seed=0)


# ---- the trainer -------------------------------------------------------------------------------------------------


def test_packed_rows_do_not_see_each_other(tmp_path):
    rows = examples(6)
    losses = {}
    for packing in (False, True):
        trainer, _ = tuner(tmp_path, rows, packing=packing, per_device_train_batch_size=6)
        batch = next(iter(trainer.get_train_dataloader()))
        assert ("position_ids" in batch) == packing
        trainer.model.eval()
        with torch.no_grad():
            losses[packing] = trainer.compute_loss(trainer.model, batch).item()
    assert losses[True] == pytest.approx(losses[False], abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*use_reentrant.*:UserWarning")
def test_gradient_checkpointing_gives_the_same_training_and_bf16_nearly(tmp_path):
    def loss(**settings):
        trainer, _ = tuner(tmp_path, examples(), learning_rate=0.01, max_steps=3, logging_steps=3, **settings)
        trainer.train()
        return trainer.state.log_history[0]["loss"]

    plain = loss()
    assert loss(gradient_checkpointing=True) == pytest.approx(plain, rel=1e-5)
    assert loss(bf16=True) == pytest.approx(plain, rel=0.02)


class Scripted:
    """Stands in for the probe: a reward that rises and falls again."""

    def __init__(self, rewards):
        self.rewards = list(rewards)
        self.prompts = [None]

    def __call__(self, step):
        return {"eval_reward": self.rewards.pop(0)}


SELECTING = {"num_train_epochs": 4, "max_steps": -1, "eval_strategy": "epoch", "save_strategy": "epoch",
             "load_best_model_at_end": True, "metric_for_best_model": "eval_reward", "greater_is_better": True,
             "save_total_limit": 2, "learning_rate": 0.01, "per_device_train_batch_size": 4}  # fmt: skip


def test_the_checkpoint_of_highest_reward_is_kept_and_both_curves_are_logged(tmp_path):
    trainer, made = tuner(
        tmp_path, examples(), probe=Scripted([0.1, 0.9, 0.5, 0.2]), held_out=examples(4, seed=9), **SELECTING
    )
    seen = {}
    trainer.add_callback(_digests(made, seen))
    trainer.train()
    log = trainer.state.log_history
    assert [entry["eval_reward"] for entry in log if "eval_reward" in entry] == [0.1, 0.9, 0.5, 0.2]
    assert len([entry for entry in log if "eval_loss" in entry]) == 4
    assert trainer.state.best_global_step == 4 and made.digest("policy") == seen[4]
    assert len(set(seen.values())) == 4


def test_training_goes_on_to_its_last_epoch_though_reward_and_loss_grow_worse(tmp_path):
    learnt, held_out = ([completion_example({"prompt": "w6", "completion": word * 4}, tokenizer())] * 8
                        for word in (" w7", " w8"))  # fmt: skip
    trainer, _ = tuner(tmp_path, learnt, probe=Scripted([0.9, 0.5, 0.2, 0.1]), held_out=held_out, **SELECTING)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses == sorted(losses) and losses[0] < losses[-1]  # each word that is learnt makes the other less likely
    assert trainer.state.epoch == 4 and trainer.state.best_global_step == 2
    assert not [one for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]


def _digests(made, seen):
    from transformers import TrainerCallback

    class Digests(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            seen[state.global_step] = made.digest("policy")

    return Digests()


def test_a_training_that_was_stopped_ends_with_the_same_best_checkpoint(tmp_path):
    held_out = examples(4, seed=9)
    whole, first = tuner(
        tmp_path / "run", examples(), probe=Scripted([0.1, 0.9, 0.5, 0.7]), held_out=held_out, **SELECTING
    )
    whole.train()
    again, second = tuner(tmp_path / "run", examples(), probe=Scripted([]), held_out=held_out, **SELECTING)
    from tunewell.pipelines.training import go_on

    go_on(again, tmp_path / "run" / "checkpoint-8")  # killed behind its last checkpoint, before it took the best
    assert second.digest("policy") == first.digest("policy")


def test_the_probe_scores_answers_of_the_policy_by_the_reward_adapter_and_leaves_everything_as_it_was(tmp_path):
    made = stack(tmp_path)
    prompts = tokenize_prompts([{"prompt": f"w{n} w{n + 1}"} for n in range(10, 18)], tokenizer(), None)
    probe = RewardProbe(stack=made, prompts=prompts, sampling=Sampling(max_new_tokens=8))
    with made.using("policy", trainable=True):
        trained = [name for name, weight in made.model.named_parameters() if weight.requires_grad]
        first = probe(0)
        assert made.active == "policy"
        assert [name for name, weight in made.model.named_parameters() if weight.requires_grad] == trained
        assert probe(0) == first
    made.set_bias("reward", 2.0)
    assert probe(0)["eval_reward"] == pytest.approx(first["eval_reward"] - 2.0)
    several = dataclasses.replace(probe, samples=3, folder=tmp_path / "kept")
    found = several(7)
    rewards = read_json(tmp_path / "kept" / "7.json")["rewards"]
    assert len(rewards) == 8 and sum(rewards) / 8 == pytest.approx(found["eval_reward"])
    assert found["eval_reward_error"] < first["eval_reward_error"]
    assert first["eval_reward_error"] > 0 and 0 < first["eval_answer_tokens"] <= 8


def test_selection_works_with_a_real_reward_adapter_in_the_stack(tmp_path):
    made = ModelStack(base(), tokenizer())
    torch.manual_seed(1)
    made.add("policy", lora(), trainable=True)
    folder, _ = reward_folder(base(), tmp_path / "reward")
    made.load("reward", folder)
    before = made.digest("reward")
    prompts = tokenize_prompts([{"prompt": "w6 w7"}, {"prompt": "w9"}], tokenizer(), None)
    probe = RewardProbe(stack=made, prompts=prompts, sampling=Sampling(max_new_tokens=4))
    with made.using("policy", trainable=True):
        trainer, _ = tuner(tmp_path / "run", examples(), made=made, probe=probe, held_out=examples(4, seed=9),
                           **(SELECTING | {"num_train_epochs": 2}))  # fmt: skip
        trainer.train()
    rewards = [entry["eval_reward"] for entry in trainer.state.log_history if "eval_reward" in entry]
    assert trainer.state.best_metric == max(rewards)
    assert made.digest("reward") == before


@pytest.mark.parametrize("packing", [False, True])
def test_a_loss_that_is_not_a_number_names_the_rows_also_when_they_are_packed(tmp_path, packing):
    rows = examples(4)
    trainer, made = tuner(tmp_path, rows, packing=packing, per_device_train_batch_size=4)
    before = made.digest("policy")

    def broken(module, inputs, output):
        return output * math.nan

    hook = made.base.get_input_embeddings().register_forward_hook(broken)
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan on rows .*0.* \(counting from 0\): 'w\d+"):
        trainer.train()
    hook.remove()
    assert made.digest("policy") == before


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path):
    trainer, made = tuner(tmp_path, examples(4))
    before = made.digest("policy")
    _name, weight = made.parameters("policy")[0]
    weight.register_hook(lambda gradient: gradient * math.inf)
    wanted = r"its gradient is not finite on rows .*All weights are finite, the largest is .*look at these rows first"
    with pytest.raises(TrainingError, match=wanted):
        trainer.train()
    assert made.digest("policy") == before


def test_a_learning_rate_that_blew_the_weights_up_is_not_blamed_on_the_rows(tmp_path):
    trainer, _ = tuner(tmp_path, examples(4), learning_rate=1e30, max_steps=4, optim="sgd", max_grad_norm=0)
    wanted = r"All weights are finite, but the largest is .*e\+\d+, so an earlier step was too big"
    with pytest.raises(TrainingError, match=wanted):
        trainer.train()


def test_packed_bytes_of_a_4_bit_base_are_no_weights_that_blew_up():
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[0.5, -0.75]])
    model.packed = torch.nn.Parameter(torch.tensor([255], dtype=torch.uint8), requires_grad=False)
    assert largest_weight(model) == 0.75


def test_nothing_is_reported_home_unless_it_is_asked_for(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **what: sent.append(what))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    tuner(tmp_path, examples(2))
    assert sent == []
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    tuner(tmp_path, examples(2))
    assert len(sent) == 1  # the control: TRL would have
