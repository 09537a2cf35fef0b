"""Thresholds of the gate from labelled verdicts, and what the gate then does to safe and to unsafe text."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .gate import Gated, GateSettings

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds and how well the verdicts tell unsafe from safe."""

    gate: GateSettings
    auc: float
    """Probability that an unsafe item gets a higher verdict than a safe one."""
    ece: float
    """Expected calibration error of the verdicts at the chosen temperature, ten bins."""
    false_positives: float
    """Share of safe items at or above `high`."""
    true_positives: float
    """Share of unsafe items at or above `high`."""
    missed: float
    """Share of unsafe items below `low`."""
    safe: int
    unsafe: int


def calibrate_gate(
    p_unsafe: Sequence[float],
    is_unsafe: Sequence[bool],
    gate: GateSettings | None = None,
    *,
    most_false_alarms: float = 0.05,
    most_missed: float = 0.01,
) -> Calibration:
    """Choose temperature and thresholds on a labelled set that the model was not trained on.

    The temperature is the one of the highest likelihood; `high` the lowest threshold that at most `most_false_alarms`
    of the safe items reach; `low` and `release` the highest that at most `most_missed` of the unsafe items stay below.

    Args:
        p_unsafe: verdicts at a temperature of 1.
        is_unsafe: the truth.
        gate: other settings to keep.
        most_false_alarms: share of safe items that may be filtered at once.
        most_missed: share of unsafe items that may pass at once.

    Raises:
        DataError: one of the two kinds is missing, or a verdict is no probability.
    """
    verdicts, truth = np.asarray(p_unsafe, dtype=np.float64), np.asarray(is_unsafe, dtype=bool)
    if verdicts.shape != truth.shape or not ((verdicts >= 0) & (verdicts <= 1)).all():
        raise DataError(f"got {verdicts.size} verdicts for {truth.size} labels, wanted as many, each from 0 to 1")
    if truth.all() or not truth.any():
        raise DataError(f"got {int(truth.sum())} unsafe items of {truth.size}, wanted some of both kinds")
    odds = np.log(np.clip(verdicts, 1e-12, 1 - 1e-12)) - np.log1p(-np.clip(verdicts, 1e-12, 1 - 1e-12))
    temperature = _temperature(odds, truth)
    scaled: Floats = 1 / (1 + np.exp(-odds / temperature))
    high = _above(scaled[~truth], most_false_alarms)
    low = min(high, _below(scaled[truth], most_missed))
    return Calibration(
        gate=dataclasses.replace(gate or GateSettings(), low=low, high=high, release=low, temperature=temperature),
        auc=auc(scaled, truth),
        ece=_ece(scaled, truth),
        false_positives=float((scaled[~truth] >= high).mean()),
        true_positives=float((scaled[truth] >= high).mean()),
        missed=float((scaled[truth] < low).mean()),
        safe=int((~truth).sum()),
        unsafe=int(truth.sum()),
    )


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What thinking again did, both ways; counts of texts."""

    false_alarms: int
    """Safe texts that raised an alarm."""
    recovered: int
    """Of these, released after a thought."""
    true_alarms: int
    """Unsafe texts that raised an alarm."""
    released: int
    """Of these, wrongly released after a thought."""
    over_refused: int
    """Safe texts that were filtered in the end."""
    safe: int
    unsafe: int

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def outcomes(gated: Sequence[Gated], would_be_unsafe: Sequence[bool]) -> Outcomes:
    """Count outcomes against the truth about what would have been said without the gate.

    Args:
        gated: what the gate did.
        would_be_unsafe: for each, whether the text without the gate is unsafe.
    """
    truth = np.asarray(would_be_unsafe, dtype=bool)
    has_alarm = np.array([one.decision != "pass" for one in gated], dtype=bool)
    is_released = np.array([one.decision == "recovered" for one in gated], dtype=bool)
    is_filtered = np.array([one.decision == "filter" for one in gated], dtype=bool)
    return Outcomes(
        false_alarms=int((has_alarm & ~truth).sum()),
        recovered=int((is_released & ~truth).sum()),
        true_alarms=int((has_alarm & truth).sum()),
        released=int((is_released & truth).sum()),
        over_refused=int((is_filtered & ~truth).sum()),
        safe=int((~truth).sum()),
        unsafe=int(truth.sum()),
    )


def auc(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counted half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))


def _temperature(odds: Floats, truth: NDArray[np.bool_]) -> float:
    """The temperature of the highest likelihood on a grid from 1/8 to 16."""
    grid = np.exp(np.linspace(np.log(0.125), np.log(16), 113))
    signed = np.where(truth, odds, -odds)
    losses = [float(np.logaddexp(0, -signed / temperature).mean()) for temperature in grid]
    return float(grid[int(np.argmin(losses))])


def _above(safe: Floats, share: float) -> float:
    """The lowest threshold that at most a share of values reach."""
    ordered = np.sort(safe)[::-1]
    allowed = int(share * len(ordered))
    return float(min(1.0, np.nextafter(ordered[allowed], 2.0))) if allowed < len(ordered) else 0.0


def _below(unsafe: Floats, share: float) -> float:
    """The highest threshold that at most a share of values stay below."""
    return float(np.sort(unsafe)[int(share * len(unsafe))])


def _ece(scaled: Floats, truth: NDArray[np.bool_]) -> float:
    bins = np.minimum((scaled * 10).astype(int), 9)
    total = 0.0
    for one in range(10):
        inside = bins == one
        if inside.any():
            total += inside.mean() * abs(scaled[inside].mean() - truth[inside].mean())
    return float(total)
