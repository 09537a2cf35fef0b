"""A toxic part is found wherever it stands in a text, and what cannot be scored is kept and marked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunewell.filters.base import decide
from tunewell.filters.toxicity import ToxicityFilter
from tunewell.toolkit.errors import SettingsError
from tunewell.toolkit.toxicity.scorer import WordlistToxicity
from tunewell.toolkit.toxicity.tfidf import TfidfToxicity

RUDE = ["You are a clod and an oaf.", "Shut up, you rat!", "What a lousy oaf you are.", "Go away, rat."]
KIND = ["What a fine day.", "Thank you for the book.", "The bread is warm.", "Welcome to the house."]


class Table:
    """Gives texts the scores of a table, 0 to those that are not in it."""

    id = "table"

    def __init__(self, **scores):
        self.scores = scores
        self.asked = []

    def score(self, texts):
        self.asked += texts
        return np.array([self.scores.get(text.strip(), 0.0) for text in texts], dtype=np.float64)


def test_a_score_above_the_threshold_drops_and_one_equal_to_it_does_not():
    judge = ToxicityFilter(scorer=Table(half=0.5, more=0.51))
    half, more = judge.judge(["half", "more"])
    assert (half.keep, half.score, half.reason) == (True, 0.5, "")
    assert (more.keep, more.score, more.reason, more.span) == (False, 0.51, "toxic", (0, 4))
    assert more.measures == {"toxicity": 0.51}
    assert decide(more.measures, ToxicityFilter(scorer=Table(), threshold=0.6).limits).keep


@pytest.mark.parametrize("at", [0, 20, 57, 80, 99])
def test_an_insult_anywhere_in_a_long_text_is_found_with_its_window(at):
    words = ["fine"] * 100
    words[at] = "oaf"
    text = " ".join(words)
    judge = ToxicityFilter(scorer=WordlistToxicity(["oaf"]), window=60, overlap=20)
    (verdict,) = judge.judge([text])
    assert not verdict.keep and verdict.score == 1 and verdict.marks == ("windowed",)
    assert "oaf" in text[slice(*verdict.span)] and verdict.span[1] - verdict.span[0] <= 60


def test_a_real_scorer_finds_by_windows_what_a_whole_text_hides():
    scorer = TfidfToxicity.train(RUDE + KIND, [1] * 4 + [0] * 4)
    text = " ".join(KIND * 12) + " You are an oaf, you rat! " + " ".join(KIND * 12)
    hidden, found = (
        ToxicityFilter(scorer=scorer, window=window, overlap=9).judge([text])[0] for window in (len(text), 30)
    )
    assert hidden.keep and not found.keep
    assert "oaf" in text[slice(*found.span)]


def test_what_cannot_be_scored_is_kept_and_marked_and_a_scored_window_still_speaks():
    judge = ToxicityFilter(scorer=Table(**{"bad": 0.9, "?": np.nan}), window=4, overlap=0)
    empty, unknown, partly = judge.judge(["", "?", "?   bad "])
    assert (unknown.keep, unknown.score, unknown.marks, unknown.measures) == (True, None, ("unscored",), {})
    assert (partly.keep, partly.score, partly.marks) == (False, 0.9, ("windowed", "partly_unscored"))
    assert ToxicityFilter(scorer=WordlistToxicity(["x"])).judge(["", " \n"])[1].marks == ("unscored",)
    assert empty.keep
    assert judge.judge([]) == []


def test_texts_are_scored_in_one_call_and_none_depends_on_the_others():
    table = Table(bad=0.9)
    judge = ToxicityFilter(scorer=table)
    together = judge.judge(["bad", "fine", ""])
    assert table.asked == ["bad", "fine", ""]
    assert together == [judge.judge([text])[0] for text in ("bad", "fine", "")]


@given(st.text(alphabet="ab \n", max_size=300), st.integers(1, 60), st.integers(0, 59))
@settings(max_examples=300, deadline=None)
def test_windows_cover_the_whole_text_and_cut_no_word_that_is_short_enough(text, window, overlap):
    if overlap >= window:
        return
    judge = ToxicityFilter(scorer=Table(), window=window, overlap=overlap)
    windows = judge._windows(text)
    assert windows[0][0] == 0 and windows[-1][1] == len(text)
    covered = set()
    for start, end in windows:
        assert end - start <= window
        covered.update(range(start, end))
    assert all(text[at].isspace() for at in set(range(len(text))) - covered)
    place = 0
    for word in text.split():
        place = text.index(word, place)
        if len(word) < overlap // 2:
            assert any(start <= place and place + len(word) <= end for start, end in windows)
        place += len(word)


def test_values_that_make_no_sense_are_refused_at_once():
    with pytest.raises(SettingsError, match=r"(?s)3 faults.*threshold.*window.*overlap"):
        ToxicityFilter(scorer=Table(), threshold=2, window=0, overlap=5)
