"""A threshold is chosen from a sample: for a wanted precision or recall from labels, or for a wanted removal rate.

Everywhere a document is dropped when `score > threshold`; one whose score equals the threshold stays, and so does one
without a score (NaN). Equal scores therefore stay or go together. A threshold lies in the middle between the lowest
score dropped and the next one, so that small differences between machines change no decision.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..toolkit.errors import DataError, SettingsError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEVEL = (0.025, 0.975)
TARGETS = ("precision", "recall", "removal_rate")


@dataclass(frozen=True)
class Estimate:
    """A share measured on a sample, and the interval that holds the true one with a probability of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a threshold does to a sample; a share that could not be measured is None."""

    threshold: float
    "Documents with a higher score are dropped."

    removal_rate: Estimate
    "Dropped documents among all."

    precision: Estimate | None
    "Bad documents among the dropped; None without labels, or when nothing is dropped."

    recall: Estimate | None
    "Dropped documents among the bad; None without labels, or when nothing is bad."

    n: int
    "Documents in the sample."

    n_dropped: int
    "Documents above the threshold."

    n_missing: int
    "Documents without a score, which stay."

    n_bad: int | None
    "Documents labelled bad; None without labels."


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A threshold with what to expect of it."""

    target: str
    "What was aimed at: `precision`, `recall` or `removal_rate`."

    wanted: float
    "The value aimed at."

    threshold_interval: tuple[float, float]
    "Where the thresholds of other samples of this size would lie, with a probability of 95 %."

    expected: Outcome
    "The outcome on the sample itself, for the target slightly better than on new documents: it was picked there."

    @property
    def threshold(self) -> float:
        """The threshold chosen."""
        return self.expected.threshold


@dataclass(frozen=True)
class Comparison:
    """One share expected from a calibration, and found on another sample."""

    name: str
    expected: Estimate
    actual: Estimate

    @property
    def is_consistent(self) -> bool:
        """Whether the difference can be chance: its 95 % interval, made of the two, holds 0."""
        first, second = sorted((self.expected, self.actual), key=lambda estimate: estimate.value)
        # Half-widths on the sides that face each other add up as squares (Newcombe's method for two proportions).
        reach = np.hypot(first.high - first.value, second.value - second.low)
        return bool(second.value - first.value <= reach)


def threshold_for_precision(
    scores: ArrayLike, labels: ArrayLike, target: float, *, n_bootstrap: int = 1000, seed: int = 0
) -> Calibration:
    """Find the lowest threshold, which drops most, with a given precision.

    Args:
        scores: (n,), NaN where there is none.
        labels: (n,), true (or 1) for a document that should be dropped.
        target: wanted share of bad documents among the dropped, above 0, at most 1.
        n_bootstrap: draws for the intervals.
        seed: decides the draws.

    Raises:
        DataError: scores or labels that cannot be used, or a precision that no threshold reaches.
        SettingsError: a target or a number of draws that makes no sense.
    """
    return _calibrate("precision", scores, labels, target, n_bootstrap, seed)


def threshold_for_recall(
    scores: ArrayLike, labels: ArrayLike, target: float, *, n_bootstrap: int = 1000, seed: int = 0
) -> Calibration:
    """Find the highest threshold, which drops least, with a given recall.

    Args:
        scores: (n,), NaN where there is none; a bad document without a score is never caught.
        labels: (n,), true (or 1) for a document that should be dropped.
        target: wanted share of the bad documents that are dropped, above 0, at most 1.
        n_bootstrap: draws for the intervals.
        seed: decides the draws.

    Raises:
        DataError: scores or labels that cannot be used, or a recall that no threshold reaches.
        SettingsError: a target or a number of draws that makes no sense.
    """
    return _calibrate("recall", scores, labels, target, n_bootstrap, seed)


def threshold_for_rate(scores: ArrayLike, rate: float, *, n_bootstrap: int = 1000, seed: int = 0) -> Calibration:
    """Find the lowest threshold that drops no more than a given share: the exact quantile of the sample.

    Args:
        scores: (n,), of a sample drawn evenly from all documents; NaN where there is none.
        rate: wanted share of documents dropped, above 0, below 1.
        n_bootstrap: draws for the intervals.
        seed: decides the draws.

    Raises:
        DataError: scores that cannot be used, a sample too small for the rate, or equal scores that cannot be parted.
        SettingsError: a rate or a number of draws that makes no sense.
    """
    return _calibrate("removal_rate", scores, None, rate, n_bootstrap, seed)


def outcome_at(
    threshold: float, scores: ArrayLike, labels: ArrayLike | None = None, *, n_draws: int = 10_000, seed: int = 0
) -> Outcome:
    """Measure what a threshold does to a sample, for instance one that had no part in choosing it.

    Each interval holds the middle 95 % of a Bayesian bootstrap: the two counts behind a share, each with half an
    observation added (Jeffreys' prior), are redrawn from a Dirichlet distribution. Unlike that of the plain bootstrap
    it does not shrink to a point when all or none of the documents are alike.

    Args:
        threshold: documents with a higher score are dropped.
        scores: (n,), NaN where there is none.
        labels: (n,), true (or 1) for a document that should be dropped.
        n_draws: draws for the intervals.
        seed: decides the draws.

    Raises:
        DataError: scores or labels that cannot be used.
    """
    values = _checked_scores(scores)
    is_dropped = values > threshold  # False for NaN
    n_dropped, rng = int(is_dropped.sum()), np.random.default_rng(seed)

    def share(part: int, whole: int) -> Estimate | None:
        return _estimate(part, whole, n_draws, rng) if whole else None

    is_bad = None if labels is None else _checked_labels(labels, len(values))
    n_bad = None if is_bad is None else int(is_bad.sum())
    n_caught = 0 if is_bad is None else int((is_dropped & is_bad).sum())
    return Outcome(
        threshold=threshold,
        removal_rate=_estimate(n_dropped, len(values), n_draws, rng),
        precision=None if n_bad is None else share(n_caught, n_dropped),
        recall=None if n_bad is None else share(n_caught, n_bad),
        n=len(values),
        n_dropped=n_dropped,
        n_missing=int(np.isnan(values).sum()),
        n_bad=n_bad,
    )


def compare(expected: Outcome, actual: Outcome) -> list[Comparison]:
    """Lay what was expected of a threshold beside what it did to another sample, share by share."""
    pairs = {name: (getattr(expected, name), getattr(actual, name)) for name in TARGETS}
    return [Comparison(name, *pair) for name, pair in pairs.items() if None not in pair]


def _calibrate(
    target: str, scores: ArrayLike, labels: ArrayLike | None, wanted: float, n_bootstrap: int, seed: int
) -> Calibration:
    _check_settings(target, wanted, n_bootstrap)
    values = _checked_scores(scores)
    is_bad = None if labels is None else _checked_labels(labels, len(values))
    if is_bad is not None and not is_bad.any():
        raise DataError("no document is labelled bad, wanted at least one: label a sample that holds some")
    sample = _Ranked(values, is_bad)
    shares = sample.shares(target, np.ones(len(values)))
    chosen = _pick(target, shares, wanted)
    if chosen is None:
        raise DataError(_unreachable(target, wanted, shares, sample))
    threshold = float(sample.thresholds[chosen])
    return Calibration(
        target=target,
        wanted=wanted,
        threshold_interval=sample.threshold_interval(target, wanted, threshold, n_bootstrap, seed),
        expected=outcome_at(threshold, values, is_bad, seed=seed),
    )


class _Ranked:
    """A sample from the highest score to the lowest, those without a score at the end.

    Attributes:
        thresholds: (cuts,), all thresholds that make a difference, from high to low; each drops something.
    """

    def __init__(self, values: Floats, is_bad: Bools | None) -> None:
        self._n = len(values)
        order = np.argsort(-values, kind="stable")  # NaN goes last
        self._is_bad = None if is_bad is None else is_bad[order]
        ranked = values[order][: int((~np.isnan(values)).sum())]
        self._ends = np.append(np.nonzero(ranked[:-1] > ranked[1:])[0], len(ranked) - 1)
        above, below = ranked[self._ends], np.append(ranked[self._ends[:-1] + 1], np.nextafter(ranked[-1], -np.inf))
        middle = below + (above - below) / 2
        self.thresholds = np.where(middle < above, middle, below)

    def shares(self, target: str, weights: Floats) -> Floats:
        """Give the wanted share at each threshold, (cuts,), when each document counts with a weight (n,)."""
        dropped = np.cumsum(weights)
        if target == "removal_rate" or self._is_bad is None:
            return np.asarray(dropped[self._ends] / dropped[-1])
        caught = np.cumsum(weights * self._is_bad)
        whole = dropped[self._ends] if target == "precision" else caught[-1]
        return np.asarray(caught[self._ends] / whole)

    def threshold_interval(
        self, target: str, wanted: float, threshold: float, n_bootstrap: int, seed: int
    ) -> tuple[float, float]:
        """Choose again under random weights (Bayesian bootstrap), where the target can be reached."""
        rng = np.random.default_rng(seed)
        again = (_pick(target, self.shares(target, rng.exponential(size=self._n)), wanted) for _ in range(n_bootstrap))
        found = [float(self.thresholds[index]) for index in again if index is not None]
        low, high = np.quantile([*found, threshold], LEVEL)
        return min(float(low), threshold), max(float(high), threshold)


def _pick(target: str, shares: Floats, wanted: float) -> int | None:
    """Find the threshold of a target: the lowest of enough precision, the highest of enough recall, and so on."""
    fits = np.nonzero(shares <= wanted if target == "removal_rate" else shares >= wanted)[0]
    if not len(fits):
        return None
    return int(fits[0] if target == "recall" else fits[-1])


def _estimate(part: int, whole: int, n_draws: int, rng: np.random.Generator) -> Estimate:
    draws = rng.beta(part + 0.5, whole - part + 0.5, size=n_draws)  # a Dirichlet distribution over two counts
    low, high = np.quantile(draws, LEVEL)
    value = part / whole
    return Estimate(value, min(float(low), value), max(float(high), value))


def _unreachable(target: str, wanted: float, shares: Floats, sample: _Ranked) -> str:
    if target != "removal_rate":
        best = int(np.argmax(shares))
        return (
            f"no threshold reaches a {target} of {wanted:g}: the best reachable is {shares[best]:.4g}, at the "
            f"threshold {sample.thresholds[best]:.6g}. Ask for less, or use a score that parts good and bad better"
        )
    return (
        f"no threshold drops a share of at most {wanted:g}: the smallest reachable is {shares[0]:.4g}, at the "
        f"threshold {sample.thresholds[0]:.6g}, because the highest scores are equal or the sample is small. Ask for "
        "a larger share (removal_rate; --rate of `tunewell calibrate`), or give a larger sample"
    )


def _check_settings(target: str, wanted: float, n_bootstrap: int) -> None:
    faults = []
    is_rate = target == "removal_rate"
    if not (0 < wanted < 1 or (wanted == 1 and not is_rate)):
        faults.append(f"{target}: got {wanted}, wanted a share above 0, {'below' if is_rate else 'at most'} 1")
    if n_bootstrap < 100:
        faults.append(f"n_bootstrap: got {n_bootstrap}, wanted at least 100 draws for an interval")
    if faults:
        raise SettingsError(faults, "the calibration")


def _checked_scores(scores: ArrayLike) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).any():
        raise DataError(f"got scores of shape {values.shape} without a number, wanted one score for each document")
    if np.isinf(values).any():
        raise DataError(f"score {int(np.nonzero(np.isinf(values))[0][0])} is infinite, wanted finite scores, or NaN")
    return values


def _checked_labels(labels: ArrayLike, n: int) -> Bools:
    values = np.asarray(labels)
    if values.shape != (n,):
        raise DataError(f"got {values.size} labels for {n} scores, wanted one for each")
    is_known = np.isin(values, (0, 1)) if values.dtype.kind in "biuf" else np.zeros(n, dtype=np.bool_)
    if not is_known.all():
        first = int(np.nonzero(~is_known)[0][0])
        raise DataError(f"label {first} is {values[first]!r}, wanted true or 1 for a document to drop, else false or 0")
    return values.astype(np.bool_)
