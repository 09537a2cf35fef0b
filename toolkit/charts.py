"""Charts as inline SVG: drawn by matplotlib, coloured by the CSS of the page they stand in.

Every chart is `WIDTH` units wide, so that its text stays legible on a phone. Colours are CSS variables
(`--chart-ink`, `--chart-muted`, `--chart-rule`, `--tone-0` to `--tone-5`): a chart follows a light or dark page.
The same numbers give the same bytes: no dates, no random ids, no reference to anything outside.
"""

import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH = 360  # units of the view box; one unit is one CSS pixel when the chart is drawn at its own size
_DPI = 72  # one point is one unit

# Matplotlib knows no CSS variables: each role is drawn in a colour of its own, which `_inline` replaces.
INK, MUTED, RULE = "#010101", "#010102", "#010103"
TONES = ("#010110", "#010111", "#010112", "#010113", "#010114", "#010115")
_CSS = {INK: "var(--chart-ink)", MUTED: "var(--chart-muted)", RULE: "var(--chart-rule)"} | {
    color: f"var(--tone-{index})" for index, color in enumerate(TONES)
}
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 3)))

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, and set in the font of the page
    "text.parse_math": False,  # a "$" in a label is a dollar
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so the layout is the same on every machine
    "font.size": 12.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.linewidth": 1.0,
    "axes.titlesize": 11.5,
    "axes.labelsize": 11.5,
    "axes.titlecolor": MUTED,
    "axes.unicode_minus": True,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "ytick.major.size": 0.0,
    "xtick.major.size": 3.0,
    "grid.color": RULE,
    "grid.linewidth": 1.0,
    "lines.linewidth": 1.8,
    "legend.fontsize": 11.5,
    "legend.frameon": False,
    "path.simplify_threshold": 0.2,
}


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Attributes:
        svg: the `<svg>` element, ready to stand inside an HTML page.
        plot: where the data stand in it, for a page that reads values under the pointer: left, right, top and
            bottom of the plotting area in view-box units, then the data at left and right.
    """

    svg: str
    plot: tuple[float, float, float, float, float, float]


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


def style(key: str | None = None) -> AbstractContextManager[None]:
    """The look of all charts, to be held while one is drawn; `key` makes its element ids repeatable."""
    return matplotlib.rc_context(_STYLE | ({"svg.hashsalt": key} if key else {}))


def new_figure(height: float) -> tuple[Figure, Axes]:
    """An empty chart `WIDTH` by `height` units; draw on it inside `style()`, then call `finish`."""
    layout = ConstrainedLayoutEngine(w_pad=3 / _DPI, h_pad=3 / _DPI)
    figure = Figure(figsize=(WIDTH / _DPI, height / _DPI), dpi=_DPI, layout=layout)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[["left", "right", "top"]].set_visible(False)
    return figure, axes


def shorten(text: str, limit: int) -> str:
    """`text` as a label: printable, on one line, as wide as `limit` common letters (the table has it whole)."""
    text = " ".join(_printable(text).split())
    room = float(limit)
    for index, letter in enumerate(text):
        is_wide = letter.isupper() or letter in "mw@%" or unicodedata.east_asian_width(letter) in "WF"
        room -= 1.6 if is_wide else 1.0
        if room < 0:
            return text[: max(0, index - 1)].rstrip() + "…"
    return text


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


def finish(figure: Figure, axes: Axes, key: str, title: str) -> Chart:
    """The figure as inline SVG, its ids prefixed by `key`."""
    with warnings.catch_warnings():
        # The browser draws the text in a font of its own: a character that matplotlib's font lacks is no fault.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support", category=UserWarning)
        buffer = StringIO()
        with style(key):
            # What `savefig` does beside this, for other formats, lays the figure out once more.
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    height = figure.get_figheight() * _DPI
    box = axes.get_position()
    plot = (box.x0 * WIDTH, box.x1 * WIDTH, (1 - box.y1) * height, (1 - box.y0) * height, *axes.get_xlim())
    return Chart(_inline(buffer.getvalue(), key, title), tuple(round(float(number), 6) for number in plot))  # type: ignore[arg-type]


def _printable(text: str) -> str:
    """`text` without the characters that XML forbids."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", text)


def _inline(svg: str, key: str, title: str) -> str:
    """A whole SVG file as an element of an HTML page: no namespaces, own ids, colours from CSS."""
    # matplotlib wrote this text a moment ago from escaped labels, so a plain XML parser is safe here.
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.split("}")[-1] in ("metadata", "style"):  # a style element would reach the whole page
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.split("}")[-1]
        attributes = {name.split("}")[-1]: _attribute(name.split("}")[-1], value, key)
                      for name, value in element.attrib.items()}  # fmt: skip
        element.attrib.clear()
        element.attrib.update(attributes)
    view_box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": view_box, "role": "img", "aria-label": _printable(title), "class": "chart"})
    ElementTree.indent(root, "")
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(name: str, value: str, key: str) -> str:
    """One attribute as the page needs it."""
    if name == "id":
        return f"{key}-{value}"
    if name == "href":
        return value.replace("#", f"#{key}-", 1)
    if name == "clip-path":
        return value.replace("url(#", f"url(#{key}-", 1)
    if name == "style":
        value = re.sub("#[0-9a-f]{6}", lambda match: _CSS.get(match[0], match[0]), value)
        # The page sets the font; the size stays.
        value = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", value)
        return re.sub(r"font-family: [^;]*;?", "", value)
    if name in ("d", "points", "x", "y", "width", "height", "transform"):
        return re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", value)
    return value
