"""Gather the record of an evaluation and its answers into what the report page shows."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..eval.task import TaskResult
from .eval_items import explorer
from .eval_record import FAILED, MEASURED, not_comparable, read_evaluation, require_results, results_of
from .report.numbers import change_text, estimate
from .report.results import CLEAR

FIGURE_COLUMNS = ["Task", "Figure", "Model", "Value", "Low", "High", "n", "Unscored", "Chance"]


_DECIDING = ("dataset", "scorer", "judge", "decoding", "samples_per_prompt", "preset", "conditions")


def build_eval_report(folder: Path) -> dict[str, Any]:
    """The report of an evaluation as plain values (see `report.page.render`).

    Raises:
        RunError: the folder holds no evaluation.
        DataError: nothing was measured, or a file of answers is missing.
    """
    record = read_evaluation(folder)
    require_results(record, folder)
    return report_of(record, results_of(record, folder), title=f"Evaluation {folder.resolve().name}")


def report_of(
    record: Mapping[str, Any], results: Mapping[str, Mapping[str, TaskResult]], *, title: str
) -> dict[str, Any]:
    """The report of a record with the results behind it.

    Args:
        record: what eval.json holds.
        results: by model and task.
        title: of the page.
    """
    models = [model["name"] for model in record["models"]]
    report: dict[str, Any] = {
        "title": title,
        "subtitle": f"{_and(models)}: {_and([task['name'] for task in record['tasks']])}.",
        "generated_by": f"tunewell {__version__}",
        "verdict": list(_verdict(record)),
        "warnings": [*_warnings(record), *_not_compared(record, results)],
        "not_measured": [{"what": f"{row['task']} of {row['model']}", "reason": row["reason"] or "no reason was given"}
                         for row in record["results"] if row["status"] == FAILED],
        "headline": list(_headline(record)),
        "explorer": explorer(record, results),
        "tables": list(_tables(record)),
        "header": _header(record),
    }  # fmt: skip
    return {key: value for key, value in report.items() if value not in ([], {}, None)}


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _measured(record: Mapping[str, Any], task: str) -> list[Mapping[str, Any]]:
    """The measured results of a task, models in the order of the record."""
    order = [model["name"] for model in record["models"]]
    rows = [row for row in record["results"] if row["task"] == task and row["status"] == MEASURED]
    return sorted(rows, key=lambda row: order.index(row["model"]))


def _verdict(record: Mapping[str, Any]) -> Iterator[str]:
    """The headline of every task, one sentence each; clear is what interval and test both call so."""
    for task in record["tasks"]:
        rows, head = _measured(record, task["name"]), task["headline"]
        label = task["labels"][head]
        known = [row for row in rows if row["scores"].get(head, {}).get("value") is not None]
        if not known:
            continue
        values = [f"{row['model']} {_short(row['scores'][head], label['unit'])}" for row in known]
        sentence = f"{label['text']}: {_and(values)} (n\N{NO-BREAK SPACE}{known[0]['scores'][head]['n']})."
        pair = next(
            (row for row in record["comparisons"] if (row["task"], row["metric"]) == (task["name"], head)), None
        )
        if pair is not None:
            delta = change_text(pair["delta"], pair["low"], pair["high"], label["unit"])
            p = _p_of(pair)
            # Of few pairs the bootstrap's interval is too narrow: the exact test must agree with it.
            is_clear = pair["low"] is not None and not pair["low"] <= 0 <= pair["high"] and (p is None or p <= CLEAR)
            sentence += f" {pair['from']} to {pair['to']}: {delta}{'' if is_clear else ', no clear change'}."
        yield sentence


def _p_of(pair: Mapping[str, Any]) -> float | None:
    """The adjusted p-value where there is one."""
    p: float | None = pair["p"] if pair["p_holm"] is None else pair["p_holm"]
    return p


def _short(score: Mapping[str, Any], unit: str | None) -> str:
    value, interval = estimate(score["value"], score["low"], score["high"], unit)
    return f"{value} {interval}" if score["low"] is not None else value


def _warnings(record: Mapping[str, Any]) -> Iterator[str]:
    yield from record["warnings"]
    notes: dict[str, dict[str, list[str]]] = {}
    for row in record["results"]:
        missing = max((score["unscored"] for score in row["scores"].values()), default=0)
        if missing:
            yield (
                f"{row['task']} of {row['model']}: up to {missing} of {row['items']} items have no value for a figure "
                "and enter no average."
            )
        for note in row["details"].get("notes", []):
            notes.setdefault(note, {}).setdefault(row["task"], []).append(row["model"])
    for note, asked in notes.items():
        models = list(dict.fromkeys(model for own in asked.values() for model in own))
        if all(own == models for own in asked.values()):  # several tasks read one file: its faults are told once
            yield f"{_and(list(asked))} ({_and(models)}): {note}"
        else:
            yield from (f"{task} ({_and(own)}): {note}" for task, own in asked.items())
    for judge, agreement in _judges(record).items():
        if not agreement:
            yield (
                f"How far {judge} agrees with any other judge was not measured: `tunewell judge train --graded FILE` "
                "keeps it with the judge."
            )
    for model in record["models"]:
        if not Path(model["base"]).is_dir() and not model["files"]["revision"]:
            yield f"{model['name']}: {model['base']} is an id of the hub without a pinned revision; it may change."
    if not record["run"]["finished"]:
        yield "This evaluation was not finished: give the same command again to go on."


def _not_compared(record: Mapping[str, Any], results: Mapping[str, Mapping[str, TaskResult]]) -> Iterator[str]:
    for task in (task["name"] for task in record["tasks"]):
        asked = [row["model"] for row in _measured(record, task)]
        for first, second in itertools.combinations(asked, 2):
            if reason := not_comparable(results[first][task], results[second][task]):
                yield f"{task} of {first} and {second} is not compared: {reason}."


def _headline(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for task in record["tasks"]:
        rows = _measured(record, task["name"])
        for figure, label in task["labels"].items():
            known = [row for row in rows if figure in row["scores"]]
            if not known:
                continue
            score = known[0]["scores"][figure]
            better = {True: "higher", False: "lower", None: None}[score["higher_is_better"]]
            yield {
                "name": f"{task['name']}.{figure}",
                "label": label["text"],
                "unit": label["unit"],
                "better": better,
                "chance": score["chance"],
                "note": label["note"] + _k_of(label["note"], known),
                "values": [{"model": row["model"]} | {part: row["scores"][figure][part] for part in
                           ("value", "low", "high", "n", "unscored")} for row in known],
                "paired": [{part: pair[part] for part in ("from", "to", "delta", "low", "high")} | {"p": _p_of(pair)}
                           for pair in record["comparisons"]
                           if (pair["task"], pair["metric"]) == (task["name"], figure)],
            }  # fmt: skip


def _k_of(note: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The k of a figure that rises with it, as its note says; that of each model where they differ."""
    if not re.search(r"\bk\b", note):
        return ""
    found = {row["model"]: row["details"].get("decoding", {}).get("k") for row in rows}
    if len(set(found.values())) > 1:
        return (
            " " + "; ".join(f"{model}: k = {k}" for model, k in found.items()) + ". Figures of another k are no match."
        )
    k = next(iter(found.values()))
    return f" k = {k}." if k else ""


def _tables(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for task in record["tasks"]:
        if variants := _variants(task, _measured(record, task["name"])):
            yield variants
    if record["comparisons"]:
        yield _differences(record)
    for task in record["tasks"]:
        yield from _by(task, _measured(record, task["name"]))
    yield from (_agreement(judge, known) for judge, known in _judges(record).items() if known)
    yield {
        "title": "Every figure",
        "caption": "Value with its 95% interval, the items behind it, those without a value, and what guessing gives",
        "columns": FIGURE_COLUMNS,
        "folded": True,
        "rows": [
            [row["task"], name, row["model"], *_parts(score), "" if score["chance"] is None else score["chance"]]
            for row in record["results"]
            for name, score in row["scores"].items()
        ],
    }


def _judges(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What is known of the agreement of every judge that was asked, by its name; empty where nothing is."""
    details = [row["details"] for row in record["results"] if "judge_agreement" in row["details"]]
    return {one["scorer"]: one["judge_agreement"] for one in details}


def _agreement(judge: str, known: Mapping[str, Any]) -> dict[str, Any]:
    source = known["with"]
    return {
        "title": f"Agreement of {judge}",
        "caption": f"With the grades of {source['answers']:,} answers to {source['questions']} questions that it was "
        f"not trained on ({Path(source['path']).name}); cells are models under one kind of prompt",
        "columns": ["Figure", "Value", "Low", "High", "n", "Unscored", "Chance"],
        "rows": [
            [
                name.replace("_", " ").replace("auc", "AUC"),
                *_parts(score),
                "" if score["chance"] is None else score["chance"],
            ]
            for name, score in known["figures"].items()
        ],
    }


def _parts(score: Mapping[str, Any]) -> list[Any]:
    return [score[part] for part in ("value", "low", "high", "n", "unscored")]


def _variants(task: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The labelled figures under every condition side by side, where a task has conditions."""
    names = list(dict.fromkeys(name.partition(".")[2] for row in rows for name in row["scores"] if "." in name))
    if not names:
        return None
    figures = [name for name in task["labels"] if any(name in row["scores"] for row in rows)]
    table = []
    for row in rows:
        for variant in ["", *names]:
            scores = [row["scores"].get(f"{name}.{variant}" if variant else name) for name in figures]
            texts = ["" if score is None else _short(score, task["labels"][name]["unit"])
                     for name, score in zip(figures, scores, strict=True)]  # fmt: skip
            table.append([row["model"], variant or row["details"].get("condition", "plain"), *texts])
    return {
        "title": f"{task['name']}: conditions side by side",
        "caption": "Value with its 95% interval",
        "columns": ["Model", "Condition", *(task["labels"][name]["text"] for name in figures)],
        "rows": table,
    }


def _differences(record: Mapping[str, Any]) -> dict[str, Any]:
    columns = ["From", "To", "Task", "Figure", "Difference", "Low", "High", "p", "p (Holm)", "Test", "Pairs", "Gained",
               "Lost", "Detectable"]  # fmt: skip
    labels = {task["name"]: task["labels"] for task in record["tasks"]}
    rows = [
        [row["from"], row["to"], row["task"], row["metric"], row["delta"], row["low"], row["high"], row["p"],
         "" if row["p_holm"] is None else row["p_holm"], row["method"], row["n_pairs"], len(row["gained"]),
         len(row["lost"]), row["minimal_detectable"]]
        for row in record["comparisons"]
        if row["metric"].partition(".")[0] in labels.get(row["task"], ())
    ]  # fmt: skip
    caption = (
        "Paired by item, second minus first. Gained and lost count items that went from 0 to 1 and back; detectable is "
        "the smallest true difference that would be found four times in five; Holm adjusts over the headlines of a pair"
    )
    return {"title": "Paired differences", "caption": caption, "columns": columns, "rows": rows,
            "folded": len(rows) > 12}  # fmt: skip


def _by(task: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Figures by kind of item, as far as a task gives them in `details.by`."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["details"].get("by", {})))
    for kind in kinds:
        table = [
            [str(name), row["model"], figure, *(score[part] for part in ("value", "low", "high", "n"))]
            for row in rows
            for name, scores in row["details"].get("by", {}).get(kind, {}).items()
            for figure, score in scores.items()
            if figure in task["labels"]
        ]
        if table:
            words = kind.replace("_", " ")
            yield {
                "title": f"{task['name']} by {words}",
                "caption": f"Value with its 95% interval for each {words}",
                "columns": [words.capitalize(), "Model", "Figure", "Value", "Low", "High", "n"],
                "rows": table,
                "folded": len(table) > 12,
            }


def _header(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    run, source = record["run"], record["run"]["source"] or {}
    header: dict[str, dict[str, Any]] = {
        "Run": {
            "command": " ".join(run["argv"]),
            "created": run["created"],
            "commit": source.get("commit"),
            "uncommitted changes": source.get("has_changes"),
        }
        | run["environment"]
    }
    for model in record["models"]:
        header[f"Model {model['name']}"] = {
            "given": model["given"], "base": model["base"], "adapter": model["adapter"], "sha256": model["sha256"],
        } | (model.get("loaded") or {"loaded": False})  # fmt: skip
    for task in record["tasks"]:
        rows = _measured(record, task["name"])
        details = rows[0]["details"] if rows else {}
        found = {name: details[name] for name in _DECIDING if details.get(name) is not None}
        header[f"Task {task['name']}"] = {"settings": task["settings"]} | found | {"files": task["files"]}
    header["Versions"] = {name: version or "not installed" for name, version in run["versions"].items()}
    header["Hardware"] = dict(run["hardware"])
    return header
