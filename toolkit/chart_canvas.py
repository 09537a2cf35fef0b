"""What every chart is drawn on, and how it becomes inline SVG in the colours of the page it stands in.

Every chart is `WIDTH` units wide, so that its text stays legible on a phone. Colours are CSS variables
(`--chart-ink`, `--chart-muted`, `--chart-rule`, `--tone-0` to `--tone-5`): a chart follows a light or dark page.
The same numbers give the same bytes: no dates, no random ids, no reference to anything outside.
"""

import re
import unicodedata
import warnings
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

WIDTH = 360  # units of the view box; one unit is one CSS pixel when the chart is drawn at its own size
_DPI = 72  # one point is one unit

# Matplotlib knows no CSS variables: each role is drawn in a colour of its own, which `_inline` replaces.
INK, MUTED, RULE = "#010101", "#010102", "#010103"
TONES = ("#010110", "#010111", "#010112", "#010113", "#010114", "#010115")
_CSS = {INK: "var(--chart-ink)", MUTED: "var(--chart-muted)", RULE: "var(--chart-rule)"} | {
    color: f"var(--tone-{index})" for index, color in enumerate(TONES)
}

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
