"""How training went: curves over the steps, and one quantity against another."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...toolkit import charts
from .numbers import estimate, is_number
from .parts import Cell, Figure, Marks, Table, cell, figure, floats
from .text import plain

_MOST_ROWS = 60  # rows of the table beside a curve; the JSON beside it has every point


def training(report: Mapping[str, Any], marks: Marks) -> list[Figure] | None:
    """The section of curves and scatter plots, or None without any."""
    figures = [_curve(curve, marks) for curve in report.get("curves") or []]
    figures += [_scatter(plot, marks, joined=True) for plot in report.get("frontier") or []]
    figures += [_scatter(plot, marks, joined=False) for plot in report.get("scatter") or []]
    return figures or None


def _curve(curve: Mapping[str, Any], marks: Marks) -> Figure:
    key = marks.next("figure")
    lines = [
        charts.Series(
            name=plain(line["name"]),
            x=floats(line["x"]),
            y=floats(line["y"]),
            low=floats(line["low"]) if line.get("low") else None,
            high=floats(line["high"]) if line.get("high") else None,
            tone=1 + index % 5,
        )
        for index, line in enumerate(curve["series"])
    ]
    labels = {name: plain(curve.get(name) or "") for name in ("x_label", "y_label")}
    chart = charts.curve_chart(lines, key=key, title=plain(curve["title"]), **labels)
    data = {name: curve.get(name) for name in ("title", "x_label", "y_label", "series")}
    table = _curve_table(curve)
    return figure(key, curve["title"], chart, table, data, note=curve.get("note") or "", is_readable=True)


def _curve_table(curve: Mapping[str, Any]) -> Table:
    """One row per x, one column per series; long curves thinned evenly, and the note says so."""
    columns = [_column(line) for line in curve["series"]]
    xs = sorted({x for column in columns for x in column})
    shown = _thinned(xs, columns)
    rows = [[cell(x), *(column.get(x, Cell("")) for column in columns)] for x in shown]
    note = f"{len(shown)} of {len(xs)} steps; the JSON holds them all." if len(shown) < len(xs) else ""
    heads = (curve.get("x_label") or "x", *(line["name"] for line in curve["series"]))
    return Table(curve["title"], heads, rows, note)


def _column(line: Mapping[str, Any]) -> dict[float, Cell]:
    """The cells of one series by x, with the interval where there is one; of a repeated x the last value stays."""
    if not (line.get("low") and line.get("high")):
        return {x: cell(y) for x, y in zip(line["x"], line["y"], strict=True) if is_number(x)}
    points = zip(line["x"], line["y"], line["low"], line["high"], strict=True)
    return {x: Cell(" ".join(estimate(y, low, high)), is_number=True) for x, y, low, high in points if is_number(x)}


def _thinned(xs: Sequence[float], columns: Sequence[Mapping[float, Cell]]) -> list[float]:
    """At most about `_MOST_ROWS` of `xs`: every step of the short series, and evenly spaced ones of the rest."""
    if len(xs) <= _MOST_ROWS:
        return list(xs)
    short = {x for column in columns if len(column) <= _MOST_ROWS // 3 for x in column}
    every = math.ceil(len(xs) / _MOST_ROWS)
    return sorted(short | set(xs[::every]) | {xs[-1]})


def _scatter(plot: Mapping[str, Any], marks: Marks, joined: bool) -> Figure:
    key = marks.next("figure")
    points = [
        (float(point["x"]), float(point["y"]), plain(point.get("label") or ""))
        for point in plot["points"]
        if is_number(point["x"]) and is_number(point["y"])
    ]
    labels = {name: plain(plot.get(name) or "") for name in ("x_label", "y_label")}
    chart = charts.scatter_chart(points, key=key, title=plain(plot["title"]), joined=joined, **labels)
    rows = [[Cell(point.get("label") or ""), cell(point["x"]), cell(point["y"])] for point in plot["points"]]
    table = Table(plot["title"], ("Point", plot.get("x_label") or "x", plot.get("y_label") or "y"), rows)
    return figure(key, plot["title"], chart, table, plot, note=plot.get("note") or "")
