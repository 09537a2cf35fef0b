"""Measure a reward model on held-out rows, and keep every score and curve for the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.data.rows import write_rows
from ..toolkit.files import write_json
from ..toolkit.stage import Figure
from .console import Console
from .sets import Row, read_set

if TYPE_CHECKING:
    from ..toolkit.model.stack import ModelStack
    from ..toolkit.reward.examples import ExampleMaker

REPORT = "reward_report.json"


def measure(
    stack: "ModelStack",
    maker: "ExampleMaker",
    kinds: Sequence[str],
    data: Path,
    folder: Path,
    console: Console,
    seed: int,
) -> tuple[dict[str, Figure], dict[str, int]]:
    """Score the held-out rows with the adapter `reward`: those of the kinds that it was trained on.

    Writes `held_out.jsonl`, the rows with their scores, and `reward_report.json`, the curves.

    Returns:
        figures named `reward.NAME`, and row counts; no figures where there is nothing held out.
    """
    from ..eval.reward_model import Ranked, report_on
    from ..toolkit.reward.scoring import completion_lengths, score_texts

    kept, counts = _that_fit(maker, kinds, data)
    counts = {"rows": len(kept)} | counts
    if not kept:
        return {}, counts
    texts = [(row["prompt"], completion) for row, completions, _ in kept for completion in completions]
    with console.bar("reward model: held-out rows") as advance:
        scores = score_texts(stack, "reward", texts, progress=advance).tolist()
    lengths = completion_lengths(stack, [completion for _, completion in texts])
    ranked, start = [], 0
    for row, completions, ranks in kept:
        end = start + len(completions)
        ranked.append(Ranked(scores=scores[start:end], ranks=ranks, lengths=lengths[start:end], kind=row["kind"]))
        start = end
    write_rows(folder / "held_out.jsonl", [_scored(row, one) for (row, _, _), one in zip(kept, ranked, strict=True)])
    report = report_on(ranked, seed=seed)
    write_json(folder / REPORT, {"calibration": report.calibration, "by_length": report.by_length})
    return {f"reward.{name}": score.as_json() for name, score in report.scores.items()}, counts


def _that_fit(
    maker: "ExampleMaker", kinds: Sequence[str], data: Path
) -> tuple[list[tuple[Row, list[Any], list[int]]], dict[str, int]]:
    """Held-out rows with their completions and ranks, those that are left out taken away, and the counts of these."""
    kept: list[tuple[Row, list[Any], list[int]]] = []
    counts = dict.fromkeys(("too_long", "empty", "same_text", "nothing_to_learn"), 0)
    for row in read_set(data, "comparisons_held_out") if "comparisons" in kinds else []:
        _keep(maker, {"kind": "comparison"} | row, [row["chosen"], row["rejected"]], [1, 2], kept, counts)
    for row in read_set(data, "rankings_held_out") if "rankings" in kinds else []:
        _keep(maker, {"kind": "ranking"} | row, row["completions"], row["ranks"], kept, counts)
    return kept, counts


def _keep(
    maker: "ExampleMaker",
    row: Row,
    completions: Sequence[Any],
    ranks: Sequence[int],
    kept: list[tuple[Row, list[Any], list[int]]],
    counts: dict[str, int],
) -> None:
    fitting: list[int] = []
    for index, completion in enumerate(completions):
        reason = maker.fault(row["prompt"], completion)
        if reason is None and any(completions[other] == completion for other in fitting):
            reason = "same_text"
        if reason is None:
            fitting.append(index)
        else:
            counts[reason] += 1
    if len({ranks[index] for index in fitting}) < 2:
        counts["nothing_to_learn"] += 1
        return
    kept.append((row, [completions[index] for index in fitting], [ranks[index] for index in fitting]))


def _scored(row: Row, ranked: Any) -> Row:
    if "chosen" in row:
        return row | {"chosen_score": ranked.scores[0], "rejected_score": ranked.scores[1]}
    return row | {"scores": list(ranked.scores)}
