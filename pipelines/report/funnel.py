"""The funnel as a picture: a stream of documents, as wide as they are many, from which each filter takes its share."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Polygon
from matplotlib.path import Path

from ...toolkit.chart_canvas import INK, MUTED, TONES, WIDTH, Chart, finish, new_figure, shorten, style
from .numbers import fixed, number

_STREAM = 136.0  # width of all documents read, in view-box units
_BEND = 9.0  # inner radius of the bend where a branch leaves the stream
_BRANCH_END = 176.0  # where the branches end and their labels begin
_LINE = 14.0  # height of a line of a label
_LETTERS = 28  # that fit in it
_HEAD = 28.0  # where the stream starts, below the number of documents read
_CIRCLE = 0.5523  # control points of a quarter circle as a Bezier curve
_HAIR = 1.2  # the thinnest branch that can still be seen
UNREADABLE = "could not be read"
SEPARATOR = " · "
_MOST = 9  # branches drawn; the others share one


def branches(funnel: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What leaves the stream, in order: unreadable rows, then each filter's reason; small ones share a branch."""
    taken = [(f"{step['filter']}{SEPARATOR}{step['reason']}", int(step["count"])) for step in funnel.get("steps", [])]
    if funnel.get("quarantined"):
        taken.insert(0, (UNREADABLE, int(funnel["quarantined"])))
    unexplained = funnel["dropped"] - sum(int(step["count"]) for step in funnel.get("steps", []))
    if unexplained > 0:
        taken.append(("reason not recorded", unexplained))
    taken = [(name, count) for name, count in taken if count > 0]
    if len(taken) <= _MOST:
        return taken
    largest = sorted(taken, key=lambda branch: -branch[1])[: _MOST - 1]
    rest = [branch for branch in taken if branch not in largest]
    drawn = [branch for branch in taken if branch in largest]
    return [*drawn, (f"{len(rest)} other reasons", sum(count for _, count in rest))]


def funnel_chart(funnel: Mapping[str, Any], *, key: str, title: str) -> Chart:
    """Draw the funnel of one filter run.

    Args:
        funnel: `read`, `kept`, `dropped`, `quarantined` and `steps` of `{filter, reason, count}`.
        key: prefix of the element ids, unique in the page.
        title: the accessible name.
    """
    leaving, read = branches(funnel), int(funnel["read"])
    scale = _STREAM / max(read, 1)
    tops = _tops(leaving, scale)
    bottom = tops[-1] + 4
    height = bottom + 34
    with style():
        figure, axes = new_figure(height)
        figure.set_layout_engine("none")
        axes.set_position((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(height, 0)
        _write(axes, 0, 14, f"{fixed(read, 0)} read", size=14, weight="bold")
        bank = [(read * scale, _HEAD)]  # the right bank of the stream, from top to bottom
        left = read
        for (name, count), top in zip(leaving, tops, strict=False):
            bank += [(left * scale, top), ((left - count) * scale, top)]
            left -= count
            _draw_branch(axes, left * scale, top, count * scale, TONES[0] if name == UNREADABLE else TONES[2])
            _label_branch(
                axes, top + _BEND + count * scale / 2, name, f"{fixed(count, 0)}", number(count / read, "share")
            )
        bank.append((left * scale, bottom))
        axes.add_patch(Polygon([(0, _HEAD), *bank, (0, bottom)], facecolor=TONES[3], alpha=0.78, linewidth=0))
        kept = int(funnel["kept"])
        share = f"  ({number(kept / read, 'share')})" if read else ""
        _write(axes, 0, bottom + 18, f"{fixed(kept, 0)} kept{share}", size=14, weight="bold")
        return finish(figure, axes, key, title)


def _lines(name: str) -> list[str]:
    """The name of a branch in one line, or the filter above its reason."""
    lines = [name] if len(name) <= _LETTERS else name.split(SEPARATOR, 1)
    return [shorten(line, _LETTERS) for line in lines]


def _tops(leaving: Sequence[tuple[str, int]], scale: float) -> list[float]:
    """Where each branch starts, and where the last one has passed; far enough apart for bends and labels."""
    tops = [_HEAD + 14]
    for name, count in leaving:
        label = _LINE * (1 + len(_lines(name))) + 20
        tops.append(tops[-1] + max(label, count * scale + _BEND + 12))
    return tops


def _draw_branch(axes: Axes, x: float, y: float, width: float, color: str) -> None:
    """A band that leaves the stream downwards at `x` and turns to the right."""
    width = max(width, _HAIR)
    inner, outer = _BEND, _BEND + width
    turn = x + outer  # the centre of the bend is (turn, y)
    vertices = [
        (x + width, y),
        (x + width, y + inner * _CIRCLE), (turn - inner * _CIRCLE, y + inner), (turn, y + inner),
        (_BRANCH_END, y + inner),
        (_BRANCH_END, y + outer),
        (turn, y + outer),
        (turn - outer * _CIRCLE, y + outer), (x, y + outer * _CIRCLE), (x, y),
    ]  # fmt: skip
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, *[Path.LINETO] * 3, *[Path.CURVE4] * 3]
    axes.add_patch(PathPatch(Path(vertices, codes), facecolor=color, alpha=0.8, linewidth=0))


def _label_branch(axes: Axes, middle: float, name: str, count: str, share: str) -> None:
    """The count beside its branch, the name below it."""
    x = _BRANCH_END + 8
    _write(axes, x, middle, f"\N{MINUS SIGN}{count}  ({share})", size=12.5)
    for index, line in enumerate(_lines(name)):
        _write(axes, x, middle + _LINE * (index + 1), line, size=11, color=MUTED)


def _write(axes: Axes, x: float, y: float, text: str, size: float, weight: str = "normal", color: str = INK) -> None:
    axes.text(x, y, text, fontsize=size, fontweight=weight, color=color, va="center", ha="left")
