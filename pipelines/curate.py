"""The filter stage: judge every document and demonstration, keep what passes, and account for every row."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..eval.statistics import share_score
from ..toolkit.data.rows import write_rows
from ..toolkit.files import write_json
from ..toolkit.settings.base import BaseSettings
from ..toolkit.stage import Artifacts, Figure, Outcome
from .console import Console
from .filter_building import AnyFilter, FilterModel, build_filters, split_filters, with_calibrated_thresholds
from .filter_settings import FilterSettings
from .sets import DataSettings, Row, Sets, demonstration_text, load_sets, save_sets

if TYPE_CHECKING:
    from ..filters.base import Verdict

PART = "part-00000"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One set of rows with the verdict of every filter on each.

    Attributes:
        rows: the rows as they came.
        texts: what the filters saw of each.
        verdicts: by filter, one per row; None where the filter did not see the row, as another had dropped it.
    """

    rows: Sequence[Row]
    texts: Sequence[str]
    verdicts: Mapping[str, Sequence["Verdict | None"]]

    def dropped_by(self) -> list[str | None]:
        """For each row the first filter that drops it, or None."""
        return [
            next((name for name, verdicts in self.verdicts.items() if _drops(verdicts[index])), None)
            for index in range(len(self.rows))
        ]


def run_filter(
    settings: FilterSettings,
    data: DataSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
) -> Outcome:
    """Load the rows, judge documents and demonstrations, and write what was kept, what was dropped and why.

    Raises:
        DataError: rows that cannot be used.
        SettingsError: faulty lists or phrases, or axes without a threshold.
    """
    sets = load_sets(data, seed)
    judged_sets = _judged_sets(sets)
    model = FilterModel(source=before.base, base=base)
    sample = judged_sets["corpus"] or judged_sets["demonstrations"]
    filters = build_filters(with_calibrated_thresholds(settings, model, sample, seed, console), model)
    results: dict[str, Figure] = {}
    rows: dict[str, int] = {}
    kept: dict[str, list[Row]] = {}
    for name, texts in judged_sets.items():
        source = getattr(sets, name)
        with console.bar(f"filtering {name}") as advance:
            judged = judge(source, texts, filters, advance)
        kept[name] = _write(judged, name, folder / name)
        rows |= {f"{name}.read": len(source), f"{name}.kept": len(kept[name])}
        rows[f"{name}.dropped"] = len(source) - len(kept[name])
        results |= _precision_and_recall(judged, "filter" if name == "corpus" or not sets.corpus else f"filter.{name}")
    rows["unusable"] = len(sets.unusable)
    texts = [row["text"] for row in kept["corpus"]] or [demonstration_text(row) for row in kept["demonstrations"]]
    save_sets(replace(sets, demonstrations=kept["demonstrations"], corpus=()), folder / "sets")
    write_rows(folder / "sets" / "ptx.jsonl", [{"text": text} for text in texts])
    warnings = []
    if sets.unusable:
        reasons = Counter(row["reason"] for row in sets.unusable)
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        warnings.append(f"{len(sets.unusable)} rows of the data could not be used: {counts} (see sets/unusable.jsonl).")
    if not filters:
        warnings.append("No filter is on: every row was kept. Switch one on, for instance filter.blocklist=FILE.")
    return Outcome(
        artifacts=replace(before, data=folder / "sets"), results=results, rows=rows, warnings=tuple(warnings)
    )


def judge(rows: Sequence[Row], texts: Sequence[str], filters: Mapping[str, AnyFilter], advance: Any) -> Judged:
    """Let every filter judge every text: a text that one filter drops still gets the scores of the others.

    Those that compare texts with earlier ones see only what the others keep.
    """
    of_rows, of_corpus = split_filters(filters)
    verdicts: dict[str, list[Verdict | None]] = {name: [] for name in of_rows}
    done, total = 0, len(texts) * max(1, len(of_rows))
    for name, one in of_rows.items():
        for start in range(0, len(texts), 256):
            batch = texts[start : start + 256]
            verdicts[name] += one.judge(batch)
            done += len(batch)
            advance(done, total, name)
    for name, comparing in of_corpus.items():
        by = Judged(rows=rows, texts=texts, verdicts=verdicts).dropped_by()
        left = [index for index, dropped in enumerate(by) if dropped is None]
        repeats = comparing.decide(comparing.summarise([texts[index] for index in left]))
        verdicts[name] = [None] * len(texts)
        for place, index in enumerate(left):
            verdicts[name][index] = repeats.verdict(place)
    return Judged(rows=rows, texts=texts, verdicts=verdicts)


def _drops(verdict: "Verdict | None") -> bool:
    return verdict is not None and not verdict.keep


def _judged_sets(sets: Sets) -> dict[str, list[str]]:
    """The texts of every set that is filtered."""
    return {
        "corpus": [row["text"] for row in sets.corpus],
        "demonstrations": [demonstration_text(row) for row in sets.demonstrations],
    }


def _write(judged: Judged, name: str, folder: Path) -> list[Row]:
    """Write kept and dropped rows, all scores and the sums; returns the kept rows."""
    dropped_by = judged.dropped_by()
    kept = [row for row, by in zip(judged.rows, dropped_by, strict=True) if by is None]
    dropped = [_dropped_row(judged, name, index, by) for index, by in enumerate(dropped_by) if by is not None]
    write_rows(folder / "kept" / f"{PART}.jsonl", kept)
    write_rows(folder / "dropped" / f"{PART}.jsonl", dropped)
    _write_scores(judged, dropped_by, folder / "scores" / f"{PART}.parquet")
    reasons = Counter((row["filter"], row["reason"]) for row in dropped)
    summary: dict[str, Any] = {
        "read": len(judged.rows),
        "kept": len(kept),
        "dropped": len(dropped),
        "quarantined": 0,  # rows that cannot be read stop the run before any is judged
        "steps": [{"filter": by, "reason": reason, "count": count} for (by, reason), count in reasons.most_common()],
        "by_label": _by_label(judged, dropped_by),
    }
    write_json(folder / "summary.json", summary)
    return kept


def _dropped_row(judged: Judged, name: str, index: int, by: str) -> Row:
    verdict = judged.verdicts[by][index]
    if verdict is None:
        raise ValueError(f"row {index} was not judged by {by}")
    return {
        "row": dict(judged.rows[index]),
        "source": {"set": name, "index": index},
        "text": judged.texts[index],
        "filter": by,
        "reason": verdict.reason,
        "score": verdict.score,
        "span": verdict.span,
        "matched": verdict.matched,
        "marks": list(verdict.marks),
    }


def _write_scores(judged: Judged, dropped_by: Sequence[str | None], path: Path) -> None:
    """Every score of every row, so that a new threshold needs no new scoring."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ..toolkit.files import atomic_writer

    columns: dict[str, list[Any]] = {
        "index": list(range(len(judged.rows))),
        "kept": [by is None for by in dropped_by],
        "filter": list(dropped_by),
    }
    if judged.rows and "label" in judged.rows[0]:
        columns["label"] = [row.get("label", "") for row in judged.rows]
    for name, verdicts in judged.verdicts.items():
        columns[f"{name}.score"] = [verdict and verdict.score for verdict in verdicts]
        for measure in sorted({key for verdict in verdicts if verdict for key in verdict.measures}):
            columns[f"{name}.{measure}"] = [verdict and verdict.measures.get(measure) for verdict in verdicts]
    with atomic_writer(path) as file:
        pq.write_table(pa.table(columns), file)


def _by_label(judged: Judged, dropped_by: Sequence[str | None]) -> list[dict[str, Any]]:
    """How many rows of each hidden label were dropped; empty for rows without labels."""
    from ..toolkit.world import LABELS, TRICKS

    if not judged.rows or "label" not in judged.rows[0]:
        return []
    names = [row["label"] or row.get("trick") or "" for row in judged.rows]
    words = LABELS | TRICKS
    return [
        {
            "label": name or "innocent",
            "description": words.get(name, name),
            "n": names.count(name),
            "dropped": sum(by is not None for other, by in zip(names, dropped_by, strict=True) if other == name),
        }
        for name in sorted(set(names))
    ]


def _precision_and_recall(judged: Judged, prefix: str) -> dict[str, Figure]:
    """Held against the hidden labels: of what was dropped, how much is bad; of what is bad, how much was dropped."""
    if not judged.rows or "label" not in judged.rows[0]:
        return {}
    dropped = [by is not None for by in judged.dropped_by()]
    is_bad = [bool(row["label"]) for row in judged.rows]
    precision = [float(bad) for bad, gone in zip(is_bad, dropped, strict=True) if gone]
    recall = [float(gone) for bad, gone in zip(is_bad, dropped, strict=True) if bad]
    return {
        f"{prefix}.{name}": share_score(values).as_json()
        for name, values in (("precision", precision), ("recall", recall))
        if values
    }
