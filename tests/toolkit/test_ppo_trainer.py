import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stack_fakes import PEFT_WARNING, WINDOW, base, lora, reward_folder, stack, tokenizer
from transformers import BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, TrainerCallback
from tunewell.toolkit.checkpoints import is_complete, last_complete
from tunewell.toolkit.errors import DataError, ModelError, RunError, SettingsError
from tunewell.toolkit.model.stack import ModelStack
from tunewell.toolkit.ppo.config import PPOConfig
from tunewell.toolkit.ppo.sequences import Sequences
from tunewell.toolkit.ppo.trainer import PPOTrainer

pytestmark = [pytest.mark.filterwarnings(PEFT_WARNING)]

ROWS = [{"prompt": f"<bos> w{10 + i}" + " w9" * (i % 3)} for i in range(32)]
TEXTS = [{"text": " ".join(f"w{60 + (i + j) % 20}" for j in range(8))} for i in range(20)]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def count_w7(prompts, completions, **columns):
    return [float(text.split().count("w7")) for text in completions]


def odd_words(prompts, completions, **columns):
    """Varies from completion to completion, so every step has gradients."""
    return [sum(int(word[1:]) % 2 for word in text.split() if word[0] == "w") / 4 for text in completions]


def low_words(prompts, completions, **columns):
    """How many words come from the first seventh of the vocabulary."""
    return [float(sum(int(word[1:]) < 40 for word in text.split() if word[0] == "w")) for text in completions]


def trainer(
    folder, made=None, reward=odd_words, rows=ROWS, callbacks=None, ptx_dataset=None, eval_dataset=None, **args
):
    settings = {
        "output_dir": str(folder / "out"),
        "max_steps": 2,
        "rollout_batch_size": 16,
        "num_mini_batches": 2,
        "per_device_train_batch_size": 4,
        "response_length": 6,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_rollouts": False,
    }
    return PPOTrainer(
        made or stack(folder),
        PPOConfig(**(settings | args)),
        rows,
        reward,
        ptx_dataset=ptx_dataset,
        eval_dataset=eval_dataset,
        callbacks=callbacks,
    )


def history(ppo, name):
    return [entry[name] for entry in ppo.state.log_history if name in entry]


def digests(made):
    return {name: made.digest(name) for name in made.names}


# ---- does it learn? ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["adapter", "head"])
def test_ppo_raises_a_wanted_word_and_leaves_reference_and_reward_alone(tmp_path, value):
    made = stack(tmp_path)
    before = digests(made)
    ppo = trainer(
        tmp_path, made, count_w7, value=value, max_steps=20, rollout_batch_size=32, num_mini_batches=4,
        per_device_train_batch_size=8, response_length=8,
    )  # fmt: skip
    start = digests(made)
    ppo.train()
    scores = history(ppo, "objective/score")
    assert sum(scores[:3]) / 3 < 0.2
    assert sum(scores[-3:]) / 3 > 3
    after = digests(made)
    for name in ("reference", "reward"):
        assert after[name] == before[name]
    assert after["policy"] != before["policy"]
    if value == "adapter":
        assert after["value"] != start["value"]
    else:
        assert ppo.value.head.weight.abs().max() > 0
    assert history(ppo, "objective/kl")[0] == pytest.approx(0, abs=1e-5)
    assert history(ppo, "objective/kl")[-1] > 5


def test_a_larger_kl_coefficient_keeps_the_policy_nearer_to_the_reference(tmp_path):
    def last_kl(kl_coef):
        ppo = trainer(
            tmp_path, None, count_w7, max_steps=14, rollout_batch_size=32, num_mini_batches=4, response_length=8,
            kl_coef=kl_coef, value="head", per_device_train_batch_size=8,
        )  # fmt: skip
        ppo.train()
        return history(ppo, "objective/kl")[-1]

    assert last_kl(1.0) < 0.2 * last_kl(0.0)


def test_the_reward_adapter_serves_as_reward_and_as_the_start_of_the_value_function(tmp_path):
    made = stack(tmp_path, bias=0.75)
    ppo = trainer(tmp_path, made, "reward", max_steps=8, rollout_batch_size=32, value_learning_rate=1e-3)
    assert made.bias("value") == 0.75
    assert made.digest("value") == made.digest("reward")
    ppo.train()
    scores = history(ppo, "objective/score")
    assert sum(scores[-2:]) > sum(scores[:2]) + 0.2


@pytest.mark.parametrize("value", ["adapter", "head"])
def test_recomputing_activations_changes_no_number(tmp_path, value):
    runs = []
    for checkpointing in (False, True):
        made = stack(tmp_path)
        ppo = trainer(tmp_path, made, value=value, activation_checkpointing=checkpointing, num_ppo_epochs=2)
        ppo.train()
        runs.append((history(ppo, "loss"), [p.detach().clone() for _, p in made.parameters("policy")]))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-4)
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


# bitsandbytes reads single-element tensors that require gradients as numbers while it quantises
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
@pytest.mark.parametrize("value", [pytest.param("adapter", marks=pytest.mark.slow), "head"])
def test_ppo_learns_on_a_four_bit_base(tmp_path, value):
    base().save_pretrained(tmp_path / "base")
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = LlamaForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=four_bit, dtype=torch.float32,
        device_map="cpu",  # where `trainer` computes; bitsandbytes would take a GPU
    )  # fmt: skip
    made = ModelStack(model, tokenizer())
    reward_folder(base(), tmp_path / "reward")
    torch.manual_seed(1)
    made.add("policy", lora(), trainable=True)
    made.copy("policy", "reference", trainable=False)
    made.load("reward", tmp_path / "reward")
    ppo = trainer(
        tmp_path, made, low_words, value=value, max_steps=16, rollout_batch_size=32, num_mini_batches=4,
        activation_checkpointing=True,
    )  # fmt: skip
    ppo.train()
    scores = history(ppo, "objective/score")
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.5


# ---- is it PPO? --------------------------------------------------------------------------------------------------


def test_before_the_first_update_every_probability_ratio_is_one_even_with_dropout_in_the_adapter(tmp_path):
    made = stack(tmp_path)
    made.delete("policy")
    made.add("policy", lora(lora_dropout=0.5, init_lora_weights=False), trainable=True)
    ppo = trainer(tmp_path, made, temperature=0.7)
    rollout = ppo.maker.make(ppo.train_dataset[:8], list(range(8)), 0.02)
    with made.using("policy", trainable=True), ppo.updater.recomputing():
        for rows in torch.arange(8).split(4):
            part = rollout.experience.take(rows)
            (logp,) = ppo.maker.policy_pass(part.sequences)
            assert logp.requires_grad
            torch.testing.assert_close(logp, part.logp, atol=2e-6, rtol=0)
    assert rollout.kl.abs().max() > 0.01  # the policy is not the reference, so the numbers are not trivial


def test_log_probabilities_values_and_scores_are_those_of_plain_forward_passes(tmp_path):
    made = stack(tmp_path, bias=0.5)
    ppo = trainer(tmp_path, made, "reward", temperature=0.7, local_rollout_forward_batch_size=3)
    rollout = ppo.maker.make(ppo.train_dataset[:8], list(range(8)), 0.02)
    experience = rollout.experience
    for row, (prompt, completion) in enumerate(zip(rollout.prompts, rollout.completions, strict=True)):
        ids = torch.tensor([prompt.ids + completion.ids])
        start, length = len(prompt.ids), len(completion.ids)
        with torch.no_grad(), made.using("policy") as model:
            logits = model(input_ids=ids).logits[0, start - 1 : -1] / 0.7
        logp = logits.log_softmax(-1)[torch.arange(length), completion.ids]
        torch.testing.assert_close(experience.logp[row, :length], logp, atol=1e-5, rtol=1e-5)
        assert experience.logp[row, length:].abs().sum() == 0
        probabilities = logits.softmax(-1)
        entropy = -(probabilities * probabilities.log()).sum(-1)
        torch.testing.assert_close(rollout.entropy[row, :length], entropy, atol=1e-5, rtol=1e-5)
        with torch.no_grad(), made.using("reward"):
            scores = made.head(made.hidden(ids, torch.ones_like(ids)))[0] - 0.5
        torch.testing.assert_close(rollout.score[row], scores[-1], atol=1e-5, rtol=1e-5)
        # the fresh value adapter is the reward model, read where each token is about to be written
        torch.testing.assert_close(experience.values[row, :length], scores[start - 1 : -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("value", ["adapter", "head"])
def test_states_left_by_generation_give_the_numbers_of_a_pass_of_their_own(tmp_path, value):
    def rollout(reuse_states):
        made = stack(tmp_path / str(reuse_states))
        ppo = trainer(
            tmp_path, made, "reward", value=value, reuse_states=reuse_states, local_rollout_forward_batch_size=7,
            response_length=16, temperature=0.7,
        )  # fmt: skip
        if value == "head":
            torch.nn.init.constant_(ppo.value.head.weight, 0.1)
        return ppo.maker.make(ppo.train_dataset[:24], list(range(24)), 0.02)

    passed, reused = rollout(False), rollout(True)
    lengths = [len(completion.ids) for completion in passed.completions]
    assert [completion.ids for completion in reused.completions] == [one.ids for one in passed.completions]
    assert len(set(lengths)) > 1  # completions that ended leave states behind that are nobody's
    for name in ("logp", "values", "advantages", "returns"):
        one, other = (getattr(made.experience, name) for made in (reused, passed))
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    for name in ("score", "kl", "entropy"):
        torch.testing.assert_close(getattr(reused, name), getattr(passed, name), atol=2e-5, rtol=1e-4)


def test_ppo_runs_on_a_model_with_learned_positions_and_dropout_of_its_own(tmp_path):
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_embd=64, n_layer=2, n_head=2, n_positions=WINDOW))
    made = ModelStack(gpt, tokenizer())
    made.add("policy", lora(target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False), trainable=True)
    made.copy("policy", "reference", trainable=False)
    ppo = trainer(tmp_path, made, activation_checkpointing=True)
    made.model.train()
    rollout = ppo.maker.make(ppo.train_dataset[:8], list(range(8)), 0.02)
    assert rollout.kl.abs().max() < 1e-4
    with made.using("policy", trainable=True), ppo.updater.recomputing():
        (logp,) = ppo.maker.policy_pass(rollout.experience.sequences)
        torch.testing.assert_close(logp, rollout.experience.logp, atol=1e-4, rtol=0)
    ppo.train()


def test_the_gradient_of_a_mini_batch_does_not_depend_on_how_it_is_cut_into_micro_batches(tmp_path):
    def gradient(size):
        made = stack(tmp_path)
        ppo = trainer(tmp_path, made, per_device_train_batch_size=size, num_mini_batches=1)
        rollout = ppo.maker.make(ppo.train_dataset[:16], list(range(16)), 0.02)
        ppo.updater.gradients(rollout.experience, torch.randperm(16))
        pairs = [*made.parameters("policy"), *made.parameters("value")]
        return {name: parameter.grad.clone() for name, parameter in pairs}

    whole, parts = gradient(16), gradient(2)
    assert max(gradient.norm() for gradient in whole.values()) > 0.01
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, atol=1e-5, rtol=1e-3)


def test_long_completions_are_cut_into_chunks_without_a_change(tmp_path, monkeypatch):
    def run():
        ppo = trainer(tmp_path)
        ppo.train()
        return history(ppo, "loss")

    whole = run()
    monkeypatch.setattr("tunewell.toolkit.ppo.sequences.CHUNK", 5)
    assert run() == pytest.approx(whole, rel=1e-4)


def test_the_trainers_step_count_schedule_and_logs_mean_iterations(tmp_path):
    class Count(TrainerCallback):
        steps = 0

        def on_optimizer_step(self, *args, **kwargs):
            Count.steps += 1

    ppo = trainer(tmp_path, max_steps=4, warmup_steps=2, callbacks=[Count()], num_ppo_epochs=2)
    ppo.train()
    assert ppo.state.global_step == 4
    assert Count.steps == 4
    assert history(ppo, "learning_rate") == pytest.approx([1e-3, 5.5e-3, 1e-2, 1e-2])
    state = ppo.optimizer.state_dict()["state"]
    assert {int(entry["step"]) for entry in state.values()} == {4 * 2 * 2}
    logged = next(entry for entry in ppo.state.log_history if "loss" in entry)
    names = {
        "objective": "score score_std kl kl_per_token kl_coef entropy",
        "policy": "loss clip_fraction ratio",
        "value": "loss clip_fraction explained_variance",
        "completion": "length ended",
        "seconds": "generate score update",
    }
    assert {f"{group}/{name}" for group, given in names.items() for name in given.split()} <= logged.keys()
    assert {"grad_norm", "learning_rate"} <= logged.keys()


def test_value_and_policy_may_have_learning_rates_of_their_own(tmp_path):
    made = stack(tmp_path)
    ppo = trainer(tmp_path, made, value_learning_rate=1e-9)
    before = {name: [p.detach().clone() for _, p in made.parameters(name)] for name in ("value", "policy")}
    ppo.train()

    def moved(name):
        after = [p.detach() for _, p in made.parameters(name)]
        return max(float((a - b).abs().max()) for a, b in zip(before[name], after, strict=True))

    assert moved("value") < 1e-7
    assert moved("policy") > 1e-3


def test_ptx_keeps_the_loss_on_its_texts_down(tmp_path):
    def loss_on_texts(**args):
        made = stack(tmp_path)
        trainer(tmp_path, made, count_w7, max_steps=12, value="head", response_length=8, **args).train()
        ids = torch.tensor([tokenizer()(row["text"])["input_ids"] for row in TEXTS])
        with torch.no_grad(), made.using("policy") as model:
            return float(model(input_ids=ids, labels=ids).loss)

    without = loss_on_texts()
    with_ptx = loss_on_texts(ptx_coef=1.0, ptx_batch_size=4, ptx_block_size=16, ptx_dataset=TEXTS)
    assert with_ptx < without - 0.5


def test_the_adaptive_coefficient_moves_and_the_fixed_one_stays(tmp_path):
    fixed = trainer(tmp_path, max_steps=3)
    fixed.train()
    assert history(fixed, "objective/kl_coef") == [0.02] * 3
    adaptive = trainer(tmp_path, max_steps=3, kl_target=100.0, kl_horizon=160)
    adaptive.train()
    # far below the target, each iteration of 16 episodes takes a fifth of 16 / 160 off
    assert history(adaptive, "objective/kl_coef") == pytest.approx([0.02, 0.02 * 0.98, 0.02 * 0.98**2])


def test_the_moving_average_replaces_the_policy_at_the_end(tmp_path):
    slow, plain = (stack(tmp_path) for _ in range(2))
    start = [p.detach().clone() for _, p in plain.parameters("policy")]
    trainer(tmp_path, slow, ema_decay=0.999, max_steps=1).train()
    trainer(tmp_path, plain, max_steps=1).train()

    def moved(made):
        after = [p.detach() for _, p in made.parameters("policy")]
        return max(float((a - b).abs().max()) for a, b in zip(start, after, strict=True))

    assert 0 < moved(slow) < 0.01 * moved(plain)


def test_rewards_add_up_with_their_weights_and_see_the_other_columns(tmp_path):
    seen = {}

    def columns(prompts, completions, tag, **rest):
        seen.update(prompts=prompts, tag=tag, rest=rest)
        return torch.arange(len(prompts), dtype=torch.float32)

    rows = [{"prompt": [{"role": "user", "content": f"w{10 + i}"}], "tag": i, "other": None} for i in range(16)]
    made = stack(tmp_path)
    ppo = trainer(tmp_path, made, [(columns, 2.0), ("reward", -1.0), (columns, 0.5)], rows=rows)
    rollout = ppo.maker.make(ppo.train_dataset, list(range(16)), 0.0)
    expected = 2.5 * torch.arange(16) - rollout.terms["reward"]
    torch.testing.assert_close(rollout.score, expected)
    assert set(rollout.terms) == {"columns", "reward", "columns-2"}
    assert seen["tag"] == list(range(16))
    assert seen["prompts"][3] == [{"role": "user", "content": "w13"}]
    assert seen["rest"] == {"other": [None] * 16}
    assert ppo.train_dataset[3].ids == tokenizer()("user w13 assistant")["input_ids"]


def test_evaluation_reports_the_reward_on_held_out_prompts_alike_every_time(tmp_path):
    ppo = trainer(tmp_path, eval_dataset=ROWS[:6], eval_strategy="steps", eval_steps=1)
    first, second = ppo.evaluate(), ppo.evaluate()
    assert first == second
    assert {"eval_reward", "eval_kl", "eval_length", "eval_ended"} <= first.keys()
    ppo.train()
    assert len(history(ppo, "eval_reward")) == 2  # a new log begins with the training
    assert history(ppo, "eval_kl")[-1] != first["eval_kl"]


def test_evaluating_without_prompts_is_a_clear_error(tmp_path):
    with pytest.raises(SettingsError, match="eval_dataset: got none"):
        trainer(tmp_path).evaluate()


def test_rollouts_are_saved_step_by_step(tmp_path):
    trainer(tmp_path, save_rollouts=True, missing_eos_penalty=1.0).train()
    *files, sampling = sorted((tmp_path / "out" / "rollouts").iterdir(), key=lambda path: path.suffix != ".jsonl")
    assert json.loads(sampling.read_text()) == {
        "max_new_tokens": 6, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 42, "batch_size": 32
    }  # fmt: skip
    files.sort()
    assert [file.name for file in files] == ["step-000001.jsonl", "step-000002.jsonl"]
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert len(rows) == 16
    assert rows[0].keys() == {"prompt", "completion", "score", "kl", "length", "ended"}
    assert {row["prompt"] for row in rows} <= {row["prompt"] for row in ROWS}
    assert rows[0]["score"] == odd_words([""], [rows[0]["completion"]])[0]


# ---- stopping and going on ---------------------------------------------------------------------------------------

RESUMABLE = {
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 1,
    "kl_target": 0.01,
    "ema_decay": 0.9,
    "ptx_coef": 0.5,
    "ptx_batch_size": 3,
    "ptx_block_size": 16,
    "warmup_steps": 3,
}


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def measured(ppo):
    """All logged numbers but those of the clock."""
    return [
        {name: value for name, value in entry.items() if not name.startswith(("seconds", "train_", "total"))}
        for entry in ppo.state.log_history
    ]


@pytest.mark.parametrize("value", ["adapter", "head"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, value):
    def run(folder, **more):
        made = stack(tmp_path)
        ppo = trainer(folder, made, ptx_dataset=TEXTS, value=value, **RESUMABLE, **more)
        return made, ppo

    whole_stack, whole = run(tmp_path / "whole")
    whole.train()
    run(tmp_path / "parts", callbacks=[StopAfter(2)])[1].train()
    torch.manual_seed(99)  # whatever happened in between must not matter
    again_stack, again = run(tmp_path / "parts")
    again.train(resume_from_checkpoint=True)
    assert measured(again)[2:4] == measured(whole)[2:4]
    for name in whole_stack.names:
        assert again_stack.digest(name) == whole_stack.digest(name)
    if value == "head":
        assert torch.equal(again.value.head.weight, whole.value.head.weight)
    assert again.kl_coef == whole.kl_coef != 0.02
    assert again.ptx.position == whole.ptx.position == 4 * 2 * 3


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
import test_ppo_trainer as t
torch.set_num_threads(1)
made = t.stack(Path({folder!r}))
ppo = t.trainer(Path({folder!r}) / "parts", made, ptx_dataset=t.TEXTS, **t.RESUMABLE)
save = ppo._save_rng_state
def kill_in_the_third(folder):
    if folder.endswith("checkpoint-3"):
        os.kill(os.getpid(), signal.SIGKILL)
    save(folder)
ppo._save_rng_state = kill_in_the_third
ppo.train()
"""


@pytest.mark.slow  # starts a process
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_bit_for_bit_from_the_one_before(tmp_path):
    made = stack(tmp_path)
    whole = trainer(tmp_path / "whole", made, ptx_dataset=TEXTS, **RESUMABLE)
    whole.train()
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]
    out = tmp_path / "parts" / "out"
    assert (out / "checkpoint-3").exists() and not is_complete(out / "checkpoint-3")

    again_stack = stack(tmp_path)
    again = trainer(tmp_path / "parts", again_stack, ptx_dataset=TEXTS, **RESUMABLE)
    newest = last_complete(out)
    assert newest == out / "checkpoint-2" and not (out / "checkpoint-3").exists()
    again.train(resume_from_checkpoint=str(newest))
    assert measured(again)[2:4] == measured(whole)[2:4]
    assert digests(again_stack) == digests(made)


@pytest.mark.slow  # a whole run and one killed ten times, in a process of their own
def test_a_run_killed_at_ten_random_moments_ends_like_an_undisturbed_one(tmp_path):
    driver = Path(__file__).with_name("ppo_kill_driver.py")
    done = subprocess.run([sys.executable, driver, tmp_path], capture_output=True, text=True, check=False, timeout=290)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 10
    assert found["resumed"] > 2  # some of them left a checkpoint to go on from
    assert found["is_same"], done.stderr[-2000:]


def test_a_checkpoint_is_a_plain_policy_folder_with_a_mark_and_no_pickle_of_ours(tmp_path):
    made = stack(tmp_path)
    trainer(tmp_path, made, save_strategy="steps", save_steps=1, save_total_limit=2, max_steps=3).train()
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    newest = out / "checkpoint-3"
    assert is_complete(newest)
    files = {path.name for path in newest.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "ppo_state.json", "tokenizer.json", "value"} <= files
    assert "training_args.bin" not in files
    other = stack(tmp_path)
    other.restore("policy", newest)
    assert other.digest("policy") == made.digest("policy")


def test_resuming_against_another_reference_is_refused(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=1).train()
    made = stack(tmp_path)
    made.delete("reference")
    made.add("reference", lora(init_lora_weights=False), trainable=False)
    with pytest.raises(ModelError, match="frozen adapters reference differ"):
        trainer(tmp_path, made).train(resume_from_checkpoint=True)


def test_resuming_without_a_complete_checkpoint_is_a_clear_error(tmp_path):
    with pytest.raises(RunError, match="no complete checkpoint"):
        trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_kl_ceiling_stops_before_the_update_and_sets_the_policy_back_to_the_last_good_checkpoint(tmp_path):
    made = stack(tmp_path)
    ppo = trainer(
        tmp_path, made, count_w7, max_steps=30, learning_rate=5e-2, kl_ceiling=2.0, save_strategy="steps",
        save_steps=1, save_total_limit=2, value="head", response_length=8,
    )  # fmt: skip
    ppo.train()
    stopped = ppo.stopped
    assert 2 < stopped.step < 30
    assert stopped.kl > 2.0
    kls = history(ppo, "objective/kl")
    assert kls[-1] == pytest.approx(stopped.kl)
    assert max(kls[:-1]) <= 2.0
    # the rollout of step n measures the policy of checkpoint n - 1, so the one before that is the last good one
    assert stopped.checkpoint == tmp_path / "out" / f"checkpoint-{stopped.step - 2}"
    assert is_complete(stopped.checkpoint)
    good = stack(tmp_path)
    good.restore("policy", stopped.checkpoint)
    assert made.digest("policy") == good.digest("policy")
    assert "loss" not in [entry for entry in ppo.state.log_history if "objective/kl" in entry][-1]


def test_a_kl_that_turns_nan_stops_with_the_step_and_keeps_the_last_checkpoint(tmp_path):
    made = stack(tmp_path)

    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                made.parameters("reference")[0][1].data.fill_(torch.nan)

    ppo = trainer(tmp_path, made, save_strategy="steps", save_steps=1, max_steps=4, callbacks=[Poison()])
    # the policy of checkpoint 2 is the one that was found wanting, so checkpoint 1 is the last that is beyond doubt
    with pytest.raises(RunError, match=r"KL divergence became nan at step 3.*last good checkpoint is .*checkpoint-1"):
        ppo.train()
    assert is_complete(tmp_path / "out" / "checkpoint-1")


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_gradient_that_turns_nan_never_reaches_the_weights(tmp_path, max_grad_norm):
    made = stack(tmp_path)
    ppo = trainer(tmp_path, made, save_strategy="steps", save_steps=1, max_grad_norm=max_grad_norm)
    made.parameters("policy")[0][1].register_hook(lambda gradient: gradient * torch.nan)
    before = made.digest("policy")
    with pytest.raises(RunError, match=r"gradient norm became nan at step 1.*no good checkpoint was saved yet"):
        ppo.train()
    assert made.digest("policy") == before


# ---- several processes -------------------------------------------------------------------------------------------

TWO = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
import test_ppo_trainer as t
torch.set_num_threads(1)
folder = Path({folder!r}) / sys.argv[1]
made = t.stack(folder)
ppo = t.trainer(folder, made, [(t.odd_words, 1.0), ("reward", 0.5)], ptx_dataset=t.TEXTS, eval_dataset=t.ROWS[:5],
                num_mini_batches=1, ptx_coef=0.5, ptx_batch_size=4, ptx_block_size=16, value="head", max_steps=3)
ppo.train()
from safetensors.torch import save_file
save_file({{name: p.detach().clone() for name, p in made.parameters("policy")}}, folder / "weights.safetensors")
(folder / "log.json").write_text(t.json.dumps([t.measured(ppo), ppo.evaluate()]))
"""


@pytest.mark.slow  # starts three processes
def test_two_processes_compute_what_one_computes(tmp_path):
    from safetensors.torch import load_file

    script = TWO.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20000 + os.getpid() % 20000),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    ranks = [
        os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
        for rank in range(2)
    ]
    runs = [("one", dict(os.environ)), ("rank0", ranks[0]), ("rank1", ranks[1])]
    processes = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", script, name], env=env, stderr=subprocess.PIPE)
        for name, env in runs
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()[-2000:]
    weights = {name: load_file(tmp_path / name / "weights.safetensors") for name, _ in runs}
    logs = {name: json.loads((tmp_path / name / "log.json").read_text()) for name, _ in runs}
    for key, expected in weights["one"].items():
        assert torch.equal(weights["rank0"][key], weights["rank1"][key])
        torch.testing.assert_close(weights["rank0"][key], expected, atol=1e-4, rtol=1e-3)
    for one, two in zip(logs["one"][0], logs["rank0"][0], strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)
    assert logs["one"][1] == pytest.approx(logs["rank0"][1], rel=1e-3, abs=1e-5)


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0], "returned 1 scores, wanted 16 finite numbers"),
        (None, "returned None, wanted 16 finite numbers"),
        (3.0, r"returned 3\.0, wanted 16"),
        ([0.0] * 15 + [float("nan")], "returned nan for completion 15"),
        ([0.0] * 15 + [float("inf")], "returned inf for completion 15"),
        ([None] + [0.0] * 15, "returned None for completion 0"),
        (["good"] * 16, "returned 'good' for completion 0"),
    ],
)
def test_a_reward_function_that_returns_anything_but_numbers_is_named(tmp_path, result, message):
    def judge(prompts, completions, **columns):
        return result

    with pytest.raises(DataError, match=rf"reward function judge {message}"):
        trainer(tmp_path, None, judge).train()


def test_missing_roles_are_all_named_at_once(tmp_path):
    made = stack(tmp_path)
    made.delete("reference")
    made.tokenizer.pad_token = made.tokenizer.eos_token
    with pytest.raises(ModelError, match=r"(?s)'reference' is missing.*'judge' is missing.*no reward head.*padding"):
        trainer(tmp_path, made, [("judge", 1.0), ("policy", 1.0)])
    made = ModelStack(base(), tokenizer())
    with pytest.raises(ModelError, match=r"(?s)'policy' is missing.*'reward' is missing"):
        trainer(tmp_path, made, "reward")
    with pytest.raises(ModelError, match="with its weight"):
        trainer(tmp_path, stack(tmp_path), ["reward"])
    with pytest.raises(ModelError, match="empty list of rewards"):
        trainer(tmp_path, stack(tmp_path), [])


def test_settings_that_make_no_sense_are_all_named_at_once(tmp_path):
    with pytest.raises(SettingsError) as caught:
        PPOConfig(
            output_dir=str(tmp_path), rollout_batch_size=30, num_mini_batches=4, gradient_accumulation_steps=2,
            temperature=0, top_p=0, lam=2, kl_coef=-1, save_total_limit=1, value="both", use_cpu=True,
        )  # fmt: skip
    names = [fault.partition(":")[0] for fault in caught.value.faults]
    assert sorted(names) == sorted(
        [
            "temperature",
            "top_p",
            "kl_coef",
            "lam",
            "rollout_batch_size",
            "gradient_accumulation_steps",
            "save_total_limit",
            "value",
        ]
    )
    with pytest.raises(SettingsError, match="per_device_train_batch_size: got 5, wanted a divisor of 8"):
        PPOConfig(
            output_dir=str(tmp_path), rollout_batch_size=32, num_mini_batches=4, per_device_train_batch_size=5,
            use_cpu=True,
        )  # fmt: skip
    with pytest.raises(SettingsError, match=r"(?s)2 faults.*at most 8, the prompts given.*without ptx texts"):
        trainer(tmp_path, rows=ROWS[:8], ptx_coef=1.0)
    with pytest.raises(SettingsError, match=r"ptx_coef: got 0\.0 with ptx texts"):
        trainer(tmp_path, ptx_dataset=TEXTS)
    with pytest.raises(SettingsError, match="per_device_train_batch_size: got 0, wanted at least 1"):
        PPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=0, use_cpu=True)
    with pytest.raises(SettingsError, match=f"ptx_block_size: got {WINDOW + 1}, wanted at most {WINDOW}, the longest"):
        trainer(tmp_path, ptx_coef=1.0, ptx_dataset=TEXTS, ptx_block_size=WINDOW + 1)
    with pytest.raises(SettingsError, match="eval_strategy: got 'steps' without an eval_dataset, wanted 'no', or rows"):
        trainer(tmp_path, eval_strategy="steps", eval_steps=1)


def test_prompts_that_cannot_be_used_are_named_by_row(tmp_path):
    long = {"prompt": " ".join(["w9"] * (WINDOW - 3))}
    with pytest.raises(DataError, match=r"1 of 33 prompts leave no room .* row 32, has 93 tokens where 90 fit"):
        trainer(tmp_path, rows=[*ROWS, long])
    with pytest.raises(DataError, match="got no prompts"):
        trainer(tmp_path, rows=[])
    with pytest.raises(DataError, match=r"row 1 has the columns \['text'\], wanted `prompt`"):
        trainer(tmp_path, rows=[ROWS[0], {"text": "w9"}])
    with pytest.raises(DataError, match="prompt of type int"):
        trainer(tmp_path, rows=[{"prompt": 3}])
    with pytest.raises(DataError, match="prompt without tokens"):
        trainer(tmp_path, rows=[{"prompt": ""}])


def test_a_model_that_caps_its_logits_is_refused(tmp_path):
    made = stack(tmp_path)
    head = made.base.lm_head.forward
    made.base.lm_head.forward = lambda states: head(states).tanh()
    plain = made.base.forward
    made.base.forward = lambda **kwargs: type("Output", (), {"logits": plain(**kwargs).logits * 3})()
    with pytest.raises(ModelError, match="changes its logits"):
        trainer(tmp_path, made)


def test_padding_is_trimmed_to_what_the_chosen_rows_need():
    sequences = Sequences(
        torch.zeros(2, 5),
        torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
        torch.zeros(2, 3),
        torch.tensor([[True, False, False], [True, True, True]]),
        torch.zeros(2, 3),
    )
    part = sequences.take(torch.tensor([0]))
    assert part.input_ids.shape == (1, 3)
    assert part.tokens.shape == (1, 1)
