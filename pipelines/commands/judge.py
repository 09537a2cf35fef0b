"""`tunewell judge ...`: train a judge of truthfulness, and measure how far it can be trusted."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, QuietOption, calm_libraries, print_result

judge = typer.Typer(help="Train a judge of truthfulness; measure its agreement with another.", no_args_is_help=True)

QuestionsOption = Annotated[
    Path, typer.Option("--questions", help="TruthfulQA.csv, or JSON lines of question, best, correct, incorrect.")
]


@judge.command()
def train(
    rows: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[ROWS]...",
            help='JSON lines of {prompt: "Q: ...\\nA: ...\\nTrue:", completion: " yes"}, or "Helpful:" for '
            "informativeness; also gzipped. None: the reference answers of the questions themselves.",
        ),
    ] = None,
    questions: QuestionsOption = Path("TruthfulQA.csv"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the judge.")] = Path("judge"),
    graded: Annotated[
        Path | None,
        typer.Option(
            help="Answers with grades of another judge (truthful_qa_samples.csv of InstructGPT): their questions are "
            "not trained on, and the agreement is measured and kept with the judge."
        ),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Inverse regularisation (C of the logistic regression). Default: 2.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap behind the intervals.")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the lexical judge: is an answer true, is it informative, by its likeness to the reference answers.

    Seconds to a minute on a CPU. The folder holds JSON and safetensors, no pickle. Use it as judge=lexical:FOLDER.

    Examples:
      tunewell judge train finetune_truth_train.jsonl.gz finetune_info_train.jsonl.gz --graded
      truthful_qa_samples.csv --questions TruthfulQA.csv --out judge
      tunewell judge train --questions TruthfulQA.csv --out judge
    """
    from ..console import Console
    from ..judge import train_judge

    report = train_judge(
        rows or [], questions, out, Console(is_quiet=quiet), graded=graded, strength=strength, seed=seed
    )
    print_result(report.as_json(), as_json, report.as_text())


@judge.command()
def agree(
    spec: Annotated[str, typer.Argument(metavar="JUDGE", help="lexical:FOLDER, hf:FOLDER or hf:TRUTH,INFO.")],
    graded: Annotated[Path, typer.Option(help="Answers with grades (truthful_qa_samples.csv of InstructGPT).")],
    questions: QuestionsOption = Path("TruthfulQA.csv"),
    seed: Annotated[int, typer.Option(help="Of the bootstrap behind the intervals.")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Hold a judge against the grades of another: answer by answer, and in how it ranks models.

    Example:
      tunewell judge agree lexical:judge --graded truthful_qa_samples.csv --questions TruthfulQA.csv
    """
    from ..console import Console
    from ..judge import agree as measure

    calm_libraries()
    report = measure(spec, questions, graded, Console(is_quiet=quiet), seed=seed)
    print_result(report.as_json(), as_json, report.as_text())
