"""SFT, reward model and PPO of a 7B model on one GPU of 24 GB: do they fit, and how fast are they?

    python bench/gpu_single.py [--json] [--gb 24] [--tiny]

A Llama of 7B's shape with random weights, held in NF4, LoRA of rank 16 on all linear layers, gradient checkpointing,
sequences of 512 + 256 tokens: the stages of `tunewell run` themselves, each in a process that may take 24 GB and no
more. Printed are peak memory (as the allocator reserves it, what of it tensors took, what `tunewell plan` foresees),
tokens per second, and the shares of PPO's time. The weights take 14 GB of disk for a while. Without a GPU it says so
and ends; --tiny runs every path with a model of two small layers on whatever there is, as the tests do.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAGES = ("sft", "reward", "ppo")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@dataclass(frozen=True)
class Size:
    """The shape of the model and of its work."""

    model: dict[str, int]
    prompt: int
    response: int
    steps: int
    rows: int
    """Sequences of one forward and backward; of an optimiser step in SFT, prompts (of two completions) in reward."""
    rollout: int
    """Episodes of one PPO iteration."""


FULL = Size(
    {"vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
     "num_attention_heads": 32, "num_key_value_heads": 32},
    prompt=512, response=256, steps=6, rows=4, rollout=16,
)  # fmt: skip
SMALL = Size(
    {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
     "num_attention_heads": 2, "num_key_value_heads": 2},
    prompt=16, response=8, steps=2, rows=2, rollout=4,
)  # fmt: skip


def make_model(size: Size, folder: Path) -> None:
    """Random weights and a tokenizer of whole words, as a user's folder would hold them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    on_gpu = torch.cuda.is_available()
    config = LlamaConfig(
        **size.model, max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        dtype=torch.bfloat16 if on_gpu else torch.float32,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(config.dtype)
    with torch.device("cuda" if on_gpu else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    special = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}
    words = special | {f"w{i}": i for i in range(len(special), size.model["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


def make_rows(size: Size, folder: Path) -> None:
    """Rows of exactly the wanted number of tokens."""
    from tunewell.pipelines.sets import Sets, save_sets

    draw = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(4, size.model['vocab_size'])}" for _ in range(count))

    def one() -> dict[str, str]:
        return {"prompt": words(size.prompt)}

    def answer() -> str:
        return " " + words(size.response - 1)  # and the end token

    count = size.steps * max(size.rows, size.rollout)
    save_sets(
        Sets(
            demonstrations=[one() | {"completion": answer()} for _ in range(count)],
            comparisons=[one() | {"chosen": answer(), "rejected": answer()} for _ in range(count)],
            prompts=[one() for _ in range(count)],
        ),
        folder,
    )


def run_stage(name: str, size: Size, work: Path, gb: float) -> dict[str, float | None]:
    """Run one stage in this process under its cap; figures, None where there is no GPU to measure them on."""
    import torch
    from tunewell.pipelines.console import Console
    from tunewell.pipelines.ppo import PpoSettings, run_ppo
    from tunewell.pipelines.reward import RewardSettings, run_reward
    from tunewell.pipelines.sft import SftSettings, run_sft
    from tunewell.toolkit.settings.base import BaseSettings
    from tunewell.toolkit.settings.reading import TrainerBlock
    from tunewell.toolkit.stage import Artifacts

    if torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gb * 1e9 / whole))
    base = BaseSettings(model=str(work / "model"), quantization="nf4")
    made = {
        part: path for part, path in (("sft", work / "sft/policy"), ("reward", work / "reward/reward")) if path.is_dir()
    }
    before = Artifacts(base=str(work / "model"), data=work / "sets", **made)
    common = {"max_steps": size.steps, "learning_rate": 1e-5, "logging_steps": 1, "save_strategy": "no"}
    training = common | {"per_device_train_batch_size": size.rows}
    rollouts = training | {
        "max_steps": max(2, size.steps // 2), "rollout_batch_size": size.rollout, "num_mini_batches": 2,
        "local_rollout_forward_batch_size": size.rollout, "response_length": size.response, "save_rollouts": False,
        "activation_checkpointing": True, "per_device_train_batch_size": min(size.rows, size.rollout // 2),
    }  # fmt: skip
    block = {"sft": training, "reward": training | {"per_device_train_batch_size": size.rows // 2}, "ppo": rollouts}[
        name
    ]
    folder, console = work / name, Console(is_quiet=True)
    folder.mkdir()
    if name == "sft":
        run_sft(SftSettings(trainer=TrainerBlock(block)), base, 0, console, before, folder)
    elif name == "reward":
        run_reward(RewardSettings(trainer=TrainerBlock(block)), base, 0, console, before, folder)
    else:
        run_ppo(PpoSettings(trainer=TrainerBlock(block)), base, 0, console, before, folder)
    log = json.loads((folder / "log.json").read_text())
    found = rates_of_ppo(log, size) if name == "ppo" else {"tokens_per_second": rate_of(log, size)}
    peaks: dict[str, float | None] = {"peak_gb": None, "tensors_gb": None}
    if torch.cuda.is_available():
        peaks = {
            "peak_gb": torch.cuda.max_memory_reserved() / 1e9,
            "tensors_gb": torch.cuda.max_memory_allocated() / 1e9,
        }
    return peaks | {"planned_gb": planned_gb(name, size, block, work)} | found


def planned_gb(stage: str, size: Size, trainer: dict[str, Any], work: Path) -> float:
    """What `tunewell plan` foresees for a stage at its peak, CUDA's own share left out, which no allocator sees."""
    from tunewell.pipelines.needs import Measure, needs
    from tunewell.pipelines.plan import read_config
    from tunewell.pipelines.recipe import Recipe
    from tunewell.toolkit.settings.reading import read_settings

    length = size.prompt + size.response
    wanted = [
        "base.quantization=nf4", f"sft.max_length={length}", f"reward.max_length={length}",
        f"ppo.max_prompt_tokens={size.prompt}",
        *(f"{stage}.trainer.{key}={json.dumps(value)}" for key, value in trainer.items()),
    ]  # fmt: skip
    foreseen = needs(read_settings(Recipe, None, wanted), Measure(read_config(str(work / "model"))))
    return max(need.total - need.parts["runtime"] for need in foreseen if need.stage == stage) / 1e9


def rate_of(log: list[dict[str, float]], size: Size) -> float:
    """Tokens per second of SFT (`rows` sequences a step) and of reward (half as many prompts, two completions each)."""
    seconds = next(entry["train_runtime"] for entry in log if "train_runtime" in entry)
    return size.steps * size.rows * (size.prompt + size.response) / seconds


def rates_of_ppo(log: list[dict[str, float]], size: Size) -> dict[str, float | None]:
    """Tokens of episodes per second and the share of generation, the first iteration (a warm-up) left out."""
    parts = ("seconds/generate", "seconds/score", "seconds/update")
    iterations = [entry for entry in log if parts[0] in entry][1:]
    seconds = {part: sum(entry[part] for entry in iterations) for part in parts}
    tokens = sum(size.rollout * (size.prompt + entry["completion/length"]) for entry in iterations)
    whole = sum(seconds.values())
    shares = {f"share_of_{part.removeprefix('seconds/')}": seconds[part] / whole for part in parts}
    written = sum(size.rollout * entry["completion/length"] for entry in iterations)
    return {"tokens_per_second": tokens / whole, "written_per_second": written / seconds[parts[0]], **shares}


def measure(size: Size, gb: float, is_tiny: bool) -> dict[str, dict[str, Any]]:
    """Every stage in a process of its own, each on what the one before made."""
    units = {
        "peak_gb": "GB reserved", "tensors_gb": "GB of tensors", "planned_gb": "GB foreseen",
        "tokens_per_second": "tokens per second", "written_per_second": "tokens written per second of generation",
        **{f"share_of_{part}": "share of time" for part in ("generate", "score", "update")},
    }  # fmt: skip
    table: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_rows(size, work / "sets")
        for name in ("model", *STAGES):
            command = [sys.executable, __file__, "--stage", name, "--work", str(work), "--gb", str(gb)]
            done = subprocess.run([*command, *["--tiny"][: int(is_tiny)]], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            if name == "model":
                continue
            figures = json.loads(done.stdout.splitlines()[-1])
            for figure, value in figures.items():
                table[f"{name}.{figure}"] = {"ours": value, "unit": units[figure]}
            print(f"{name:8}" + "  ".join(f"{k} {v}" for k, v in figures.items()), file=sys.stderr)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    parser.add_argument("--gb", type=float, default=24.0, help="GB of GPU memory that a process may take (default 24)")
    parser.add_argument("--tiny", action="store_true", help="a model of two small layers, on a CPU too")
    parser.add_argument("--stage", choices=("model", *STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = SMALL if arguments.tiny else FULL
    if arguments.stage == "model":
        make_model(size, arguments.work / "model")
    elif arguments.stage:
        print("\n" + json.dumps(run_stage(arguments.stage, size, arguments.work, arguments.gb)))
    else:
        import torch

        if not (torch.cuda.is_available() or arguments.tiny):
            print("torch sees no GPU here, so there is nothing to measure; --tiny tries every path on the CPU")
            return
        table = measure(size, arguments.gb, arguments.tiny)
        if arguments.json:
            print(json.dumps(table))


if __name__ == "__main__":
    main()
