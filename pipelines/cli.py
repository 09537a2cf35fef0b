"""The command line: `tunewell run`, and what shows its results."""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from .. import __version__
from ..toolkit.errors import RunError, SettingsError, TunewellError
from ..toolkit.files import DISK_FULL, JSON_OPTIONS

HELP = "Make a language model helpful, honest and harmless on one consumer GPU."
DEBUG = "--debug"
# Rust hides the number of an error, and torch.save says nothing of the disk at all; these are their words.
DISK_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "unexpected pos ", "iostream error")
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a bundled recipe (see `tunewell recipes`)."),
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="section.key=value", help="Settings that win over the recipe's.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the run. Default: runs/NAME, the recipe's name.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on the last line of standard output.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only, no progress.")]
SetAsideOption = Annotated[
    bool,
    typer.Option("--set-aside", help="Move earlier work made with other settings to RUN/set-aside/ and go on."),
]


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the stack trace of a fault; may stand anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def run(
    recipe: RecipeArgument = "embedded",
    overrides: OverridesArgument = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    set_aside: SetAsideOption = False,
) -> None:
    """Run a whole recipe: filter, SFT, reward model, PPO, evaluation, report.

    Started again after an interruption it goes on where it stopped: finished stages are skipped, a training goes on
    from its last checkpoint. Without RECIPE it runs the embedded one, offline, in minutes on a CPU.

    Examples:
      tunewell run
      tunewell run sft.trainer.max_steps=40 --out runs/longer-sft
      tunewell run hh-rlhf data.path=harmless.jsonl.gz base.model=Qwen/Qwen2.5-0.5B
    """
    _run_stages(recipe, overrides, out, as_json, quiet, set_aside, last=None)


def _stage_command(name: str, help_text: str) -> None:
    """One command for the stages of a recipe up to one of them."""

    def command(
        recipe: RecipeArgument = "embedded",
        overrides: OverridesArgument = None,
        out: OutOption = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
        set_aside: SetAsideOption = False,
    ) -> None:
        _run_stages(recipe, overrides, out, as_json, quiet, set_aside, last=name)

    app.command(name, help=help_text)(command)


for _name, _text in (
    ("sft", "Run a recipe up to supervised fine-tuning."),
    ("reward", "Run a recipe up to the reward model."),
    ("ppo", "Run a recipe up to PPO, without the evaluation."),
):
    _stage_command(_name, _text)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    as_json: JsonOption = False,
) -> None:
    """Build report.html of a run anew from its files."""
    from .report.page import write_report
    from .report_data import build_report

    page = folder / "report.html"
    write_report(build_report(folder), page)
    _result({"report": str(page)}, as_json, str(page))


@app.command()
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

    Examples:
      tunewell calibrate sample.jsonl --model gpt2 --rate 0.02 --out phrases.yaml
      tunewell calibrate labelled.jsonl --model gpt2 --precision 0.9 --label is_bad --out phrases.yaml
    """
    from ..toolkit.base_settings import BaseSettings
    from ..toolkit.settings import build
    from .calibrate import as_table, one_target
    from .calibrate import calibrate as find_thresholds
    from .console import Console

    target, wanted = one_target(precision, recall, rate)
    base = build(BaseSettings, {"device": device, "quantization": quantization}, where="the command line")
    _calm_libraries()
    results = find_thresholds(
        sample, phrases, model, base, target, wanted, out, Console(is_quiet=quiet), label=label, seed=seed
    )
    tree = {
        "phrases": str(out),
        "axes": {one.axis: {"threshold": one.calibration.threshold, "shares": one.rows} for one in results},
    }
    _result(tree, as_json, "\n".join([*as_table(results), f"phrases: {out}"]))


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe, ready to be edited.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Explain every setting, with unit and default.")] = False,
) -> None:
    """List the bundled recipes, print one, or explain every setting."""
    from ..toolkit.settings import field_help
    from .recipe import Recipe, bundled_recipes, find_recipe, first_sentence, recipe_text

    if explain:
        for path, text in field_help(Recipe).items():
            typer.echo(f"{path}\n    {text}")
    elif name is not None:
        typer.echo(recipe_text(find_recipe(name)), nl=False)
    else:
        for recipe, file in bundled_recipes().items():
            typer.echo(f"{recipe:<12} {first_sentence(recipe_text(file))}")


def main() -> None:
    """Entry point: faults of the user's become one message and exit code 2."""
    # Offered to the libraries before they load: none of them reports back unless the user wants it to.
    for name, value in (("HF_HUB_DISABLE_TELEMETRY", "1"), ("TOKENIZERS_PARALLELISM", "false")):
        os.environ.setdefault(name, value)
    is_debug = DEBUG in sys.argv
    try:
        app([DEBUG] * is_debug + [one for one in sys.argv[1:] if one != DEBUG], prog_name="tunewell")
    except Exception as error:
        fault = _user_fault(error)
        if fault is None or is_debug:
            traceback.print_exc()
        if fault is None:
            sys.exit(1)
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)


def _run_stages(
    recipe: str,
    overrides: list[str] | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    set_aside: bool,
    last: str | None,
) -> None:
    from .recipe import DEFAULT, find_recipe, read_recipe

    given = list(overrides or ())
    if "=" in recipe and not Path(recipe).is_file():  # no recipe was named, the first override took its place
        given.insert(0, recipe)
        recipe = DEFAULT
    settings = read_recipe(find_recipe(recipe), given)
    if last is not None and last not in settings.stages:
        raise SettingsError([f"stages: got {list(settings.stages)}, wanted {last!r} among them for this command"])

    _calm_libraries()
    from .console import Console
    from .report.page import write_report
    from .report_data import build_report
    from .run import run_recipe

    folder = out or Path("runs") / settings.name
    console = Console(is_quiet=quiet)
    try:
        record = run_recipe(settings, folder, console, argv=sys.argv, sets_aside=set_aside, last=last)
    except KeyboardInterrupt:
        console.warn("interrupted; give the same command again to go on where it stopped")
        raise typer.Exit(130) from None
    page = folder / "report.html"
    write_report(build_report(folder), page)
    _result({"run": str(folder), "report": str(page), "results": record["results"]}, as_json, f"report: {page}")


def _calm_libraries() -> None:
    """Leave the screen to our own progress bars and messages."""
    import logging
    import warnings

    import datasets
    import transformers

    # Notices of deprecation between transformers, TRL and PEFT: nothing that a user could act on.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it recommends a package that nothing here needs
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _result(tree: dict[str, Any], as_json: bool, text: str) -> None:
    # A figure that was not measured is null: JSON knows no NaN.
    print(orjson.dumps(tree, option=JSON_OPTIONS).decode() if as_json else text)


def _user_fault(error: BaseException) -> TunewellError | None:
    """The fault that a user can mend behind an error; None for a fault of tunewell's own."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TunewellError):
            return seen
        is_full = isinstance(seen, OSError) and seen.errno in DISK_FULL
        if is_full or any(words in str(seen) for words in DISK_FULL_WORDS):
            name = getattr(seen, "filename", None)
            what = f": cannot write {name}" if name else ""
            return RunError(
                f"the disk is full{what}. Make room and give the same command again: it goes on where it stopped."
            )
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, OSError) and error.filename is not None:
        return RunError(
            f"cannot read or write {error.filename}: {error.strerror}. Mend it there, or choose other folders: --out "
            "for the run, the environment variable TUNEWELL_CACHE for the tiny base."
        )
    return None


if __name__ == "__main__":
    main()
