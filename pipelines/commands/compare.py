"""`tunewell compare`: two results, item by item."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, print_result

# Rich takes a bracket for markup where it is not escaped.
PLACE = r"PLACE\[@MODEL]: a run, the folder of `tunewell eval`, one of its models, or a task's file of answers."


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=PLACE)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same for the other one; differences are B minus A.")],
    flips: Annotated[int, typer.Option(min=0, help="Items shown of those that changed sides, in each direction.")] = 5,
    k: Annotated[int | None, typer.Option("--k", min=1, help="Convert the toxicity of both to k samples.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    report: Annotated[Path | None, typer.Option("--report", help="Write a page with both side by side.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two results in pairs: differences with intervals, tests, and the items that changed sides.

    Both must have been asked the same items in the same way. Hits are tested by McNemar's exact test, all else by a
    paired bootstrap; p-values of the headlines are adjusted by Holm's method.

    Examples:
      tunewell compare runs/embedded@base runs/embedded@ppo
      tunewell compare results@base results@sft --report compare.html
      tunewell compare old/eval-results new/eval-results --k 5 --json
    """
    from ..comparing import compare_sides, pair_record, read_sides
    from ..eval_report import report_of
    from ..report.page import write_report

    compared = compare_sides(*read_sides(a, b), seed=seed, k=k)
    tree, text = compared.as_json(), compared.as_text(flips)
    if report is not None:
        record, results = pair_record(compared)
        title = f"{compared.before.name} and {compared.after.name}"
        write_report(report_of(record, results, title=title), report)
        tree, text = tree | {"report": str(report)}, f"{text}\nreport: {report}"
    print_result(tree, as_json, text)
