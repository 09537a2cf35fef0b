"""Find thresholds of the trigger-phrase filter on a sample, and check them on another part of it."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..toolkit.data.row_shapes import require_columns
from ..toolkit.data.rows import read_rows
from ..toolkit.errors import DataError, RunError, SettingsError, TunewellError
from ..toolkit.files import read_json, sha256_file, sha256_of, write_atomic, write_json
from ..toolkit.settings.base import BaseSettings
from .console import Console
from .filter_settings import resource

if TYPE_CHECKING:
    from ..filters.calibration import Calibration
    from ..filters.phrase_file import Axis

Target = Literal["precision", "recall", "removal_rate"]
Scores = dict[str, list[float | None]]


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """One axis after calibration: what was chosen, and what it did to documents that had no part in choosing it."""

    axis: str
    calibration: "Calibration"
    rows: list[dict[str, Any]]
    """One per share: `name`, `expected` and `actual` as [value, low, high], `is_consistent`."""


def calibrate(
    sample: str,
    phrases: str,
    model: str,
    base: BaseSettings,
    target: Target,
    wanted: float,
    out: Path,
    console: Console,
    *,
    label: str = "label",
    seed: int = 0,
) -> list[Calibrated]:
    """Score a sample, choose the threshold of every axis on one half, check it on the other, and write the phrases.

    Scores are kept beside `out`: with the same sample, phrases and model another target needs no model.

    Args:
        sample: rows with `text`, and with the label column for precision and recall.
        phrases: phrase file, or the name of a bundled one.
        model: folder or id of the model that scores.
        base: how it is held in memory.
        target: what is aimed at.
        wanted: its value.
        out: where the phrase file with thresholds goes.
        console: shows progress.
        label: column whose true value (or any text but "") means that the document should be dropped.
        seed: decides the halves and the bootstrap.

    Raises:
        DataError: rows without what is needed, or a target that no threshold reaches.
        RunError: `out` is there and is no phrase file.
    """
    from ..filters import calibration
    from ..filters.phrase_file import dump_phrases, load_phrases, with_thresholds

    if out.exists():
        try:
            load_phrases(out)
        except (TunewellError, OSError) as error:
            raise RunError(f"{out} exists and is no phrase file: give another --out, or remove it") from error
    rows = read_rows(sample)
    require_columns(rows, "text", sample)
    labels = None if target == "removal_rate" else _labels(rows, label, sample)
    file = resource(phrases, "phrases", ".yaml")
    axes = load_phrases(file)
    scores = _scores([row["text"] for row in rows], axes, file, model, base, out, console)
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    results = []
    for axis in axes:
        first, second = ([_number(scores[axis.name][index]) for index in half] for half in halves)
        marks = [None if labels is None else [labels[index] for index in half] for half in halves]
        if target == "removal_rate":
            chosen = calibration.threshold_for_rate(first, wanted, seed=seed)
        elif target == "precision":
            chosen = calibration.threshold_for_precision(first, marks[0] or [], wanted, seed=seed)
        else:
            chosen = calibration.threshold_for_recall(first, marks[0] or [], wanted, seed=seed)
        actual = calibration.outcome_at(chosen.threshold, second, marks[1], seed=seed)
        compared = calibration.compare(chosen.expected, actual)
        results.append(
            Calibrated(
                axis=axis.name,
                calibration=chosen,
                rows=[
                    {
                        "name": one.name,
                        "expected": [one.expected.value, one.expected.low, one.expected.high],
                        "actual": [one.actual.value, one.actual.low, one.actual.high],
                        "is_consistent": one.is_consistent,
                    }
                    for one in compared
                ],
            )
        )
    thresholds = {result.axis: result.calibration.threshold for result in results}
    write_atomic(out, dump_phrases(with_thresholds(axes, thresholds)))
    return results


def as_table(results: Sequence[Calibrated]) -> list[str]:
    """Lines for a terminal: each axis with its threshold, and what was expected of it against what it did."""
    lines = []
    for result in results:
        low, high = result.calibration.threshold_interval
        lines.append(
            f"{result.axis}: threshold {result.calibration.threshold:.4f} nats per token [{low:.4f}, {high:.4f}]"
        )
        for row in result.rows:
            expected, actual = (
                f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in (row["expected"], row["actual"])
            )
            note = "" if row["is_consistent"] else "  differs by more than chance"
            lines.append(f"  {row['name']:<13} expected {expected}   on the other half {actual}{note}")
    return lines


def _scores(
    texts: Sequence[str],
    axes: "Sequence[Axis]",
    file: Path,
    model: str,
    base: BaseSettings,
    out: Path,
    console: Console,
) -> Scores:
    """The score of every text on every axis, from the file of an earlier call where it was the same."""
    from ..toolkit.model.loading import dtype_name, load_base

    store = out.with_suffix(".scores.json")
    phrases = [[axis.name, list(axis.phrases)] for axis in axes]
    key = sha256_of([list(texts), phrases, _model_identity(model), base.quantization, dtype_name(base)])
    if store.is_file() and (kept := read_json(store)).get("key") == key:
        console.say(f"scores of an earlier call: {store}")
        found: Scores = kept["scores"]
        return found
    from ..filters.trigger import TriggerLikelihoodFilter

    judge = TriggerLikelihoodFilter.from_model(axes, *load_base(model, base))
    measured: list[Mapping[str, float]] = []
    with console.bar("scoring the sample") as advance:
        for start in range(0, len(texts), 64):
            measured += [one.measures for one in judge.measure(texts[start : start + 64])]
            advance(len(measured), len(texts))
    scores: Scores = {axis.name: [one.get(axis.name) for one in measured] for axis in axes}
    write_json(store, {"key": key, "phrases": str(file), "model": model, "scores": scores})
    return scores


def _model_identity(model: str) -> list[str]:
    """The name of a hub model, or the hashes of the weights and of what makes tokens of text in a folder."""
    files = sorted(file for kind in ("*.safetensors", "*.json") for file in Path(model).glob(kind))
    return [model, *map(sha256_file, files)]


def _labels(rows: Sequence[Mapping[str, Any]], column: str, where: str) -> list[bool]:
    missing = sum(column not in row for row in rows)
    if missing:
        raise DataError(
            f"{where}: {missing} of {len(rows)} rows have no column {column!r} (columns of the first: "
            f"{', '.join(rows[0])}); precision and recall need labels. Name the column with --label, or use --rate."
        )
    words = {"0": False, "false": False, "no": False, "": False}
    return [
        words.get(row[column].strip().lower(), True) if isinstance(row[column], str) else bool(row[column])
        for row in rows
    ]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def one_target(precision: float | None, recall: float | None, rate: float | None) -> tuple[Target, float]:
    """The one target that was given.

    Raises:
        SettingsError: none, or more than one.
    """
    targets: tuple[tuple[Target, float | None], ...] = (
        ("precision", precision),
        ("recall", recall),
        ("removal_rate", rate),
    )
    given = [(name, value) for name, value in targets if value is not None]
    if len(given) != 1:
        names = ", ".join(name for name, _ in given) or "none"
        raise SettingsError([f"got {names} as target, wanted one of --precision, --recall, --rate"], "the command line")
    return given[0]
