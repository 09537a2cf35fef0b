"""The results: one card per headline figure, and the table of them all."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...toolkit import charts
from .numbers import NOT_MEASURED, change, estimate, is_number, number
from .parts import Cell, Marks, Table, cell, figure
from .text import plain

_COLUMNS = ("Value", "95% interval", "n", "Unscored")
CLEAR = 0.05
"""Highest p-value of a difference that is called one."""
_DASH = "\N{EN DASH}"


def results(report: Mapping[str, Any], marks: Marks) -> dict[str, Any] | None:
    """The section of headline figures, or None without any."""
    metrics, missing = report.get("headline") or [], report.get("not_measured") or []
    if not metrics and not missing:
        return None
    return {
        "cards": [_metric(metric, marks) for metric in metrics],
        "table": _headline_table(metrics) if metrics else None,
        "missing": missing,
    }


def _metric(metric: Mapping[str, Any], marks: Marks) -> dict[str, Any]:
    unit, values = metric.get("unit"), metric["values"]
    rows = [_interval_row(item, unit, marks) for item in values]
    key = marks.next("figure")
    chance = metric.get("chance")
    chart = charts.interval_chart(
        rows,
        key=key,
        title=f"{plain(metric['label'])} by model, with 95% intervals",
        percent=unit == "share",
        chance=chance if is_number(chance) else None,
    )
    missing = [item for item in values if not is_number(item["value"])]
    measured = [item for item in values if is_number(item["value"])]
    better = metric.get("better")
    return {
        "label": metric["label"],
        "better": f"{better} is better" if better else "",
        "arrow": {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}.get(better or "", ""),
        "first": _end_point(measured[0], unit) if measured else None,
        "last": _end_point(measured[-1], unit) if len(measured) > 1 else None,
        "missing": [{"what": item["model"], "reason": item.get("reason") or ""} for item in missing],
        "paired": [_paired(pair, unit, better) for pair in metric.get("paired") or []],
        "figure": figure(key, "", chart, _metric_table(metric), metric, note=metric.get("note") or ""),
    }


def _interval_row(item: Mapping[str, Any], unit: str | None, marks: Marks) -> charts.Interval:
    middle, low, high = (item[name] if is_number(item.get(name)) else None for name in ("value", "low", "high"))
    value, interval = estimate(middle, low, high, unit)
    # The axis already says percent; the shorter text leaves more room for the picture.
    text = f"{value} {interval}".replace("%", "").replace(f" {unit}", "") if interval != NOT_MEASURED else value
    return charts.Interval(plain(item["model"]), middle, low, high, text, marks.tone(item["model"]))


def _end_point(item: Mapping[str, Any], unit: str | None) -> dict[str, str]:
    return {"model": item["model"], "value": estimate(item["value"], item.get("low"), item.get("high"), unit)[0]}


def _paired(pair: Mapping[str, Any], unit: str | None, better: str | None) -> dict[str, str]:
    """A paired difference in words; a change when its interval leaves 0 out and its test, if any, agrees."""
    delta, low, high = pair["delta"], pair.get("low"), pair.get("high")
    text, interval = change(delta, low, high, unit)
    tendency = ""
    if is_number(low) and is_number(high) and better:
        p = pair.get("p")
        if low <= 0 <= high or (is_number(p) and p > CLEAR):
            tendency = "no clear change"
        else:
            tendency = "better" if (low > 0) == (better == "higher") else "worse"
    return {"from": pair["from"], "to": pair["to"], "delta": text, "interval": interval, "tendency": tendency}


def _metric_table(metric: Mapping[str, Any]) -> Table:
    return Table(f"{metric['label']}, by model", ("Model", *_COLUMNS), list(_metric_rows(metric)))


def _metric_rows(metric: Mapping[str, Any]) -> Iterator[list[Cell]]:
    for item in metric["values"]:
        value, interval = estimate(item["value"], item.get("low"), item.get("high"), metric.get("unit"))
        figures = [item.get("n"), item.get("unscored")]
        yield [
            Cell(item["model"]),
            Cell(value, is_number=True),
            Cell(_DASH if interval == NOT_MEASURED else interval),
            *(cell(int(count)) if is_number(count) else Cell(_DASH, is_number=True) for count in figures),
        ]


def _headline_table(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """All measures in one table, each measure's name beside its models."""
    rows: list[list[Cell]] = []
    for metric in metrics:
        chance = metric.get("chance")
        note = f"chance {number(chance, metric.get('unit'))}" if is_number(chance) else ""
        for index, row in enumerate(_metric_rows(metric)):
            name = [Cell(metric["label"], height=len(metric["values"]), note=note)] if index == 0 else []
            rows.append(name + row)
    note = "Brackets hold the 95% interval. Unscored answers are counted here and enter no average."
    caption = "Each with its interval and the number of items behind it"
    return Table(caption, ("Measure", "Model", *_COLUMNS), rows, note)
