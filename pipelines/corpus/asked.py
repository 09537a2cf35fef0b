"""What a command line asks of a filter run is checked before anything is read, so that nothing is passed over."""

import math
from collections.abc import Collection, Mapping

from ...toolkit.errors import SettingsError
from ..filter_settings import FilterSettings
from .engines import engine_faults

GOES_WITH = {
    "leetspeak": ("blocklist", "--blocklist FILE"),
    "max_matches": ("blocklist", "--blocklist FILE"),
    "benchmark_ngram": ("benchmarks", "--benchmark FILE"),
    "toxicity_threshold": ("toxicity", "--toxicity SCORER"),
    "model": ("phrases", "--phrases FILE"),
    "thresholds": ("phrases", "--phrases FILE"),
    "removal_rate": ("phrases", "--phrases FILE"),
    "tokens_per_batch": ("phrases", "--phrases FILE"),
}
"Settings that say nothing unless a filter is on: the filter's setting, and how it is switched on."
LEAST_UNIT_MB = 0.001


def check_asked(
    settings: FilterSettings,
    named: Collection[str],
    *,
    reading: Mapping[str, bool],
    is_again: bool,
    engine: str,
    workers: int | None,
    dry_run: int | None,
    max_bad_rate: float | None,
    unit_mb: float | None,
) -> None:
    """Refuse options that are out of range, and those that would change nothing.

    Args:
        settings: of the filters.
        named: names of the settings that were given, `model` among them.
        reading: options that say how inputs are read or judged, and whether each was given.
        is_again: whether an earlier run is decided again.
        engine: name of the engine.
        workers: processes.
        dry_run: rows of a sample.
        max_bad_rate: share of rows.
        unit_mb: megabytes.

    Raises:
        SettingsError: all of them at once.
    """
    faults = []
    for name, (filter_setting, switch) in GOES_WITH.items():
        if name in named and not getattr(settings, filter_setting):
            faults.append(f"{name}: says nothing without its filter. Add {switch}, or leave it out")
    if is_again:
        faults += [
            f"{option}: a run that is decided again keeps what it read and measured. Leave it out, or start a new run"
            for option, is_given in reading.items()
            if is_given
        ]
        if dry_run is not None:
            faults.append("--dry-run: does not go with --again, which needs no estimate. Leave one of them out")
    faults += engine_faults(engine, workers)
    if dry_run is not None and dry_run < 1:
        faults.append(f"--dry-run: got {dry_run}, wanted at least 1 row")
    if max_bad_rate is not None and not 0 <= max_bad_rate <= 1:
        faults.append(f"--max-bad-rate: got {max_bad_rate:g}, wanted a share from 0 to 1; 0.01 is one row of a hundred")
    if unit_mb is not None and not (unit_mb >= LEAST_UNIT_MB and math.isfinite(unit_mb)):
        faults.append(f"--unit-mb: got {unit_mb:g}, wanted at least {LEAST_UNIT_MB:g} MB")
    if faults:
        raise SettingsError(faults, "the command line")
