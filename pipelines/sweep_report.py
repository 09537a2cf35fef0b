"""What the report shows of a sweep: how its arms trained, and what each gained and cost."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .sweep import sweep_figures

CURVES = {
    "objective/score": ("Sweep: mean reward", "reward"),
    "objective/kl": ("Sweep: distance from SFT", "KL, nats per answer"),
}
KINDS = {"kl": "KL coefficient", "ptx": "ptx coefficient"}
PLOTS = {
    "reward": "mean reward, held-out prompts",
    "perplexity": "perplexity of clean text",
    "truthfulness": "truthful answers (MC1)",
    "toxicity": "toxicity probability",
}
COLUMNS = {
    "reward": "Reward",
    "kl": "KL, nats",
    "truthfulness": "Truthful",
    "toxicity": "Toxic",
    "perplexity": "Perplexity",
    "ended": "Ended",
    "tokens": "Tokens",
}
FAR = 100.0
"""A figure whose values span this factor is drawn as its logarithm."""


def sweep_curves(folder: Path) -> Iterator[dict[str, Any]]:
    """Reward and KL over the iterations, one line an arm, one chart a coefficient, so that lines can be told apart."""
    logs = sweep_figures(folder)["logs"]
    for key, (title, label) in CURVES.items():
        for kind, name in KINDS.items():
            series = [
                {"name": arm, "x": [one["step"] for one in log], "y": [one[key] for one in log]}
                for arm, log in logs.items()
                if arm.startswith(kind)
            ]
            if series:
                yield {"title": f"{title} by {name}", "x_label": "iteration", "y_label": label, "series": series}


def sweep_plots(folder: Path) -> Iterator[dict[str, Any]]:
    """What each arm gained and what it cost, against how far it went."""
    figures: Mapping[str, Mapping[str, Any]] = sweep_figures(folder)["figures"]
    for name, label in PLOTS.items():
        if name not in figures:
            continue
        values = {
            arm: figure["value"]
            for arm, figure in figures[name].items()
            if figure["value"] is not None and figures["kl"][arm]["value"] is not None
        }
        if values and min(values.values()) > 0 and max(values.values()) / min(values.values()) > FAR:
            label = f"log10 of {label}"
            values = {arm: math.log10(value) for arm, value in values.items()}
        yield {
            "title": f"Sweep: {label} against KL",
            "x_label": "KL from SFT (nats per answer)",
            "y_label": label,
            "points": [
                {"x": figures["kl"][arm]["value"], "y": value, "label": arm.upper() if arm == "sft" else arm}
                for arm, value in values.items()
            ],
        }


def sweep_table(folder: Path) -> dict[str, Any]:
    """One row an arm; the intervals stand in the table of every figure."""
    figures: Mapping[str, Mapping[str, Any]] = sweep_figures(folder)["figures"]
    shown = {name: head for name, head in COLUMNS.items() if name in figures}
    arms = next(iter(figures.values()))
    counts = sorted({f"{head} {next(iter(figures[name].values()))['n']}" for name, head in shown.items()})
    return {
        "title": "Sweep of PPO's coefficients",
        "caption": f"Held-out rows, the same for every arm (n: {', '.join(counts)})",
        "columns": ["Arm", *shown.values()],
        "rows": [[arm, *(figures[name][arm]["value"] for name in shown)] for arm in arms],
    }
