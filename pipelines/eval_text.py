"""The figures of an evaluation as lines for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .report.numbers import change_text, estimate, number


def as_text(record: Mapping[str, Any]) -> str:
    """Every task with its figures by model, paired differences of the headlines, and what failed."""
    return "\n".join(_lines(record))


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    for task in record["tasks"]:
        rows = [row for row in record["results"] if row["task"] == task["name"] and row["status"] == "measured"]
        if rows:
            yield from _task(task, rows)
    yield from _differences(record)
    failed = [row for row in record["results"] if row["status"] == "failed"]
    for row in failed:
        yield f"NOT MEASURED  {row['model']}, {row['task']}: {row['reason']}"


def _task(task: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{task['name']} ({rows[0]['items']} items)"
    figures = [name for name in task["labels"] if any(name in row["scores"] for row in rows)]
    variants = [
        name for name in rows[0]["scores"] if name.startswith(f"{task['headline']}.")
    ]  # the rest is in the page
    width = max(len(row["model"]) for row in rows)
    for name in [*figures, *variants]:
        label = task["labels"][name.partition(".")[0]]
        under = name.partition(".")[2]
        score = rows[0]["scores"].get(name)
        chance = "" if not score or score["chance"] is None else f", chance {number(score['chance'], label['unit'])}"
        yield f"  {label['text']}{f' [{under}]' if under else ''}{chance}"
        for row in rows:
            if name in row["scores"]:
                yield f"    {row['model']:<{width}}  {figure_text(row['scores'][name], label['unit'])}"


def figure_text(score: Mapping[str, Any], unit: str | None) -> str:
    """A figure with its interval, n and unscored count."""
    value, interval = estimate(score["value"], score["low"], score["high"], unit)
    unscored = f", {score['unscored']} unscored" if score["unscored"] else ""
    shown = f"{value} {interval}" if score["low"] is not None else value
    return f"{shown}  n {score['n']}{unscored}"


def _differences(record: Mapping[str, Any]) -> Iterator[str]:
    heads = paired_heads(record)
    rows = [row for row in record["comparisons"] if (row["task"], row["metric"]) in heads]
    if rows:
        yield "paired differences"
    for row in rows:
        label = heads[row["task"], row["metric"]]
        delta = change_text(row["delta"], row["low"], row["high"], label["unit"])
        p = "" if row["p"] is None else f", p {row['p']:.2g} ({row['method']})"
        yield f"  {row['from']} → {row['to']}  {label['text']}: {delta}, n {row['n_pairs']}{p}"


def paired_heads(record: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """For every task the first of its labelled figures that could be compared item by item, with its label."""
    compared = {(row["task"], row["metric"]) for row in record["comparisons"]}
    heads = {}
    for task in record["tasks"]:
        figure = next((name for name in task["labels"] if (task["name"], name) in compared), None)
        if figure is not None:
            heads[task["name"], figure] = task["labels"][figure]
    return heads
