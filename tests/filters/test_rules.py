"""Rules of length and repetition measure what they say and drop beyond their bounds only."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunewell.filters.base import decide
from tunewell.filters.rules import LengthFilter, RepetitionFilter, top_ngram_share
from tunewell.toolkit.errors import SettingsError

FILLER = " ".join(f"word{i}" for i in range(60))


def test_lengths_at_the_bounds_stay():
    judge = LengthFilter(low=2, high=3)
    verdicts = judge.judge(["", "one", "one two", " one two\nthree ", "one two three four"])
    assert [(v.keep, v.reason, v.score) for v in verdicts] == [
        (False, "too_short", 0), (False, "too_short", 1), (True, "", 2), (True, "", 3), (False, "too_long", 4),
    ]  # fmt: skip


def test_characters_can_be_counted_for_scripts_without_spaces():
    assert not LengthFilter(unit="words", low=2).judge(["他杀人了"])[0].keep
    assert LengthFilter(unit="characters", low=4, high=4).judge(["他杀人了"])[0].keep


def test_all_faults_of_the_bounds_are_named_at_once():
    with pytest.raises(SettingsError, match="neither"):
        LengthFilter()
    with pytest.raises(SettingsError) as error:
        LengthFilter(unit="tokens", low=-1, high=-2)
    assert len(error.value.faults) == 4
    with pytest.raises(SettingsError, match=r"top_2gram: got 20"):
        RepetitionFilter(top_2gram=20, min_words=0)


def test_repeated_lines_are_counted_by_hand():
    text = "aa\nbbbb\naa\n\n aa \nc"  # lines aa bbbb aa aa c: 2 of 5 repeated, 4 of 11 characters
    verdict = RepetitionFilter().judge([text])[0]
    assert verdict.measures["duplicate_lines"] == 2 / 5
    assert verdict.measures["duplicate_line_characters"] == 4 / 11
    assert (verdict.keep, verdict.reason) == (False, "duplicate_line_characters")
    assert verdict.score == 4 / 11


def test_repeated_paragraphs_are_counted_by_hand():
    text = "one two\nthree\n\nfour\n \none two\nthree"
    measures = RepetitionFilter().judge([text])[0].measures
    assert measures["duplicate_paragraphs"] == 1 / 3
    assert measures["duplicate_paragraph_characters"] == 13 / 30


def test_a_share_equal_to_its_bound_stays():
    text = "\n".join(["same line"] * 4 + [f"lines {i:03}" for i in range(6)])
    judge = RepetitionFilter(duplicate_line_characters=1.0)
    assert judge.judge([text])[0].measures["duplicate_lines"] == 0.3
    assert judge.judge([text])[0].keep
    assert not replace(judge, duplicate_lines=0.29).judge([text])[0].keep


@pytest.mark.parametrize(
    ("words", "n", "share"),
    [
        ("a bb a bb c", 2, 6 / 7),  # "a bb" twice
        ("a b c d", 2, 0.0),
        ("ha ha ha ha", 2, 1.0),  # overlapping: each character counts once
        ("a b x ccc ddd y a b z ccc ddd", 2, 12 / 19),  # both pairs twice: the longer one counts
        ("a b c a b c d", 3, 6 / 7),
        ("a", 2, 0.0),
        ("", 2, 0.0),
    ],
)
def test_the_share_of_the_top_ngram_by_hand(words, n, share):
    assert top_ngram_share(words.split(), n) == share


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=30), st.integers(2, 4))
def test_the_share_of_the_top_ngram_is_a_share(words, n):
    assert 0 <= top_ngram_share(words, n) <= 1


def test_repeated_phrases_drop_a_text_and_plain_prose_stays():
    bad, good = RepetitionFilter().judge([FILLER + " buy now" * 40, FILLER])
    assert (bad.keep, bad.reason) == (False, "top_4gram")  # the lowest bound is exceeded most
    assert good.keep and good.score == 0


def test_short_texts_are_marked_and_their_ngrams_not_measured():
    verdict, empty = RepetitionFilter().judge(["to be or not to be", ""])
    assert verdict.keep and verdict.marks == ("too_short",)
    assert "top_2gram" not in verdict.measures
    assert (empty.keep, empty.score, empty.measures) == (True, None, {})
    assert not RepetitionFilter(min_words=6).judge(["to be or not to be"])[0].keep


def test_stored_shares_decide_again():
    judge = RepetitionFilter()
    text = FILLER + " buy now" * 40
    stored = judge.judge([text])[0].measures
    assert not decide(stored, judge.limits).keep
    lenient = RepetitionFilter(**{limit.measure: 1.0 for limit in judge.limits})
    assert decide(stored, lenient.limits).keep
