"""`tunewell collect ...`: the feedback page, and what comes out of it."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, QuietOption, calm_libraries, print_result

collect = typer.Typer(
    help="People write demonstrations, rate and rank completions on a page of this machine.", no_args_is_help=True
)
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="Database of the study (SQLite).")]
BlurOption = Annotated[
    str | None,
    typer.Option(help="Toxicity scorer (tfidf:FOLDER, wordlist:FILE, hf:..., detoxify:...): what it finds is blurred."),
]


@collect.command()
def serve(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Database of the study; made if missing.")],
    rows: Annotated[
        list[str] | None, typer.Argument(metavar="[ROWS]...", help="Files of rows to add; known ones are not doubled.")
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="Asked of the rows added: auto, demonstrate, rate, rank, or compare (rate, then rank). auto: write "
            "where there is no completion, rate where there is one, compare where there are more."
        ),
    ] = "auto",
    overlap: Annotated[
        int | None, typer.Option(help="Labelers who answer each item; 2 or more measure agreement. Default: 1.")
    ] = None,
    skips: Annotated[
        int | None, typer.Option(help="After this many skips an item is offered to nobody any more. Default: 2.")
    ] = None,
    lease: Annotated[
        int | None, typer.Option(help="Minutes that an item is held for an idle labeler. Default: 30.")
    ] = None,
    blur: BlurOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at. Beyond this machine, a key in the link lets people in.")
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None, typer.Option(help="Further host name of the page, as behind a proxy; may be given again.")
    ] = None,
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8421,
) -> None:
    """Open the page on which people write demonstrations, rate and rank.

    Rows with `prompt` ask for a demonstration; with `completions` as well (as `tunewell sample` writes them) they ask
    for ratings and a ranking. Everything is kept in STUDY, which only grows; stop the page and start it again at will.

    Examples:
      tunewell collect serve study.sqlite prompts.jsonl
      tunewell collect serve study.sqlite samples.jsonl --overlap 2 --blur wordlist:words.txt
      tunewell collect serve study.sqlite --host 0.0.0.0
    """
    from ...toolkit.errors import MissingPackageError
    from ..collect.study import add_rows, open_with_settings
    from ..console import Console

    console = Console()
    store = open_with_settings(study, overlap=overlap, skips=skips, lease_minutes=lease)
    for source in rows or ():
        new, known = add_rows(store, source, task, blur)
        console.say(f"{source}: {new} items added, {known} were there before")
    try:
        from ..collect.serve import serve as serve_page
    except ImportError as error:
        raise MissingPackageError(error.name or "starlette", "the feedback page", "collect") from error
    serve_page(store, host, port, console.say, tuple(name or ()))


@collect.command()
def simulate(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Database of the study; made if missing.")],
    rows: Annotated[
        list[str] | None, typer.Argument(metavar="[ROWS]...", help="Files of rows to add before, as with `serve`.")
    ] = None,
    scorer: Annotated[
        str,
        typer.Option(help="What it prefers: toxicity:SCORER (the less toxic) or reward:RUN (a reward model's choice)."),
    ] = "",
    noise: Annotated[
        float, typer.Option(help="Scale of the noise on a score, in standard deviations of all scores; 0: none.")
    ] = 0.5,
    name: Annotated[str, typer.Option(help="Name of the simulated labeler.")] = "simulated",
    limit: Annotated[int | None, typer.Option(help="Answers at most.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Let a simulated labeler rate and rank: a scorer with noise, to try the loop without people.

    Its answers are marked as simulated on the page and in every exported row; it writes no demonstrations and takes
    no part in agreement between people. They finish items as those of people do: give it a study of its own.

    Examples:
      tunewell collect simulate trial.sqlite samples/samples.jsonl --scorer toxicity:wordlist:words.txt
      tunewell collect simulate trial.sqlite --scorer reward:runs/embedded --noise 1
    """
    from ..collect.simulate import open_judge
    from ..collect.simulate import simulate as label
    from ..collect.study import add_rows, open_with_settings
    from ..console import Console

    console = Console(is_quiet=quiet)
    judge = open_judge(scorer)
    calm_libraries()
    store = open_with_settings(study)
    for source in rows or ():
        add_rows(store, source)
    counts = label(store, judge, console, name=name, noise=noise, seed=seed, limit=limit)
    text = f"{counts['answered']} simulated answers, {counts['unscored']} items skipped for want of a score"
    print_result({"study": str(study)} | counts, as_json, text)


@collect.command()
def export(
    study: StudyArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the export; an earlier export is replaced.")],
    held_out: Annotated[
        float, typer.Option(help="Share of prompts, 0 up to 1, whose rows go to the held-out files.")
    ] = 0.15,
    names: Annotated[bool, typer.Option("--names", help="Write labelers' names in place of labeler-1, -2.")] = False,
    people_only: Annotated[
        bool, typer.Option("--people-only", help="Leave out what simulated labelers answered.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write demonstrations, comparisons, rankings and ratings as training files; any time, also while the page is open.

    The files have the forms that `tunewell sft` and `tunewell reward` read. export.json counts them, and says what was
    left out and why.

    Examples:
      tunewell collect export study.sqlite --out export
      tunewell reward hh-rlhf data.source=files data.comparisons=export/comparisons.jsonl ...
    """
    from ..collect.export import export_study
    from ..collect.store import Store

    summary = export_study(
        Store(study, makes=False), out, held_out=held_out, shows_names=names, takes_simulated=not people_only
    )
    lines = [f"{name:<24}{n:>7} rows" for name, n in summary["files"].items()]
    lines += [f"left out: {n} {reason.replace('_', ' ')}" for reason, n in summary["left_out"].items() if n]
    print_result({"out": str(out)} | summary, as_json, "\n".join([*lines, f"written to {out}"]))


@collect.command()
def status(study: StudyArgument, as_json: JsonOption = False) -> None:
    """Show how far a study is and how well its labelers agree."""
    from ..collect.results import results_of
    from ..collect.store import Store

    found = results_of(Store(study, makes=False))
    lines = [
        f"{found['items'] - found['left']} of {found['items']} items finished, {found['answers']} answers "
        f"({found['simulated']} simulated)"
    ]
    for one in found["labelers"]:
        mark = " (simulated)" if one["is_simulated"] else ""
        lines.append(f"  {one['name']}{mark}: {one['answers']} answers, {one['skips']} skips")
    for one in found["agreement"]:
        if one["n"]:
            value = "-" if one["alpha"] is None else f"{one['alpha']:.2f}"
            lines.append(f"  {one['label']}: alpha {value}, the same in {one['agree']:.0%} of {one['n']} pairs")
    print_result(found, as_json, "\n".join(lines))
