"""What lm-eval recorded of single rows, as items with figures and intervals."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .statistics import mean_score, share_score
from .task import Score, row_ids


def harness_items(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One item for every row of every task.

    A row with a log-likelihood that is no number has no value in any figure; lm-eval would take its first answer.

    Args:
        samples: what lm-eval logged, by task.
    """
    items: dict[tuple[str, int], dict[str, Any]] = {}
    for task, rows in samples.items():
        n_filters = len({row["filter"] for row in rows})
        for row in rows:
            item = items.setdefault((task, row["doc_id"]), _item(task, row))
            is_broken = any(answer.get("log_likelihood", 0.0) is None for answer in item["answers"])
            for metric in row["metrics"]:
                name = metric if n_filters == 1 else f"{metric}.{row['filter']}"
                value = math.nan if is_broken else row[metric]
                if _is_number(value):  # else a part of a corpus figure
                    item["values"][name] = float(value) if math.isfinite(value) else None
    names = row_ids([item.pop("identity") for item in items.values()])
    return [{"id": name} | item for name, item in zip(names, items.values(), strict=True)]


def harness_scores(
    items: Sequence[dict[str, Any]], names: Sequence[str], found: Mapping[str, Any], *, seed: int, resamples: int
) -> tuple[dict[str, Score], list[str]]:
    """Every figure with its interval, and what must be said about them.

    Args:
        items: from `harness_items`; values that do not make up the task's own figure are taken out.
        names: the tasks.
        found: what lm-eval's `evaluate` returned.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    better = {key: value for name in names for key, value in found["higher_is_better"][name].items()}
    scores: dict[str, Score] = {}
    notes: list[str] = []
    own = _own_figures(found, names[0]) if len(names) == 1 else {}
    for figure in dict.fromkeys([name for item in items for name in item["values"]] + list(own)):
        direction = better.get(figure.partition(".")[0], True)
        values = [item["values"][figure] for item in items if figure in item["values"]]
        if figure not in own or _is_mean(own[figure], values):
            scores[figure] = _score(values, direction, seed, resamples)
            continue
        scores[figure] = Score(
            value=own[figure], low=None, high=None, se=None, n=len(items), higher_is_better=direction
        )
        notes.append(f"{figure} is no mean over rows: it stands without an interval")
        for item in items:
            item["values"].pop(figure, None)
    return scores, notes


def scores_by_task(
    items: Sequence[dict[str, Any]], names: Sequence[str], *, seed: int, resamples: int
) -> dict[str, dict[str, Any]]:
    """The figures of every task of a group; nothing for a single task."""
    if len(names) < 2:
        return {}
    table: dict[str, Any] = {}
    for name in names:
        own = [item for item in items if item["category"] == name]
        figures = dict.fromkeys(figure for item in own for figure in item["values"])
        table[name] = {
            figure: _score([item["values"].get(figure) for item in own], None, seed, resamples).as_json()
            for figure in figures
        }
    return {"task": table}


def _item(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    texts = [argument[1] if len(argument) > 1 else None for argument in row["arguments"]]
    target = row["target"]
    return {
        "identity": [task, row["doc_hash"], row["prompt_hash"]],
        "values": {},
        "category": task,
        "prompt": str(row["arguments"][0][0]),
        "target": target if isinstance(target, str | int | float) else json.dumps(target, default=str),
        "answers": [_answer(text, response) for text, response in zip(texts, row["filtered_resps"], strict=False)],
    }


def _answer(text: Any, response: Any) -> dict[str, Any]:
    """A reference answer with its log-likelihood, or what the model wrote."""
    if isinstance(response, tuple | list) and response and _is_number(response[0]):
        total = float(response[0])
        return {"text": str(text), "log_likelihood": total if math.isfinite(total) else None}
    return {"text": str(response)}


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_)


def _score(values: Sequence[float | None], better: bool | None, seed: int, resamples: int) -> Score:
    numbers = [math.nan if value is None else value for value in values]
    known = [value for value in numbers if not math.isnan(value)]
    measure = share_score if known and all(0 <= value <= 1 for value in known) else mean_score
    return measure(numbers, higher_is_better=better, seed=seed, resamples=resamples)


def _is_mean(figure: float, values: Sequence[float | None]) -> bool:
    known = [value for value in values if value is not None]
    return len(known) < len(values) or bool(
        known and math.isclose(figure, sum(known) / len(known), rel_tol=1e-6, abs_tol=1e-9)
    )


def _own_figures(found: Mapping[str, Any], task: str) -> dict[str, float]:
    """lm-eval's own numbers for a task, under the names that its items use."""
    table = {key: value for key, value in found["results"][task].items() if "," in key and "_stderr," not in key}
    filters = {key.partition(",")[2] for key in table}
    names = {key: key.partition(",")[0] if len(filters) == 1 else key.replace(",", ".", 1) for key in table}
    return {names[key]: float(value) for key, value in table.items() if _is_number(value) and math.isfinite(value)}
