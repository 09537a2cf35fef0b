"""`tunewell recipes`: the bundled recipes and what every setting means."""

from typing import Annotated

import typer


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe, ready to be edited.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Explain every setting, with unit and default.")] = False,
) -> None:
    """List the bundled recipes, print one, or explain every setting."""
    from ...toolkit.settings.reading import field_help
    from ..recipe import Recipe, bundled_recipes, find_recipe, first_sentence, recipe_text

    if explain:
        for path, text in field_help(Recipe).items():
            typer.echo(f"{path}\n    {text}")
    elif name is not None:
        typer.echo(recipe_text(find_recipe(name)), nl=False)
    else:
        for recipe, file in bundled_recipes().items():
            typer.echo(f"{recipe:<30} {first_sentence(recipe_text(file))}")
