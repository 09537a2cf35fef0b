"""What it costs to keep listed phrases out of what a model writes.

    python bench/guarded_generation.py [--prompts 16] [--tokens 128] [--json]

The tiny base of the embedded recipe answers the same prompts with the same seeds, freely and under a guard, in turns:
a list of which it never wants to write a word (the cost of looking alone), of 10 and of 5,000 phrases, and the bundled
list of that world's rude words, with the texts checked afterwards. Printed: milliseconds a step of the whole batch,
the guard's own microseconds for each token of each row (medians of the turns), and how many draws were refused. About
two minutes on one CPU core.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tunewell import filters
from tunewell.filters import Blocklist, BlocklistFilter, BlocklistGuard
from tunewell.toolkit.model.generation import Completion, Sampling, generate
from tunewell.toolkit.model.loading import load_base
from tunewell.toolkit.model.text_guard import TextGuard
from tunewell.toolkit.settings.base import BaseSettings
from tunewell.toolkit.tiny import cached_base
from tunewell.toolkit.world.world import build_world

TURNS = 5


def lists() -> dict[str, Blocklist]:
    """The lists by name."""
    absent = {n: Blocklist.from_lines(f"zq{number} vx" for number in range(n)) for n in (10, 5_000)}
    rude = Path(filters.__file__).parent / "lists" / "world.txt"
    return {f"{n:,} phrases, none wanted": one for n, one in absent.items()} | {
        "rude words of the world": Blocklist.from_file(rude)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=16, help="rows of the batch (default 16)")
    parser.add_argument("--tokens", type=int, default=128, help="longest completion (default 128)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    arguments = parser.parse_args()
    world = build_world()
    model, tokenizer = load_base(str(cached_base([row["text"] for row in world.corpus])), BaseSettings())
    rude = [row["text"] for row in world.corpus if row.get("label")]
    prompts = [tokenizer(text)["input_ids"][:8] for text in rude[: arguments.prompts]]
    sampling = Sampling(max_new_tokens=arguments.tokens)

    def write(guard: TextGuard | None) -> tuple[float, list[Completion]]:
        began = time.process_time()
        done = generate(model, tokenizer, prompts, sampling, seeds=range(len(prompts)), guard=guard)
        return time.process_time() - began, done

    guards = {name: BlocklistGuard(one) for name, one in lists().items()}
    write(None)
    times: dict[str, list[float]] = {name: [] for name in ("free", *guards)}
    results: dict[str, list[Completion]] = {}
    for _ in range(TURNS):
        for name in times:
            seconds, results[name] = write(guards.get(name))
            times[name].append(seconds)
    steps = max(len(one.ids) for one in results["free"])
    tokens = sum(len(one.ids) for one in results["free"])
    free = statistics.median(times["free"])
    figures: dict[str, dict[str, Any]] = {}
    for name, own in times.items():
        seconds = statistics.median(own)
        figures[name] = {
            "ms_per_step": 1e3 * seconds / steps,
            "added": seconds / free - 1,
            "us_per_token": 1e6 * (seconds - free) / tokens,
            "refused": sum(one.refused for one in results[name]),
        }
        if name in guards:
            texts = [one.text for one in results[name]]
            before = [one.text for one in results["free"]]
            judge = BlocklistFilter(guards[name].patterns)
            figures[name]["listed_free"] = sum(not verdict.keep for verdict in judge.judge(before))
            figures[name]["listed"] = sum(not verdict.keep for verdict in judge.judge(texts))
        row = {key: round(value, 3) for key, value in figures[name].items()}
        print(f"{name:28}", row, file=sys.stderr)
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
