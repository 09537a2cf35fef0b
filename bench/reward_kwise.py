"""An epoch of reward-model training on rankings: tunewell's K-wise trainer beside TRL's RewardTrainer on all pairs.

    python bench/reward_kwise.py [--json] [--rounds 3] [--rankings 64] [--threads 2]

Rankings of K = 9 completions by judges who disagree, from the embedded world; equal ranks are no pair. TRL encodes both
completions of every pair, the K-wise trainer each completion once. The tiny base with a LoRA adapter and a head, on the
CPU; both trainers see the same rankings, take equally many optimiser steps of equal learning rate, and are asked the
same held-out pairs at the end. TRL gets its batch in eighths, in which it is fastest. They take turns, each round with
other rankings; the table shows medians. Two epochs of ours show what part of the time that is saved would buy. TRL is
installed with tunewell, so no other environment is made. About five minutes on two idle cores.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

K = 9
PER_STEP = 4  # rankings
LEARNING_RATE = 1e-3
PARTS = 8  # of a batch of pairs: whole ones are padded more, and fill the caches
HELD_OUT = 60  # rankings
ARMS = ("ours", "trl", "ours, two epochs")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def make_base() -> Path:
    """The tiny base of the embedded world."""
    from tunewell.toolkit.tiny import cached_base
    from tunewell.toolkit.world import build_world

    return cached_base([row["text"] for row in build_world().corpus])


def draw(count: int, part: str, seed: int, tokenizer: Any) -> list[dict[str, Any]]:
    """Rankings of token ids with their pairs (better, worse)."""
    from tunewell.toolkit.model.sequences import sequence_ids
    from tunewell.toolkit.reward.losses import ranked_pairs
    from tunewell.toolkit.world.rankings import build_rankings

    return [
        {
            "completions": [sequence_ids(row["prompt"], text, tokenizer) for text in row["completions"]],
            "pairs": ranked_pairs(row["ranks"]),
        }
        for row in build_rankings(seed, count, part=part, completions=[K])
    ]


def make_model(base: Path, seed: int) -> tuple[Any, Any]:
    """The base with a fresh adapter and head, and its tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    return get_peft_model(model, lora, adapter_name="reward"), AutoTokenizer.from_pretrained(base)


def make_trainer(name: str, base: Path, rankings: Sequence[dict[str, Any]], seed: int, folder: str) -> Any:
    """Equally many steps an epoch for all."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer
    from tunewell.toolkit.reward.trainer import RankingTrainer

    model, tokenizer = make_model(base, seed)
    steps, pairs = math.ceil(len(rankings) / PER_STEP), sum(len(ranking["pairs"]) for ranking in rankings)
    batch = (math.ceil(pairs / steps / PARTS), PARTS) if name == "trl" else (PER_STEP, 1)
    arguments = RewardConfig(
        folder, report_to="none", use_cpu=True, bf16=False, activation_checkpointing=False, disable_tqdm=True,
        save_strategy="no", logging_steps=1000, seed=seed, num_train_epochs=2 if "two" in name else 1,
        learning_rate=LEARNING_RATE, per_device_train_batch_size=batch[0], gradient_accumulation_steps=batch[1],
        dataloader_pin_memory=False,
    )  # fmt: skip
    shared = {"model": model, "args": arguments, "processing_class": tokenizer}
    if name != "trl":
        rows = [_example(number, ranking) for number, ranking in enumerate(rankings)]
        return RankingTrainer(train_dataset=Dataset.from_list(rows), **shared)
    rows = [
        {"chosen_ids": ranking["completions"][high], "rejected_ids": ranking["completions"][low]}
        for ranking in rankings
        for high, low in ranking["pairs"]
    ]
    return RewardTrainer(train_dataset=Dataset.from_list(rows), **shared)


def _example(number: int, ranking: dict[str, Any]) -> dict[str, Any]:
    """What `ExampleMaker` makes of a ranking."""
    pairs = ranking["pairs"]
    return {
        "completions_ids": ranking["completions"], "better": [high for high, _ in pairs],
        "worse": [low for _, low in pairs], "margin": [0.0] * len(pairs), "weight": [1 / math.comb(K, 2)] * len(pairs),
        "wins": [0.0] * K, "losses": [0.0] * K, "row": number,
    }  # fmt: skip


def accuracy(model: Any, rankings: Sequence[dict[str, Any]]) -> float:
    """Share of held-out pairs that are ranked right."""
    import torch

    pad = model.config.pad_token_id
    right: list[bool] = []
    model.eval()
    with torch.no_grad():
        for ranking in rankings:
            longest = max(map(len, ranking["completions"]))
            ids = torch.tensor([row + [pad] * (longest - len(row)) for row in ranking["completions"]])
            scores = model(input_ids=ids, attention_mask=(ids != pad).long()).logits[:, 0].tolist()
            right += [scores[high] > scores[low] for high, low in ranking["pairs"]]
    return sum(right) / len(right)


def measure(rounds: int, count: int) -> dict[str, dict[str, Any]]:
    from transformers import AutoTokenizer

    base = make_base()
    tokenizer = AutoTokenizer.from_pretrained(base)
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    processor: dict[str, list[float]] = {name: [] for name in ARMS}
    right: dict[str, list[float]] = {name: [] for name in ARMS}
    for seed in range(rounds):
        rankings, held_out = (draw(*of, seed, tokenizer) for of in ((count, "train"), (HELD_OUT, "held out")))
        for name in ARMS if seed % 2 == 0 else ARMS[::-1]:
            with tempfile.TemporaryDirectory() as folder:
                trainer = make_trainer(name, base, rankings, seed, folder)
                start, start_processor = time.perf_counter(), time.process_time()
                trainer.train()
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - start_processor)
                right[name].append(accuracy(trainer.model, held_out))
            print(f"round {seed + 1}, {name}: {seconds[name][-1]:.1f} s, {processor[name][-1]:.1f} s of processor "
                  f"time, held-out accuracy {right[name][-1]:.3f}", file=sys.stderr)  # fmt: skip
    unit = f"s for an epoch of {count} rankings of {K}"
    twice = "ours, two epochs"
    return {
        "trl_pairs": _time(seconds, unit),
        "trl_pairs_processor_time": _time(processor, f"{unit}, processor time"),
        "accuracy": _accuracy(right, "ours", rounds),
        "two_epochs_processor_time": _time(processor, "s, two epochs against one of TRL's, processor time", twice),
        "two_epochs_accuracy": _accuracy(right, twice, rounds),
    }


def _time(times: dict[str, list[float]], unit: str, name: str = "ours") -> dict[str, Any]:
    ours, peer = (statistics.median(times[one]) for one in (name, "trl"))
    return {"ours": ours, "peer": peer, "ratio": peer / ours, "unit": unit}


def _accuracy(right: dict[str, list[float]], name: str, rounds: int) -> dict[str, Any]:
    """Means, and their difference with its standard error over the rounds."""
    ours, peer = (statistics.mean(right[one]) for one in (name, "trl"))
    differences = [one - other for one, other in zip(right[name], right["trl"], strict=True)]
    error = statistics.stdev(differences) / rounds**0.5 if rounds > 1 else None
    unit = f"share of held-out pairs after training, mean of {rounds} rounds"
    return {"ours": ours, "peer": peer, "ratio": ours / peer, "difference": ours - peer, "standard_error": error,
            "unit": unit}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each (default 3)")
    parser.add_argument("--rankings", type=int, default=64, help="rankings of an epoch (default 64)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch (default: all cores)")
    arguments = parser.parse_args()
    import datasets
    import torch

    warnings.filterwarnings("ignore")
    datasets.disable_progress_bars()
    torch.set_num_threads(arguments.threads)
    figures = measure(arguments.rounds, arguments.rankings)
    print(f"{'figure':28}{'ours':>10}{'peer':>10}{'ratio':>8}  {'aim':13} unit", file=sys.stderr)
    for name, row in figures.items():
        aim = "at least 6" if name.startswith("trl_pairs") else "about 1" if "accuracy" in name else ""
        print(f"{name:28}{row['ours']:10.3f}{row['peer']:10.3f}{row['ratio']:8.2f}  {aim:13} {row['unit']}",
              file=sys.stderr)  # fmt: skip
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
