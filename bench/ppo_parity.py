"""The first update of PPO beside that of TRL 1.12's PPOTrainer, the last one TRL had: the same numbers to 1e-4.

    python bench/ppo_parity.py [--json] [--write FILE]

The same tiny models, completions and settings go through both; printed are the largest differences of
log-probabilities, values, scores, advantages, returns, and of the policy and value losses of two passes over one
rollout. The first run makes the environment of the peer under `.venv-peers/`. With --write the peer's numbers are kept
as the fixture that the ordinary tests read. About a minute on two CPU cores.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.peers import TRL, peer_python

VOCABULARY, EOS, PAD = 32, 1, 2
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 0,
}  # fmt: skip
PROMPTS = [[3 + (7 * row + 5 * i) % (VOCABULARY - 3) for i in range(3 + row % 4)] for row in range(8)]
SETTINGS = {
    "response_length": 8, "temperature": 0.9, "kl_coef": 0.05, "gamma": 0.98, "lam": 0.9, "cliprange": 0.2,
    "cliprange_value": 0.2, "vf_coef": 0.1, "missing_eos_penalty": 1.0, "num_ppo_epochs": 2, "num_mini_batches": 1,
    "learning_rate": 1e-3, "per_device_train_batch_size": 8,
}  # fmt: skip
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
FIRST_SEED = 15  # with which the search for usable completions begins
CASES = {
    "full": "four whole models; completions all of full length",
    "lora": "a LoRA policy whose reference is the bare base",
    "ended": "four whole models; completions end at their first end-of-sequence token",
}


def fill(module: Any, offset: float, scale: float = 0.3) -> None:
    """Give every parameter numbers of a formula, so that no random generator has to be the same on both sides."""
    import torch

    with torch.no_grad():
        for place, (name, parameter) in enumerate(sorted(module.named_parameters())):
            steps = torch.arange(parameter.numel(), dtype=torch.float64)
            values = scale * torch.sin(1.7 * steps * (1 + 0.01 * place) + offset + place)
            if "norm" in name:
                values = 1 + 0.1 * values
            parameter.copy_(values.reshape(parameter.shape))


def language_model(offset: float) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    fill(model, offset)
    return model.eval()


def scorer(offset: float, trunk: Any = None) -> Any:
    """A sequence classifier with one label, on a trunk of its own or with the numbers of another model's."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    model = LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=1))
    fill(model, offset)
    if trunk is not None:
        model.model.load_state_dict(trunk.model.state_dict())
    return model.eval()


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"unknown": 0, "end": EOS, "padding": PAD}
    vocabulary = special | {str(i): i for i in range(len(special), VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="unknown"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="unknown", eos_token="end", pad_token="padding", padding_side="left"
    )


def record(case: str) -> dict[str, Any]:
    """What TRL computes in its first update; runs in the peer's environment.

    TRL takes a completion to end before the first padding token in it, be it sampled; random models do sample it. The
    first seed is taken with which they do not.
    """
    for seed in range(FIRST_SEED, 1000):
        recorded = record_with(case, seed)
        completions = recorded["completions"]
        full = [len(ids) == SETTINGS["response_length"] for ids in completions]
        ended = [case == "ended" and ids[-1:] == [EOS] for ids in completions]
        if all(one or other for one, other in zip(full, ended, strict=True)):
            print(f"seed {seed}", file=sys.stderr)
            return recorded
    raise SystemExit("no seed gives completions without padding tokens")


def record_with(case: str, seed: int) -> dict[str, Any]:
    """What TRL computes in its first update on completions of a seed."""
    import datasets
    import torch
    from peft import LoraConfig
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    base = language_model(0.0)
    has_lora = case == "lora"
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder, gradient_accumulation_steps=1, total_episodes=8, report_to=[], use_cpu=True, bf16=False,
            save_strategy="no", gradient_checkpointing=False, num_sample_generations=0, logging_steps=1,
            local_rollout_forward_batch_size=8, stop_token="eos" if case == "ended" else None, seed=seed, **SETTINGS,
        )  # fmt: skip
        trainer = PPOTrainer(
            args=args,
            processing_class=tokenizer(),
            model=base,
            ref_model=None if has_lora else language_model(0.2),
            reward_model=scorer(1.0, base if has_lora else None),
            value_model=scorer(2.0, base if has_lora else None),
            train_dataset=datasets.Dataset.from_dict({"input_ids": PROMPTS}),
            peft_config=LoraConfig(**LORA, task_type="CAUSAL_LM") if has_lora else None,
        )
        if has_lora:
            fill_lora(dict(trainer.model.policy.named_parameters()))
        seen: dict[str, Any] = {}
        whiten, log = ppo_trainer.masked_whiten, trainer.log

        def listen(values: Any, mask: Any, shift_mean: bool = True) -> Any:
            seen.update(sys._getframe(1).f_locals)
            seen["whitened"] = torch.masked_fill(whiten(values, mask, shift_mean), ~mask, 0)
            return whiten(values, mask, shift_mean)

        def listen_to_losses(metrics: dict[str, float]) -> None:
            seen.update(sys._getframe(1).f_locals)
            seen["metrics"] = dict(metrics)
            log(metrics)

        ppo_trainer.masked_whiten, trainer.log = listen, listen_to_losses
        try:
            trainer.train()
        finally:
            ppo_trainer.masked_whiten = whiten
    prompts = [[token for token in row if token != PAD] for row in seen["queries"].tolist()]
    lengths = (seen["sequence_lengths"] + 1).tolist()
    tensors = {
        "logp": "logprobs", "logp_reference": "ref_logprobs", "values": "values", "scores": "scores",
        "rewards": "rewards", "advantages": "advantages", "returns": "returns", "whitened": "whitened",
    }  # fmt: skip
    return {
        "prompts": prompts,
        "completions": [row[:length] for row, length in zip(seen["responses"].tolist(), lengths, strict=True)],
        **{name: rounded(seen[theirs].tolist()) for name, theirs in tensors.items()},
        "policy_losses": rounded(seen["pg_loss_stats"].flatten().tolist()),
        "value_losses": rounded(seen["vf_loss_stats"].flatten().tolist()),
        "kl": seen["metrics"]["objective/kl"],
    }


def fill_lora(parameters: dict[str, Any]) -> None:
    """The numbers of the policy's adapter; every other adapter stays without effect."""
    import torch

    with torch.no_grad():
        for place, (_, parameter) in enumerate(sorted((k, v) for k, v in parameters.items() if "lora_" in k)):
            steps = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_((0.2 * torch.sin(1.3 * steps + place)).reshape(parameter.shape))


def rounded(values: Any) -> Any:
    """Nine significant digits, which keep a float32 whole."""
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return float(f"{values:.9g}")


def our_stack(case: str) -> Any:
    """The same roles in tunewell: whole models, or adapters on one base."""
    from peft import LoraConfig
    from tunewell.toolkit.model.full_stack import FullStack
    from tunewell.toolkit.model.stack import ModelStack

    base = language_model(0.0)
    if case != "lora":
        stack = FullStack(base, tokenizer())
        stack.add("reference", language_model(0.2), trainable=False)
        stack.add("reward", scorer(1.0), trainable=False)
        stack.add("value", scorer(2.0), trainable=True)
        return stack
    adapters = ModelStack(base, tokenizer())
    adapters.add("policy", LoraConfig(**LORA, task_type="CAUSAL_LM"), trainable=True)
    adapters.add("reference", LoraConfig(**LORA, task_type="CAUSAL_LM"), trainable=False)
    for name, offset in (("reward", 1.0), ("value", 2.0)):
        adapters.add_scorer(name, "reference", trainable=name == "value")
        weight = dict(adapters.parameters(name))[f"base_model.model.score.modules_to_save.{name}.weight"]
        weight.data.copy_(scorer(offset).score.weight)
    fill_lora(dict(adapters.parameters("policy")))
    return adapters


def ours(case: str, theirs: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The first update of tunewell on the completions that TRL's policy wrote, in the same order."""
    from tunewell.toolkit.model.generation import Completion
    from tunewell.toolkit.ppo.config import PPOConfig
    from tunewell.toolkit.ppo.trainer import PPOTrainer

    args = PPOConfig(
        output_dir=str(folder), max_steps=1, rollout_batch_size=8, local_rollout_forward_batch_size=8, use_cpu=True,
        save_strategy="no", save_rollouts=False, max_grad_norm=0.0, disable_tqdm=True, report_to=[], **SETTINGS,
    )  # fmt: skip
    rows = [{"prompt": " ".join(map(str, ids))} for ids in theirs["prompts"]]
    trainer = PPOTrainer(our_stack(case), args, rows, reward="reward")
    written = {
        tuple(prompt): Completion(ids, "", EOS in ids)
        for prompt, ids in zip(theirs["prompts"], theirs["completions"], strict=True)
    }
    trainer.maker._answers = lambda prompts, seeds: ([written[tuple(prompt.ids)] for prompt in prompts], None)
    rollout = trainer.maker.make(trainer.train_dataset, [0] * 8, args.kl_coef)
    losses: list[dict[str, float]] = []
    gradients = trainer.updater.gradients

    def listen(*given: Any) -> Any:
        figures = gradients(*given)
        losses.append({name: value.item() for name, value in figures.items()})
        return figures

    trainer.updater.gradients = listen
    trainer.train()
    experience = rollout.experience
    return {
        "logp": experience.logp.tolist(),
        "logp_reference": (experience.logp - rollout.kl).tolist(),
        "values": experience.values.tolist(),
        "scores": (rollout.score - (1.0 * ~rollout_ended(rollout))).tolist(),
        "whitened": experience.advantages.tolist(),
        "returns": experience.returns.tolist(),
        "policy_losses": [one["policy/loss"] for one in losses],
        "value_losses": [one["value/loss"] for one in losses],
        "kl": rollout.kl.sum(1).mean().item(),
    }


def rollout_ended(rollout: Any) -> Any:
    import torch

    return torch.tensor([completion.ended for completion in rollout.completions])


def difference(ours: Any, theirs: Any) -> float:
    """The largest absolute difference of two nested lists of one shape."""
    if isinstance(ours, list):
        if len(ours) != len(theirs):
            return math.inf
        return max(difference(one, other) for one, other in zip(ours, theirs, strict=True))
    return abs(ours - theirs)


def compare(case: str, theirs: dict[str, Any], folder: Path) -> dict[str, float]:
    """The largest difference of every quantity that both sides define alike.

    With a value model of TRL's (whole) beside a value adapter of ours, the second value loss comes after different
    updates: only the first is compared there.
    """
    mine = ours(case, theirs, folder)
    names = list(mine)
    if case == "lora":
        mine["value_losses"], theirs = mine["value_losses"][:1], theirs | {"value_losses": theirs["value_losses"][:1]}
    return {name: difference(mine[name], theirs[name]) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    parser.add_argument("--write", type=Path, help="keep the peer's numbers in this file")
    parser.add_argument("--record", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.record:
        print("\n" + json.dumps(record(arguments.record)))
        return
    python = peer_python("trl-1.12", TRL)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    recorded = {}
    for case in CASES:
        done = subprocess.run(
            [python, __file__, "--record", case], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            sys.exit(f"the peer failed:\n{done.stderr[-3000:]}")
        recorded[case] = json.loads(done.stdout.splitlines()[-1])
    if arguments.write:
        lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(numbers)}" for case, numbers in recorded.items())
        arguments.write.write_text(f"{{\n{lines}\n}}\n")
    worst: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in ("full", "lora"):
            worst[case] = compare(case, recorded[case], Path(folder) / case)
    print("largest difference from TRL 1.12, by quantity", file=sys.stderr)
    for name in worst["full"]:
        print(f"  {name:16}" + "".join(f"{case} {row[name]:.1e}   " for case, row in worst.items()), file=sys.stderr)
    if arguments.json:
        largest = max(value for row in worst.values() for value in row.values())
        print(json.dumps({"largest_difference": largest, "aim": 1e-4} | worst))


if __name__ == "__main__":
    main()
