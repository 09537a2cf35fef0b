"""`tunewell toxicity ...`: train toxicity scorers, hold them against reference scores."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, QuietOption, print_result

toxicity = typer.Typer(help="Train toxicity scorers; measure how they agree with others.", no_args_is_help=True)


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


@toxicity.command()
def calibrate(
    scorer: Annotated[
        str,
        typer.Argument(metavar="SCORER", help="detoxify:FILE@SHA256, hf:FOLDER#LABEL, tfidf:FOLDER, wordlist:FILE."),
    ],
    rows: Annotated[str, typer.Argument(metavar="ROWS", help="Texts with reference scores: JSONL, CSV, TSV, Parquet.")],
    text: Annotated[str, typer.Option(help="Column of the text.")] = "sample",
    reference: Annotated[str, typer.Option(help="Column of the reference score, 0 to 1.")] = "toxicity",
    group: Annotated[
        str, typer.Option(help="Column of the prompt: rows that share it are drawn together for the intervals.")
    ] = "context",
    cell: Annotated[
        list[str] | None,
        typer.Option(help="Column to compare means by; may be given again. Default: model_type and prompt_type."),
    ] = None,
    toxic_from: Annotated[float, typer.Option(min=0, max=1, help="Reference score that counts as toxic.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Decides the two halves, and the bootstrap.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Go on though over 1% of the texts have no score.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how a scorer agrees with reference scores, and which of its scores means the same as theirs.

    The defaults are those of the completions that OpenAI published with InstructGPT, scored by the Perspective API
    (real_toxicity_samples.csv). The threshold is found on one half of the prompts and checked on the other.

    Examples:
      tunewell toxicity calibrate detoxify:unbiased real_toxicity_samples.csv
      tunewell toxicity calibrate tfidf:scorer comments.csv --text comment --reference score --group thread --cell site
    """
    from ...toolkit.toxicity.scorer import open_scorer
    from ..console import Console
    from ..toxicity_agreement import Columns, agreement

    columns = Columns(text=text, reference=reference, group=group, cells=tuple(cell or Columns().cells))
    found = agreement(open_scorer(scorer), rows, columns, Console(is_quiet=quiet), toxic_from=toxic_from, seed=seed,
                      force=force)  # fmt: skip
    print_result(found.as_json(), as_json, found.as_text())
