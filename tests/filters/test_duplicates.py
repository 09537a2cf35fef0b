"""Repeated texts are found over a whole corpus, the first of them stays, and the errors are those promised."""

import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunewell.filters import duplicates
from tunewell.filters.duplicates import ExactDuplicateFilter, NearDuplicateFilter
from tunewell.filters.words import words_of
from tunewell.toolkit.errors import SettingsError

GOLDEN = [1178901380, 3536515436, 2508961935, 3698762334]


def dropped_for(judge, texts):
    """The place of the earlier text for each that is dropped, by its own place."""
    repeats = judge.decide(judge.summarise(texts))
    return {index: int(first) for index, first in enumerate(repeats.of) if first >= 0}


def words(seed, n):
    rng = random.Random(seed)
    return [f"w{rng.randrange(10**6)}" for _ in range(n)]


def changed(original, at):
    return [*original[:at], "other", *original[at + 1 :]]


def shingles(text, n=5):
    found = words_of(text)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


@given(st.lists(st.text(alphabet="ab \ud800é", max_size=3), max_size=30))
@settings(max_examples=200, deadline=None)
def test_exact_duplicates_are_the_equal_texts_and_point_to_the_first(texts):
    first = {}
    expected = {}
    for index, text in enumerate(texts):
        if first.setdefault(text, index) != index:
            expected[index] = first[text]
    assert dropped_for(ExactDuplicateFilter(), texts) == expected


def test_a_text_that_differs_in_a_few_words_is_dropped_and_the_verdict_names_the_first():
    original = words(0, 100)
    texts = ["something else entirely, and long enough to be read", " ".join(original), " ".join(changed(original, 50))]
    judge = NearDuplicateFilter()
    repeats = judge.decide(judge.summarise(texts))
    true = len(shingles(texts[1]) & shingles(texts[2])) / len(shingles(texts[1]) | shingles(texts[2]))
    verdicts = [repeats.verdict(index) for index in range(3)]
    assert [verdict.keep for verdict in verdicts] == [True, True, False]
    assert (verdicts[2].reason, verdicts[2].matched) == ("near_duplicate", "1")
    assert verdicts[2].score == pytest.approx(true, abs=0.1)
    assert verdicts[0].score is None and verdicts[1].score is None


def test_a_text_goes_only_for_one_that_stays_and_is_itself_that_similar():
    """A chain: the second is like the first, the third like the second, but not like the first."""
    first = words(1, 60)
    second = changed(first, 30)
    third = changed(second, 10)
    texts = [" ".join(part) for part in (first, second, third)]
    judge = NearDuplicateFilter(threshold=0.77)
    assert dropped_for(judge, texts) == {1: 0}
    assert dropped_for(judge, texts[1:]) == {1: 0}


def test_case_marks_spaces_and_disguises_do_not_count_but_words_do():
    text = "The quick brown fox jumps over the lazy dog, again and again."
    same = ["the QUICK brown fox -- jumps over the lazy dog again and AGAIN", "The qu\u200bick\nbrown fox jumps over the l\u0430zy dog again and again"]  # fmt: skip  # noqa: E501
    other = "The quick brown cat sleeps under the lazy tree, again and again."
    assert dropped_for(NearDuplicateFilter(), [text, *same, other]) == {1: 0, 2: 0}
    assert dropped_for(ExactDuplicateFilter(), [text, *same, other, text]) == {4: 0}


def test_scripts_without_spaces_are_compared_by_character():
    text = "今日は天気がとても良いので公園まで歩いて行きました。そこで友達に会いました。"
    assert (
        dropped_for(NearDuplicateFilter(), [text, text.replace("友達", "先生"), "全然違う文章がここにあります。"]) == {}
    )
    assert dropped_for(NearDuplicateFilter(threshold=0.6), [text, text.replace("友達", "先生")]) == {1: 0}


def test_short_texts_are_compared_whole_and_texts_without_words_never():
    texts = ["Hello there", "hello, THERE!", "Hello you", "", "", "!!!", "!!!", "\ud800", "\ud800"]
    assert dropped_for(NearDuplicateFilter(), texts) == {1: 0}


def test_a_summary_depends_on_its_text_alone():
    texts = [" ".join(words(seed, 40)) for seed in range(20)] + [""]
    for judge in (ExactDuplicateFilter(), NearDuplicateFilter(n_hashes=32)):
        whole = judge.summarise(texts)
        assert whole.shape == (21, judge.width) and whole.dtype == np.uint64
        assert (whole == np.concatenate([judge.summarise([text]) for text in texts])).all()
        assert judge.summarise([]).shape == (0, judge.width)
        assert len(judge.decide(judge.summarise([]))) == 0
        travelled = pickle.loads(pickle.dumps(judge))
        assert (travelled.summarise(texts) == whole).all()


def test_signatures_stay_the_same_from_version_to_version():
    """Summaries of an earlier run are compared with new ones; a library that hashes otherwise must not go unseen."""
    signature = NearDuplicateFilter(n_hashes=16).summarise(["one two three four five six"]).view(np.uint32)
    assert signature[0, :4].tolist() == GOLDEN


def test_tables_find_what_comparing_all_with_all_finds():
    rng = random.Random(3)
    texts = []
    for seed in range(300):
        text = words(seed, 50)
        if texts and rng.random() < 0.6:
            text = rng.choice(texts).split()
            for _ in range(rng.randrange(4)):
                text[rng.randrange(50)] = "other"
        texts.append(" ".join(text))
    judge = NearDuplicateFilter()
    signatures = judge.summarise(texts).view(np.uint32)
    expected, kept = {}, []
    for row in range(len(texts)):
        alike = [(signatures[other] == signatures[row]).mean() for other in kept]
        if alike and max(alike) >= judge.threshold:
            expected[row] = kept[int(np.argmax(alike))]
        else:
            kept.append(row)
    assert 50 < len(expected) < 250
    assert dropped_for(judge, texts) == expected


def test_of_texts_with_one_template_the_copies_are_found_and_each_is_compared_with_a_part_alone(monkeypatch):
    rng = random.Random(5)
    originals = [words("template", 50) + words(seed, 20) for seed in range(1500)]
    copies = rng.sample(range(1500), 100)
    altered = [changed(originals[number], 50 + rng.randrange(20)) for number in copies]
    texts = [" ".join(one) for one in originals + altered]
    first, second = shingles(texts[0]), shingles(texts[1])
    assert 0.5 < len(first & second) / len(first | second) < 0.6  # alike, but no duplicates
    judge = NearDuplicateFilter()
    summaries, compared, count = judge.summarise(texts), [], np.count_nonzero

    def counting(same, axis):
        compared.append(len(same))
        return count(same, axis=axis)

    monkeypatch.setattr(np, "count_nonzero", counting)
    assert judge.decide(summaries).of[1500:].tolist() == copies
    some = sum(compared)
    compared.clear()
    monkeypatch.setattr(duplicates, "COMPARED_OF_BAND", 10**9)
    assert judge.decide(summaries).of[1500:].tolist() == copies
    # Against all, the number of comparisons grows with the square of the texts.
    assert some < 1600 * 150 and sum(compared) > 1600**2 / 6


@pytest.mark.parametrize("shared", [40, 48, 53, 57])
def test_pairs_are_taken_as_often_as_promised(shared):
    """Sets of 60 single words of which `shared` are common: the similarity is shared / (120 - shared)."""
    judge = NearDuplicateFilter(shingle_words=1)
    taken = 0
    for seed in range(300):
        both, left, right = (words(f"{seed} {shared} {side}", n) for side, n in (("b", shared), ("l", 60), ("r", 60)))
        texts = [" ".join((both + own)[:60]) for own in (left, right)]
        taken += len(dropped_for(judge, texts))
    _, chance = judge.chances(shared / (120 - shared))
    # The library's estimates vary less than independent hashes: their chances lie further from a half.
    assert abs(taken / 300 - chance) < 0.12
    assert (taken / 300 > 0.5) == (chance > 0.5)


def test_chances_are_those_of_the_binomial_distribution():
    judge = NearDuplicateFilter(threshold=0.5, n_hashes=16)
    rows, bands = judge.bands
    compared, taken = judge.chances(0.5)
    assert compared == pytest.approx(1 - (1 - 0.5**rows) ** bands) and compared >= 0.99
    assert taken == pytest.approx(0.5982, abs=1e-4)  # 8 or more heads in 16 throws
    assert judge.chances(1.0) == (1, 1) and judge.chances(0.0) == (0, 0)


def test_values_that_make_no_sense_are_refused_at_once():
    with pytest.raises(SettingsError, match=r"(?s)3 faults.*threshold.*shingle_words.*n_hashes"):
        NearDuplicateFilter(threshold=0, shingle_words=0, n_hashes=17)
