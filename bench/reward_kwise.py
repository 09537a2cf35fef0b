"""An epoch of reward-model training on rankings: tunewell's K-wise trainer beside TRL's RewardTrainer on all pairs.

    python bench/reward_kwise.py [--json] [--rounds 4] [--rankings 96] [--threads 2]

Rankings of K = 9 completions, so 36 pairs each: TRL encodes 72 completions a ranking, the K-wise trainer 9. A small
Llama with random weights and a LoRA adapter with a head, on the CPU; both trainers see the same rankings, take equally
many optimiser steps of equal learning rate, and are asked the same held-out pairs at the end. They take turns, each
round with other rankings; the table shows medians. TRL is installed with tunewell, so no other environment is made.
About four minutes on two idle cores.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any

K = 9
VOCABULARY, GOOD, BAD = 400, range(10, 60), range(60, 110)
PER_STEP = 4  # rankings
LEARNING_RATE = 3e-3
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def draw(count: int, seed: int) -> list[dict[str, Any]]:
    """Rankings of token ids: the more good and the fewer bad tokens, the better, but for a judge's error."""
    rng = random.Random(seed)
    rankings = []
    for _ in range(count):
        prompt = [rng.randrange(110, VOCABULARY) for _ in range(12)]
        completions, quality = [], []
        for _ in range(K):
            lean = rng.random()
            tokens = [_token(rng, lean) for _ in range(rng.randrange(20, 45))]
            completions.append([*prompt, *tokens, 1])
            good, bad = (sum(token in kind for token in tokens) for kind in (GOOD, BAD))
            quality.append((good - bad) / 3 + rng.gauss(0, 1))
        order = sorted(range(K), key=lambda index: -quality[index])
        ranks = [order.index(index) + 1 for index in range(K)]
        rankings.append({"completions": completions, "ranks": ranks})
    return rankings


def _token(rng: random.Random, lean: float) -> int:
    if rng.random() < 0.7:
        return rng.randrange(110, VOCABULARY)
    return rng.choice(GOOD if rng.random() < lean else BAD)


def make_model(seed: int) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, pad_token_id=0, bos_token_id=2, eos_token_id=1,
        num_labels=1,
    )  # fmt: skip
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    return get_peft_model(LlamaForSequenceClassification(config), lora, adapter_name="reward")


def make_tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(index): index for index in range(VOCABULARY)}, unk_token="3"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="3", pad_token="0", eos_token="1", bos_token="2")


def make_trainer(name: str, rankings: Sequence[dict[str, Any]], seed: int, folder: str) -> Any:
    """One epoch of equally many steps for both."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer
    from tunewell.toolkit.reward.losses import ranked_pairs
    from tunewell.toolkit.reward.trainer import RankingTrainer

    pairs_per_ranking = K * (K - 1) // 2
    arguments = RewardConfig(
        folder, report_to="none", use_cpu=True, bf16=False, activation_checkpointing=False, disable_tqdm=True,
        save_strategy="no", logging_steps=1000, seed=seed, num_train_epochs=1, learning_rate=LEARNING_RATE,
        per_device_train_batch_size=PER_STEP * (1 if name == "ours" else pairs_per_ranking),
        dataloader_pin_memory=False,
    )  # fmt: skip
    shared = {"model": make_model(seed), "args": arguments, "processing_class": make_tokenizer()}
    if name == "ours":
        rows = []
        for number, ranking in enumerate(rankings):
            pairs = ranked_pairs(ranking["ranks"])
            rows.append(
                {"completions_ids": ranking["completions"], "better": [high for high, _ in pairs],
                 "worse": [low for _, low in pairs], "margin": [0.0] * len(pairs),
                 "weight": [1 / pairs_per_ranking] * len(pairs), "wins": [0.0] * K, "losses": [0.0] * K, "row": number}
            )  # fmt: skip
        return RankingTrainer(train_dataset=Dataset.from_list(rows), **shared)
    rows = [
        {"chosen_ids": ranking["completions"][high], "rejected_ids": ranking["completions"][low]}
        for ranking in rankings
        for high, low in ranked_pairs(ranking["ranks"])
    ]
    return RewardTrainer(train_dataset=Dataset.from_list(rows), **shared)


def accuracy(model: Any, rankings: Sequence[dict[str, Any]]) -> float:
    """Share of held-out pairs that are ranked right."""
    import torch
    from tunewell.toolkit.reward.losses import ranked_pairs

    right = count = 0
    model.eval()
    with torch.no_grad():
        for ranking in rankings:
            longest = max(map(len, ranking["completions"]))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in ranking["completions"]])
            scores = model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, 0]
            for high, low in ranked_pairs(ranking["ranks"]):
                right += int(scores[high] > scores[low])
                count += 1
    return right / count


def measure(rounds: int, count: int) -> dict[str, dict[str, Any]]:
    seconds: dict[str, list[float]] = {"ours": [], "trl": []}
    processor: dict[str, list[float]] = {"ours": [], "trl": []}
    right: dict[str, list[float]] = {"ours": [], "trl": []}
    for seed in range(rounds):
        rankings, held_out = draw(count, seed), draw(60, 1000 + seed)
        for name in ("ours", "trl") if seed % 2 == 0 else ("trl", "ours"):
            with tempfile.TemporaryDirectory() as folder:
                trainer = make_trainer(name, rankings, seed, folder)
                start, start_processor = time.perf_counter(), time.process_time()
                trainer.train()
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - start_processor)
                right[name].append(accuracy(trainer.model, held_out))
            print(f"round {seed + 1}, {name}: {seconds[name][-1]:.1f} s, {processor[name][-1]:.1f} s of processor "
                  f"time, held-out accuracy {right[name][-1]:.3f}", file=sys.stderr)  # fmt: skip
    unit = f"s for an epoch of {count} rankings of {K}"
    differences = [ours - peer for ours, peer in zip(right["ours"], right["trl"], strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None
    return {
        "trl_pairs": _figure(seconds, unit),
        "trl_pairs_processor_time": _figure(processor, f"{unit}, processor time"),
        "accuracy": {
            "ours": statistics.mean(right["ours"]), "peer": statistics.mean(right["trl"]),
            "ratio": statistics.mean(right["ours"]) / statistics.mean(right["trl"]),
            "difference": statistics.mean(differences), "standard_error": error,
            "unit": f"share of held-out pairs after the epoch, mean of {rounds} rounds",
        },
    }  # fmt: skip


def _figure(times: dict[str, list[float]], unit: str) -> dict[str, Any]:
    ours, peer = (statistics.median(times[name]) for name in ("ours", "trl"))
    return {"ours": ours, "peer": peer, "ratio": peer / ours, "unit": unit}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=4, help="trainings of each (default 4)")
    parser.add_argument("--rankings", type=int, default=96, help="rankings of an epoch (default 96)")
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
        aim = "at least 6" if name.startswith("trl_pairs") else "about 1"
        print(f"{name:28}{row['ours']:10.3f}{row['peer']:10.3f}{row['ratio']:8.2f}  {aim:13} {row['unit']}",
              file=sys.stderr)  # fmt: skip
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
