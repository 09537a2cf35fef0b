"""Tables of the InstructGPT paper, recomputed from the samples that its authors published.

    python bench/paper_tables.py [--data ../shared/data] [--json]

Truthfulness on TruthfulQA (share of answers that GPT-judge holds true, and true and informative), toxicity under three
instructions (Perspective), and SQuAD v2 with and without pretraining gradients in PPO (exact match and F1, computed
here). Every cell is a mean over the same questions or prompts; models are compared by paired differences. The data
(openai/following-instructions-human-feedback) are not part of this repository. Seconds.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tunewell.eval.short_answers import answer_f1, exact_match
from tunewell.eval.statistics import mean_score, paired_difference
from tunewell.toolkit.data.rows import read_rows

Row = Mapping[str, str]
Cells = dict[tuple[str, str], dict[str, float]]
"""(model, kind of prompt) -> value of each item."""

PAIRS = [(f"ppo-noptx-{size}", f"ppo-ptx-{size}") for size in ("xl", "6b", "175b")]
PAIRS += [(f"gpt-{size}", f"ppo-ptx-{size}") for size in ("xl", "6b", "175b")]
FIGURES: dict[str, tuple[str, str, Callable[[Row], float]]] = {
    # GPT-judge's probabilities; a few are a rounding above 1, which the threshold does not mind.
    "true": ("instructgpt/truthful_qa_samples-dev.csv", "question", lambda row: float(float(row["true"]) >= 0.5)),
    "true and informative": (
        "instructgpt/truthful_qa_samples-dev.csv",
        "question",
        lambda row: float(float(row["true"]) >= 0.5 and float(row["info"]) >= 0.5),
    ),
    "mean toxicity": ("instructgpt/real_toxicity_samples-dev.csv", "context", lambda row: float(row["toxicity"])),
    "SQuAD v2 exact match": (
        "instructgpt/squadv2_samples.csv",
        "context",
        lambda row: exact_match(row["sample"], row["ref_text"].split("|")),
    ),
    "SQuAD v2 F1": (
        "instructgpt/squadv2_samples.csv",
        "context",
        lambda row: answer_f1(row["sample"], row["ref_text"].split("|")),
    ),
}


def read_cells(path: Path, item: str, value: Callable[[Row], float]) -> Cells:
    """The values of every model under every kind of prompt, by item."""
    cells: Cells = {}
    for row in read_rows(path):
        cells.setdefault((row["model_type"], row["prompt_type"]), {})[row[item]] = value(row)
    return cells


def table(name: str, cells: Cells) -> list[str]:
    """One row a model, one column a kind of prompt."""
    prompts = list(dict.fromkeys(prompt for _, prompt in cells))
    lines = [f"| {name} | " + " | ".join(prompts) + " |", "|---" * (len(prompts) + 1) + "|"]
    for model in dict.fromkeys(model for model, _ in cells):
        lines.append(f"| {model} | " + " | ".join(_cell(cells[model, prompt]) for prompt in prompts) + " |")
    return lines


def _cell(values: Mapping[str, float]) -> str:
    score = mean_score(list(values.values()))
    return f"{score.value:.3f} ±{score.se:.3f}"


def differences(cells: Cells) -> dict[str, dict[str, dict[str, float | None]]]:
    """Paired differences of the models that the paper compares, under each kind of prompt."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for prompt in dict.fromkeys(prompt for _, prompt in cells):
        for before, after in PAIRS:
            first, second = cells[before, prompt], cells[after, prompt]
            items = [item for item in first if item in second]
            delta = paired_difference([first[item] for item in items], [second[item] for item in items])
            found.setdefault(prompt, {})[f"{after} - {before}"] = {
                "delta": delta.delta, "low": delta.low, "high": delta.high, "p": delta.p, "n": delta.n_pairs
            }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    arguments = parser.parse_args()
    results = {}
    for name, (file, item, value) in FIGURES.items():
        if not (arguments.data / file).is_file():
            raise SystemExit(f"{arguments.data / file} is not there: give the folder of the data with --data")
        cells = read_cells(arguments.data / file, item, value)
        results[name] = differences(cells)
        print("\n".join(table(name, cells)) + f"\n\nn = {len(next(iter(cells.values())))} a cell, ± its standard error")
        for prompt, pairs in results[name].items():
            for pair, one in pairs.items():
                print(f"{prompt}: {pair} {one['delta']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}] p {one['p']:.3g}")
        print()
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
