"""Options that several commands share, with the ways they show a result."""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ...toolkit.files import JSON_OPTIONS

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


def calm_libraries() -> None:
    """Leave the screen to our own progress bars and messages."""
    import warnings

    import datasets
    import transformers

    # Notices of deprecation between transformers, TRL and PEFT: nothing that a user could act on.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def print_result(tree: dict[str, Any], as_json: bool, text: str) -> None:
    """Print what a command found: a tree as one line of JSON for machines, or text for people."""
    # A figure that was not measured is null: JSON knows no NaN.
    print(orjson.dumps(tree, option=JSON_OPTIONS).decode() if as_json else text)
