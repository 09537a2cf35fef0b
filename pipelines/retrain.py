"""The experiment of a filter: base models trained on all documents, on the kept ones, and on as many drawn by lot."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.errors import DataError
from ..toolkit.files import write_json
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.reading import setting
from ..toolkit.stage import Artifacts, Figure, Outcome
from .console import Console
from .examination import EvalSettings, Examination
from .sets import read_set

if TYPE_CHECKING:
    from ..eval.task import TaskResult

ARMS = {
    "unfiltered": "all documents",
    "filtered": "the documents that the filters kept",
    "random": "as many documents as were kept, drawn by lot",
}
FIGURES = {
    "toxicity": ("toxicity", "toxicity_probability"),
    "mean_toxicity": ("toxicity", "mean_toxicity"),
    "perplexity": ("perplexity", "nll"),
    "truthfulness": ("truthfulness", "mc1"),
}
"""What is measured: the name in the results, the task, and the value of each item."""
Measured = dict[str, list["TaskResult"]]


@dataclass(frozen=True, kw_only=True)
class RetrainSettings:
    """What it did to a base model that documents were dropped: bases trained anew, all with one tokenizer."""

    repeats: int = setting(3, low=1, unit="trainings per set of documents")
    """Trainings that differ in seed alone: what one of them happens to learn is no effect of the filter."""


def run_retrain(
    settings: RetrainSettings,
    asked: EvalSettings,
    base: BaseSettings,
    seed: int,
    texts: Callable[[], list[str]],
    console: Console,
    before: Artifacts,
    folder: Path,
) -> Outcome:
    """Train a base for every arm and repeat, ask each the same tasks, and compare the arms.

    The arm `random` is the control: where it is as toxic as `unfiltered`, what `filtered` lost is no matter of fewer
    documents. The bases stay in the folder; a run that was stopped trains only those that are missing.

    Args:
        settings: how often.
        asked: what is asked of each model.
        base: shape and training of the tiny base.
        seed: of the first repeat; the others count up from it.
        texts: gives the unfiltered documents.
        console: shows progress.
        before: the filter stage's artifacts.
        folder: of this stage.

    Raises:
        DataError: the filters have run on other documents, or dropped none or all of them.
    """
    from ..toolkit.model.loading import load_base
    from ..toolkit.model.stack import ModelStack

    if before.data is None:
        raise DataError("retraining needs what the filters kept: put `filter` before `retrain` in the recipe's stages")
    documents = _documents(texts(), [row["text"] for row in read_set(before.data, "ptx")], seed)
    measured: dict[str, Measured] = {arm: {} for arm in ARMS}
    for repeat in range(settings.repeats):
        for arm in ARMS:
            made = _base(documents[arm], arm, seed + repeat, base, before.base, folder, console)
            stack = ModelStack(*load_base(str(made), base))
            examination = Examination(asked, stack, before.data, seed, None, folder)
            tasks, _ = examination.tasks()
            for task, ask in tasks.items():
                with console.bar(f"{arm}: {task}") as advance:
                    measured[arm].setdefault(task, []).append(ask(None, advance))
    figures = {name: pair for name, pair in FIGURES.items() if pair[0] in measured["unfiltered"]}
    table = {
        name: {arm: _figure(name, measured[arm][task], key) for arm in ARMS} for name, (task, key) in figures.items()
    }
    differences = [
        {"figure": name, "from": other, "to": "filtered"}
        | _difference(measured[other][task], measured["filtered"][task], key, seed)
        for name, (task, key) in figures.items()
        for other in ("unfiltered", "random")
    ]
    counts = {f"documents.{arm}": len(texts) for arm, texts in documents.items()}
    write_json(
        folder / "retrain.json", {"arms": ARMS, "documents": counts, "figures": table, "differences": differences}
    )
    for line in _lines(table, differences):
        console.say(line)
    results: dict[str, Figure] = {
        f"retrain.{name}.{arm}": {part: figure[part] for part in ("value", "low", "high", "n")}
        for name, arms in table.items()
        for arm, figure in arms.items()
    }
    return Outcome(artifacts=before, results=results, rows=counts)


def _documents(unfiltered: list[str], kept: list[str], seed: int) -> dict[str, list[str]]:
    """The documents of each arm, in the order of the corpus."""
    left, filtered = Counter(kept), list[str]()
    for text in unfiltered:
        if left[text]:
            left[text] -= 1
            filtered.append(text)
    if len(filtered) != len(kept):
        raise DataError(
            f"{len(kept)} texts were kept by the filters, of which {len(filtered)} are among the {len(unfiltered)} "
            "that the base was trained on; wanted all: leave base.corpus out, and give documents (data.corpus)"
        )
    if not filtered or len(filtered) == len(unfiltered):
        raise DataError(
            f"the filters kept {len(filtered)} of {len(unfiltered)} documents, so there is nothing to compare: change "
            "the thresholds of the `filter` section"
        )
    drawn = sorted(random.Random(f"retrain {seed}").sample(range(len(unfiltered)), len(filtered)))
    return {"unfiltered": unfiltered, "filtered": filtered, "random": [unfiltered[index] for index in drawn]}


def _base(
    texts: list[str], arm: str, seed: int, base: BaseSettings, first: str, folder: Path, console: Console
) -> Path:
    """The base of one arm and repeat, trained if it is not there yet."""
    from transformers import PreTrainedTokenizerFast

    from ..toolkit.tiny import cached_base

    tokenizer = PreTrainedTokenizerFast.from_pretrained(first)
    with console.bar(f"{arm}: training a base with seed {seed}") as advance:
        return cached_base(
            texts,
            seed=seed,
            settings=base.tiny,
            tokenizer=tokenizer,
            cache=folder / "bases",
            progress=lambda done, total, loss: advance(done, total, f"loss {loss:.2f}"),
        )


def _items(results: Sequence["TaskResult"], key: str) -> tuple[list[float], list[float] | None, list[str]]:
    """Values, weights and ids of all items of all repeats; an item of several repeats has one id."""
    items = [item for result in results for item in result.items]
    values = [math.nan if (value := item["values"][key]) is None else float(value) for item in items]
    has_weights = any(key in item.get("weights", {}) for item in items)
    weights = [float(item["weights"][key]) for item in items] if has_weights else None
    return values, weights, [item["id"] for item in items]


def _figure(name: str, results: Sequence["TaskResult"], key: str) -> dict[str, Any]:
    """A figure over all repeats, its interval over the items, with the figure of every single repeat beside it."""
    from ..eval.statistics import mean_score, share_score

    values, weights, ids = _items(results, key)
    score = (mean_score if key == "nll" else share_score)(values, weights=weights, groups=ids)
    single = [result.scores[key].value for result in results]
    shown = {"value": score.value, "low": score.low, "high": score.high}
    if name == "perplexity":
        shown = {part: None if value is None else math.exp(value) for part, value in shown.items()}
        single = [None if value is None else math.exp(value) for value in single]
    return shown | {"n": len(set(ids)), "repeats": single}


def _difference(before: Sequence["TaskResult"], after: Sequence["TaskResult"], key: str, seed: int) -> dict[str, Any]:
    """Paired by item and repeat, in the unit of the items (nats per token for perplexity)."""
    from ..eval.statistics import paired_difference

    first, first_weights, ids = _items(before, key)
    second, second_weights, _ = _items(after, key)
    return {"value": key} | asdict(
        paired_difference(
            first, second, weights_before=first_weights, weights_after=second_weights, groups=ids, seed=seed
        )
    )


def _lines(table: dict[str, dict[str, dict[str, Any]]], differences: Sequence[dict[str, Any]]) -> list[str]:
    """The table in words, one line a figure."""
    lines = [f"  {'':<14}" + "".join(f"{arm:>26}" for arm in ARMS)]
    for name, arms in table.items():
        cells = [_with_ends(one["value"], one["low"], one["high"]) for one in arms.values()]
        lines.append(f"  {name:<14}" + "".join(f"{cell:>26}" for cell in cells))
    for row in differences:
        shown = _with_ends(row["delta"], row["low"], row["high"], sign="+")
        lines.append(f"  {row['value']}, {row['from']} to filtered: {shown}")
    return lines


def _with_ends(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    if value is None:
        return "not measured"
    return f"{value:{sign}.3f}" + ("" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]")
