"""What the experiments of a run found, as curves and tables for the report page."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..toolkit.files import read_json
from .mixture import ARMS as MIXTURE_ARMS
from .mixture import GROUPS

MIXTURE_WORDS = {"held_out": "tasks outside of the mixture", "trained": "tasks of the mixture, other items"}


def finding_curves(stages: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    """Curves of the reward losses over the epochs; the band reaches from the lowest repeat to the highest."""
    if "losses" not in stages:
        return
    found = read_json(stages["losses"] / "losses.json")
    for title, key, label in (
        ("Reward losses: held-out accuracy", "accuracy", "share of pairs"),
        ("Reward losses: held-out loss", "loss", "nats per pair"),
    ):
        yield {
            "title": title,
            "x_label": "epoch",
            "y_label": label,
            "series": [
                {
                    "name": found["arms"][arm],
                    "x": list(range(len(points))),
                    "y": [point[key] for point in points],
                    "low": [min(point["repeats"][key]) for point in points],
                    "high": [max(point["repeats"][key]) for point in points],
                }
                for arm, points in found["curves"].items()
            ],
            "note": f"{found['rankings']} rankings, measured alike for every loss on held-out ones.",
        }


def finding_tables(stages: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    """The instruction mixture: accuracy of every arm, and of every task."""
    if "mixture" not in stages:
        return
    found = read_json(stages["mixture"] / "mixture.json")
    yield {
        "title": "Instruction mixture",
        "caption": "Share of items whose right answer is likelier, per token, than every wrong one",
        "columns": ["Arm", "Tasks", "Accuracy", "Low", "High", "n"],
        "rows": [
            [MIXTURE_ARMS[arm], MIXTURE_WORDS[group], one["value"], one["low"], one["high"], one["n"]]
            for group in GROUPS
            for arm in MIXTURE_ARMS
            if (one := found["figures"][arm][group])
        ],
    }
    tasks = next(iter(found["tasks"].values()))
    yield {
        "title": "Instruction mixture, task by task",
        "caption": "Accuracy on items that no arm was trained on",
        "columns": ["Task", *MIXTURE_ARMS],
        "rows": [[task, *(found["tasks"][arm][task] for arm in MIXTURE_ARMS)] for task in tasks],
    }
