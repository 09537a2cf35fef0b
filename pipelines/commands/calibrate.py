"""`tunewell calibrate`: thresholds of the trigger-phrase filter."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, QuietOption, calm_libraries, print_result


def calibrate(
    sample: Annotated[
        str, typer.Argument(metavar="SAMPLE", help="Rows with `text`, best drawn evenly from the corpus.")
    ],
    model: Annotated[str, typer.Option("--model", help="Folder or hub id of the causal model that scores.")],
    phrases: Annotated[str, typer.Option("--phrases", help="Phrase file (YAML), or a bundled one.")] = "default",
    out: Annotated[Path, typer.Option("--out", "-o", help="Phrase file to write, with thresholds.")] = Path(
        "phrases.yaml"
    ),
    precision: Annotated[float | None, typer.Option(help="Wanted share of bad among dropped; needs labels.")] = None,
    recall: Annotated[float | None, typer.Option(help="Wanted share of the bad that is dropped; needs labels.")] = None,
    rate: Annotated[float | None, typer.Option(help="Wanted share of documents dropped, per axis; no labels.")] = None,
    label: Annotated[str, typer.Option(help="Column that is true, or not empty, where a document is bad.")] = "label",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quantization: Annotated[str, typer.Option(help="none or nf4.")] = "none",
    seed: Annotated[int, typer.Option(help="Decides the two halves of the sample.")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find thresholds of the trigger-phrase filter: chosen on one half of a sample, checked on the other.

    With labelled documents ask for a precision or a recall, without for the rate of documents dropped. The phrase file
    that is written holds the thresholds: `tunewell filter --phrases FILE` uses it.

    Examples:
      tunewell calibrate sample.jsonl --model gpt2 --rate 0.02 --out phrases.yaml
      tunewell calibrate labelled.jsonl --model gpt2 --precision 0.9 --label is_bad --out phrases.yaml
    """
    from ...toolkit.settings.base import BaseSettings
    from ...toolkit.settings.reading import build
    from ..calibrate import as_table, one_target
    from ..calibrate import calibrate as find_thresholds
    from ..console import Console

    target, wanted = one_target(precision, recall, rate)
    base = build(BaseSettings, {"device": device, "quantization": quantization}, where="the command line")
    calm_libraries()
    results = find_thresholds(
        sample, phrases, model, base, target, wanted, out, Console(is_quiet=quiet), label=label, seed=seed
    )
    tree = {
        "phrases": str(out),
        "axes": {one.axis: {"threshold": one.calibration.threshold, "shares": one.rows} for one in results},
    }
    print_result(tree, as_json, "\n".join([*as_table(results), f"phrases: {out}"]))
