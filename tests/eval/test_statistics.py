import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunewell.eval.statistics import (
    expected_maximum,
    holm,
    mcnemar,
    mean_score,
    minimal_detectable_effect,
    paired_difference,
    probability_of_any,
    share_score,
    spearman,
    wilson,
)
from tunewell.toolkit.errors import DataError

NAN = float("nan")


def test_a_mean_comes_with_interval_count_and_what_was_left_out() -> None:
    score = mean_score([1.0, 2.0, 3.0, 4.0, NAN], chance=0.5)
    assert (score.value, score.n, score.unscored, score.chance) == (2.5, 4, 1, 0.5)
    assert score.low is not None and score.high is not None
    assert 1.0 <= score.low < 2.5 < score.high <= 4.0


def test_the_bootstrap_standard_error_is_that_of_the_textbook() -> None:
    values = np.random.default_rng(1).normal(size=400)
    score = mean_score(values)
    assert score.se == pytest.approx(values.std() / math.sqrt(400), rel=0.05)
    assert score.low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.01)


def test_nothing_scored_is_missing_and_not_zero() -> None:
    score = mean_score([NAN, NAN])
    assert (score.value, score.low, score.high, score.se, score.n, score.unscored) == (None, None, None, None, 0, 2)


def test_a_single_item_has_a_value_but_no_interval() -> None:
    score = mean_score([3.0])
    assert (score.value, score.low, score.high, score.se) == (3.0, None, None, None)


def test_weights_count_an_item_as_often_as_they_say() -> None:
    assert mean_score([1.0, 4.0], weights=[3, 1]).value == pytest.approx(1.75)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random(50)
    assert mean_score(values, seed=3) == mean_score(values, seed=3)
    assert mean_score(values, seed=3) != mean_score(values, seed=4)


def test_an_interval_by_groups_is_wider_when_the_members_of_a_group_agree() -> None:
    rng = np.random.default_rng(0)
    per_group = rng.random(40)
    values, groups = np.repeat(per_group, 10), np.repeat(np.arange(40), 10).tolist()
    alone, grouped = mean_score(values), mean_score(values, groups=groups)
    assert grouped.se == pytest.approx(math.sqrt(10) * alone.se, rel=0.1)  # ten copies carry no more than one
    independent = mean_score(rng.random(400), groups=groups)
    assert independent.se == pytest.approx(mean_score(rng.random(400)).se, rel=0.35)  # control: no agreement, no effect


def test_wilson_by_hand() -> None:
    # 8 of 10 (z = 1.96): middle (0.8 + 0.19207) / 1.38415 = 0.71674, half 0.22659
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_wilson_of_no_hits_is_not_certain() -> None:
    low, high = wilson(0, 20)
    assert low == 0.0
    assert high == pytest.approx(3.8415 / (20 + 3.8415), abs=1e-4)
    assert wilson(20, 20) == (pytest.approx(1 - high), 1.0)


def test_a_share_of_hits_has_wilsons_interval() -> None:
    score = share_score([1, 0, 1, 1, NAN])
    assert (score.low, score.high) == wilson(3, 4)
    assert (score.value, score.n, score.unscored) == (0.75, 4, 1)


def test_hits_that_all_agree_in_groups_still_get_a_width_from_the_number_of_groups() -> None:
    score = share_score([0.0] * 30, groups=[index // 3 for index in range(30)])
    assert (score.low, score.high) == wilson(0, 10)
    mixed = share_score([1.0] * 3 + [0.0] * 27, groups=[index // 3 for index in range(30)])
    assert mixed.high is not None and mixed.high > wilson(3, 30)[1]  # control: three alike are one observation


def test_groups_of_equal_shares_get_a_width_from_their_number_and_not_certainty() -> None:
    halves, groups = [0.0, 1.0] * 10, [index // 2 for index in range(20)]
    score = share_score(halves, groups=groups)
    assert (score.value, score.low, score.high) == (0.5, *wilson(5, 10))
    assert score.se == pytest.approx(math.sqrt(0.25 / 10))
    weights = [1.0, 2.0, 0.0] * 3 + [0.0] * 3  # the last group counts for nothing
    thirds = share_score([1 / 3] * 12, weights=weights, groups=[index // 3 for index in range(12)])
    assert (thirds.low, thirds.high) == (pytest.approx(wilson(1, 3)[0]), pytest.approx(wilson(1, 3)[1]))
    spread = share_score([0.0, 0.0, *halves[2:-2], 1.0, 1.0], groups=groups)  # control: the same mean, groups differ
    assert spread.low is not None and score.low < spread.low < 0.5 and spread.se == mean_score(
        [0.0, 0.0, *halves[2:-2], 1.0, 1.0], groups=groups).se  # fmt: skip


def test_shares_outside_zero_to_one_are_refused() -> None:
    with pytest.raises(DataError, match="outside 0 to 1"):
        share_score([0.5, 1.5])


def test_infinite_values_are_refused() -> None:
    with pytest.raises(DataError, match="infinite"):
        mean_score([1.0, math.inf])


def test_identical_runs_differ_by_nothing() -> None:
    values = np.random.default_rng(0).random(60)
    difference = paired_difference(values, values)
    assert (difference.delta, difference.low, difference.high, difference.se, difference.p) == (0, 0, 0, 0, 1)


def test_pairing_narrows_the_interval_of_correlated_values() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=200)
    after = before + 0.3 + rng.normal(scale=0.2, size=200)
    difference = paired_difference(before, after)
    unpaired = math.hypot(mean_score(before).se, mean_score(after).se)
    assert difference.delta == pytest.approx((after - before).mean())
    assert difference.se < unpaired / 3
    assert difference.low > 0 and difference.p < 0.001


@given(st.integers(0, 10_000))
def test_the_p_value_and_the_interval_agree_about_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.normal(size=30)
    difference = paired_difference(before, before + rng.normal(0.35, 1.0, size=30), resamples=1000)
    if abs(difference.p - 0.05) > 0.005:
        assert (difference.p < 0.05) == (difference.low > 0 or difference.high < 0)


def test_a_pair_with_one_side_missing_is_left_out_and_counted() -> None:
    difference = paired_difference([1.0, NAN, 3.0], [2.0, 5.0, NAN])
    assert (difference.delta, difference.n_pairs, difference.unscored) == (1.0, 1, 2)
    with pytest.raises(DataError, match="no item has a value on both sides"):
        paired_difference([NAN], [1.0])


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 256)  # C(8,0) + C(8,1) of 2^8, twice
    assert mcnemar(7, 1) == mcnemar(1, 7)
    assert mcnemar(4, 4) == 1.0
    assert 0 < mcnemar(900, 200) < 1e-6  # no overflow


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_the_conversion_between_numbers_of_samples_equals_all_subsets(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    subsets = list(itertools.combinations(values, k))
    assert expected_maximum(values, k) == pytest.approx(sum(map(max, subsets)) / len(subsets))
    hits = sum(value >= 0.5 for value in values)
    expected = sum(max(subset) >= 0.5 for subset in subsets) / len(subsets)
    assert probability_of_any(hits, len(values), k) == pytest.approx(expected)


def test_one_sample_is_the_mean_and_all_samples_the_maximum() -> None:
    values = [0.1, 0.9, 0.4, 0.2]
    assert expected_maximum(values, 1) == pytest.approx(0.4)
    assert expected_maximum(values, 4) == pytest.approx(0.9)
    assert 0.4 < expected_maximum(values, 2) < 0.9


def test_more_draws_than_there_are_cannot_be_estimated() -> None:
    with pytest.raises(DataError, match="k=3 with 2 draws"):
        expected_maximum([0.1, 0.2], 3)


def test_spearman_by_hand() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 45]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(1 - 6 * 4 / (5 * 24))  # 1 - 6 Σd² / n(n² - 1)
    assert spearman([1, 1, 2], [1, 1, 2]) == pytest.approx(1.0)  # ties share their mean rank
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3·0.01, 2·0.03, then never falling
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_smallest_difference_that_would_be_found() -> None:
    # a paired standard error of 1.35 points, as for 817 questions, finds about 3.8 points
    assert minimal_detectable_effect(0.0135) == pytest.approx(0.0378, abs=1e-4)
