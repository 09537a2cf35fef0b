"""A tiny random classifier with a reward adapter, and rankings of word salad, for the tests of the reward trainer."""

import random
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from peft import get_peft_model
from stack_fakes import config, lora, tokenizer
from transformers import LlamaForSequenceClassification
from trl import RewardConfig
from tunewell.toolkit.reward.examples import ExampleMaker
from tunewell.toolkit.reward.trainer import RankingTrainer


def words(rng: random.Random, count: int) -> str:
    return " ".join(f"w{rng.randrange(6, 200)}" for _ in range(count))


def rankings(count: int, completions: int, seed: int = 0, *, ties: bool = False) -> list[dict]:
    """Rankings whose ranks are all different, or hold one tie."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        ranks = list(range(1, completions + 1))
        rng.shuffle(ranks)
        if ties:
            ranks[ranks.index(2)] = 1
        texts = [" " + words(rng, rng.randrange(2, 8)) for _ in range(completions)]
        rows.append({"prompt": words(rng, 3), "completions": texts, "ranks": ranks})
    return rows


def classifier(seed: int = 0, *, dropout: float = 0.0):
    """A classifier whose adapter and head are drawn from the seed."""
    torch.manual_seed(seed)
    settings = lora(task_type="SEQ_CLS", modules_to_save=["score"], init_lora_weights=False, lora_dropout=dropout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(LlamaForSequenceClassification(config()), settings, adapter_name="reward")


def trainer(folder: Path, examples: list[dict], *, model=None, gradient_cache: int | None = None, held_out=None,
            **settings) -> RankingTrainer:  # fmt: skip
    arguments = RewardConfig(
        str(folder), report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, gradient_checkpointing=False,
        **({"save_strategy": "no"} | settings),
    )  # fmt: skip
    return RankingTrainer(
        model=model or classifier(),
        args=arguments,
        train_dataset=Dataset.from_list(examples),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer(),
        gradient_cache=gradient_cache,
    )


def maker(**settings) -> ExampleMaker:
    return ExampleMaker(**({"tokenizer": tokenizer(), "max_length": 64} | settings))


def gradient(made: RankingTrainer, examples: list[dict]) -> tuple[float, torch.Tensor]:
    """Loss of one batch of all examples, and its gradient by every trained weight in one vector."""
    made.model.zero_grad()
    made.current_gradient_accumulation_steps = 1
    loss = made.training_step(made.model, made.data_collator(examples))
    found = [weight.grad.flatten() for weight in made.model.parameters() if weight.requires_grad]
    return float(loss), torch.cat(found)
