"""Draw the curves of a run as a picture for these pages.

    python docs/draw_findings.py RUN --curves "SFT loss" "SFT: reward of sampled answers" --out docs/sft-overfit.png
    python docs/draw_findings.py RUN --figures mixture.held_out mixture.trained --out docs/instruction-mixture.png

Curves are those of RUN/report.html, by their titles; figures are those of RUN/run.json, by what their names begin with.
"""

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from tunewell.pipelines.report_data import build_report
from tunewell.pipelines.run import read_run

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the backend is chosen
from matplotlib.ticker import MaxNLocator

COLOURS = ("#1b6ca8", "#c8553d", "#2f7d4f", "#7a4fa3")
STYLE: dict[Any, Any] = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e3e3e3",
    "axes.edgecolor": "#888888", "legend.frameon": False, "axes.titlesize": 11, "axes.titlelocation": "left",
}  # fmt: skip


def draw_curve(axes: Any, curve: Mapping[str, Any]) -> None:
    """Lines with their bands."""
    for index, line in enumerate(curve["series"]):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(line["x"], line["y"], color=colour, linewidth=1.8, label=line["name"])
        if line.get("low"):
            axes.fill_between(line["x"], line["low"], line["high"], color=colour, alpha=0.18, linewidth=0)
    axes.set_title(curve["title"])
    axes.set_xlabel(curve["x_label"])
    axes.set_ylabel(curve["y_label"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(curve["series"]) > 1:
        axes.legend()


def draw_figures(axes: Any, prefix: str, results: Mapping[str, Any], span: tuple[float, float]) -> None:
    """One point with its interval for each figure."""
    names = [name for name in results if name.startswith(f"{prefix}.")]
    for index, name in enumerate(names):
        one = results[name]
        axes.plot([one["low"], one["high"]], [index, index], color=COLOURS[0], linewidth=5, alpha=0.3)
        axes.plot([one["value"]], [index], "o", color=COLOURS[0])
        axes.annotate(f"{one['value']:.2f}", (one["value"], index), (0, 8), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(names)), [name.removeprefix(f"{prefix}.") for name in names])
    axes.set_ylim(len(names) - 0.4, -0.8)
    axes.set_xlim(*span)
    axes.set_title(prefix.replace("_", " ").replace(".", ": "))


def draw(run: Path, curves: Sequence[str], prefixes: Sequence[str], out: Path) -> None:
    """Write one picture with all that was asked for, side by side."""
    by_title = {curve["title"]: curve for curve in build_report(run).get("curves", [])}
    if missing := [title for title in curves if title not in by_title]:
        raise SystemExit(f"{run} has no curve {missing[0]!r}; it has " + ", ".join(map(repr, by_title)))
    with plt.rc_context(STYLE):
        count = len(curves) + len(prefixes)
        figure, axes = plt.subplots(1, count, figsize=(4.6 * count, 3.4), layout="constrained", squeeze=False)
        for place, title in zip(axes[0], curves, strict=False):
            draw_curve(place, by_title[title])
        results = read_run(run)["results"]
        for place, prefix in zip(axes[0][len(curves) :], prefixes, strict=True):
            draw_figures(place, prefix, results, _span(results, prefixes))
        figure.savefig(out, dpi=130, metadata={"Software": None})


def _span(results: Mapping[str, Any], prefixes: Sequence[str]) -> tuple[float, float]:
    """One axis for all panels, wide enough for every interval."""
    shown = [one for name, one in results.items() if name.startswith(tuple(f"{prefix}." for prefix in prefixes))]
    if not shown:
        raise SystemExit(f"no figure begins with {', '.join(prefixes)}; there are " + ", ".join(results))
    low, high = min(one["low"] for one in shown), max(one["high"] for one in shown)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=textwrap.dedent(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--curves", nargs="*", default=[], help="titles of curves")
    parser.add_argument("--figures", nargs="*", default=[], help="beginnings of names of figures")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    arguments = parser.parse_args()
    draw(arguments.run, arguments.curves, arguments.figures, arguments.out)


if __name__ == "__main__":
    main()
