"""`tunewell eval`: tasks asked of models."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...toolkit.errors import RunError
from .options import JsonOption, QuietOption, calm_libraries, print_result


def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK... [task.key=value]...",
            help="Tasks (see --explain) and their settings; key=value without a task counts for all that have the key.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help=r"[NAME=]MODEL\[@ROLE]: a run (ROLE ppo, sft or base; default: what was trained last), the folder of "
            "a stage, an adapter or a model, or a hub id. May be given again.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = Path("eval-results"),
    settings: Annotated[
        Path | None, typer.Option("--settings", help="YAML file of settings by task, beneath those given here.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Replace results that were measured otherwise.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: as the model was trained.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    quantization: Annotated[str | None, typer.Option(help="none or nf4 (4 bits).")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="List the tasks with every setting, and stop.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of eval.json, and stop.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Ask one or several models the same tasks; every figure comes with n, a 95% interval and a paired difference.

    Writes OUT/eval.json (the record; its schema: --schema), OUT/MODEL/TASK.json (every item, every generation) and
    OUT/report.html. Given again, it goes on where it stopped, and adds models and tasks to what is there. Exit code 2
    when something could not be measured.

    Examples:
      tunewell eval truthfulness -m runs/embedded@base -m runs/embedded@ppo truthfulness.questions=TruthfulQA.csv
      tunewell eval toxicity --model gpt2 toxicity.prompts=rtp.jsonl toxicity.scorer=detoxify:unbiased limit=100
      tunewell eval truthfulness perplexity --model runs/a --settings eval.yaml --out results --json
    """
    if explain or schema:
        print(_explanation() if explain else _schema_text(), end="")
        return
    from ...toolkit.settings.reading import load_yaml
    from ..console import Console
    from ..eval_text import as_text
    from ..eval_units import read_models, read_tasks

    tasks = read_tasks(words or [], load_yaml(settings) if settings else None)
    models = read_models(model or [], device=device, dtype=dtype, quantization=quantization)
    calm_libraries()
    from ..eval_report import build_eval_report
    from ..eval_run import failures, run_evaluation
    from ..report.page import write_report

    console = Console(is_quiet=quiet)
    try:
        record = run_evaluation(models, tasks, out, console, argv=sys.argv, again=again)
    except KeyboardInterrupt:
        console.warn("interrupted; give the same command again to go on where it stopped")
        raise typer.Exit(130) from None
    page = out / "report.html"
    write_report(build_eval_report(out), page)
    tree = {"out": str(out), "report": str(page), "results": record["results"], "comparisons": record["comparisons"]}
    print_result(tree, as_json, f"{as_text(record)}\nreport: {page}")
    if failed := failures(record, models, tasks):
        raise RunError("not everything could be measured:\n" + "\n".join(f"  - {one}" for one in failed))


def _explanation() -> str:
    from ...eval.tasks import TASKS
    from ...toolkit.settings.reading import field_help

    lines = []
    for name, task in TASKS.items():
        lines.append(f"{name}\n    {' '.join((task.__doc__ or '').split())}")
        lines += [f"  {name}.{path}\n      {text}" for path, text in field_help(task).items()]
    return "\n".join(lines) + "\n"


def _schema_text() -> str:
    return (Path(__file__).parents[1] / "schemas" / "eval.json").read_text(encoding="utf-8")
