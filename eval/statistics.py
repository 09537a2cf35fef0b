"""Intervals, tests and conversions for figures over items that may belong together."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..toolkit.errors import DataError
from .task import Score

Floats = NDArray[np.float64]
RESAMPLES = 10_000
_CHUNK = 1_000  # resamples drawn at once: bounds the memory at a few tens of megabytes
NO_SPREAD = 1e-12
"A width or a standard error below it is nothing but rounding."
_Z95 = NormalDist().inv_cdf(0.975)


def mean_score(
    values: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    groups: Sequence[Hashable] | None = None,
    higher_is_better: bool | None = True,
    chance: float | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Score:
    """Mean with a 95 % percentile bootstrap interval.

    Whole groups are drawn when `groups` are given (Field & Welsh 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x),
    so that answers which rise and fall together are not counted as independent.

    Args:
        values: (n,) one per item, NaN where it could not be measured.
        weights: (n,) how much each item counts, for instance its tokens; None: all alike.
        groups: (n,) key of the group that each item belongs to; None: each is its own.
        higher_is_better: recorded.
        chance: recorded.
        seed: of the bootstrap.
        resamples: of the bootstrap; 0 for no interval.

    Returns:
        the weighted mean over the items that have a value. Interval and standard error are None for a single group;
        where all groups agree they have no width, which says that they agree and no more.
    """
    numbers, masses = _values_and_weights(values, weights)
    is_scored = ~np.isnan(numbers) & (masses > 0)
    score = Score(value=None, low=None, high=None, se=None, n=int(is_scored.sum()), chance=chance,
                  unscored=int(np.isnan(numbers).sum()), higher_is_better=higher_is_better)  # fmt: skip
    if not is_scored.any():
        return score
    sums, counts = _group_sums(numbers, masses, is_scored, _codes(groups, len(numbers)))
    means = _bootstrap_ratio(sums, counts, seed, resamples)
    score = replace(score, value=float(sums.sum() / counts.sum()))
    if means is None:
        return score
    low, high = np.quantile(means, [0.025, 0.975])
    return replace(score, low=float(low), high=float(high), se=float(means.std(ddof=1)))


def share_score(
    values: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    groups: Sequence[Hashable] | None = None,
    higher_is_better: bool | None = True,
    chance: float | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Score:
    """Mean of values between 0 and 1 with a 95 % interval: Wilson's for plain hits, else the bootstrap.

    Where all groups have the same share, most of all where no item or every item is a hit, a bootstrap has no width and
    would claim certainty. Wilson's interval over the groups takes its place: of all values between 0 and 1 with that
    mean, hits spread the most.

    Args:
        values: (n,) hits (1 or 0) or shares, NaN where it could not be told.
        weights: as in `mean_score`.
        groups: as in `mean_score`.
        higher_is_better: recorded.
        chance: recorded.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    shares = np.asarray(values, dtype=np.float64)
    known = shares[~np.isnan(shares)]
    if ((known < 0) | (known > 1)).any():
        raise DataError("share_score: got values outside 0 to 1; take mean_score for them")
    is_plain = weights is None and groups is None and bool(np.isin(known, (0.0, 1.0)).all())
    score = mean_score(shares, weights=weights, groups=groups, higher_is_better=higher_is_better, chance=chance,
                       seed=seed, resamples=0 if is_plain else resamples)  # fmt: skip
    if score.value is None or not (is_plain or score.value in (0.0, 1.0) or _has_no_width(score)):
        return score
    numbers, masses = _values_and_weights(shares, weights)
    n = score.n if groups is None else len(set(_kept(groups, ~np.isnan(numbers) & (masses > 0))))
    low, high = wilson(score.value * n, n)
    return replace(score, low=low, high=high, se=math.sqrt(score.value * (1 - score.value) / n))


def _has_no_width(score: Score) -> bool:
    return score.low is not None and score.high is not None and score.high - score.low < NO_SPREAD


def wilson(hits: float, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    if not 0 <= hits <= n or n < 1:
        raise DataError(f"wilson: got {hits} hits of {n}, wanted at least one item and no more hits than items")
    share, z2 = hits / n, _Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends the formula is exact but its rounding is not: no hits means that the lower end is zero.
    return (0.0 if hits == 0 else max(0.0, middle - half), 1.0 if hits == n else min(1.0, middle + half))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean difference of paired values, after minus before."""

    delta: float
    """After minus before."""
    low: float | None
    """Lower end of the 95 % interval; None for a single group."""
    high: float | None
    """Upper end of the 95 % interval."""
    se: float | None
    """Standard error."""
    p: float | None
    """Two-sided bootstrap p-value: below 0.05 where the interval leaves out zero, up to rounding; never below what the
    signs of so few groups could show (2 · 0.5^groups), which the bootstrap of a handful would undercut."""
    n_pairs: int
    """Pairs in which both have a value."""
    unscored: int
    """Pairs left out because one side has none."""


def paired_difference(
    before: ArrayLike,
    after: ArrayLike,
    *,
    weights_before: ArrayLike | None = None,
    weights_after: ArrayLike | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Paired bootstrap: the same items (or groups of items) are drawn for both sides.

    Args:
        before: (n,) values of the first model, NaN where unscored.
        after: (n,) values of the second model on the same items.
        weights_before: (n,) how much each item counts on the first side; None: all alike.
        weights_after: (n,) the same for the second side.
        groups: (n,) key of the group that each item belongs to.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        DataError: the sides differ in length, or no item has a value on both.
    """
    first, first_weights = _values_and_weights(before, weights_before)
    second, second_weights = _values_and_weights(after, weights_after)
    if len(first) != len(second):
        raise DataError(f"paired_difference: got {len(first)} and {len(second)} values, wanted one pair per item")
    is_pair = ~(np.isnan(first) | np.isnan(second)) & (first_weights > 0) & (second_weights > 0)
    if not is_pair.any():
        raise DataError("paired_difference: no item has a value on both sides, so nothing can be compared")
    codes = _codes(groups, len(first))
    sums_before, counts_before = _group_sums(first, first_weights, is_pair, codes)
    sums_after, counts_after = _group_sums(second, second_weights, is_pair, codes)
    delta = float(sums_after.sum() / counts_after.sum() - sums_before.sum() / counts_before.sum())
    difference = Difference(delta=delta, low=None, high=None, se=None, p=None,
                            n_pairs=int(is_pair.sum()), unscored=int((~is_pair).sum()))  # fmt: skip
    # The same seed draws the same groups on both sides.
    means_before = _bootstrap_ratio(sums_before, counts_before, seed, resamples)
    means_after = _bootstrap_ratio(sums_after, counts_after, seed, resamples)
    if means_before is None or means_after is None:
        return difference
    deltas = means_after - means_before
    low, high = np.quantile(deltas, [0.025, 0.975])
    se = float(deltas.std(ddof=1))
    p = max(_two_sided(deltas), 2.0 ** (1 - len(counts_before)))
    return replace(difference, low=float(low), high=float(high), se=se, p=p)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test (McNemar 1947, https://doi.org/10.1007/BF02295996).

    Args:
        gained: items that only the second model got right.
        lost: items that only the first model got right.

    Returns:
        the probability of a split at least as uneven if both were equally good; 1 when no item changed.
    """
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << n))


def expected_maximum(values: ArrayLike, k: int) -> float:
    """Unbiased estimate of E[max of k draws] from n ≥ k draws.

    With x_(1) ≤ ... ≤ x_(n): Σ_{i=k..n} C(i−1, k−1) / C(n, k) · x_(i), the mean over all subsets of size k.

    Raises:
        DataError: k is not between 1 and n.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = _checked_k(len(ordered), k)
    # Exact integers divided once: binomials of hundreds of draws do not fit a float.
    shares = [math.comb(i - 1, k - 1) / math.comb(n, k) for i in range(k, n + 1)]
    return math.fsum(share * x for share, x in zip(shares, ordered[k - 1 :].tolist(), strict=True))


def probability_of_any(hits: int, n: int, k: int) -> float:
    """Unbiased estimate of P(at least one hit in k draws) from `hits` in n ≥ k draws: 1 − C(n−hits, k) / C(n, k).

    Raises:
        DataError: k is not between 1 and n.
    """
    return 1.0 - math.comb(_checked_k(n, k) - hits, k) / math.comb(n, k)


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Rank correlation, ties at their mean rank; None where one side does not vary."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or np.isnan(a).any() or np.isnan(b).any():
        raise DataError("spearman: wanted two lists of the same length without missing values")
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979, https://www.jstor.org/stable/4615733), in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def minimal_detectable_effect(se: float, *, power: float = 0.8, level: float = 0.05) -> float:
    """Smallest true difference that a test would find with probability `power`.

    Args:
        se: standard error of the difference.
        power: probability to find it.
        level: two-sided level of the test.
    """
    return (NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)) * se


def _values_and_weights(values: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    numbers = np.asarray(values, dtype=np.float64)
    masses = np.ones_like(numbers) if weights is None else np.asarray(weights, dtype=np.float64)
    if numbers.ndim != 1 or masses.shape != numbers.shape:
        raise DataError(f"got values of shape {numbers.shape} and weights of shape {masses.shape}, wanted (n,) twice")
    if np.isinf(numbers).any() or not (masses >= 0).all():
        raise DataError("got an infinite value or a negative weight, wanted finite values, NaN for what is missing")
    return numbers, masses


def _codes(groups: Sequence[Hashable] | None, n: int) -> NDArray[np.int64]:
    """Group of each item as 0, 1, 2 ... in order of first appearance."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise DataError(f"got {len(groups)} groups for {n} values, wanted one each")
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(group, len(codes)) for group in groups], dtype=np.int64)


def _kept(groups: Sequence[Hashable], is_kept: NDArray[np.bool_]) -> list[Hashable]:
    return [group for group, keep in zip(groups, is_kept.tolist(), strict=True) if keep]


def _group_sums(
    values: Floats, weights: Floats, is_kept: NDArray[np.bool_], codes: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Σ weight · value and Σ weight of every group that has an item (groups,)."""
    _, codes = np.unique(codes[is_kept], return_inverse=True)
    sums: Floats = np.bincount(codes, weights[is_kept] * values[is_kept]).astype(np.float64)
    return sums, np.bincount(codes, weights[is_kept]).astype(np.float64)


def _bootstrap_ratio(sums: Floats, counts: Floats, seed: int, resamples: int) -> Floats | None:
    """(resamples,) means over groups drawn with replacement; None if none are wanted or one group has no spread."""
    n = len(sums)
    if n < 2 or not resamples:
        return None
    rng = np.random.default_rng(seed)
    means = []
    is_alike = bool((counts == 1).all())
    for start in range(0, resamples, _CHUNK):
        drawn = rng.integers(n, size=(min(_CHUNK, resamples - start), n))
        means.append(sums[drawn].sum(axis=1) / (n if is_alike else counts[drawn].sum(axis=1)))
    return np.concatenate(means)


def _two_sided(deltas: Floats) -> float:
    """Twice the smaller share of resampled differences on one side of zero; at least 1 / (resamples + 1)."""
    tail = min(int((deltas <= 0).sum()), int((deltas >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(deltas) + 1))


def _checked_k(n: int, k: int) -> int:
    if not 1 <= k <= n:
        raise DataError(f"got k={k} with {n} draws, wanted k between 1 and the number of draws")
    return n


def _ranks(values: Floats) -> Floats:
    """Rank of each value from 1, ties at their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    ranks: Floats = mean_rank[inverse]
    return ranks
