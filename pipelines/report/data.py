"""What the filter did to the data: the funnel, the scores, examples of what was dropped."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...toolkit import charts
from .funnel import funnel_chart
from .numbers import estimate, is_number, number, score
from .parts import Cell, Figure, Marks, Table, cell, figure, floats
from .text import passage, plain


def data(report: Mapping[str, Any], marks: Marks) -> dict[str, Any] | None:
    """The section on the filter and its data, or None without any."""
    funnel, histograms = report.get("funnel"), report.get("histograms") or []
    examples = report.get("dropped_examples") or []
    if not (funnel or histograms or examples):
        return None
    return {
        "funnel": _funnel(funnel, marks) if funnel else None,
        "histograms": [_histogram(histogram, marks) for histogram in histograms],
        "examples": [_example(example, marks) for example in examples],
    }


def _funnel(funnel: Mapping[str, Any], marks: Marks) -> dict[str, Any]:
    key = marks.next("figure")
    chart = funnel_chart({**funnel, "steps": _plain_steps(funnel)}, key=key, title="Documents read, dropped and kept")
    read = max(int(funnel["read"]), 1)
    rows = [("Read", "", funnel["read"]), ("Could not be read", "quarantine", funnel.get("quarantined") or 0)]
    rows += [(step["filter"], step["reason"], step["count"]) for step in funnel.get("steps") or []]
    rows += [("Dropped in all", "", funnel["dropped"]), ("Kept", "", funnel["kept"])]
    cells = [
        [Cell(name), Cell(reason), cell(int(count)), Cell(number(count / read, "share"), count / read, True)]
        for name, reason, count in rows
    ]
    table = Table("Documents at each step of the filter", ("Filter", "Reason", "Documents", "Share of read"), cells)
    return {
        "figure": figure(key, "Where the documents went", chart, table, funnel),
        "figures": [
            _tile(name, meaning, funnel[name.lower()])
            for name, meaning in (
                ("Precision", "of what was dropped, the share that is bad"),
                ("Recall", "of what is bad, the share that was dropped"),
            )
            if funnel.get(name.lower())
        ],
        "labels": _label_table(funnel["by_label"]) if funnel.get("by_label") else None,
    }


def _plain_steps(funnel: Mapping[str, Any]) -> list[dict[str, Any]]:
    steps = funnel.get("steps") or []
    return [{**step, "filter": plain(step["filter"]), "reason": plain(step["reason"])} for step in steps]


def _tile(name: str, meaning: str, item: Mapping[str, Any]) -> dict[str, Any]:
    value, interval = estimate(item["value"], item.get("low"), item.get("high"), "share")
    return {
        "name": name,
        "meaning": meaning,
        "value": value,
        "interval": interval,
        "n": number(item["n"]) if is_number(item.get("n")) else "",
        "reason": item.get("reason") or "",
    }


def _label_table(labels: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for item in labels:
        n, dropped = int(item["n"]), int(item["dropped"])
        share = dropped / n if n else None
        rows.append(
            [
                Cell(item["label"], note=item.get("description") or ""),
                Cell(f"{dropped:,} of {n:,}", is_number=True),
                Cell(number(share, "share"), share, share is not None, share),
            ]
        )
    caption = "What was dropped of each kind of document; the filter never sees these labels"
    return Table(caption, ("Hidden label", "Dropped", "Share"), rows)


def _histogram(histogram: Mapping[str, Any], marks: Marks) -> Figure:
    key = marks.next("figure")
    edges, counts = histogram["edges"], histogram["counts"]
    chart = charts.histogram_chart(
        edges,
        {plain(name): floats(heights) for name, heights in counts.items()},
        key=key,
        title=plain(histogram["title"]),
        x_label=plain(histogram.get("x_label") or ""),
        threshold=histogram["threshold"] if is_number(histogram.get("threshold")) else None,
    )
    rows = [
        [cell(edges[index]), cell(edges[index + 1]), *(cell(heights[index]) for heights in counts.values())]
        for index in range(len(edges) - 1)
    ]
    table = Table(histogram["title"], ("From", "To", *counts), rows)
    return figure(key, histogram["title"], chart, table, histogram, note=histogram.get("note") or "")


def _example(example: Mapping[str, Any], marks: Marks) -> dict[str, Any]:
    return {
        "id": marks.next("text"),
        "filter": example["filter"],
        "reason": example["reason"],
        "score": score(example["score"]) if is_number(example.get("score")) else "",
        "note": example.get("note") or "",
        "flagged": bool(example.get("flagged")),
        "text": passage(example["text"], example.get("span")),
    }
