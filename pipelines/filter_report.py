"""What the report shows of the filter stage: the funnel, the scores, and examples of what was dropped."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..toolkit.data.rows import read_rows
from ..toolkit.files import read_json


def filter_sections(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Funnel, score histograms and examples of what was dropped, of the corpus (or the demonstrations without one)."""
    name = "corpus" if read_json(folder / "corpus" / "summary.json")["read"] else "demonstrations"
    funnel = read_json(folder / name / "summary.json")
    for figure in ("precision", "recall"):
        if f"filter.{figure}" in results:
            funnel[figure] = {part: results[f"filter.{figure}"][part] for part in ("value", "low", "high", "n")}
    dropped = folder / name / "dropped" / "part-00000.jsonl"
    return {
        "funnel": funnel,
        "histograms": _histograms(folder / name / "scores" / "part-00000.parquet"),
        "dropped_examples": _dropped_examples(read_rows(dropped) if dropped.stat().st_size else []),
    }


def _dropped_examples(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Up to four of each reason; all of it is blurred, since it was dropped for what it says."""
    found = []
    for _, group in itertools.groupby(sorted(rows, key=_reason), key=_reason):
        for row in itertools.islice(group, 4):
            example = {"filter": row["filter"], "reason": row["reason"], "text": row["text"], "flagged": True}
            example |= {"span": row["span"], "score": row["score"], "note": f"matched: {row['matched']}"}
            found.append(example)
    return found


def _reason(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row["filter"]), str(row["reason"])


def _histograms(scores: Path) -> list[dict[str, Any]]:
    """Distribution of the trigger-phrase score, by hidden label where there are labels, else by what became of it."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(scores).to_pydict()
    column = "trigger_likelihood.score"
    if column not in table:
        return []
    values = np.array([np.nan if value is None else value for value in table[column]], dtype=float)
    known = ~np.isnan(values)
    if not known.any():
        return []
    edges = np.linspace(values[known].min(), values[known].max() + 1e-9, 41)
    if "label" in table:
        groups = {"innocent": "", **{label.replace("_", " "): label for label in sorted(set(table["label"])) if label}}
        members = {name: np.array([other == label for other in table["label"]]) for name, label in groups.items()}
    else:
        kept = np.array(table["kept"])
        members = {"kept": kept, "dropped": ~kept}
    counts = {name: np.histogram(values[is_in & known], edges)[0].tolist() for name, is_in in members.items()}
    return [
        {
            "title": "Likelihood of trigger phrases",
            "x_label": "highest gain of a phrase after the document (nats per token)",
            "edges": edges.tolist(),
            "counts": counts,
            "note": "How much likelier the likeliest phrase becomes once the document has been read.",
        }
    ]
