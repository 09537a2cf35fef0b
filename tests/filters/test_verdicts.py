"""Verdicts are decided from measures alone."""

import pickle

import numpy as np
from tunewell.filters.base import Limit, Repeats, Verdict, decide

LIMITS = (Limit("hostility", "above", 1.0, "too_hostile"), Limit("words", "below", 5, "too_short"))


def test_a_value_equal_to_the_bound_keeps_the_text():
    assert decide({"hostility": 1.0, "words": 5}, LIMITS).keep
    assert not decide({"hostility": 1.0001, "words": 5}, LIMITS).keep
    assert not decide({"hostility": 1.0, "words": 4}, LIMITS).keep


def test_the_limit_that_is_exceeded_most_speaks():
    verdict = decide({"hostility": 1.5, "words": 1}, LIMITS)
    assert (verdict.keep, verdict.reason, verdict.score) == (False, "too_short", 1)
    verdict = decide({"hostility": 9.0, "words": 1}, LIMITS)
    assert (verdict.reason, verdict.score) == ("too_hostile", 9.0)


def test_a_kept_text_shows_the_value_nearest_to_its_bound_and_no_reason():
    verdict = decide({"hostility": 0.9, "words": 50}, LIMITS)
    assert (verdict.keep, verdict.reason, verdict.score) == (True, "", 0.9)


def test_what_was_not_measured_breaks_no_limit_and_has_no_score():
    for measures in ({}, {"hostility": None}, {"hostility": float("nan")}, {"other": 3.0}):
        verdict = decide(measures, LIMITS, marks=["too_short"])
        assert (verdict.keep, verdict.score, verdict.marks) == (True, None, ("too_short",))
    assert decide({"hostility": float("nan"), "words": 7}, LIMITS).measures == {"words": 7}


def test_a_new_bound_decides_again_from_the_stored_measures():
    first = decide({"hostility": 0.9, "words": 50}, LIMITS)
    again = decide(first.measures, [Limit("hostility", "above", 0.5, "too_hostile")])
    assert first.keep and not again.keep
    assert again.measures == first.measures


def test_an_infinite_bound_never_drops():
    assert decide({"hostility": 1e300}, [Limit("hostility", "above", float("inf"), "too_hostile")]).keep


def test_verdicts_travel_between_processes():
    verdict = Verdict(keep=False, score=1.0, reason="listed_phrase", span=(0, 4), measures={"matches": 1.0})
    assert pickle.loads(pickle.dumps(verdict)) == verdict


def test_what_repeats_a_text_is_dropped_and_what_was_compared_with_none_has_no_score():
    repeats = Repeats(of=np.array([-1, 0, -1]), similarity=np.array([np.nan, 0.9, 0.4]), reason="near_duplicate")
    alone, copy, other = (repeats.verdict(index) for index in range(len(repeats)))
    assert (alone.keep, alone.score, alone.reason, alone.matched, alone.measures) == (True, None, "", "", {})
    assert (copy.keep, copy.score, copy.reason, copy.matched) == (False, 0.9, "near_duplicate", "0")
    assert (other.keep, other.score, other.measures) == (True, 0.4, {"similarity": 0.4})
