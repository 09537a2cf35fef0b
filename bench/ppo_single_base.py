"""Time and memory of PPO with four roles on one base, beside TRL 1.12's PPOTrainer, the last one TRL had.

    python bench/ppo_single_base.py [--json] [--rounds 3] [--threads 2]

A tiny Llama with random weights (2,048 tokens, width 256, 6 layers), 128 episodes of 32 + 32 tokens in rollouts of 16,
two optimiser steps each. TRL trains whole models (policy and value; reference and reward beside them); ours trains LoRA
adapters (rank 16 on all linear layers) with the value function as a head on the trunk or as an adapter, and, to compare
like with like, whole models too. Every run has a process of its own, the cases take turns, and the table shows medians.
Memory is the peak of resident memory above what stood after the imports. The first run makes the environment of the
peer under `.venv-peers/`. About six minutes on two idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools import peers

EPISODES, ROLLOUT, PROMPT, RESPONSE, VOCABULARY = 128, 16, 32, 32, 2048
TRL, TRUNK, ADAPTER, FULL = CASES = ("trl", "trunk", "adapter", "full")
AIMS = {"trl_time_trunk": 2.0, "trl_time_adapter": 1.25, "trl_time_full": 1.0, "trl_memory": 1 / 0.45}


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"<unknown>": 0, "<end>": 1, "<padding>": 2}
    vocabulary = special | {str(i): i for i in range(len(special), VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unknown>", eos_token="<end>", pad_token="<padding>", padding_side="left"
    )


def models(folder: Path, count: int) -> list[Any]:
    """A causal language model, and sequence classifiers on its trunk: each loaded from the disk, as a user would."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=512,
            pad_token_id=2,
            eos_token_id=1,
            bos_token_id=0,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    language = [AutoModelForCausalLM.from_pretrained(folder) for _ in range(min(count, 2))]
    scorers = [AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1) for _ in range(count - 2)]
    return [*language, *scorers]


def prompts() -> list[list[int]]:
    import numpy as np

    return np.random.default_rng(0).integers(3, VOCABULARY, (256, PROMPT)).tolist()


def peer(folder: Path) -> Any:
    """TRL's trainer, as its documentation shows it."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, reference, reward, value = models(folder, 4)
    args = PPOConfig(
        output_dir=str(folder / "out"), per_device_train_batch_size=ROLLOUT, gradient_accumulation_steps=1,
        num_mini_batches=2, total_episodes=EPISODES, response_length=RESPONSE, num_ppo_epochs=1, temperature=1.0,
        local_rollout_forward_batch_size=32, num_sample_generations=0, report_to=[], use_cpu=True, bf16=False,
        save_strategy="no", learning_rate=1e-5, gradient_checkpointing=False,
    )  # fmt: skip
    return PPOTrainer(
        args=args,
        processing_class=tokenizer(),
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": prompts()}),
    )


def ours(case: str, folder: Path) -> Any:
    """Our trainer on the same model, prompts and batches."""
    from tunewell.toolkit.ppo.config import PPOConfig
    from tunewell.toolkit.ppo.trainer import PPOTrainer

    args = PPOConfig(
        output_dir=str(folder / "out"), max_steps=EPISODES // ROLLOUT, rollout_batch_size=ROLLOUT, num_mini_batches=2,
        per_device_train_batch_size=ROLLOUT // 2, local_rollout_forward_batch_size=32, response_length=RESPONSE,
        value="head" if case == TRUNK else "adapter", learning_rate=1e-5, save_strategy="no", use_cpu=True,
        reuse_states=True, save_rollouts=False, disable_tqdm=True, report_to=[],
    )  # fmt: skip
    rows = [{"prompt": " ".join(map(str, ids))} for ids in prompts()]
    return PPOTrainer(stack(case, folder), args, rows, reward="reward")


def stack(case: str, folder: Path) -> Any:
    import torch
    from peft import LoraConfig
    from tunewell.toolkit.model.full_stack import FullStack
    from tunewell.toolkit.model.stack import ModelStack

    if case == FULL:
        policy, reference, reward, value = models(folder, 4)
        made = FullStack(policy, tokenizer())
        made.add("reference", reference, trainable=False)
        made.add("reward", reward, trainable=False)
        made.add("value", value, trainable=True)
        return made
    one_base = ModelStack(models(folder, 1)[0], tokenizer())
    torch.manual_seed(1)
    one_base.add("policy", LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"), trainable=True)
    one_base.copy("policy", "reference", trainable=False)
    one_base.add_scorer("reward", "policy", trainable=False)
    torch.nn.init.normal_(next(weight for name, weight in one_base.parameters("reward") if "modules_to_save" in name))
    return one_base


def run(case: str, threads: int) -> dict[str, float]:
    """Train once in this process; seconds per episode (of the clock and of the CPU) and MiB above the imports."""
    import torch

    torch.set_num_threads(threads)
    if case == TRL:
        import trl.experimental.ppo.ppo_trainer  # noqa: F401
        from transformers import LlamaForCausalLM, LlamaForSequenceClassification
    else:
        import tunewell.toolkit.model.full_stack
        import tunewell.toolkit.ppo.trainer  # noqa: F401
        from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401
    imported = memory("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        trainer = peer(Path(folder)) if case == TRL else ours(case, Path(folder))
        start, start_cpu = time.perf_counter(), time.process_time()
        trainer.train()
        clock, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return {"clock": clock / EPISODES, "cpu": cpu / EPISODES, "memory": memory("VmHWM") - imported}


def memory(field: str) -> float:
    """A memory figure of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(rounds: int, threads: int, cases: list[str]) -> dict[str, dict[str, float]]:
    """Medians of every case; in each round the cases take turns."""
    python = {case: peers.peer_python("trl-1.12", peers.TRL) if case == TRL else Path(sys.executable) for case in cases}
    found: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            # the peer's warnings and tables are noise here, and so are ours
            environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
            if case == TRL:
                environment["PYTHONPATH"] = ""
            command = [python[case], __file__, "--run", case, "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                sys.exit(f"{case} failed:\n{done.stderr[-3000:]}")
            found[case].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{case:8}" + "".join(f"{k} {v:.3f}  " for k, v in found[case][-1].items()), file=sys.stderr)
    return {case: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for case, rows in found.items()}


def figures(medians: dict[str, dict[str, float]]) -> dict[str, dict[str, object]]:
    """A ratio above 1 means that ours is better."""
    names = {"trl_time_trunk": TRUNK, "trl_time_adapter": ADAPTER, "trl_time_full": FULL}
    theirs = medians[TRL]
    made: dict[str, dict[str, object]] = {}
    for name, case in names.items():
        mine = medians[case]
        made[name] = {
            "ours": mine["clock"], "peer": theirs["clock"], "ratio": theirs["clock"] / mine["clock"],
            "unit": "seconds per episode", "ratio_of_cpu_time": theirs["cpu"] / mine["cpu"],
        }  # fmt: skip
    for name, case in (("trl_memory", ADAPTER), ("trl_memory_trunk", TRUNK), ("trl_memory_full", FULL)):
        mine = medians[case]
        made[name] = {
            "ours": mine["memory"], "peer": theirs["memory"], "ratio": theirs["memory"] / mine["memory"],
            "unit": "MiB above the imports",
        }  # fmt: skip
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case runs (default 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch (default: all cores)")
    parser.add_argument("--run", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print("\n" + json.dumps(run(arguments.run, arguments.threads)))
        return
    table = figures(measure(arguments.rounds, arguments.threads, list(CASES)))
    print(f"{'figure':20}{'ours':>10}{'peer':>10}{'ratio':>8}{'aim':>8}  unit", file=sys.stderr)
    for name, row in table.items():
        aim = f"{AIMS[name]:.2f}" if name in AIMS else ""
        print(
            f"{name:20}{row['ours']:>10.3f}{row['peer']:>10.3f}{row['ratio']:>8.2f}{aim:>8}  {row['unit']}",
            file=sys.stderr,
        )
    if arguments.json:
        print(json.dumps(table))


if __name__ == "__main__":
    main()
