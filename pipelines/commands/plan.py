"""`tunewell plan`: what fits a GPU, before anything is downloaded."""

from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonOption, OverridesArgument, QuietOption, calm_libraries, print_result

if TYPE_CHECKING:
    from ..plan import Plan


def plan(
    model: Annotated[str, typer.Option("--model", help="Hub id, folder, or config.json; no weights are needed.")],
    overrides: OverridesArgument = None,
    gpu_gb: Annotated[
        float, typer.Option("--gpu-gb", min=1, help="Memory of the GPU in GiB, as nvidia-smi names it.")
    ] = 24.0,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Plan for this recipe. Default: every setting at its default.")
    ] = None,
    completions: Annotated[
        int, typer.Option("--completions", min=2, help="Completions of a prompt in the rankings for the reward model.")
    ] = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell what SFT, reward model and PPO take of a GPU's memory, by part, and settings under which it fits.

    The model's own code runs on tensors without memory, so that what is counted is what the training keeps alive. The
    share of CUDA and of its allocator (the parts `runtime` and `slack`) is assumed.

    Examples:
      tunewell plan --model Qwen/Qwen2.5-7B --gpu-gb 24
      tunewell plan --model Qwen/Qwen2.5-7B --gpu-gb 12 sft.max_length=512 base.quantization=nf4
      tunewell plan --model my-model/config.json --recipe hh-rlhf
    """
    from ...toolkit.settings.reading import read_settings
    from ..console import Console
    from ..needs import GIB, Measure
    from ..plan import make_plan, read_config
    from ..recipe import Recipe, find_recipe

    given = list(overrides or ())

    def settings(changes: "list[str] | tuple[str, ...]" = ()) -> Recipe:
        # No rows are read, so a recipe need not be told where its own lie.
        wanted = ["data.source=world", *given, *changes, f"base.model={model}"]
        return read_settings(Recipe, find_recipe(recipe) if recipe else None, wanted)

    first = settings()
    calm_libraries()
    console = Console(is_quiet=quiet)
    config = read_config(model, trust_remote_code=first.base.trust_remote_code, revision=first.base.revision)
    console.say(f"running {config.model_type} on tensors without memory; a large vocabulary takes some seconds", "dim")
    made = make_plan(
        first, Measure(config), gpu_gb * GIB, lambda changes: settings(tuple(changes)), completions=completions
    )
    print_result(made.as_json() | {"model": model}, as_json, as_table(made))


def as_table(plan: "Plan") -> str:
    """The plan for people: a row a phase, a column a part, in GiB."""
    from ..needs import GIB

    names = list(dict.fromkeys(name for need in plan.needs for name in need.parts))
    lines = [" ".join([f"{'GiB':<16}", *(f"{name:>11}" for name in names), f"{'total':>9}", ""]).rstrip()]
    for need in plan.needs:
        cells = [f"{need.parts[name] / GIB:>11.2f}" if name in need.parts else f"{'':>11}" for name in names]
        verdict = "fits" if need.total <= plan.budget else f"{(need.total - plan.budget) / GIB:.1f} too much"
        lines.append(" ".join([f"{need.stage + ', ' + need.phase:<16}", *cells, f"{need.total / GIB:>9.2f}", verdict]))
    if not plan.changes:
        told = f"All fits into {plan.budget / GIB:g} GiB as it is." if plan.fits else "Nothing is left to change."
    elif plan.fits:
        told = f"It fits into {plan.budget / GIB:g} GiB with:"
    else:
        told = f"It does not fit into {plan.budget / GIB:g} GiB, not even with:"
    return "\n".join([*lines, "", told, *(f"  {change}" for change in plan.changes)])
