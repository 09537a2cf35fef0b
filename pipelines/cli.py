"""The command line: what commands there are, and how faults are told."""

import inspect
import logging
import os
import sys
import traceback
from typing import Annotated

import typer
from rich.markup import escape

from .. import __version__
from ..toolkit.errors import RunError, TunewellError
from ..toolkit.files import DISK_FULL
from .commands.calibrate import calibrate
from .commands.chat import chat
from .commands.collect import collect
from .commands.compare import compare
from .commands.data import data
from .commands.eval import evaluate
from .commands.export import export
from .commands.filter import filter_corpus
from .commands.judge import judge
from .commands.plan import plan
from .commands.recipes import recipes
from .commands.report import report
from .commands.run import run, up_to
from .commands.sample import sample
from .commands.toxicity import toxicity

HELP = "Make a language model helpful, honest and harmless on one consumer GPU."
DEBUG = "--debug"
# Rust hides the number of an error, and torch.save says nothing of the disk at all; these are their words.
DISK_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "unexpected pos ", "iostream error")
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


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


app.command()(run)
app.command("sft")(up_to("sft"))
app.command("reward")(up_to("reward"))
app.command("ppo")(up_to("ppo"))
app.command()(report)
app.command("filter", no_args_is_help=True)(filter_corpus)
app.command()(calibrate)
app.command("eval")(evaluate)
app.command()(plan)
app.command()(export)
app.command()(chat)
app.command()(compare)
app.command()(recipes)
app.add_typer(toxicity, name="toxicity")
app.add_typer(judge, name="judge")
app.add_typer(data, name="data")
app.command()(sample)
app.add_typer(collect, name="collect")


EXAMPLE_WIDTH = 76  # with a terminal of 80 columns the command is copied as it stands


def _flowing(text: str) -> str:
    """Join the lines of each paragraph, which the terminal breaks anew; examples, which are indented, stay commands."""
    paragraphs = inspect.cleandoc(escape(text)).split("\n\n")  # brackets are no markup
    return "\n\n".join(_examples(one) if "\n  " in one else one.replace("\n", " ") for one in paragraphs)


def _examples(paragraph: str) -> str:
    """Break long commands where a shell lets them go on, best before an option."""
    lines = []
    for line in paragraph.splitlines():
        while len(line) > EXAMPLE_WIDTH:
            at = max(line.rfind(" -", 40, EXAMPLE_WIDTH - 1), 0) or line.rfind(" ", 8, EXAMPLE_WIDTH - 1)
            lines.append(f"{line[:at]} \\")
            line = f"      {line[at + 1 :]}"
        lines.append(line)
    return "\n".join(lines)


for _group in (app, *(one.typer_instance for one in app.registered_groups if one.typer_instance)):
    for _command in _group.registered_commands:
        _command.help = _flowing(_command.help or (_command.callback.__doc__ if _command.callback else "") or "")


def main() -> None:
    """Entry point: faults of the user's become one message and exit code 2."""
    # Offered to the libraries before they load: none of them reports back unless the user wants it to.
    for name, value in (("HF_HUB_DISABLE_TELEMETRY", "1"), ("TOKENIZERS_PARALLELISM", "false")):
        os.environ.setdefault(name, value)
    # On some CPUs it recommends, while it is imported, a package that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
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
