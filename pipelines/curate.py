"""The filter stage: judge every document and demonstration, keep what passes, and account for every row."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..eval.statistics import share_score
from ..toolkit.data.rows import write_rows
from ..toolkit.files import write_json
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.reading import setting
from ..toolkit.stage import Artifacts, Figure, Outcome
from .console import Console
from .sets import DataSettings, Row, Sets, demonstration_text, load_sets, save_sets

if TYPE_CHECKING:
    from ..filters.base import Filter, Verdict

FILTERS = Path(__file__).parents[1] / "filters"
PART = "part-00000"
CALIBRATION_SAMPLE = 500  # documents; the interval of a removal rate of 2% is then about 1% to 4%


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """Which documents and demonstrations are dropped. Comparisons are not filtered: their bad side is meant to be."""

    blocklist: str | None = None
    """File of words and phrases, one a line, or the name of a bundled list (`world`); null: no word list."""
    phrases: str | None = None
    """YAML file of trigger phrases by axis, or the name of a bundled one (`default`, `world`); null: no such filter."""
    thresholds: dict[str, float] = setting(factory=dict, unit="nats per token")
    """Threshold of each axis of trigger phrases; wins over the one in the phrase file."""
    removal_rate: float | None = setting(None, above=0, below=1, unit="share of documents")
    """Where an axis has no threshold: set it so that it drops this share of a sample of the documents."""
    tokens_per_batch: int = setting(8192, low=64, unit="tokens")
    """Bound on the memory of one forward pass of the trigger-phrase filter."""

    def faults(self) -> list[str]:
        """Lists that are not there."""
        found = []
        for name, folder, suffix in (("blocklist", "lists", ".txt"), ("phrases", "phrases", ".yaml")):
            value = getattr(self, name)
            if value is not None and not resource(value, folder, suffix).is_file():
                known = ", ".join(sorted(path.stem for path in (FILTERS / folder).glob(f"*{suffix}")))
                found.append(f"{name}: got {value!r}, wanted a file or the name of a bundled one ({known})")
        return found

    def files(self) -> list[Path]:
        """The list and phrase files that the settings name."""
        found = []
        if self.blocklist is not None:
            found.append(resource(self.blocklist, "lists", ".txt"))
        if self.phrases is not None:
            found.append(resource(self.phrases, "phrases", ".yaml"))
        return found


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One set of rows with the verdict of every filter on each.

    Attributes:
        rows: the rows as they came.
        texts: what the filters saw of each.
        verdicts: by filter, one per row.
    """

    rows: Sequence[Row]
    texts: Sequence[str]
    verdicts: Mapping[str, Sequence["Verdict"]]

    def dropped_by(self) -> list[str | None]:
        """For each row the first filter that drops it, or None."""
        return [
            next((name for name, verdicts in self.verdicts.items() if not verdicts[index].keep), None)
            for index in range(len(self.rows))
        ]


def resource(name: str, folder: str, suffix: str) -> Path:
    """The file of a bundled list by its name, or the user's own by its path."""
    bundled = FILTERS / folder / f"{name}{suffix}"
    return bundled if bundled.is_file() else Path(name)


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
    filters = make_filters(settings, base, before.base, judged_sets["corpus"] or judged_sets["demonstrations"], seed)
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
        warnings.append("No filter is on: filter.blocklist and filter.phrases are both null.")
    return Outcome(
        artifacts=replace(before, data=folder / "sets"), results=results, rows=rows, warnings=tuple(warnings)
    )


def make_filters(
    settings: FilterSettings, base: BaseSettings, source: str, texts: Sequence[str], seed: int
) -> "dict[str, Filter]":
    """The filters that the settings ask for, by name, the cheap one first.

    Args:
        settings: which filters.
        base: how the model of the trigger-phrase filter is held in memory.
        source: folder or id of that model.
        texts: what will be filtered; thresholds by removal rate are set on a sample of it.
        seed: of that sample.

    Raises:
        SettingsError: faulty lists or phrases, or axes without a threshold.
    """
    filters: dict[str, Filter] = {}
    if settings.blocklist is not None:
        from ..filters.blocklist import Blocklist, BlocklistFilter

        blocklist = Blocklist.from_file(resource(settings.blocklist, "lists", ".txt"))
        filters["blocklist"] = BlocklistFilter(blocklist)
    if settings.phrases is not None:
        filters["trigger_likelihood"] = _trigger_filter(settings, base, source, texts, seed)
    return filters


def judge(rows: Sequence[Row], texts: Sequence[str], filters: "Mapping[str, Filter]", advance: Any) -> Judged:
    """Let every filter judge every text: a text that one filter drops still gets the scores of the others."""
    verdicts: dict[str, list[Verdict]] = {name: [] for name in filters}
    done, total = 0, len(texts) * max(1, len(filters))
    for name, one in filters.items():
        for start in range(0, len(texts), 256):
            batch = texts[start : start + 256]
            verdicts[name] += one.judge(batch)
            done += len(batch)
            advance(done, total, name)
    return Judged(rows=rows, texts=texts, verdicts=verdicts)


def _trigger_filter(
    settings: FilterSettings, base: BaseSettings, source: str, texts: Sequence[str], seed: int
) -> "Filter":
    """The trigger-phrase filter, its missing thresholds set by the removal rate on a sample of the texts."""
    from ..filters.calibration import threshold_for_rate
    from ..filters.phrase_file import load_phrases, with_thresholds
    from ..filters.trigger import TriggerLikelihoodFilter
    from ..toolkit.model.loading import load_base

    axes = with_thresholds(load_phrases(resource(str(settings.phrases), "phrases", ".yaml")), settings.thresholds)
    model, tokenizer = load_base(source, base)
    found = TriggerLikelihoodFilter.from_model(axes, model, tokenizer, tokens_per_batch=settings.tokens_per_batch)
    missing = [axis.name for axis in axes if axis.threshold is None]
    if not missing or settings.removal_rate is None:
        return found
    sample = random.Random(seed).sample(list(texts), min(len(texts), CALIBRATION_SAMPLE))
    measured = [one.measures for one in found.measure(sample)]
    thresholds = {
        name: threshold_for_rate(
            [one[name] for one in measured if name in one], settings.removal_rate, seed=seed
        ).threshold
        for name in missing
    }
    return replace(found, axes=with_thresholds(axes, thresholds))


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
        columns[f"{name}.score"] = [verdict.score for verdict in verdicts]
        for measure in sorted({key for verdict in verdicts for key in verdict.measures}):
            columns[f"{name}.{measure}"] = [verdict.measures.get(measure) for verdict in verdicts]
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
