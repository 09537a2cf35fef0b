"""Thresholds of the gate from labelled verdicts, and what the gate then does to safe and to unsafe text."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .control_rows import completion_ids
from .control_tokens import Text, encode_user
from .gate import Decision, Gated, thought_over
from .gate_settings import GateSettings
from .verdicts import Judged, judged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds and how well the verdicts tell unsafe from safe, on one labelled set."""

    gate: GateSettings
    auc: float
    """Probability that an unsafe text gets a higher verdict than a safe one."""
    ece: float
    """Expected calibration error of the verdicts at the chosen temperature, ten bins."""
    false_positives: float
    """Share of safe texts at or above `high`."""
    true_positives: float
    """Share of unsafe texts at or above `high`."""
    missed: float
    """Share of unsafe texts below `low`."""
    safe: int
    unsafe: int
    outcomes: "Outcomes | None" = None
    """Alarms and what thinking made of them, where the model was asked to think."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def calibrate_gate(
    p_unsafe: Sequence[float],
    is_unsafe: Sequence[bool],
    gate: GateSettings | None = None,
    *,
    most_false_alarms: float = 0.05,
    most_missed: float = 0.01,
    alarms: float | None = None,
) -> Calibration:
    """Choose temperature and thresholds on a labelled set that the model was not trained on.

    The temperature is the one of the highest likelihood; `high` the lowest threshold that at most `most_false_alarms`
    of the safe texts reach; `low` and `release` the highest that at most `most_missed` of the unsafe texts stay below.
    Where one threshold can do both, it is put in the middle.

    Args:
        p_unsafe: the highest verdict on each text, from `gate.judged`, at a temperature of 1.
        is_unsafe: the truth.
        gate: other settings to keep.
        most_false_alarms: share of safe texts that may be filtered at once.
        most_missed: share of unsafe texts that may pass at once.
        alarms: share of safe texts that are to be thought over or filtered; puts `low` there, whatever is missed. More
            where a model's own texts are unlike the labelled ones: thoughts can take false alarms back.

    Raises:
        DataError: one of the two kinds is missing, or a verdict is no probability.
    """
    verdicts, truth = _checked(p_unsafe, is_unsafe)
    odds = _odds(verdicts)
    temperature = _temperature(odds, truth)
    scaled: Floats = 1 / (1 + np.exp(-odds / temperature))
    high, low = _above(scaled[~truth], most_false_alarms), _below(scaled[truth], most_missed)
    if low > high:
        low = high = (low + high) / 2  # every threshold between the two keeps both promises: stay away from either
    if alarms is not None:
        low = min(high, _above(scaled[~truth], alarms))
    found = dataclasses.replace(gate or GateSettings(), low=low, high=high, release=low, temperature=temperature)
    return measure_gate(found, p_unsafe, is_unsafe)


def measure_gate(gate: GateSettings, p_unsafe: Sequence[float], is_unsafe: Sequence[bool]) -> Calibration:
    """What given thresholds do on a labelled set, which need not be the one they were made on.

    Args:
        gate: thresholds and temperature.
        p_unsafe: the highest verdict on each text at a temperature of 1.
        is_unsafe: the truth.

    Raises:
        DataError: one of the two kinds is missing, or a verdict is no probability.
    """
    verdicts, truth = _checked(p_unsafe, is_unsafe)
    scaled: Floats = 1 / (1 + np.exp(-_odds(verdicts) / gate.temperature))
    return Calibration(
        gate=gate,
        auc=auc(scaled, truth),
        ece=_ece(scaled, truth),
        false_positives=float((scaled[~truth] >= gate.high).mean()),
        true_positives=float((scaled[truth] >= gate.high).mean()),
        missed=float((scaled[truth] < gate.low).mean()),
        safe=int((~truth).sum()),
        unsafe=int(truth.sum()),
    )


def fit_gate(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[tuple[Text, Text, bool]],
    gate: GateSettings | None = None,
    *,
    most_false_alarms: float = 0.05,
    most_missed: float = 0.01,
    alarms: float | None = None,
    seed: int = 0,
) -> Calibration:
    """Calibrate the gate of a model on labelled texts: each is judged where the gate would ask, and thought over.

    `low`, `high` and temperature come from `calibrate_gate`. Then the model thinks about every text between the two,
    and `release` becomes the highest threshold below which at most `most_missed` of the unsafe ones come to lie.

    Args:
        model: trained with control tokens; whatever adapter is active is used.
        tokenizer: with control tokens.
        texts: prompt, completion and whether it is unsafe; none of them trained on.
        gate: other settings to keep.
        most_false_alarms: share of safe texts that may be filtered at once.
        most_missed: share of unsafe texts that may pass at once, and of those thought over that may be released.
        alarms: share of safe texts that are to be thought over or filtered; in place of `most_missed` for `low`.
        seed: of the thoughts.

    Raises:
        DataError: one of the two kinds is missing.
    """
    gate = gate or GateSettings()
    truth = [is_unsafe for _, _, is_unsafe in texts]
    read = judged(model, tokenizer, _encoded(tokenizer, texts), dataclasses.replace(gate, temperature=1.0))
    found = calibrate_gate(
        [one.peak for one in read],
        truth,
        gate,
        most_false_alarms=most_false_alarms,
        most_missed=most_missed,
        alarms=alarms,
    ).gate
    return _with_thoughts(model, tokenizer, read, truth, found, seed, most_missed)


def check_gate(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[tuple[Text, Text, bool]],
    gate: GateSettings,
    *,
    seed: int = 0,
) -> Calibration:
    """What a calibrated gate does on labelled texts that it was not calibrated on; arguments as in `fit_gate`."""
    read = judged(model, tokenizer, _encoded(tokenizer, texts), dataclasses.replace(gate, temperature=1.0))
    return _with_thoughts(model, tokenizer, read, [is_unsafe for _, _, is_unsafe in texts], gate, seed, None)


def _with_thoughts(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    read: Sequence[Judged],
    truth: Sequence[bool],
    gate: GateSettings,
    seed: int,
    most_missed: float | None,
) -> Calibration:
    """Figures of a gate with its thoughts; `release` is chosen where a share to miss is given."""
    peaks = [one.peak for one in read]
    scaled = 1 / (1 + np.exp(-_odds(np.asarray(peaks)) / gate.temperature))
    asked = [n for n, p in enumerate(scaled) if gate.low <= p < gate.high] if gate.thoughts else []
    after = thought_over(
        model, tokenizer, [read[n].context for n in asked], gate, seeds=[seed + n for n in range(len(asked))]
    )
    unsafe = np.array([verdict for n, verdict in zip(asked, after, strict=True) if truth[n]])
    if most_missed is not None and len(unsafe):
        gate = dataclasses.replace(gate, release=_below(unsafe, most_missed))
    is_released = {n for n, verdict in zip(asked, after, strict=True) if verdict < gate.release}
    kinds: list[Decision] = [
        "pass" if p < gate.low else "recovered" if n in is_released else "filter" for n, p in enumerate(scaled)
    ]
    counted = outcomes([Gated("", [], kind) for kind in kinds], truth)
    return dataclasses.replace(measure_gate(gate, peaks, truth), outcomes=counted)


def _encoded(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[Text, Text, bool]]
) -> list[tuple[list[int], list[int]]]:
    return [(encode_user(tokenizer, prompt), completion_ids(tokenizer, prompt, text)) for prompt, text, _ in texts]


def _checked(p_unsafe: Sequence[float], is_unsafe: Sequence[bool]) -> tuple[Floats, NDArray[np.bool_]]:
    verdicts, truth = np.asarray(p_unsafe, dtype=np.float64), np.asarray(is_unsafe, dtype=bool)
    if verdicts.shape != truth.shape or not ((verdicts >= 0) & (verdicts <= 1)).all():
        raise DataError(f"got {verdicts.size} verdicts for {truth.size} labels, wanted as many, each from 0 to 1")
    if truth.all() or not truth.any():
        raise DataError(f"got {int(truth.sum())} unsafe items of {truth.size}, wanted some of both kinds")
    return verdicts, truth


def _odds(verdicts: Floats) -> Floats:
    inside = np.clip(verdicts, 1e-12, 1 - 1e-12)
    odds: Floats = np.log(inside) - np.log1p(-inside)
    return odds


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
