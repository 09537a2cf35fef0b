"""`tunewell export`: a plain Hugging Face folder of a run's result."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, QuietOption, calm_libraries, print_result


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, of one of its stages, or of an adapter.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; new or empty.")],
    role: Annotated[str | None, typer.Option(help="ppo or sft. Default: what the run trained last.")] = None,
    dtype: Annotated[str, typer.Option(help="Precision of the weights: bfloat16, float16 or float32.")] = "bfloat16",
    check: Annotated[
        bool, typer.Option(help="Measure how far the merged model is from the trained one; loads the base twice.")
    ] = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Merge the adapter of a run into its base and write a folder that transformers loads without tunewell.

    The folder holds safetensors weights, the tokenizer with its chat template, and a model card with data, filters,
    evaluation and limits. An adapter that was trained on a 4-bit base is merged into the 16-bit one.

    Examples:
      tunewell export runs/embedded --out my-model
      tunewell export runs/embedded --role sft --dtype float32 --out my-sft-model
    """
    from typing import get_args

    from ...toolkit.errors import SettingsError
    from ..console import Console
    from ..export.merge import DType, export_model
    from ..model_source import find_model

    if dtype not in get_args(DType):
        raise SettingsError([f"--dtype: got {dtype!r}, wanted one of {', '.join(get_args(DType))}"], "the command line")
    calm_libraries()
    console = Console(is_quiet=quiet)
    exported = export_model(find_model(run, role=role), out, console, dtype=dtype, is_checked=check)  # type: ignore[arg-type]
    for warning in exported.warnings:
        console.warn(warning)
    tree: dict[str, object] = {"model": str(exported.folder), "of": exported.model, "dtype": exported.dtype,
            "trained_on": exported.trained_on, "warnings": list(exported.warnings)}  # fmt: skip
    lines = [f"{exported.model} -> {exported.folder} ({exported.dtype})"]
    if (one := exported.difference) is not None:
        tree["kl"] = {"mean": one.kl, "largest": one.largest, "tokens": one.tokens}
        lines.append(f"KL of the trained model from the written one: {one.kl:.2g} nats per token ({one.tokens} tokens)")
    print_result(tree, as_json, "\n".join(lines))
