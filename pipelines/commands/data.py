"""`tunewell data ...`: training sets from prompts."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, QuietOption, print_result

data = typer.Typer(help="Training sets from prompts that people wrote.", no_args_is_help=True)


@data.command()
def build(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="JSONL, CSV, TSV (each also .gz, .zst), Parquet, a folder or a hub id."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the sets.")],
    user_column: Annotated[str, typer.Option(help="Column that says who wrote a row.")] = "user",
    column: Annotated[
        list[str] | None,
        typer.Option(help="NAME=YOURS: a column has another name in the sources, as prompt=question. May be repeated."),
    ] = None,
    split: Annotated[str, typer.Option(help="Part of a folder or hub data set that is read.")] = "train",
    form: Annotated[
        str, typer.Option(help="Rows of text or of chat messages; auto: chat if a source has it.")
    ] = "auto",
    plain_template: Annotated[str, typer.Option(help="Of a plain prompt.")] = "{prompt}",
    few_shot_template: Annotated[
        str, typer.Option(help="Of an instruction with pairs. \\n is a line break, here and below.")
    ] = "{instruction}\\n\\n{shots}{query}",
    shot_template: Annotated[
        str, typer.Option(help="Of each pair that a few-shot prompt shows.")
    ] = "Input: {query}\\nOutput: {response}\\n\\n",
    query_template: Annotated[
        str, typer.Option(help="Of the query that a few-shot prompt asks.")
    ] = "Input: {query}\\nOutput:",
    use_case_template: Annotated[
        str, typer.Option(help="Of a prompt for a use case; may hold {use_case}.")
    ] = "{prompt}",
    shots: Annotated[int | None, typer.Option(help="Pairs that a few-shot prompt shows at most. Default: all.")] = None,
    draws: Annotated[int, typer.Option(help="Few-shot prompts for each query, each behind pairs drawn anew.")] = 1,
    max_words: Annotated[int, typer.Option(help="A longer prompt is dropped.")] = 1000,
    prefix: Annotated[int, typer.Option(help="Prompts that begin with the same so many characters are one.")] = 128,
    per_user: Annotated[int, typer.Option(help="Prompts of one user at most.")] = 200,
    held_out: Annotated[float, typer.Option(help="Share of users kept for evaluation.")] = 0.15,
    test: Annotated[float, typer.Option(help="Share of users kept for a last test, which no stage reads.")] = 0.0,
    personal_data: Annotated[
        str, typer.Option(help="E-mail, phone, card and IP addresses in training rows: hide, drop the prompt, or keep.")
    ] = "hide",
    leak_words: Annotated[
        int, typer.Option(help="So many words in a row shared with an evaluation prompt drop a training prompt.")
    ] = 13,
    ppo_without_labels: Annotated[
        bool,
        typer.Option("--ppo-without-labels", help="The PPO set takes only prompts that nobody answered or judged."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides split, shots and who is over the limit.")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build the SFT, ranking, preference and PPO sets from prompts of three kinds.

    Plain: "prompt". Few-shot: "instruction" with "examples" (a list of {"query", "response"}), or one row per pair
    with "query" and "response". For a use case: "use_case" and "prompt". A row may also hold what people made of it:
    "completion", "completions" with "ranks", "chosen" and "rejected", "rating". The folder that `tunewell collect
    export` writes can be given as it is.

    Examples:
      tunewell data build prompts.csv --out sets
      tunewell data build prompts.jsonl export --user-column customer --test 0.1 --out sets
      tunewell data build OWNER/NAME --column prompt=question --column completion=answer --out sets
    """
    from ...toolkit.errors import SettingsError
    from ..console import Console
    from ..data.build import BuildSettings
    from ..data.build import build as build_sets
    from ..data.sources import parse_columns
    from ..data.templates import Templates

    given = (plain_template, few_shot_template, shot_template, query_template, use_case_template)
    names = ("plain", "few_shot", "shot", "query", "use_case")
    faults: list[str] = []
    templates, columns, settings = Templates(), dict[str, str](), BuildSettings()
    try:
        templates = Templates(**{name: text.replace("\\n", "\n") for name, text in zip(names, given, strict=True)})
    except SettingsError as error:
        faults += error.faults
    try:
        columns = parse_columns(column or ())
    except SettingsError as error:
        faults += error.faults
    try:
        settings = BuildSettings(
            templates=templates, form=form, shots=shots, draws=draws, max_words=max_words, prefix=prefix,  # type: ignore[arg-type]
            per_user=per_user, held_out=held_out, test=test, personal_data=personal_data, leak_words=leak_words,  # type: ignore[arg-type]
            prompts_without_labels=ppo_without_labels, user_column=user_column, columns=columns, split=split, seed=seed,
        )  # fmt: skip
    except SettingsError as error:
        faults += error.faults
    if faults:
        raise SettingsError(faults, "the command line")
    found = build_sets(sources, out, settings, Console(is_quiet=quiet))
    rows, prompts = found["rows"], found["prompts"]
    lines = [
        f"{rows['read']} rows, {prompts['distinct']} prompts: {prompts['kept']} kept, {prompts['dropped']} dropped"
    ]
    lines += [f"  {n:>6} {reason.replace('_', ' ')}" for reason, n in found["dropped"].items()]
    if found["personal_data"]:
        kinds = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in found["personal_data"].items())
        lines.append(f"personal data found in training rows: {kinds}")
    lines += [f"{name}.jsonl: {n}" for name, n in found["files"].items()]
    print_result({"out": str(out)} | found, as_json, "\n".join([*lines, f"sets and data card: {out}"]))


@data.command()
def check(
    training: Annotated[
        list[str], typer.Argument(metavar="TRAINING...", help="Rows of any shape that are trained on.")
    ],
    against: Annotated[list[str], typer.Option(help="Rows of an evaluation; may be given again.")],
    leak_words: Annotated[int, typer.Option(help="So many words in a row in both are a leak.")] = 13,
    as_json: JsonOption = False,
) -> None:
    """Look for prompts of an evaluation in training rows; exit code 2 if there are any.

    Of evaluation rows that hold "prompt" or "question" that text is looked for, of others every text; it is looked
    for in every text of the training rows.

    Examples:
      tunewell data check sets/demonstrations.jsonl sets/prompts.jsonl --against sets/held_out_prompts.jsonl
    """
    from ...toolkit.errors import DataError
    from ..data.checking import check_leaks

    found = check_leaks(training, against, leak_words)
    listed = "\n".join(f"  {one['training']} holds {one['evaluation']}" for one in found["leaks"][:20])
    text = f"{found['rows']} training rows, {found['items']} evaluation prompts, {len(found['leaks'])} leaks"
    print_result(found, as_json, "\n".join([text, listed]).rstrip())
    if found["leaks"]:
        raise DataError(f"{text}: remove those rows from training, or the evaluation measures memory")
