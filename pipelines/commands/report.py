"""`tunewell report`: the page of a run, built anew."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, print_result


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of an evaluation.")],
    as_json: JsonOption = False,
) -> None:
    """Build report.html of a run or an evaluation anew from its files."""
    from ..eval_record import RECORD
    from ..eval_report import build_eval_report
    from ..report.page import write_report
    from ..report_data import build_report

    page = folder / "report.html"
    write_report(build_eval_report(folder) if (folder / RECORD).is_file() else build_report(folder), page)
    print_result({"report": str(page)}, as_json, str(page))
