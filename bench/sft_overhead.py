"""SFT through tunewell beside a bare TRL script: what the toolkit adds in time and memory.

    python bench/sft_overhead.py [--json] [--rounds 5] [--steps 40] [--threads 2]

The same tiny base, demonstrations, LoRA adapter and SFTConfig. The script is what TRL's documentation would have one
write: load the model, SFTTrainer with a LoraConfig, train, save. Ours is the SFT stage of a recipe, which counts rows
that are too long, marks checkpoints, keeps the adapters in a stack and writes a log beside that. Each measurement is a
process of its own and the two take turns. Time, on the clock and of the CPU, runs from the loading of the model to the
saved adapter; the peak is the process's resident memory, imports and all. About four minutes on two idle cores.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
NAMES = ("bare", "ours")
TRAINER = {"per_device_train_batch_size": 16, "learning_rate": 1e-3, "logging_steps": 5, "save_steps": 20}
RANK = 16


def prepare(folder: Path) -> None:
    """A base model of random weights and the embedded world's demonstrations, each completion four times over."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed
    from tunewell.toolkit.data.rows import write_rows
    from tunewell.toolkit.settings.base import TinySettings
    from tunewell.toolkit.tiny import train_tokenizer
    from tunewell.toolkit.world.world import build_world

    world = build_world(0)
    rows = [{"prompt": row["prompt"], "completion": row["completion"] * 4} for row in world.demonstrations]
    (folder / "sets").mkdir()
    write_rows(folder / "sets" / "demonstrations_held_out.jsonl", [])
    write_rows(folder / "sets" / "demonstrations.jsonl", rows)
    tokenizer = train_tokenizer([row["text"] for row in world.corpus], TinySettings())
    tokenizer.save_pretrained(folder / "base")
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")


def bare(folder: Path, steps: int, out: Path) -> None:
    """What one would write without tunewell."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    rows = load_dataset("json", data_files=str(folder / "sets" / "demonstrations.jsonl"), split="train")
    config = SFTConfig(
        output_dir=str(out / "checkpoints"), max_steps=steps, max_length=512, seed=0, use_cpu=True, report_to="none",
        bf16=False, gradient_checkpointing=False, save_total_limit=2, disable_tqdm=True, **TRAINER,
    )  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model, args=config, train_dataset=rows.select_columns(["prompt", "completion"]), processing_class=tokenizer,
        peft_config=lora,
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(out / "policy"))


def ours(folder: Path, steps: int, out: Path) -> None:
    """The SFT stage of a recipe."""
    from tunewell.pipelines.console import Console
    from tunewell.pipelines.sft import SftSettings, run_sft
    from tunewell.toolkit.settings.base import BaseSettings
    from tunewell.toolkit.settings.lora import LoraSettings
    from tunewell.toolkit.stage import Artifacts

    settings = SftSettings(
        lora=LoraSettings(rank=RANK, alpha=2 * RANK, dropout=0.0),
        max_length=512,
        trainer={"max_steps": steps} | TRAINER,
    )
    before = Artifacts(base=str(folder / "base"), data=folder / "sets")
    out.mkdir(parents=True)
    run_sft(settings, BaseSettings(device="cpu", dtype="float32"), 0, Console(is_quiet=True), before, out)


WAYS: dict[str, Callable[[Path, int, Path], None]] = {"bare": bare, "ours": ours}


def one(name: str, folder: Path, steps: int, threads: int) -> dict[str, float]:
    """Train once in this process."""
    import torch
    import trl  # noqa: F401  # imports are not what is compared
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as out:
        began, worked = time.perf_counter(), time.process_time()
        WAYS[name](folder, steps, Path(out) / "run")
        seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def in_turns(rounds: int, steps: int, threads: int) -> dict[str, list[dict[str, float]]]:
    """Measure both ways in processes of their own, taking turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for number in range(rounds):
            for name in NAMES if number % 2 == 0 else NAMES[::-1]:
                command = [sys.executable, "-W", "ignore", __file__, "--one", name, "--folder", folder]
                command += ["--steps", str(steps), "--threads", str(threads)]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number + 1}, {name}: {found[name][-1]}", file=sys.stderr)
    return found


def table(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of both and of the ratio within a round."""
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    ratios = {
        key: statistics.median(ours[key] / bare[key] for ours, bare in zip(found["ours"], found["bare"], strict=True))
        for key in found["bare"][0]
    }
    return {"median": medians, "ratio": ratios, "runs": found}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.folder, given.steps, given.threads)))
        return
    result = table(in_turns(given.rounds, given.steps, given.threads))
    if given.json:
        print(json.dumps(result))
        return
    print(f"{'':<14}{'seconds':>10}{'of CPU':>10}{'MB':>8}")
    for name in NAMES:
        found = result["median"][name]
        print(f"{name:<14}{found['seconds']:>10.1f}{found['cpu_seconds']:>10.1f}{found['megabytes']:>8.0f}")
    found = result["ratio"]
    print(f"{'ours / bare':<14}{found['seconds']:>10.3f}{found['cpu_seconds']:>10.3f}{found['megabytes']:>8.3f}")


if __name__ == "__main__":
    main()
