"""Draw what a sweep of PPO's coefficients measured as a picture for these pages.

    python docs/draw_sweep.py RUN --figures reward perplexity --out docs/ppo-ptx.png

One panel a figure, against the KL of each arm from its SFT model; bars are 95% intervals. Reads RUN/*-sweep/sweep.json.
"""

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from draw_findings import COLOURS, STYLE, plt
from tunewell.pipelines.sweep import sweep_figures

LABELS = {
    "reward": "reward of held-out prompts",
    "perplexity": "perplexity of clean text",
    "truthfulness": "truthful answers (MC1)",
    "toxicity": "toxicity probability",
    "ended": "share of answers that end",
    "tokens": "tokens of an answer",
}
FAR = 100.0  # a figure that spans this factor is drawn on a logarithmic axis


def draw_panel(axes: Any, name: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Every arm as a point with its intervals, the arms of one kind in one colour."""
    for arm, one in figures[name].items():
        kl = figures["kl"][arm]
        kind = arm.partition(" ")[0]
        colour = COLOURS[{"sft": 2, "kl": 0, "ptx": 1}[kind]]
        axes.plot([kl["value"]] * 2, [one["low"], one["high"]], color=colour, linewidth=4, alpha=0.3)
        axes.plot([kl["low"], kl["high"]], [one["value"]] * 2, color=colour, linewidth=1, alpha=0.5)
        axes.plot([kl["value"]], [one["value"]], "o", color=colour)
        axes.annotate(arm.upper() if kind == "sft" else arm, (kl["value"], one["value"]), (6, 5),
                      textcoords="offset points", color=colour)  # fmt: skip
    values = [one["value"] for one in figures[name].values()]
    if min(values) > 0 and max(values) / min(values) > FAR:
        axes.set_yscale("log")
    if max(kl["value"] for kl in figures["kl"].values()) > FAR / 4:
        axes.set_xscale("symlog", linthresh=1)
    axes.margins(0.12)
    axes.set_title(LABELS[name])
    axes.set_xlabel("KL from SFT, nats per answer")


def draw(run: Path, names: Sequence[str], out: Path) -> None:
    """Write one picture with a panel for each figure."""
    folders = [path.parent for path in run.glob("*/sweep.json")]
    if len(folders) != 1:
        raise SystemExit(f"{run} holds no finished sweep: run a recipe whose stages name it, such as findings/ppo-kl")
    figures = sweep_figures(folders[0])["figures"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 3.6), layout="constrained", squeeze=False)
        for place, name in zip(axes[0], names, strict=True):
            draw_panel(place, name, figures)
        figure.savefig(out, dpi=130, metadata={"Software": None})


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=textwrap.dedent(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run whose stages name `sweep`")
    parser.add_argument("--figures", nargs="+", choices=LABELS, default=["reward", "perplexity"], help="one panel each")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    arguments = parser.parse_args()
    draw(arguments.run, arguments.figures, arguments.out)


if __name__ == "__main__":
    main()
