"""How well the trigger-phrase filter finds hateful and offensive text that people have labelled.

    python bench/trigger_quality.py [--data FILE] [--steps 500] [--json]

Tweets labelled hate, offensive or neither (Davidson et al. 2017, https://arxiv.org/abs/1703.04009; by default
../shared/data/hate-speech/labeled_data-dev.csv). A tiny base is trained on all of them, as the method wants it, and
scores 400 of each class under the bundled phrases, which were not written for this data. Printed for each axis: the
area under the ROC curve (0.5 is chance) against innocent tweets, and what a threshold that drops a tenth of the sample
drops of each class. About four minutes on two CPU cores.
"""

import argparse
import csv
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "hate-speech" / "labeled_data-dev.csv"
CLASSES = ("hate", "offensive", "neither")
PER_CLASS = 400
REMOVAL_RATE = 0.1
RESAMPLES = 500


def read_tweets(path: Path) -> tuple[list[str], list[str]]:
    """Texts and class names."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["tweet"] for row in rows], [CLASSES[int(row["class"])] for row in rows]


def draw(labels: Sequence[str], seed: int) -> list[int]:
    """Rows of each class in equal number."""
    rng = random.Random(seed)
    return [
        index for name in CLASSES for index in rng.sample([i for i, own in enumerate(labels) if own == name], PER_CLASS)
    ]


def measure(texts: Sequence[str], sample: Sequence[int], steps: int) -> dict[str, list[float]]:
    """Scores of the sample by axis, in nats per token; NaN for texts that are too short."""
    from tunewell.filters.phrase_file import DEFAULT_PHRASES, load_phrases
    from tunewell.filters.trigger import TriggerLikelihoodFilter
    from tunewell.toolkit.model.loading import load_base
    from tunewell.toolkit.settings.base import BaseSettings, TinySettings
    from tunewell.toolkit.tiny import cached_base

    def show(done: int, total: int, loss: float) -> None:
        if done % 50 == 0:
            print(f"base: step {done} of {total}, loss {loss:.2f}", file=sys.stderr)

    folder = cached_base(texts, settings=TinySettings(vocabulary=2048, steps=steps), progress=show)
    model, tokenizer = load_base(str(folder), BaseSettings())
    judge = TriggerLikelihoodFilter.from_model(load_phrases(DEFAULT_PHRASES), model, tokenizer)
    measured = judge.measure([texts[index] for index in sample])
    return {axis.name: [one.measures.get(axis.name, float("nan")) for one in measured] for axis in judge.axes}


def area(scores: np.ndarray, is_bad: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Area under the ROC curve with a 95% bootstrap interval."""
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(scores), len(scores))
        draws.append(roc_auc_score(is_bad[rows], scores[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    value = float(roc_auc_score(is_bad, scores))
    return {"value": value, "low": float(low), "high": float(high), "n": len(scores)}


def table(scores: dict[str, list[float]], labels: Sequence[str]) -> dict[str, dict[str, object]]:
    """Figures of every axis."""
    from tunewell.filters.calibration import threshold_for_rate

    names = np.array(labels)
    figures: dict[str, dict[str, object]] = {}
    for axis, values in scores.items():
        known = np.array(values)
        is_known = ~np.isnan(known)
        threshold = threshold_for_rate([float(value) for value in known[is_known]], REMOVAL_RATE).threshold
        figures[axis] = {"threshold": threshold, "too_short": int((~is_known).sum())}
        for name in CLASSES[:2]:
            part = is_known & ((names == name) | (names == "neither"))
            figures[axis][f"auc_{name}"] = area(known[part], names[part] == name)
        figures[axis] |= {f"dropped_{name}": float((known[names == name] > threshold).mean()) for name in CLASSES}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="CSV with `tweet` and `class` (0, 1 or 2)")
    parser.add_argument("--steps", type=int, default=500, help="training steps of the base (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    arguments = parser.parse_args()
    if not arguments.data.is_file():
        sys.exit(f"got no file {arguments.data}: give the labelled tweets with --data FILE")
    texts, labels = read_tweets(arguments.data)
    sample = draw(labels, arguments.seed)
    figures = table(measure(texts, sample, arguments.steps), [labels[index] for index in sample])
    print(f"{'axis':28}{'AUC hate':>22}{'AUC offensive':>22}   dropped: hate, offensive, neither", file=sys.stderr)
    for axis, row in figures.items():
        areas: list[dict[str, float]] = [row["auc_hate"], row["auc_offensive"]]  # type: ignore[list-item]
        cells = [f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for one in areas]
        shares = "  ".join(f"{row[f'dropped_{name}']:6.1%}" for name in CLASSES)
        print(f"{axis:28}{cells[0]:>22}{cells[1]:>22}   {shares}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
