"""What a report may say: its shape, checked before anything is drawn."""

import difflib
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...toolkit.errors import DataError

# A shape is a word (below), a list of one shape, a dict of named shapes ("?" marks a name that may be missing),
# or {"*": shape} for names that the caller chooses.
Shape = Any

_ESTIMATE = {"value": "number", "low?": "number", "high?": "number", "n?": "count", "reason?": "text"}
_POINT = {"x": "number", "y": "number", "label?": "text"}
_PLOT = {"title": "text", "x_label?": "text", "y_label?": "text", "note?": "text"}

REPORT: dict[str, Shape] = {
    "title": "text",
    "subtitle?": "text",
    "generated_by?": "text",
    "verdict?": ["text"],
    "warnings?": ["text"],
    "not_measured?": [{"what": "text", "reason": "text"}],
    "headline?": [
        {
            "name": "text",
            "label": "text",
            "unit?": "text",
            "better?": "direction",
            "chance?": "number",
            "note?": "text",
            "values": [{"model": "text", **_ESTIMATE, "unscored?": "count"}],
            "paired?": [
                {"from": "text", "to": "text", "delta": "number", "low?": "number", "high?": "number", "p?": "number"}
            ],
        }
    ],
    "funnel?": {
        "read": "count",
        "kept": "count",
        "dropped": "count",
        "quarantined?": "count",
        "steps?": [{"filter": "text", "reason": "text", "count": "count"}],
        "precision?": _ESTIMATE,
        "recall?": _ESTIMATE,
        "by_label?": [{"label": "text", "description?": "text", "n": "count", "dropped": "count"}],
    },
    "histograms?": [_PLOT | {"threshold?": "number", "edges": "numbers", "counts": {"*": "numbers"}}],
    "dropped_examples?": [
        {
            "filter": "text",
            "reason": "text",
            "text": "text",
            "span?": "span",
            "score?": "number",
            "flagged?": "flag",
            "note?": "text",
        }
    ],
    "curves?": [
        _PLOT | {"series": [{"name": "text", "x": "numbers", "y": "numbers", "low?": "numbers", "high?": "numbers"}]}
    ],
    "scatter?": [_PLOT | {"points": [_POINT]}],
    "frontier?": [_PLOT | {"points": [_POINT]}],
    "samples?": [
        {
            "model": "text",
            "prompt": "prompt",
            "completion": "text",
            "flagged?": "flag",
            "prompt_flagged?": "flag",
            "scores?": {"*": "number"},
            "note?": "text",
        }
    ],
    "explorer?": {
        "models": ["text"],
        "tasks": [
            {
                "name": "text",
                "head": "text",
                "figures": [{"name": "text", "label": "text", "unit?": "text"}],
                "n": "count",
                "items": [
                    {
                        "place": "count",
                        "id": "text",
                        "group": "text",
                        "prompt": "text",
                        "flagged": "flag",
                        "fields": [["text"]],
                        "differ": "flag",
                        "unscored": "flag",
                        "models": {
                            "*": {
                                "values": "numbers",
                                "answers": [{"text": "text", "flagged": "flag", "notes": [["any"]]}],
                            }
                        },
                    }
                ],
            }
        ],
    },
    "tables?": [{"title": "text", "caption?": "text", "columns": ["text"], "rows": [["any"]], "folded?": "flag"}],
    "stages?": [
        {"name": "text", "seconds?": "number", "peak_memory_mb?": "number", "status?": "text", "detail?": "text"}
    ],
    "header?": {"*": {"*": "any"}},
}

_TURN = {"role": "text", "content?": "text"}


def _is_number(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max  # Python's whole numbers have no end, a chart's axis has
    return value is None or isinstance(value, float)


def _is_count(value: Any) -> bool:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return whole and value >= 0 and float(value).is_integer()


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(end, int) for end in value)


# Every word that a shape may use: what it means, and whether a value is one.
_WORDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "any": ("anything", lambda value: True),
    "text": ("text", lambda value: isinstance(value, str)),
    "flag": ("true or false", lambda value: isinstance(value, bool)),
    "number": ("a number, or null where it was not measured", _is_number),
    "count": ("a whole number of at least 0", _is_count),
    "numbers": (
        "a list of numbers (null leaves a gap)",
        lambda value: isinstance(value, list) and all(map(_is_number, value)),
    ),
    "span": ("[start, end] in characters", _is_span),
    "direction": ('"higher" or "lower"', lambda value: value in ("higher", "lower")),
    "prompt": ("text, or a list of {role, content}", lambda value: isinstance(value, str | list)),
}


def check(report: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The report as plain JSON values, and the paths of entries that no part of the page shows.

    Raises:
        DataError: all faults at once: not JSON, a missing or mistyped entry, lists that do not match,
            a funnel that does not add up.
    """
    try:
        # A round trip leaves nothing but dicts, lists, str, numbers, bools and None: no str subclass that claims to
        # be safe markup, no array, no tuple.
        plain: dict[str, Any] = json.loads(json.dumps(report))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The report holds something that is not plain JSON ({error}). Wanted: dicts, lists, text, numbers, "
            "true, false and None. Mend it by converting arrays with .tolist() and numpy numbers with .item()."
        ) from error
    if not isinstance(plain, dict):
        raise DataError(f"The report is a {type(plain).__name__}; wanted: a dict with at least a title.")
    unread: list[str] = []
    faults = list(_faults(plain, REPORT, "", unread))
    faults += [] if faults else list(_disagreements(plain))
    if faults:
        raise DataError("The report cannot be drawn:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return plain, unread


def _faults(value: Any, shape: Shape, path: str, unread: list[str]) -> Iterator[str]:
    """Every way in which `value` misses `shape`; unknown names are added to `unread`."""
    if isinstance(shape, str):
        meaning, fits = _WORDS[shape]
        if not fits(value):
            yield f"{path}: got {_short(value)}, wanted {meaning}"
        elif shape == "prompt" and isinstance(value, list):
            yield from _faults(value, [_TURN], path, unread)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{path}: got {_short(value)}, wanted a list"
        else:
            for index, item in enumerate(value):
                yield from _faults(item, shape[0], f"{path}[{index}]", unread)
    elif not isinstance(value, dict):
        yield f"{path or 'report'}: got {_short(value)}, wanted a dict"
    elif "*" in shape:
        for name, item in value.items():
            yield from _faults(item, shape["*"], f"{path}.{name}", unread)
    else:
        yield from _record_faults(value, shape, path, unread)


def _record_faults(value: dict[str, Any], shape: dict[str, Shape], path: str, unread: list[str]) -> Iterator[str]:
    prefix = f"{path}." if path else ""
    known = {name.removesuffix("?"): (name.endswith("?"), kind) for name, kind in shape.items()}
    for name in value.keys() - known.keys():
        nearest = difflib.get_close_matches(name, known, n=1)
        unread.append(f"{prefix}{name}" + (f" (did you mean {nearest[0]}?)" if nearest else ""))
    unread.sort()
    for name, (optional, kind) in known.items():
        if value.get(name) is None and optional:
            continue
        if name not in value:
            yield f"{prefix}{name}: missing; wanted {_meaning(kind)}"
        else:
            yield from _faults(value[name], kind, f"{prefix}{name}", unread)


def _meaning(shape: Shape) -> str:
    if isinstance(shape, str):
        return _WORDS[shape][0]
    return "a list" if isinstance(shape, list) else "a dict"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _disagreements(report: dict[str, Any]) -> Iterator[str]:
    """Entries of the right type that contradict each other."""
    for index, curve in enumerate(report.get("curves") or []):
        for number, line in enumerate(curve["series"]):
            lengths = {name: len(line[name]) for name in ("x", "y", "low", "high") if line.get(name) is not None}
            if len(set(lengths.values())) > 1:
                yield f"curves[{index}].series[{number}]: lists of different lengths {lengths}"
    for index, histogram in enumerate(report.get("histograms") or []):
        edges = histogram["edges"]
        known = all(edge is not None and math.isfinite(edge) for edge in edges)
        if len(edges) < 2 or not known or any(low >= high for low, high in itertools.pairwise(edges)):
            yield f"histograms[{index}].edges: got {_short(edges)}, wanted at least two numbers that increase"
            continue
        for name, heights in histogram["counts"].items():
            if len(heights) + 1 != len(edges):
                yield (
                    f"histograms[{index}].counts.{name}: {len(heights)} counts between {len(edges)} edges; "
                    "wanted one edge more than counts"
                )
    for index, table in enumerate(report.get("tables") or []):
        for number, row in enumerate(table["rows"]):
            if len(row) != len(table["columns"]):
                yield f"tables[{index}].rows[{number}]: {len(row)} cells under {len(table['columns'])} columns"
    for index, example in enumerate(report.get("dropped_examples") or []):
        span = example.get("span")
        if span and not 0 <= span[0] <= span[1] <= len(example["text"]):
            yield f"dropped_examples[{index}].span: {span} in a text of {len(example['text'])} characters"
    yield from _funnel_disagreements(report.get("funnel"))


def _funnel_disagreements(funnel: dict[str, Any] | None) -> Iterator[str]:
    if funnel is None:
        return
    parts = [funnel["kept"], funnel["dropped"], funnel.get("quarantined") or 0]
    if funnel["read"] != sum(parts):
        yield f"funnel: read {funnel['read']} is not kept + dropped + quarantined = {' + '.join(map(str, parts))}"
    taken = sum(step["count"] for step in funnel.get("steps") or [])
    if taken > funnel["dropped"]:
        yield (
            f"funnel.steps: the counts add up to {taken}, more than the {funnel['dropped']} dropped; "
            "count each document once, under the first filter that dropped it"
        )
    for index, label in enumerate(funnel.get("by_label") or []):
        if label["dropped"] > label["n"]:
            yield f"funnel.by_label[{index}]: {label['dropped']} dropped of {label['n']}"
