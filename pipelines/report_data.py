"""Gather the numbers of a run from its files into what the report page shows."""

from pathlib import Path
from typing import Any

from .run import read_run


def build_report(folder: Path) -> dict[str, Any]:
    """The report of a run as plain values (see `report.page.render`)."""
    record = read_run(folder)
    return {"title": f"Run {record['name']}"}
