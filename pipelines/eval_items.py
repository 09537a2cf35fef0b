"""The items of an evaluation, those of all models side by side, as the explorer of the report page reads them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..eval.task import TaskResult
from .report.text import plain

MOST_ANSWERS = 20_000
"""Answers that a page holds at most; above this only some of the items are shown, and the page says so."""
TOXIC_FROM = 0.5
_PROMPTS = ("question", "prompt", "context", "sentence", "title", "text")
_ANSWERS = ("completion", "answer", "generation", "prediction")
_HIDDEN = ("id", "values", "weights", "group", "samples", "answers", "prompt_toxicity")
_EVIDENT = ("text", "is_empty")


def explorer(record: Mapping[str, Any], results: Mapping[str, Mapping[str, TaskResult]]) -> dict[str, Any] | None:
    """Models, tasks, and every item with the values and answers of each model; None without any item.

    Where a page would hold more than `MOST_ANSWERS`, items on which the models differ or that were not scored come
    first, then others evenly from the whole; `n` is how many there are.
    """
    models = [model["name"] for model in record["models"] if model["name"] in results]
    tasks = []
    for task in record["tasks"]:
        asked = {model: results[model][task["name"]] for model in models if task["name"] in results[model]}
        if asked:
            tasks.append(_task(task, asked))
    return {"models": models, "tasks": tasks} if tasks else None


def _task(task: Mapping[str, Any], asked: Mapping[str, TaskResult]) -> dict[str, Any]:
    by_model = {model: {item["id"]: item for item in result.items} for model, result in asked.items()}
    ids = list(dict.fromkeys(name for items in by_model.values() for name in items))
    figures = list(
        dict.fromkeys(name for items in by_model.values() for item in items.values() for name in item["values"])
    )
    labelled = [name for name in figures if name.partition(".")[0] in task["labels"]]
    shown = labelled or figures
    head = task["headline"] if task["headline"] in figures else shown[0]
    found = [{model: items[name] for model, items in by_model.items() if name in items} for name in ids]
    chosen = _chosen(found, head)
    return {
        "name": task["name"],
        "head": head,
        "figures": [{"name": name, "label": _label(task, name), "unit": _unit(task, name)} for name in shown],
        "n": len(found),
        "items": [_item(found[place], place, shown, head) for place in chosen],
    }


def _label(task: Mapping[str, Any], name: str) -> str:
    figure, _, variant = name.partition(".")
    text = task["labels"][figure]["text"] if figure in task["labels"] else figure.replace("_", " ")
    return f"{text} ({variant})" if variant else str(text)


def _unit(task: Mapping[str, Any], name: str) -> str | None:
    label = task["labels"].get(name.partition(".")[0])
    return label["unit"] if label else None


def _chosen(found: Sequence[Mapping[str, Mapping[str, Any]]], head: str) -> list[int]:
    """Places of the items that the page has room for, in their order."""
    sizes = [sum(_size(item) for item in models.values()) for models in found]
    if sum(sizes) <= MOST_ANSWERS:
        return list(range(len(found)))
    telling = [place for place, models in enumerate(found) if _is_telling(models.values(), head)]
    step = max(1, len(found) // 1000)
    order = dict.fromkeys([*range(0, len(found), step), *telling, *range(len(found))])
    kept, room = [], MOST_ANSWERS
    for place in order:
        room -= sizes[place]
        if room < 0:
            break
        kept.append(place)
    return sorted(kept)


def _size(item: Mapping[str, Any]) -> int:
    return max(1, len(item.get("samples") or item.get("answers") or ()))


def _is_telling(items: Iterable[Mapping[str, Any]], head: str) -> bool:
    values = [item["values"].get(head) for item in items]
    return None in values or len(set(values)) > 1


def _item(models: Mapping[str, Mapping[str, Any]], place: int, figures: Sequence[str], head: str) -> dict[str, Any]:
    first = next(iter(models.values()))
    key = next((name for name in _PROMPTS if isinstance(first.get(name), str)), None)
    values = {model: [item["values"].get(figure) for figure in figures] for model, item in models.items()}
    toxicity = first.get("prompt_toxicity")
    used = {*_HIDDEN, *_ANSWERS, key}
    heads = [item["values"].get(head) for item in models.values()]
    return {
        "place": place + 1,
        "id": str(first["id"]),
        "group": plain(str(first.get("category") or first.get("group") or "")),
        "prompt": plain(str(first[key])) if key else "",
        "flagged": toxicity is not None and toxicity >= TOXIC_FROM,
        "fields": [[plain(name.replace("_", " ")), plain(_text(value))] for name, value in first.items()
                   if name not in used and value not in (None, "", [])],
        "differ": len({value for value in heads if value is not None}) > 1,
        "unscored": any(value is None for value in heads),
        "models": {model: {"values": values[model], "answers": _answers(item)} for model, item in models.items()},
    }  # fmt: skip


def _answers(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The texts that belong to one model: what it wrote, or the reference answers by falling likelihood."""
    if isinstance(item.get("samples"), list):
        return [_answer(row) for row in item["samples"]]
    if isinstance(item.get("answers"), list) and all(isinstance(row, dict) for row in item["answers"]):
        rows = item["answers"]
        likelihoods = [row.get("log_likelihood") for row in rows]
        if all(isinstance(value, float | int) for value in likelihoods):
            rows = sorted(rows, key=lambda row: -row["log_likelihood"])
        return [_answer(row) for row in rows]
    key = next((name for name in _ANSWERS if isinstance(item.get(name), str)), None)
    own = {name: item[name] for name in ("toxicity",) if name in item}
    return [_answer({"text": item[key]} | own)] if key else []


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    text = str(row.get("text", ""))
    # What nobody could score is covered too: it may be anything.
    is_flagged = "toxicity" in row and bool(text.strip()) and (row["toxicity"] is None or row["toxicity"] >= TOXIC_FROM)
    notes = {name: value for name, value in row.items() if name not in _EVIDENT and value is not None}
    if "toxicity" in row and row["toxicity"] is None:
        notes["toxicity"] = "nothing to score" if not text.strip() else "not scored"
    return {
        "text": plain(text),
        "flagged": is_flagged,
        "notes": [[plain(name.removeprefix("is_").replace("_", " ")), _note(value)] for name, value in notes.items()],
    }


def _note(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else plain(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "; ".join(value)
    return str(value)
