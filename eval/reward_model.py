"""How good a reward model is: accuracy, calibration, and how much of its score is length."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..toolkit.errors import DataError
from .statistics import mean_score, share_score
from .task import Score

Floats = NDArray[np.float64]
BINS = 10
Figure = Callable[[NDArray[np.int64]], float | None]
"""A figure over rows, of which each is there as often as it is told (rows,)."""
RESAMPLES = 1_000  # of the figures that are no plain means
WIDTHS = ((None, -8), (-8, -2), (-2, 3), (3, 9), (9, None))
"""Bounds of the groups of pairs by length, preferred minus other, in tokens; the upper one is left out."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One held-out ranking with the model's scores.

    Attributes:
        scores: K scores.
        ranks: K ranks, 1 is best.
        lengths: K completion lengths in tokens.
        kind: what kind of ranking it is.
    """

    scores: Sequence[float]
    ranks: Sequence[int]
    lengths: Sequence[int]
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class RewardReport:
    """Figures of a reward model on held-out rankings, and the curves behind them.

    Attributes:
        scores: by name: `accuracy` (share of pairs that are no tie; equal scores count half), `accuracy.KIND` where
            there are several kinds, `log_loss` (nats per pair), `calibration_error`, `length_correlation`,
            `length_correlation.within_prompt`.
        calibration: per bin `confidence`, `share_right`, `low`, `high`, `n`: pairs of like confidence.
        by_length: per group of pairs `from`, `to` (tokens that the preferred one is longer), `accuracy`, `low`,
            `high`, `n`.
    """

    scores: dict[str, Score]
    calibration: list[dict[str, Any]]
    by_length: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """All pairs of all rankings that are no tie, (P,) each."""

    lead: Floats
    longer: Floats
    group: NDArray[np.int64]
    kinds: Sequence[str]

    @property
    def is_right(self) -> Floats:
        right: Floats = (self.lead > 0) + 0.5 * (self.lead == 0)
        return right

    @property
    def confidence(self) -> Floats:
        """The model's own probability that the side it prefers is the preferred one."""
        return 1 / (1 + np.exp(-np.abs(self.lead)))


def report_on(rankings: Sequence[Ranked], *, seed: int = 0) -> RewardReport:
    """Measure a reward model on rankings that it was not trained on.

    Pairs of one ranking share their completions, so intervals are drawn over whole rankings.

    Args:
        rankings: with the scores of the model.
        seed: of the bootstrap.

    Raises:
        DataError: there is not a single pair.
    """
    pairs = _pairs(rankings)
    if not len(pairs.lead):
        raise DataError("got no held-out pair that is no tie, wanted at least one ranking with two different ranks")
    groups = pairs.group.tolist() if len(set(pairs.group.tolist())) < len(pairs.lead) else None
    scores = {"accuracy": share_score(pairs.is_right, groups=groups, chance=0.5, seed=seed)}
    for kind in sorted(set(pairs.kinds)) if len(set(pairs.kinds)) > 1 else []:
        is_in = np.array([own == kind for own in pairs.kinds])
        inside = [group for group, chosen in zip(groups, is_in.tolist(), strict=True) if chosen] if groups else None
        scores[f"accuracy.{kind}"] = share_score(pairs.is_right[is_in], groups=inside, chance=0.5, seed=seed)
    scores["log_loss"] = mean_score(
        np.logaddexp(0, -pairs.lead), groups=groups, higher_is_better=False, chance=float(np.log(2)), seed=seed
    )
    scores["calibration_error"] = _resampled(
        _calibration_error(pairs.confidence, pairs.is_right), pairs.group, False, seed
    )
    for name, columns in (("", _flat(rankings)), (".within_prompt", _centred(rankings))):
        score, length, group = columns
        scores[f"length_correlation{name}"] = _resampled(_correlation(score, length), group, None, seed)
    return RewardReport(scores=scores, calibration=_calibration(pairs, seed), by_length=_by_length(pairs, groups, seed))


def _pairs(rankings: Sequence[Ranked]) -> _Pairs:
    lead, longer, group, kinds = [], [], [], []
    for number, one in enumerate(rankings):
        for high, low in itertools.permutations(range(len(one.ranks)), 2):
            if one.ranks[high] < one.ranks[low]:
                lead.append(one.scores[high] - one.scores[low])
                longer.append(one.lengths[high] - one.lengths[low])
                group.append(number)
                kinds.append(one.kind)
    return _Pairs(lead=np.array(lead, float), longer=np.array(longer, float), group=np.array(group, int), kinds=kinds)


def _calibration(pairs: _Pairs, seed: int) -> list[dict[str, Any]]:
    bins = []
    for rows in _equal_bins(pairs.confidence):
        score = share_score(pairs.is_right[rows], groups=pairs.group[rows].tolist(), seed=seed, resamples=RESAMPLES)
        bins.append(
            {"confidence": float(pairs.confidence[rows].mean()), "share_right": score.value, "low": score.low,
             "high": score.high, "n": len(rows)}
        )  # fmt: skip
    return bins


def _equal_bins(confidence: Floats) -> list[NDArray[np.int64]]:
    """Up to ten bins of like confidence with equally many pairs each."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), _n_bins(len(confidence)))
    return [part for part in parts if len(part)]


def _n_bins(n: int) -> int:
    return min(BINS, max(1, n // 10))


def _calibration_error(confidence: Floats, is_right: Floats) -> Figure:
    """Mean distance of confidence and share right over the bins (Naeini et al. 2015, bins of equal count)."""
    order = np.argsort(confidence, kind="stable")
    ordered, right = confidence[order], is_right[order]

    def figure(counts: NDArray[np.int64]) -> float:
        drawn = np.repeat(np.arange(len(order)), counts[order])  # in order of confidence already
        gaps = [
            abs(ordered[rows].mean() - right[rows].mean()) * len(rows) / len(drawn)
            for rows in np.array_split(drawn, _n_bins(len(drawn)))
        ]
        return float(sum(gaps))

    return figure


def _by_length(pairs: _Pairs, groups: list[int] | None, seed: int) -> list[dict[str, Any]]:
    found = []
    for low, high in WIDTHS:
        is_in = (pairs.longer >= (-np.inf if low is None else low)) & (
            pairs.longer < (np.inf if high is None else high)
        )
        if not is_in.any():
            continue
        inside = [group for group, chosen in zip(groups, is_in.tolist(), strict=True) if chosen] if groups else None
        score = share_score(pairs.is_right[is_in], groups=inside, seed=seed, resamples=RESAMPLES)
        found.append(
            {"from": low, "to": high, "accuracy": score.value, "low": score.low, "high": score.high, "n": score.n}
        )
    return found


def _flat(rankings: Sequence[Ranked]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Score, length and ranking of every completion."""
    scores = [score for one in rankings for score in one.scores]
    lengths = [float(length) for one in rankings for length in one.lengths]
    group = [number for number, one in enumerate(rankings) for _ in one.scores]
    return np.array(scores, float), np.array(lengths, float), np.array(group, int)


def _centred(rankings: Sequence[Ranked]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """The same as differences from the mean of the prompt, so that what differs between prompts plays no part."""
    scores = [score - float(np.mean(one.scores)) for one in rankings for score in one.scores]
    lengths = [length - float(np.mean(one.lengths)) for one in rankings for length in one.lengths]
    return np.array(scores, float), np.array(lengths, float), _flat(rankings)[2]


def _correlation(scores: Floats, lengths: Floats) -> Figure:
    """Rank correlation (Spearman) of two columns; None where one of them does not vary."""
    columns = [np.unique(column, return_inverse=True)[1] for column in (scores, lengths)]  # sorted once for all draws

    def figure(counts: NDArray[np.int64]) -> float | None:
        deviations = []
        for inverse in columns:
            per_value = np.bincount(inverse, counts)
            if (per_value > 0).sum() < 2:
                return None
            ranks = (np.cumsum(per_value) - (per_value - 1) / 2)[inverse]  # ties at their mean rank
            deviations.append(ranks - np.average(ranks, weights=counts))
        first, second = deviations
        product, squares = (counts * first) @ second, ((counts * first) @ first) * ((counts * second) @ second)
        return float(product / np.sqrt(squares))

    return figure


def _resampled(figure: Figure, group: NDArray[np.int64], higher_is_better: bool | None, seed: int) -> Score:
    """A figure over rows with a bootstrap interval over the groups; None where it cannot be told."""
    _, group = np.unique(group, return_inverse=True)
    n_groups = int(group.max()) + 1
    value = figure(np.ones_like(group))
    score = Score(value=value, low=None, high=None, se=None, n=len(group), higher_is_better=higher_is_better)
    if value is None or n_groups < 2:
        return score
    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups) for _ in range(RESAMPLES))
    values = np.array([found for times in drawn if (found := figure(times[group])) is not None])
    if len(values) < 2:
        return score
    low, high = np.quantile(values, [0.025, 0.975])
    return Score(value=value, low=float(low), high=float(high), se=float(values.std(ddof=1)), n=len(group),
                 higher_is_better=higher_is_better)  # fmt: skip
