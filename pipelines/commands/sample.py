"""`tunewell sample`: completions to be ranked."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, QuietOption, calm_libraries, print_result


def sample(
    prompts: Annotated[str, typer.Argument(metavar="PROMPTS", help="Rows with `prompt`: file, folder or hub id.")],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help="A run, one of its stages, an adapter, a model folder or a hub id; may be given again, and twice the "
            "same for twice its share.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the samples.")],
    k: Annotated[int, typer.Option("-k", "--completions", help="Completions per prompt; the paper ranks 4 to 9.")] = 4,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Keeps the likeliest tokens of this total probability.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest completion, in tokens.")] = 128,
    limit: Annotated[int | None, typer.Option(help="The first prompts only.")] = None,
    keep_equal: Annotated[
        bool, typer.Option("--keep-equal", help="Keep completions of a prompt that say the same.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Prompts in one forward pass.")] = 32,
    seed: Annotated[int, typer.Option(help="Decides what is drawn, whatever the batch size.")] = 0,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: as in the run.")] = None,
    quantization: Annotated[str | None, typer.Option(help="none or nf4. Default: as in the run.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw K completions for every prompt from one or several models, ready for `tunewell collect`.

    Who wrote which is kept in `policies`; labelers never see it. Interrupted, the same command goes on where it
    stopped, with the same result.

    Examples:
      tunewell sample prompts.jsonl --model runs/embedded/02-sft --out samples
      tunewell sample prompts.jsonl -m runs/embedded/02-sft -m runs/embedded -k 6 --out samples
    """
    from ...toolkit.model.generation import Sampling
    from ..console import Console
    from ..sample import SAMPLES
    from ..sample import sample as draw

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    calm_libraries()
    found = draw(
        prompts, model, out, Console(is_quiet=quiet), k=k, sampling=sampling, seed=seed, limit=limit,
        batch_size=batch_size, keeps_equal=keep_equal, memory={"device": device, "quantization": quantization},
    )  # fmt: skip
    mix = ", ".join(f"{name} {n}" for name, n in found["policy_mix"].items())
    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in found["counts"].items() if n)
    print_result({"samples": str(out / SAMPLES)} | found, as_json, f"{counts}\nby {mix}\nsamples: {out / SAMPLES}")
