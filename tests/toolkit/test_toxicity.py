import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tunewell.toolkit.errors import DataError, SettingsError
from tunewell.toolkit.toxicity.scorer import CachedToxicity, WordlistToxicity, open_scorer
from tunewell.toolkit.toxicity.tfidf import TfidfToxicity

RUDE = [
    "You are such a clod.",
    "Go away, you rat!",
    "What a dunce you are.",
    "Only an oaf does that.",
    "Shut up, pest.",
]
KIND = [
    "You are very welcome.",
    "Stay as long as you like!",
    "What a fine day it is.",
    "Anyone could do that.",
    "Rest.",
]


class Counting:
    """A scorer that remembers what it was asked."""

    def __init__(self, name: str, value: float) -> None:
        self.id, self.value, self.asked = name, value, list[str]()

    def score(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.full(len(texts), self.value)


def trained() -> TfidfToxicity:
    return TfidfToxicity.train(RUDE + KIND, [1] * 5 + [0] * 5)


def test_a_listed_word_counts_as_a_whole_word_whatever_its_case() -> None:
    scorer = WordlistToxicity(["rat", "stray cat"])
    texts = ["A RAT!", "rather", "a stray\n cat", "stray", "rat's", "\uff32\uff21\uff34", "", " \n"]
    np.testing.assert_array_equal(scorer.score(texts), [1, 0, 1, 0, 1, 1, np.nan, np.nan])


def test_the_longer_of_two_phrases_is_found_too() -> None:
    assert WordlistToxicity(["bad", "bad-tempered fool"]).score(["a bad-tempered fool"]).tolist() == [1.0]


def test_signs_in_a_list_are_no_regular_expression() -> None:
    scorer = WordlistToxicity(["a.b", "c++"])
    assert scorer.score(["axb", "a.b", "c++ c"]).tolist() == [0.0, 1.0, 1.0]


def test_a_word_list_is_named_by_its_words(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\ufeffRat\n\n  oaf \n", encoding="utf-8")
    scorer = open_scorer(f"wordlist:{tmp_path / 'words.txt'}")
    assert scorer.id == WordlistToxicity(["oaf", "rat"]).id != WordlistToxicity(["oaf"]).id


def test_an_empty_or_missing_word_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n")
    with pytest.raises(DataError, match=r"words\.txt: the word list holds no word"):
        open_scorer(f"wordlist:{tmp_path / 'words.txt'}")
    with pytest.raises(DataError, match="cannot read the word list"):
        open_scorer(f"wordlist:{tmp_path / 'missing.txt'}")


@pytest.mark.parametrize("spec", ["detoxyfy:x", "tfidf", "tfidf:", "", "unbiased"])
def test_an_unknown_scorer_is_refused_with_the_known_ones(spec: str) -> None:
    with pytest.raises(SettingsError, match="wanted one of tfidf:FOLDER, wordlist:FILE, hf:FOLDER#LABEL, detoxify:"):
        open_scorer(spec)


def test_a_slip_gets_the_nearest_scorer() -> None:
    with pytest.raises(SettingsError, match="did you mean 'detoxify'"):
        open_scorer("detoxyfy:x")


def test_the_trained_scorer_tells_rude_from_kind_words_it_never_saw_together() -> None:
    scores = trained().score(["Go away, you clod!", "What a welcome day."])
    assert scores[0] > 0.6 > 0.4 > scores[1]


@pytest.mark.parametrize("texts", [[], ["one"], ["one", "two"], ["", "one", " "]])
def test_every_scorer_returns_an_array_with_nan_for_what_is_empty(texts: list[str]) -> None:
    for scorer in (trained(), WordlistToxicity(["rat"])):
        scores = scorer.score(texts)
        assert scores.shape == (len(texts),) and scores.dtype == np.float64
        assert np.isnan(scores).tolist() == [not text.strip() for text in texts]
        assert ((scores >= 0) & (scores <= 1) | np.isnan(scores)).all()


def test_a_saved_scorer_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    scorer = trained()
    scorer.save(tmp_path / "s")
    loaded = open_scorer(f"tfidf:{tmp_path / 's'}")
    texts = [*RUDE, *KIND, "something else entirely", "é ü 漢字", "x" * 5000]
    np.testing.assert_array_equal(scorer.score(texts), loaded.score(texts))
    assert scorer.id == loaded.id
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == ["arrays.safetensors", "scorer.json"]


def test_training_is_deterministic_and_the_id_follows_what_was_learned() -> None:
    assert trained().id == trained().id
    assert trained().id != TfidfToxicity.train(RUDE + KIND, [1] * 4 + [0] * 6).id


def test_a_damaged_scorer_is_refused(tmp_path: Path) -> None:
    trained().save(tmp_path)
    arrays = tmp_path / "arrays.safetensors"
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(DataError, match="is not the file that"):
        TfidfToxicity.load(tmp_path)
    arrays.unlink()
    with pytest.raises(DataError, match="cannot read the scorer"):
        TfidfToxicity.load(tmp_path)
    (tmp_path / "scorer.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(DataError, match="is not a scorer of this version"):
        TfidfToxicity.load(tmp_path)
    with pytest.raises(DataError, match=r"scorer\.json"):
        TfidfToxicity.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a b", "c d"], [1], "2 texts and 1 labels"),
        (["a b", "c d"], [1, 1], "labels are all alike"),
        (["a b", "c d"], [0.2, 0.9], "wanted 1 .toxic. and 0"),
        (["a b", " "], [1, 0], "1 texts are empty"),
        (["!", "?"], [1, 0], "hold no words"),
        ([], [], "labels are all alike"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(texts: list[str], labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TfidfToxicity.train(texts, labels)


def test_a_cached_scorer_asks_each_text_once(tmp_path: Path) -> None:
    inner = Counting("a", 0.25)
    scorer = CachedToxicity(inner, tmp_path / "cache" / "scores.sqlite")
    assert scorer.id == "a"
    assert scorer.score(["x", "y", "x"]).tolist() == [0.25] * 3
    assert CachedToxicity(inner, tmp_path / "cache" / "scores.sqlite").score(["y", "z"]).tolist() == [0.25] * 2
    assert inner.asked == ["x", "y", "z"]
    assert scorer.score([]).tolist() == []


def test_the_cache_keeps_scorers_apart(tmp_path: Path) -> None:
    for name, value in (("a", 0.25), ("b", 0.75)):
        assert CachedToxicity(Counting(name, value), tmp_path / "c").score(["x"]).tolist() == [value]


def test_a_text_without_a_score_is_asked_again(tmp_path: Path) -> None:
    inner = Counting("a", math.nan)
    scorer = CachedToxicity(inner, tmp_path / "c")
    assert np.isnan(scorer.score(["x"])).all() and np.isnan(scorer.score(["x"])).all()
    assert inner.asked == ["x", "x"]
