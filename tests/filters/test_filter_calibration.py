"""Thresholds reach their targets, and their intervals hold the truth as often as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunewell.filters.calibration import (
    Estimate,
    compare,
    outcome_at,
    threshold_for_precision,
    threshold_for_rate,
    threshold_for_recall,
)
from tunewell.toolkit.errors import DataError, SettingsError

FEW = {"n_bootstrap": 100}


def population(rng, n):
    """Scores and labels that overlap: one document in five is bad, two standard deviations above the others."""
    is_bad = rng.random(n) < 0.2
    return rng.normal(size=n) + 2.0 * is_bad, is_bad


def test_planted_labels_give_the_threshold():
    scores = np.random.default_rng(0).random(5000)
    labels = scores > 0.7
    low, high = scores[~labels].max(), scores[labels].min()
    for found in (
        threshold_for_precision(scores, labels, 1.0, **FEW),
        threshold_for_recall(scores, labels, 1.0, **FEW),
    ):
        assert low <= found.threshold < high
        assert found.expected.precision.value == found.expected.recall.value == 1.0
        assert found.expected.n_dropped == found.expected.n_bad == labels.sum()


def test_precision_and_recall_by_hand():
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    labels = [1, 1, 0, 1, 0, 0]
    precise = threshold_for_precision(scores, labels, 0.75, **FEW)
    assert precise.threshold == pytest.approx(0.55)  # drops four, three of them bad
    assert precise.expected.precision.value == 0.75
    assert precise.expected.recall.value == 1.0
    assert precise.expected.removal_rate.value == 4 / 6
    caught = threshold_for_recall(scores, labels, 0.6, **FEW)
    assert caught.threshold == pytest.approx(0.75)  # the highest that catches two of three
    assert caught.expected.recall.value == 2 / 3


def test_a_rate_is_the_exact_quantile():
    scores = np.random.default_rng(1).permutation(np.arange(1000.0))
    found = threshold_for_rate(scores, 0.07, **FEW)
    assert found.threshold == 929.5
    assert (scores > found.threshold).mean() == 0.07 == found.expected.removal_rate.value
    assert threshold_for_rate(scores, 0.0709, **FEW).threshold == 929.5  # never more than asked for


def test_equal_scores_go_together_and_one_equal_to_the_threshold_stays():
    scores = [3.0] * 2 + [2.0] * 5 + [1.0] * 3
    found = threshold_for_rate(scores, 0.5, **FEW)
    assert (found.threshold, found.expected.n_dropped) == (2.5, 2)  # seven would be too many
    assert outcome_at(2.0, scores).n_dropped == 2
    with pytest.raises(DataError, match=r"smallest reachable is 0\.2, at the threshold 2\.5"):
        threshold_for_rate(scores, 0.1, **FEW)
    with pytest.raises(DataError, match="smallest reachable is 1"):
        threshold_for_rate([1.0] * 10, 0.5, **FEW)


def test_neighbouring_floats_are_still_parted():
    low = 1.0
    high = np.nextafter(low, 2.0)
    found = threshold_for_rate([high, low], 0.5, **FEW)
    assert outcome_at(found.threshold, [high, low]).n_dropped == 1


def test_an_unreachable_target_names_the_best_reachable():
    scores, labels = [0.9, 0.8, 0.7], [False, True, True]
    with pytest.raises(DataError, match=r"precision of 0\.9: the best reachable is 0\.6667, at the threshold 0\.7"):
        threshold_for_precision(scores, labels, 0.9, **FEW)
    with pytest.raises(DataError, match=r"recall of 1: the best reachable is 0\.5"):
        threshold_for_recall([0.9, np.nan], [True, True], 1.0, **FEW)


def test_documents_without_a_score_stay_and_count_as_missed():
    found = threshold_for_recall([0.9, np.nan, 0.1, np.nan], [1, 1, 0, 0], 0.5, **FEW)
    assert (found.expected.n_missing, found.expected.n_dropped, found.expected.recall.value) == (2, 1, 0.5)
    assert found.expected.removal_rate.value == 0.25
    assert threshold_for_rate([0.9, np.nan, 0.1, np.nan], 0.25, **FEW).threshold == 0.5


def test_what_could_not_be_measured_is_none():
    outcome = outcome_at(5.0, [1.0, 2.0], [0, 0])
    assert (outcome.precision, outcome.recall, outcome.removal_rate.value) == (None, None, 0.0)
    outcome = outcome_at(1.5, [1.0, 2.0])
    assert (outcome.precision, outcome.n_bad, outcome.removal_rate.value) == (None, None, 0.5)


def test_an_interval_has_a_width_even_when_all_are_alike():
    found = threshold_for_precision([0.9, 0.8, 0.1], [1, 1, 0], 1.0, **FEW)
    assert found.expected.precision.value == found.expected.precision.high == 1.0
    assert found.expected.precision.low < 0.6


@pytest.mark.parametrize("aim", ["precision", "recall", "removal_rate"])
def test_the_interval_holds_the_truth_in_about_95_of_100_samples(aim):
    big_scores, big_labels = population(np.random.default_rng(99), 200_000)
    is_held = []
    for seed in range(300):
        scores, labels = population(np.random.default_rng(seed), 500)
        if aim == "precision":
            found = threshold_for_precision(scores, labels, 0.8, **FEW)
        elif aim == "recall":
            found = threshold_for_recall(scores, labels, 0.8, **FEW)
        else:
            found = threshold_for_rate(scores, 0.1, **FEW)
        is_dropped = big_scores > found.threshold
        truth = {
            "precision": big_labels[is_dropped].mean(),
            "recall": is_dropped[big_labels].mean(),
            "removal_rate": is_dropped.mean(),
        }
        estimate = getattr(found.expected, aim)
        is_held.append(estimate.low <= truth[aim] <= estimate.high)
    assert 0.91 <= np.mean(is_held) <= 0.99


@pytest.mark.parametrize("aim", ["recall", "removal_rate"])
def test_the_threshold_of_the_population_lies_in_the_interval_in_about_95_of_100_samples(aim):
    big_scores, big_labels = population(np.random.default_rng(99), 200_000)
    truth = np.quantile(big_scores[big_labels], 0.2) if aim == "recall" else np.quantile(big_scores, 0.9)
    is_held = []
    for seed in range(150):
        scores, labels = population(np.random.default_rng(seed), 400)
        if aim == "recall":
            found = threshold_for_recall(scores, labels, 0.8, n_bootstrap=200)
        else:
            found = threshold_for_rate(scores, 0.1, n_bootstrap=200)
        low, high = found.threshold_interval
        assert low <= found.threshold <= high
        is_held.append(low <= truth <= high)
    assert 0.88 <= np.mean(is_held) <= 0.99


def test_expected_and_actual_agree_on_a_second_sample_of_the_same_kind_and_not_on_another():
    scores, labels = population(np.random.default_rng(0), 2000)
    found = threshold_for_precision(scores, labels, 0.8, **FEW)
    second = outcome_at(found.threshold, *population(np.random.default_rng(1), 2000))
    rows = compare(found.expected, second)
    assert [row.name for row in rows] == ["precision", "recall", "removal_rate"]
    assert all(row.is_consistent for row in rows)
    moved_scores, moved_labels = population(np.random.default_rng(1), 2000)
    moved = outcome_at(found.threshold, moved_scores + 1.0, moved_labels)
    assert not any(row.is_consistent for row in compare(found.expected, moved))
    unlabelled = compare(found.expected, outcome_at(found.threshold, moved_scores))
    assert [row.name for row in unlabelled] == ["removal_rate"]


def test_a_seed_gives_the_same_result_again():
    scores, labels = population(np.random.default_rng(0), 300)
    first = threshold_for_recall(scores, labels, 0.9, seed=3, **FEW)
    assert first == threshold_for_recall(scores, labels, 0.9, seed=3, **FEW)
    assert first != threshold_for_recall(scores, labels, 0.9, seed=4, **FEW)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=15),
    st.sampled_from([0.2, 0.5, 0.8, 1.0]),
)
@settings(max_examples=100, deadline=None)
def test_targets_are_met_with_the_best_of_all_thresholds(rows, target):
    scores, labels = np.array([row[0] for row in rows], dtype=float), np.array([row[1] for row in rows])
    if not labels.any():
        return
    outcomes = [outcome_at(cut, scores, labels, n_draws=2) for cut in np.arange(-0.5, 5.5)]
    good = [o.n_dropped for o in outcomes if o.precision is not None and o.precision.value >= target]
    if good:
        assert threshold_for_precision(scores, labels, target, **FEW).expected.n_dropped == max(good)
    else:
        with pytest.raises(DataError, match="no threshold"):
            threshold_for_precision(scores, labels, target, **FEW)
    enough = [o.n_dropped for o in outcomes if o.recall.value >= target]
    assert threshold_for_recall(scores, labels, target, **FEW).expected.n_dropped == min(enough)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: threshold_for_precision([1.0], [1], 0.0), "precision: got 0.0"),
        (lambda: threshold_for_rate([1.0, 2.0], 1.0), "removal_rate: got 1.0.*below"),
        (lambda: threshold_for_rate([1.0, 2.0], 0.5, n_bootstrap=5), "n_bootstrap: got 5"),
        (lambda: threshold_for_recall([1.0, 2.0], [0, 0], 0.5), "no document is labelled bad"),
        (lambda: threshold_for_recall([1.0, 2.0], [1], 0.5), "got 1 labels for 2 scores"),
        (lambda: threshold_for_recall([1.0, 2.0], [1, 2], 0.5), "label 1 is"),
        (lambda: threshold_for_recall([1.0, 2.0], [1, np.nan], 0.5), "label 1 is"),
        (lambda: threshold_for_recall([1.0, 2.0], ["yes", "no"], 0.5), "label 0 is"),
        (lambda: threshold_for_rate([np.nan, np.nan], 0.5), "without a number"),
        (lambda: threshold_for_rate([], 0.5), "without a number"),
        (lambda: threshold_for_rate([1.0, np.inf], 0.5), "score 1 is infinite"),
    ],
)
def test_faults_of_the_sample_and_the_settings_are_named(call, message):
    with pytest.raises((DataError, SettingsError), match=message):
        call()


def test_estimates_hold_their_value():
    outcome = outcome_at(0.5, [0.0, 1.0, 1.0])
    assert outcome.removal_rate == Estimate(2 / 3, outcome.removal_rate.low, outcome.removal_rate.high)
    assert 0 < outcome.removal_rate.low < 2 / 3 < outcome.removal_rate.high < 1
