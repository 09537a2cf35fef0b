"""A filter run: plan it, judge every unit, compare texts, publish, and account for every row."""

import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ... import __version__
from ...filters.base import CorpusFilter
from ...filters.row_text import RowReader
from ...toolkit.errors import RunError
from ...toolkit.files import clear_unfinished, read_json, write_json
from ...toolkit.machine import MemoryPeak, hardware, versions
from ...toolkit.settings.base import BaseSettings
from ...toolkit.stage import lock
from ..console import Console
from ..filter_building import BUILDERS, FilterModel, split_filters, with_calibrated_thresholds
from ..filter_settings import FilterSettings
from .comparing import compare
from .contamination import CONTAMINATION, write_contamination
from .engines import Engine, local_engine
from .inputs import STDIN, find_sources, keep_stdin, passed_over
from .plan import SUMMARY, UNITS, WORK, Plan, check_model, check_same
from .progress import progress_bar, tell_passed_over
from .publishing import KINDS, publish_quarantine
from .staging import RECORD
from .summary import Judged, bad_rate_fault, first_part_fault, gather, summarise
from .units import Unit, cut
from .worker import Task

RUN, PLAN, REPORT = "run.json", "plan.json", "report.html"
OUTPUTS = (*KINDS, "scores", CONTAMINATION, SUMMARY, RUN, REPORT, WORK)
MAX_BAD_RATE = 0.01


def make_plan(
    inputs: Sequence[str],
    out: Path,
    settings: FilterSettings,
    *,
    model: str = "",
    base: BaseSettings | None = None,
    reader: RowReader | None = None,
    split: str = "train",
    unit_bytes: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> Plan:
    """Find the inputs and cut them into units; reads no rows, unless a threshold has to be set on a sample of them.

    Raises:
        SettingsError: inputs that cannot be used, or phrases without a model.
    """
    check_model(settings, model)
    stdin = _keep_stdin(out) if STDIN in inputs else None
    sources = find_sources(inputs, out, split=split, stdin=stdin)
    units = cut(sources, pace=settings.pace, unit_bytes=unit_bytes)
    plan = Plan(
        sources=tuple(sources), units=tuple(units), settings=settings, model=model, base=base or BaseSettings(),
        reader=reader or RowReader(), out=out, passed_over=tuple(passed_over(inputs)),
    )  # fmt: skip
    if settings.phrases is None or settings.removal_rate is None:
        return plan
    from .dry_run import sample_texts

    causal = FilterModel(source=model, base=plan.base)
    shown = console or Console(is_quiet=True)
    sample = sample_texts(plan, seed=seed, say=shown.warn)
    return replace(plan, settings=with_calibrated_thresholds(settings, causal, sample, seed, shown))


def _keep_stdin(out: Path) -> Path:
    with lock(out):  # a run that is going on in this folder reads what it kept itself
        return keep_stdin(out / WORK)


def run_corpus(
    plan: Plan,
    console: Console,
    *,
    workers: int | None = None,
    engine: Engine | None = None,
    max_bad_rate: float | None = None,
    sets_aside: bool = False,
) -> dict[str, Any]:
    """Run filters over a corpus; started again after a kill, it does only what is missing.

    Args:
        plan: what is to be done.
        console: shows progress.
        workers: processes; None: one for each core, or for each GPU of a model.
        engine: does the work; None: this machine.
        max_bad_rate: the largest share of rows that may be unreadable; None: `MAX_BAD_RATE`, or what a run that is
            decided again allowed.
        sets_aside: move the outputs of another run out of the way instead of stopping.

    Returns:
        what summary.json holds.

    Raises:
        RunError: the output folder is in use or holds another run, or too many rows cannot be read.
    """
    tree = plan.tree()
    allowed = max_bad_rate if max_bad_rate is not None else _usual_bad_rate(plan)
    tell_passed_over(plan, console)
    with lock(plan.out):
        _claim(plan, tree, sets_aside)
        if (plan.out / SUMMARY).is_file():
            shutil.rmtree(plan.work, ignore_errors=True)  # a kill may have come before
            console.say("done before, nothing to do")
            return dict(read_json(plan.out / SUMMARY))
        write_json(plan.work / PLAN, tree)
        used = engine or local_engine(plan, workers)
        began = time.monotonic()
        with MemoryPeak() as peak:
            if used.n_workers > 1:
                # What draws the page takes as long to import as thousands of rows to judge; workers judge meanwhile.
                threading.Thread(target=import_module, args=(f"{__package__}.report",), daemon=True).start()
            summary = _do(plan, tree, used, console, allowed)
            if plan.settings.benchmarks:
                write_contamination(plan)
        seconds = time.monotonic() - began
        record = {
            "schema_version": 1,
            "tunewell": __version__,
            "argv": sys.argv,
            "engine": used.name,
            "workers": used.n_workers,
            "seconds": round(seconds, 3),
            "rows_per_second": round(summary["read"] / seconds),
            "max_bad_rate": allowed,
            "passed_over": list(plan.passed_over),
            "peak_memory_mb": peak.megabytes(),
            "versions": versions(),
            "hardware": hardware(),
        }
        write_json(plan.out / RUN, record)
        with console.working("writing the report"):
            _report(plan.out, summary, record)
        write_json(plan.out / SUMMARY, summary)  # the last: where it stands, all else does
        shutil.rmtree(plan.work, ignore_errors=True)
    return summary


def _usual_bad_rate(plan: Plan) -> float:
    if plan.is_again:
        return float(read_json(Path(plan.sources[0].path) / RUN).get("max_bad_rate", MAX_BAD_RATE))
    return MAX_BAD_RATE


def _report(out: Path, summary: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    from .report import write_filter_report

    write_filter_report(summary, record, out / REPORT)


def _claim(plan: Plan, tree: dict[str, Any], sets_aside: bool) -> None:
    """Make sure that the output folder holds nothing, or the beginnings of this very run."""
    out = plan.out
    found = [name for name in OUTPUTS if (out / name).exists() and name != WORK]
    recorded = None
    if (out / SUMMARY).is_file():
        recorded = read_json(out / SUMMARY).get("made_with", {})
    elif (plan.work / PLAN).is_file():
        if not found and not any((plan.work / UNITS).glob(f"[!.]*/{RECORD}")):
            return  # stopped before anything was judged, as by a fault that has been mended since
        recorded = read_json(plan.work / PLAN)
    elif found:
        recorded = {}
    if recorded is None:
        return
    try:
        check_same(recorded, tree, out)
    except RunError:
        if not sets_aside:
            raise
        _set_aside(plan)


def _set_aside(plan: Plan) -> None:
    """Move the outputs of another run into a numbered folder; kept standard input stays, it was just written."""
    number = 1
    while (target := plan.out / "set-aside" / str(number)).exists():
        number += 1
    target.mkdir(parents=True)
    stdin = [Path(source.path) for source in plan.sources if Path(source.path).is_relative_to(plan.work.resolve())]
    for name in OUTPUTS:
        if (plan.out / name).exists():
            (plan.out / name).rename(target / name)
    for path in stdin:
        plan.work.mkdir(exist_ok=True)
        (target / WORK / path.name).rename(path)


def _clear_leftovers(plan: Plan) -> None:
    """Remove what a killed run was writing: units, and files that had not got their names yet."""
    for folder in (plan.work / UNITS, plan.out, *(plan.out / name for name in (*KINDS, "scores"))):
        clear_unfinished(folder)


def _do(plan: Plan, tree: dict[str, Any], engine: Engine, console: Console, max_bad_rate: float) -> dict[str, Any]:
    _clear_leftovers(plan)
    records = _judge(plan, engine, console, max_bad_rate)
    judged = gather(plan, records)
    if (fault := bad_rate_fault(plan, records, max_bad_rate)) is not None:
        if not any(segment["read"] for record in records for segment in record["segments"]):
            shutil.rmtree(plan.work, ignore_errors=True)  # of no rows nothing is worth keeping
            raise RunError(fault)
        for unit in plan.units:
            publish_quarantine(plan, unit, judged.lines_before[unit.number])
        raise RunError(fault)
    comparing = _comparing(plan, records)
    if comparing:
        with console.working("comparing texts") as say:
            compare(plan, comparing, judged.lines_before, say)
    published = _publish(plan, engine, judged, console)
    return summarise(plan, tree, published, judged)


def _comparing(plan: Plan, records: Sequence[Mapping[str, Any]]) -> dict[str, CorpusFilter]:
    """Build the filters that compare texts, and only those: the others may need models, which workers hold."""
    names = records[0]["comparing"]
    made = {name: BUILDERS[name](plan.settings, FilterModel()) for name in names}
    return split_filters({name: one for name, one in made.items() if one is not None})[1]


def _judge(plan: Plan, engine: Engine, console: Console, max_bad_rate: float) -> list[dict[str, Any]]:
    """Judge all units that have not been; returns the records of all, in order.

    Raises:
        RunError: the part that is done first holds not one usable row; the input is not what it was taken for.
    """
    records = {unit.number: read_json(plan.staged(unit) / RECORD) for unit in plan.units if _is_judged(plan, unit)}
    tasks = [Task(unit) for unit in plan.units if unit.number not in records]
    if records and tasks:
        console.say(f"{len(records):,} of {len(plan.units):,} units were judged before")
    if not tasks:
        return [records[unit.number] for unit in plan.units]
    fault = None
    # Closed, so that no worker writes any more when the loop is left early.
    with (
        progress_bar(console, "filtering", plan, records) as progress,
        closing(engine.run(plan, tasks, progress)) as all_done,
    ):
        for done in all_done:
            records[done.task.unit.number] = dict(done.record)
            progress.count(done.task.unit.number, done.record)
            if len(records) == 1 < len(plan.units) and max_bad_rate < 1:
                fault = first_part_fault(plan, done.record)
            if fault is not None:
                break
    if fault is not None:
        shutil.rmtree(plan.work, ignore_errors=True)  # so that another column can be named without more ado
        raise RunError(fault)
    return [records[unit.number] for unit in plan.units]


def _is_judged(plan: Plan, unit: Unit) -> bool:
    return (plan.staged(unit) / RECORD).is_file()


def _publish(plan: Plan, engine: Engine, judged: Judged, console: Console) -> list[Mapping[str, Any]]:
    tasks = [Task(unit, True, judged.lines_before[unit.number], judged.measures, judged.edges) for unit in plan.units]
    found: dict[int, Mapping[str, Any]] = {}
    with console.bar("publishing") as advance:
        for done in engine.run(plan, tasks, lambda n_bytes: None):
            found[done.task.unit.number] = done.record
            advance(len(found), len(tasks), "parts")
    return [found[unit.number] for unit in plan.units]
