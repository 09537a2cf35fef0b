"""`tunewell toxicity ...`: train toxicity scorers."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, QuietOption, print_result

toxicity = typer.Typer(help="Train toxicity scorers.", no_args_is_help=True)


@toxicity.callback()
def _group() -> None:
    """Keep `train` a command of its own, however many there are."""


@toxicity.command()
def train(
    rows: Annotated[str, typer.Argument(metavar="ROWS", help="Labelled rows: JSONL, CSV, TSV, Parquet or a hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the scorer.")],
    text: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    toxic: Annotated[
        list[str] | None,
        typer.Option(help="Value of the label that means toxic; may be given again. Default: all but 0, false, no."),
    ] = None,
    above: Annotated[
        float | None, typer.Option(help="The label is a score: toxic above this, in the score's own unit.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Score, 0 to 1, that precision and recall are told at.")] = 0.5,
    held_out: Annotated[float, typer.Option(help="Share of the texts to measure on, 0 to 1.")] = 0.2,
    strength: Annotated[float, typer.Option(help="Inverse regularisation (C of the logistic regression).")] = 10.0,
    seed: Annotated[int, typer.Option(help="Decides which texts are held out.")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a scorer of word and letter n-grams on labelled rows; told how good it is on rows that it has not seen.

    The folder holds JSON and safetensors, no pickle. Use it as tfidf:FOLDER wherever a toxicity scorer is named.

    Examples:
      tunewell toxicity train comments.jsonl --out scorer
      tunewell toxicity train tweets.csv --text tweet --label class --toxic 0 --toxic 1 --out scorer
      tunewell toxicity train scored.csv --label toxicity --above 0.5 --out scorer
    """
    from ..console import Console
    from ..toxicity import LabelRule, train_toxicity

    trained = train_toxicity(
        rows,
        out,
        LabelRule(column=label, toxic=tuple(toxic or ()), above=above),
        Console(is_quiet=quiet),
        text=text,
        held_out=held_out,
        threshold=threshold,
        strength=strength,
        seed=seed,
    )
    print_result(trained.as_json(), as_json, trained.as_text())
