"""`tunewell filter`: filters over a corpus of any size."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import JsonOption, QuietOption, SetAsideOption, print_result

if TYPE_CHECKING:
    from ..corpus.plan import Plan
    from ..filter_settings import FilterSettings

FILTERS = "Filters: each is off until asked for"
ROWS = "What is read"
WORK = "How it is done"


def _filter(*names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=FILTERS, **more)


def _rows(*names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=ROWS, **more)


def _work(*names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=WORK, **more)


def _list_settings(is_wanted: bool) -> None:
    if is_wanted:
        from ...toolkit.settings.reading import field_help
        from ..filter_settings import FilterSettings

        typer.echo("\n".join(f"{name}\n    {text}" for name, text in field_help(FilterSettings).items()))
        raise typer.Exit


def filter_corpus(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="JSONL (.gz, .zst), Parquet, a folder, a hub id, or - for stdin."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the results.")] = None,
    blocklist: Annotated[str | None, _filter(metavar="FILE", help="Drop rows that hold a listed word.")] = None,
    leetspeak: Annotated[bool, _filter("--leetspeak", help="Also find listed words spelled like k1ll.")] = False,
    min_words: Annotated[int | None, _filter(help="Drop rows with fewer words.")] = None,
    max_words: Annotated[int | None, _filter(help="Drop rows with more words.")] = None,
    repetition: Annotated[bool, _filter("--repetition", help="Drop rows that repeat themselves.")] = False,
    benchmark: Annotated[
        list[str] | None,
        _filter(metavar="FILE", help="Drop rows that give away items of this benchmark; may be given again."),
    ] = None,
    personal_data: Annotated[
        bool, _filter("--personal-data", help="Drop rows with e-mail, phone, card or IP numbers.")
    ] = False,
    toxicity: Annotated[
        str | None,
        _filter(metavar="SCORER", help="tfidf:FOLDER, hf:FOLDER#LABEL, detoxify:FILE@SHA256, or wordlist:FILE."),
    ] = None,
    toxicity_threshold: Annotated[float | None, _filter(help="Drop above this score, 0 to 1. Default: 0.5.")] = None,
    phrases: Annotated[
        str | None, _filter(metavar="FILE", help="Trigger phrases, as tunewell calibrate writes them.")
    ] = None,
    model: Annotated[str, _filter(metavar="ID", help="The causal model that scores them: folder or hub id.")] = "",
    exact_duplicates: Annotated[
        bool, _filter("--exact-duplicates", help="Drop what equals an earlier row of the corpus.")
    ] = False,
    near_duplicates: Annotated[
        float | None, _filter(metavar="SIMILARITY", help="Drop what is as similar to an earlier row; 0.8 is usual.")
    ] = None,
    overrides: Annotated[
        list[str] | None, _filter("--set", metavar="KEY=VALUE", help="Any other setting; may be given again.")
    ] = None,
    config: Annotated[Path | None, _filter(help="YAML file of settings; options win over it.")] = None,
    list_settings: Annotated[
        bool, _filter("--list-settings", help="Explain every setting.", is_eager=True, callback=_list_settings)
    ] = False,
    column: Annotated[
        list[str] | None, _rows(help="Column to judge; may be given again. Default: by the row's shape.")
    ] = None,
    role: Annotated[list[str] | None, _rows(help="Judge only chat messages of this role; may be given again.")] = None,
    split: Annotated[str, _rows(help="Split of a data set.")] = "train",
    max_bad_rate: Annotated[
        float | None,
        _rows(help="Stop if a larger share of the rows is unreadable. Default: 0.01; with --again that of the run."),
    ] = None,
    dry_run: Annotated[
        int | None, _work(metavar="N", help="Judge N rows, estimate removals and time; writes nothing.")
    ] = None,
    again: Annotated[
        Path | None, _work(metavar="RUN", help="Decide again on a finished run's scores: no model, no input.")
    ] = None,
    workers: Annotated[int | None, _work(help="Processes. Default: one for each core, or GPU of a model.")] = None,
    engine: Annotated[str, _work(help="local, or ray (of the extra 'cluster').")] = "local",
    address: Annotated[str | None, _work(help="Ray cluster to join. Default: one is started here.")] = None,
    device: Annotated[str, _work(help="auto, cpu or cuda.")] = "auto",
    unit_mb: Annotated[
        float | None, _work(help="Size of a unit of work, MB. Default: up to 64; with a model 4.")
    ] = None,
    seed: Annotated[int, _work(help="Decides what --dry-run and removal_rate draw.")] = 0,
    set_aside: SetAsideOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run filters over a corpus: every row is kept, dropped with its reason, or quarantined.

    DIR gets kept/, dropped/, quarantine/, scores/, summary.json and report.html; with --benchmark also
    contamination.json, which names every item found and the rows that hold it. Stopped at any moment, the same
    command goes on where it stopped. Of a preference pair `prompt` and `chosen` are judged: `rejected` is meant to be
    bad.

    Examples:
      tunewell filter corpus.jsonl.gz --out clean --blocklist words.txt --near-duplicates 0.8
      tunewell filter pairs/ --out clean --toxicity tfidf:scorer --dry-run 2000
      tunewell filter --again clean --out stricter --toxicity-threshold 0.4
      cat rows.jsonl | tunewell filter - --out clean --min-words 5 --set repetition.top_2gram=0.3
    """
    from ...filters.row_text import RowReader
    from ...toolkit.settings.base import TINY, BaseSettings
    from ...toolkit.settings.reading import build
    from ..console import Console
    from ..corpus.asked import check_asked

    given = {
        "blocklist": blocklist,
        "leetspeak": leetspeak or None,
        "length": _known(low=min_words, high=max_words),
        "repetition": {} if repetition else None,
        "benchmarks": benchmark or None,
        "personal_data": {} if personal_data else None,
        "toxicity": toxicity,
        "toxicity_threshold": toxicity_threshold,
        "phrases": phrases,
        "exact_duplicates": exact_duplicates or None,
        "near_duplicates": _known(threshold=near_duplicates),
    }
    named = {one.partition("=")[0].strip().partition(".")[0] for one in overrides or ()} | {
        name for name, value in (given | {"model": model or None}).items() if value is not None
    }
    settings = _settings(again, config, _known(**given) or {}, overrides or [])
    reading = {"--column": bool(column), "--role": bool(role), "--split": split != "train", "--model": bool(model),
               "--unit-mb": unit_mb is not None}  # fmt: skip
    check_asked(settings, named, reading=reading, is_again=again is not None, engine=engine, workers=workers,
                dry_run=dry_run, max_bad_rate=max_bad_rate, unit_mb=unit_mb)  # fmt: skip
    console = Console(is_quiet=quiet)
    if not settings.is_any_on:
        console.warn("No filter is on: every row that can be read is kept. --help names the filters.")
    with _folder(out, dry_run) as folder:
        plan = _plan(
            inputs or [],
            folder,
            again,
            settings,
            model=model,
            base=build(BaseSettings, {"device": device, "model": model or TINY}, where="the command line"),
            reader=RowReader(**(_known(columns=tuple(column or ()), roles=tuple(role) if role else None) or {})),
            split=split,
            unit_bytes=None if unit_mb is None else int(unit_mb * 1e6),
            seed=seed,
            console=console,
        )
        if dry_run is not None:
            from ..corpus.dry_run import estimate

            found = estimate(plan, dry_run, console, workers=workers, seed=seed)
            print_result(found.as_json(), as_json, found.as_text())
            return
        _run(plan, console, engine, address, workers, max_bad_rate, set_aside, as_json)


def _known(**values: Any) -> dict[str, Any] | None:
    """What was given; None when nothing was."""
    return {name: value for name, value in values.items() if value is not None} or None


@contextmanager
def _folder(out: Path | None, dry_run: int | None) -> Iterator[Path]:
    """The folder of the results; of a dry run, which writes nothing, one that goes with what it keeps of stdin."""
    from ...toolkit.errors import SettingsError

    if dry_run is not None:
        with TemporaryDirectory(prefix="tunewell-dry-run-") as folder:
            yield Path(folder)
    elif out is None:
        raise SettingsError(["--out: got nothing, wanted a folder for the results: --out DIR"], "the command line")
    else:
        yield out


def _plan(inputs: list[str], out: Path, again: Path | None, settings: "FilterSettings", **more: Any) -> "Plan":
    from ...toolkit.errors import SettingsError
    from ..corpus.again import plan_again
    from ..corpus.runner import make_plan

    if again is None:
        return make_plan(inputs, out, settings, **more)
    if inputs:
        fault = "INPUT: a run that is decided again brings its own rows. Leave the input out"
        raise SettingsError([fault], "the command line")
    return plan_again(again, out, settings)


def _settings(
    again: Path | None, config: Path | None, given: Mapping[str, Any], overrides: list[str]
) -> "FilterSettings":
    """Lay the settings of the file over those of an earlier run, then the options, then --set."""
    from ...toolkit.settings.reading import apply_overrides, build, load_yaml
    from ..corpus.again import settings_of
    from ..filter_settings import FilterSettings

    tree = settings_of(again) if again is not None else {}
    for layer in (load_yaml(config) if config is not None else {}, given):
        for name, value in layer.items():
            before = tree.get(name)
            tree[name] = {**before, **value} if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    tree, faults = apply_overrides(tree, overrides)
    return build(FilterSettings, tree, where=str(config or "the command line"), earlier=faults)


def _run(
    plan: "Plan",
    console: Any,
    engine: str,
    address: str | None,
    workers: int | None,
    max_bad_rate: float | None,
    sets_aside: bool,
    as_json: bool,
) -> None:
    from ...toolkit.files import read_json
    from ..corpus.contamination import CONTAMINATION, contamination_lines
    from ..corpus.engines import find_engine
    from ..corpus.runner import REPORT, run_corpus

    try:
        with find_engine(engine, plan, workers, address) as used:
            summary = run_corpus(plan, console, engine=used, max_bad_rate=max_bad_rate, sets_aside=sets_aside)
    except KeyboardInterrupt:
        console.warn("interrupted; give the same command again to go on where it stopped")
        raise typer.Exit(130) from None
    page = plan.out / REPORT
    counts = {name: summary[name] for name in ("read", "kept", "dropped", "quarantined")}
    lines = [f"{summary['read']:,} read, {summary['kept']:,} kept, {summary['dropped']:,} dropped, "
             f"{summary['quarantined']:,} quarantined"]  # fmt: skip
    lines += [f"  {one['filter']}: {one['reason']}: {one['count']:,}" for one in summary["steps"]]
    lines += [f"  could not be read: {error}: {count:,}" for error, count in summary["errors"].items()]
    if (plan.out / CONTAMINATION).is_file():
        lines += contamination_lines(read_json(plan.out / CONTAMINATION))
    lines += [f"kept rows: {plan.out / 'kept'}", f"report: {page}"]
    tree = counts | {"out": str(plan.out), "report": str(page), "steps": summary["steps"], "errors": summary["errors"]}
    print_result(tree, as_json, "\n".join(lines))
