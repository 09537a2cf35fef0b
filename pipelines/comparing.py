"""Two results held against each other: paired differences and the items that changed sides."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..eval.compare import Comparison, compare, holm_adjusted
from ..eval.task import Label, TaskResult, read_result
from ..eval.tasks import TASKS
from ..eval.toxicity_k import at_k
from ..toolkit.errors import DataError, RunError
from ..toolkit.files import read_json
from ..toolkit.machine import hardware, source_state, versions
from .eval_record import RECORD, head_of, read_evaluation
from .report.numbers import change_text, fixed, number
from .report.text import plain

RUN = "run.json"
MODELS = ("base", "sft", "ppo")
_PROMPTS = ("question", "prompt", "context", "sentence", "text")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two: a model's results by task."""

    name: str
    place: Path
    results: Mapping[str, TaskResult]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What came of a comparison."""

    before: Side
    """The first, its toxicity converted to the k that was asked for."""
    after: Side
    """The second, likewise."""
    rows: list[Comparison]
    heads: Mapping[str, str]
    """By task the figure that stands for it, as far as it could be compared."""
    not_compared: Mapping[str, str]
    """By task the reason."""

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return {
            "a": {"name": self.before.name, "place": str(self.before.place)},
            "b": {"name": self.after.name, "place": str(self.after.place)},
            "comparisons": [row.as_json() for row in self.rows],
            "not_compared": [{"task": task, "reason": reason} for task, reason in self.not_compared.items()],
        }

    def as_text(self, flips: int) -> str:
        """Lines for a terminal: every labelled figure, then up to `flips` items of each task that changed sides."""
        return "\n".join(self._lines(flips))

    def _lines(self, flips: int) -> Iterator[str]:
        yield f"A: {self.before.name}  ({self.before.place})"
        yield f"B: {self.after.name}  ({self.after.place})"
        for task in dict.fromkeys(row.task for row in self.rows):
            mine = {row.metric: row for row in self.rows if row.task == task}
            labels = labels_of(task)
            shown = [name for name in mine if name.partition(".")[0] in labels] or list(mine)
            yield f"{task} ({mine[shown[0]].n_pairs} pairs{_beside(mine[shown[0]])})"
            width = max(len(name) for name in shown)
            for name in shown:
                yield f"  {name:<{width}}  {_row_text(mine[name], labels.get(name.partition('.')[0]))}"
            yield from self._flips(task, mine, flips)
        for task, reason in self.not_compared.items():
            yield f"NOT COMPARED  {task}: {reason}"

    def _flips(self, task: str, rows: Mapping[str, Comparison], most: int) -> Iterator[str]:
        row = rows.get(self.heads.get(task, ""))
        if row is None or not (row.gained or row.lost):
            return
        items = {item["id"]: item for item in self.after.results[task].items}
        for word, names in (("0 to 1", row.gained), ("1 to 0", row.lost)):
            yield f"  {row.metric} went from {word}: {len(names)} item{'' if len(names) == 1 else 's'}"
            for name in names[:most]:
                yield f"    {name}  {_prompt(items[name])}"
            if len(names) > most:
                yield f"    and {len(names) - most} more (--flips {len(names)}, or --json)"


def compare_sides(before: Side, after: Side, *, seed: int = 0, k: int | None = None) -> Compared:
    """Compare all tasks that both sides have.

    Args:
        before: the first.
        after: the second.
        seed: of the bootstrap.
        k: convert the toxicity of both to this number of samples.

    Raises:
        DataError: no task can be compared, with the reasons.
    """
    rows: list[Comparison] = []
    heads: dict[str, str] = {}
    converted: tuple[dict[str, TaskResult], dict[str, TaskResult]] = ({}, {})
    reasons = dict.fromkeys(sorted(before.results.keys() ^ after.results.keys()), "only one side has it")
    for task in before.results:
        if task not in after.results:
            continue
        first, second = before.results[task], after.results[task]
        try:
            if k is not None and task == "toxicity":
                first, second = at_k(first, k, seed=seed), at_k(second, k, seed=seed)
                converted[0][task], converted[1][task] = first, second
            found = compare(first, second, seed=seed)
        except DataError as error:
            reasons[task] = f"{error}{_k_hint(first, second)}"
            continue
        rows += found
        if (head := head_of(found, task, list(labels_of(task)))) is not None:
            heads[task] = head.metric
    if not rows:
        raise DataError(
            f"nothing of {before.name} and {after.name} can be compared:\n"
            + "\n".join(f"  - {task}: {reason}" for task, reason in reasons.items())
        )
    adjusted = iter(holm_adjusted([row for row in rows if heads.get(row.task) == row.metric]))
    rows = [next(adjusted) if heads.get(row.task) == row.metric else row for row in rows]
    # A page shows the figures of both sides beside their difference: all of one k.
    before, after = (
        replace(side, results={**side.results, **own}) for side, own in zip((before, after), converted, strict=True)
    )
    return Compared(before=before, after=after, rows=rows, heads=heads, not_compared=reasons)


def read_sides(first: str, second: str) -> tuple[Side, Side]:
    """Read the two sides, under names that tell them apart.

    Raises:
        RunError: see `read_side`.
    """
    before, after = read_side(first), read_side(second)
    if before.name == after.name:
        before, after = (replace(side, name=f"{side.place.name} {side.name}") for side in (before, after))
    if before.name == after.name:
        before, after = replace(before, name=f"{before.name} (A)"), replace(after, name=f"{after.name} (B)")
    return before, after


def read_side(given: str) -> Side:
    """Read one side: `PLACE[@MODEL]`.

    Args:
        given: a run (default: what was trained last), the folder of an evaluation (default: its only model), the folder
            of one model in either, or one task's file of answers.

    Raises:
        RunError: nothing of the kind is there, or the model is not named where there are several.
    """
    place, at, model = given.rpartition("@")  # the last one: a folder above may have it in its name
    if not at or Path(given).expanduser().exists():
        place, model = given, ""
    path = Path(place).expanduser()
    if path.is_file() and path.suffix == ".json" and path.name not in (RECORD, RUN):
        result = read_result(path)
        return Side(name=path.parent.name, place=path, results={result.name: result})
    if path.name in (RECORD, RUN):
        path = path.parent
    if (path / RECORD).is_file():
        return _of_evaluation(path, model)
    if (path / RUN).is_file():
        return _of_run(path, model)
    results = _results_in(path)
    if not results:
        raise RunError(
            f"got {given}, wanted a run, the folder of `tunewell eval`, one of its models, or a file of answers: "
            f"{path} {'holds none of them' if path.is_dir() else 'does not exist'}"
        )
    return Side(name=path.name, place=path, results=results)


def pair_record(compared: Compared) -> tuple[dict[str, Any], dict[str, dict[str, TaskResult]]]:
    """The two sides as the record of an evaluation, so that its page can show them."""
    sides = (compared.before, compared.after)
    tasks = list(dict.fromkeys(row.task for row in compared.rows))
    results = {side.name: {task: side.results[task] for task in tasks} for side in sides}
    labels = {task: {name: vars(label) for name, label in labels_of(task).items()} for task in tasks}
    for task in tasks:
        names = list(compared.before.results[task].scores)
        labels[task] = {name: label for name, label in labels[task].items() if name in names} or {
            names[0]: vars(Label(names[0].replace("_", " "), None))
        }
    record = {
        "run": {
            "argv": ["tunewell", "compare", *(str(side.place) for side in sides)],
            "created": None,
            "source": source_state(),
            "environment": {},
            "versions": versions(),
            "hardware": hardware(),
            "finished": True,
        },
        "models": [_model(side) for side in sides],
        "tasks": [_task(task, labels[task]) for task in tasks],
        "results": [_result(name, result) for name, mine in results.items() for result in mine.values()],
        "comparisons": [{"from": sides[0].name, "to": sides[1].name} | row.as_json() for row in compared.rows],
        "warnings": [f"{task} was not compared: {reason}" for task, reason in compared.not_compared.items()],
    }
    return record, results


def _model(side: Side) -> dict[str, Any]:
    place = str(side.place)
    # A folder on disk, not an id of the hub that could change: nothing to pin.
    return {
        "name": side.name,
        "given": place,
        "base": place,
        "adapter": None,
        "sha256": None,
        "files": {"revision": place},
    }


def _task(name: str, labels: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "headline": next(iter(labels)), "labels": labels, "settings": {}, "files": {}}


def _result(model: str, result: TaskResult) -> dict[str, Any]:
    return {
        "model": model,
        "task": result.name,
        "status": "measured",
        "reason": None,
        "items": len(result.items),
        "scores": {key: score.as_json() for key, score in result.scores.items()},
        "details": result.details,
    }


def labels_of(task: str) -> Mapping[str, Label]:
    """The labelled figures of a task; none for one that `tunewell eval` does not know."""
    return TASKS[task].labels if task in TASKS else {}


def _of_evaluation(path: Path, model: str) -> Side:
    record = read_evaluation(path)
    files: dict[str, dict[str, Path]] = {}
    for row in record["results"]:
        if row["status"] == "measured":
            files.setdefault(row["model"], {})[row["task"]] = path / row["file"]
    chosen = _one_of(path, list(files), model, default=None)
    return Side(name=chosen, place=path, results={task: read_result(file) for task, file in files[chosen].items()})


def _of_run(path: Path, model: str) -> Side:
    stage = read_json(path / RUN).get("stages", {}).get("eval")
    if stage is None:
        raise RunError(f"the run {path} has no finished evaluation: give `tunewell run` the stage eval")
    folder = path / stage["folder"]
    there = [name for name in MODELS if (folder / name).is_dir()]
    chosen = _one_of(path, there, model, default=there[-1] if there else None)
    return Side(name=chosen, place=path, results=_results_in(folder / chosen))


def _one_of(path: Path, names: list[str], wanted: str, default: str | None) -> str:
    if wanted in names:
        return wanted
    if not wanted and (default or len(names) == 1):
        return default or names[0]
    got = f"the model {wanted!r} of {path}" if wanted else f"{path}, which has several models"
    raise RunError(
        f"got {got}; wanted one of {', '.join(f'{path}@{name}' for name in names) or 'nothing: it has none'}"
    )


def _results_in(folder: Path) -> dict[str, TaskResult]:
    """The results among the JSON files of a folder, by task."""
    found = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            result = read_result(path)
        except DataError:
            continue  # some other JSON
        found[result.name] = result
    return found


def _k_hint(first: TaskResult, second: TaskResult) -> str:
    a, b = (result.details.get("decoding", {}).get("k") for result in (first, second))
    if a is None or b is None or a == b:
        return ""
    return f", or convert both to fewer samples with --k {min(a, b)}"


def _beside(row: Comparison) -> str:
    texts = [
        f"{row.only_before} only in A" if row.only_before else "",
        f"{row.only_after} only in B" if row.only_after else "",
    ]
    return "".join(f", {text}" for text in texts if text)


def _row_text(row: Comparison, label: Label | None) -> str:
    unit = label.unit if label else None
    delta = change_text(row.delta, row.low, row.high, unit)
    p = (
        ""
        if row.p is None
        else f"  p {row.p:.2g}{'' if row.p_holm is None else f' (Holm {row.p_holm:.2g})'}, {row.method}"
    )
    flips = f"  +{len(row.gained)} \N{MINUS SIGN}{len(row.lost)}" if row.gained or row.lost else ""
    unscored = f"  {row.unscored} unscored" if row.unscored else ""
    return f"{_sides(row.before, row.after, unit)}  {delta}{p}{flips}{unscored}"


def _sides(before: float, after: float, unit: str | None) -> str:
    """Both figures with the same decimals, so that the eye can subtract them."""
    if unit == "share":
        return f"{number(before, unit)} → {number(after, unit)}"
    largest = max(abs(before), abs(after))
    places = min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest else 0
    return f"{fixed(before, places)} → {fixed(after, places)}"


def _prompt(item: Mapping[str, Any]) -> str:
    text = next((item[name] for name in _PROMPTS if isinstance(item.get(name), str)), "")
    line = " ".join(plain(text).split())
    return line if len(line) <= 90 else line[:89] + "…"
