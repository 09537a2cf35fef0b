"""The charts of the report pages: intervals, curves, histograms, scatter plots."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .chart_canvas import INK, MUTED, RULE, TONES, Chart, finish, new_figure, shorten, style

_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 3)))


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart: a value between its bounds (None: not measured), with the text beside it."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    text: str
    tone: int = 0


@dataclass(frozen=True)
class Series:
    """One line of a curve chart; `low` and `high`, where given, are drawn as a band around `y`. NaN leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    tone: int = 1


def interval_chart(
    rows: Sequence[Interval], *, key: str, title: str, percent: bool = False, chance: float | None = None
) -> Chart:
    """One row per model: name, value with its interval, and both again as text.

    Args:
        rows: from top to bottom.
        key: prefix of the element ids, unique in the page.
        title: the accessible name.
        percent: the values are shares; the axis shows percent.
        chance: where a guesser would stand, drawn as a dashed line.
    """
    with style():
        figure, axes = new_figure(62 + 31 * len(rows))
        axes.set_xlim(*_span_of(rows, chance, percent))
        axes.set_ylim(len(rows) - 0.45, -0.75)
        known = [(index, row.value) for index, row in enumerate(rows) if row.value is not None]
        if len(known) > 1:  # the first model's value, drawn down to the last: how far the others have come
            (start, value), (end, _) = known[0], known[-1]
            axes.plot([value, value], [start, end], color=RULE, linewidth=1.4, linestyle=(0, (2, 2)))
        if chance is not None:
            axes.axvline(chance, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.annotate("chance", (chance, -0.7), (4, 0), textcoords="offset points", color=MUTED, fontsize=11,
                          va="center")  # fmt: skip
        for position, row in enumerate(rows):
            _draw_interval(axes, position, row)
        axes.set_yticks(range(len(rows)), [shorten(row.name, 14) for row in rows])
        axes.tick_params(axis="y", labelcolor=INK, labelsize=12.5, pad=9)
        _value_ticks(axes, percent)
        right = axes.secondary_yaxis("right")
        right.set_yticks(range(len(rows)), [shorten(row.text, 29) for row in rows])
        right.tick_params(axis="y", labelcolor=INK, labelsize=11.5, length=0)
        right.spines["right"].set_visible(False)
        right.patch.set_visible(False)
        return finish(figure, axes, key, title)


def _draw_interval(axes: Axes, position: int, row: Interval) -> None:
    color = TONES[row.tone % len(TONES)]
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [position, position], color=color, linewidth=6, alpha=0.32,
                  solid_capstyle="round")  # fmt: skip
    if row.value is not None:
        axes.plot([row.value], [position], marker="o", markersize=8.5, color=color, linestyle="none", clip_on=False)


def _span_of(rows: Iterable[Interval], chance: float | None, percent: bool) -> tuple[float, float]:
    """The range of the axis: shares start at 0 and end at 1, or just above the largest when all are small."""
    marks = [mark for row in rows for mark in (row.value, row.low, row.high) if mark is not None]
    marks += [chance] if chance is not None else []
    if not marks:
        return 0.0, 1.0
    if percent and min(marks) >= 0:
        return (0.0, 1.0) if max(marks) > 0.5 else (0.0, max(max(marks) * 1.15, 1e-4))
    width = (max(marks) - min(marks)) or abs(marks[0]) or 1.0
    return min(marks) - 0.1 * width, max(marks) + 0.1 * width


def curve_chart(series: Sequence[Series], *, key: str, title: str, x_label: str = "", y_label: str = "") -> Chart:
    """Lines over a common axis, each with a colour and a dash of its own."""
    with style():
        figure, axes = new_figure(230)
        for index, line in enumerate(series):
            color = TONES[line.tone % len(TONES)]
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.16, linewidth=0)
            look: dict[str, Any] = {"color": color, "linestyle": _DASHES[index % len(_DASHES)]}
            axes.plot(line.x, line.y, label=_legend_name(line.name), **look)
            if len(line.x) < 2:  # a single point draws no line
                axes.plot(line.x, line.y, marker="o", markersize=6, **look)
        axes.margins(x=0.01)
        _plain_axes(axes, x_label, y_label)
        _legend(figure, axes, [line.name for line in series])
        return finish(figure, axes, key, title)


def histogram_chart(
    edges: Sequence[float],
    counts: Mapping[str, Sequence[float]],
    *,
    key: str,
    title: str,
    x_label: str = "",
    threshold: float | None = None,
) -> Chart:
    """Counts between `edges`, one filled outline per series; `threshold` is a dashed line."""
    with style():
        figure, axes = new_figure(230)
        for index, (name, heights) in enumerate(counts.items()):
            color = TONES[1 + index % (len(TONES) - 1)]
            axes.stairs(heights, edges, fill=True, color=color, alpha=0.22, linewidth=0)
            axes.stairs(heights, edges, color=color, linewidth=1.6, label=_legend_name(name))
        axes.set_ylim(bottom=0)
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
            top = axes.get_ylim()[1]
            middle = (axes.get_xlim()[0] + axes.get_xlim()[1]) / 2
            side = 5 if threshold < middle else -5
            axes.annotate("threshold", (threshold, top), (side, -7), textcoords="offset points", fontsize=11,
                          ha="left" if side > 0 else "right", va="center")  # fmt: skip
        _plain_axes(axes, x_label, "documents")
        _legend(figure, axes, list(counts))
        return finish(figure, axes, key, title)


def scatter_chart(
    points: Sequence[tuple[float, float, str]],
    *,
    key: str,
    title: str,
    x_label: str = "",
    y_label: str = "",
    joined: bool = False,
) -> Chart:
    """Points (x, y, label), joined in the order given when they are one path."""
    with style():
        figure, axes = new_figure(250)
        xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
        if joined:
            axes.plot(xs, ys, color=TONES[1], linewidth=1.2, alpha=0.45)
        axes.plot(xs, ys, linestyle="none", marker="o", markersize=4.5, color=TONES[1])
        axes.margins(x=0.08, y=0.14)
        middle = sum(axes.get_ylim()) / 2
        for x, y, label in points:
            if label:  # a named point is larger; its name stands away from the crowd in the middle
                axes.plot([x], [y], linestyle="none", marker="o", markersize=8, color=TONES[1])
                axes.annotate(shorten(label, 24), (x, y), (0, 13 if y > middle else -13), textcoords="offset points",
                              fontsize=12, va="center", ha="center", color=INK)  # fmt: skip
        _plain_axes(axes, x_label, y_label)
        return finish(figure, axes, key, title)


def _plain_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Hairlines behind the data, few ticks, the name of the y axis lying flat above it."""
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(_ticks(5))
    axes.yaxis.set_major_locator(_ticks(5))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    axes.set_xlabel(shorten(x_label, 60))
    axes.set_title(shorten(y_label, 60), loc="left", pad=7)


def _value_ticks(axes: Axes, percent: bool) -> None:
    if percent and axes.get_xlim() == (0.0, 1.0):
        axes.set_xticks([0, 0.5, 1])
    else:
        axes.xaxis.set_major_locator(_ticks(4))
    scale, sign = (100, "%") if percent else (1, "")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(scale * value) + sign))


def _ticks(count: int) -> MaxNLocator:
    """At most `count` steps, each a round number."""
    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3)


def _tick(value: float, _: int | None = None) -> str:
    """A tick label without needless digits: 1,200, 0.05, −3, 2e−5."""
    if value != 0 and (abs(value) < 1e-4 or abs(value) >= 1e7):
        text = f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    else:
        # Ten digits: enough for any tick, few enough to hide 0.30000000000000004.
        text = f"{round(value, 10):,.10f}".rstrip("0").rstrip(".")
    return text.replace("-", "\N{MINUS SIGN}")


def _legend_name(text: str) -> str:
    """A name that matplotlib shows: it hides those that begin with an underscore, so a hair space goes first."""
    text = shorten(text, 44)
    return f"\N{HAIR SPACE}{text}" if text.startswith("_") else text


def _legend(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    """Names above the plot, side by side when they fit."""
    if len(names) < 2:
        return
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels) if sum(len(label) + 7 for label in labels) < 48 else (2 if max(map(len, labels)) < 22 else 1)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.7, columnspacing=1.4,
                  labelcolor=INK, borderpad=0.35, borderaxespad=0)  # fmt: skip
