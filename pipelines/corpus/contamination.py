"""After a run: which benchmark items are in the corpus, and which rows give them away."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import orjson

from ...filters.contamination import ContaminationFilter
from ...filters.contamination_report import ContaminationReport
from ...toolkit.files import write_json
from ..filter_building import BUILDERS, FilterModel
from .plan import Plan

CONTAMINATION = "contamination.json"
NAME = "contamination"


def write_contamination(plan: Plan) -> dict[str, Any]:
    """Look through the rows that were dropped for benchmark items, and write the items with the rows.

    A verdict names one item; a row can hold many (a whole benchmark, even), so the rows are read again here.

    Returns:
        what contamination.json holds: for each benchmark how many items are in the corpus, and every such item.
    """
    judge = BUILDERS[NAME](plan.settings, FilterModel())
    if not isinstance(judge, ContaminationFilter):
        return {}
    report = ContaminationReport(judge)
    report.add(_rows(plan))
    tree = {
        "schema_version": 1,
        "benchmarks": [asdict(one) for one in report.benchmarks],
        "items": [asdict(one) for one in report.items],
    }
    write_json(plan.out / CONTAMINATION, tree)
    return tree


def contamination_lines(tree: dict[str, Any]) -> list[str]:
    """Lines for a terminal."""
    return [
        f"  {one['benchmark']}: {one['found']:,} of {one['items']:,} items are in the corpus, {one['whole']:,} with a "
        f"whole passage; {one['unseen']:,} are too short to be looked for"
        for one in tree["benchmarks"]
    ]


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    """Place and text of every row that the filter dropped, or would have dropped had another not been first."""
    for path in sorted((plan.out / "dropped").glob("part-*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                record = orjson.loads(line)
                if record["filter"] == NAME or NAME in record["also"]:
                    source = record["source"]
                    yield f"{source['file']}:{source['line']}", plan.reader.read(record["row"]).text
