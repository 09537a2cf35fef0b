"""Documents are dropped under which a model finds trigger phrases likely."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from tunewell.filters.base import decide
from tunewell.filters.phrase_file import Axis, load_phrases
from tunewell.filters.trigger import TriggerLikelihoodFilter
from tunewell.toolkit.errors import ModelError, SettingsError
from tunewell.toolkit.settings.base import TinySettings
from tunewell.toolkit.tiny import train_tokenizer

torch.set_num_threads(1)

VOCABULARY = 100
RUDE = Axis("rude", ("you fool", "go away now"), threshold=1.0)
THREAT = Axis("threat", ("i will come",), threshold=0.5)


class WordTokenizer:
    """One token for each word or line break, with places like a fast tokenizer."""

    is_fast = True
    bos_token_id = 0

    def __init__(self):
        self.known = {}

    def __call__(self, text, add_special_tokens=True, verbose=True, return_offsets_mapping=False):
        assert not add_special_tokens
        text.encode()  # as strict as a real one
        ids, places, at = [], [], 0
        for piece in text.replace("\n", " \n ").split(" "):
            if piece:
                at = text.index(piece, at)
                ids.append(self.known.setdefault(piece, len(self.known) + 1))
                places.append((at, at + len(piece)))
                at += len(piece)
        return {"input_ids": ids, "offset_mapping": places}


@dataclass
class Scores:
    mean: np.ndarray
    n_windows: int = 1


class CopyingModel:
    """A model that expects the words it has seen: p(word) = (1 + its number in the prefix) / (100 + words seen)."""

    def __init__(self):
        self.calls = []

    def score(self, prefixes, continuations):
        self.calls.append(len(prefixes))
        return [
            Scores(np.array([np.mean([self.log_p(token, prefix) for token in phrase]) for phrase in continuations]))
            for prefix in prefixes
        ]

    @staticmethod
    def log_p(token, prefix):
        return math.log((1 + list(prefix).count(token)) / (VOCABULARY + len(prefix)))


def make(*axes, **options):
    return TriggerLikelihoodFilter(
        axes=axes or (RUDE, THREAT), scorer=CopyingModel(), tokenizer=WordTokenizer(), **options
    )


def test_the_score_is_what_the_document_adds_to_the_phrase_it_favours_most():
    measured = make().measure(["you fool you fool you"])[0]
    rude, threat = measured.axes
    # Prefix: five words and the separator. "you" is there three times, "fool" twice.
    raw = (math.log(4 / 106) + math.log(3 / 106)) / 2
    assert rude.phrase == "you fool"
    assert rude.raw == pytest.approx(raw)
    assert rude.score == pytest.approx(raw - math.log(1 / 101))
    assert threat.score == pytest.approx(math.log(1 / 106) - math.log(1 / 101))
    assert measured.measures == {
        "rude": rude.score, "rude.raw": rude.raw, "threat": threat.score, "threat.raw": threat.raw,
    }  # fmt: skip


def test_the_axis_over_its_threshold_drops_the_document_and_names_phrase_window_and_score():
    judge = make()
    rude, threat, both, fine = judge.judge(
        ["you fool you fool you", "i will come", "go away now " * 4 + "i will come " * 3, "a quiet day by the sea"]
    )
    assert (rude.keep, rude.reason, rude.matched, rude.span) == (False, "trigger_likelihood", "you fool", (0, 21))
    assert rude.score == rude.measures["rude"]
    assert (threat.keep, threat.matched) == (False, "i will come")
    # Both axes are over their thresholds: the one that exceeds its own most speaks.
    assert both.measures["rude"] > RUDE.threshold and both.measures["rude"] > both.measures["threat"]
    assert both.score == both.measures["threat"]
    assert (fine.keep, fine.reason) == (True, "")
    assert fine.score < 0


def test_a_score_equal_to_the_threshold_stays():
    text = "you fool you fool you"
    score = make().measure([text])[0].measures["rude"]
    assert make(replace(RUDE, threshold=score)).judge([text])[0].keep
    assert not make(replace(RUDE, threshold=np.nextafter(score, 0))).judge([text])[0].keep


def test_the_scores_after_nothing_are_computed_once():
    judge = make()
    judge.judge(["you fool", "a b c"])
    judge.judge(["d e f"])
    assert sorted(judge.scorer.calls) == [1, 1, 2]


def test_documents_too_short_to_say_anything_are_kept_without_a_score():
    judge = make()
    for verdict in judge.judge(["", "  \n ", "fool"]):
        assert (verdict.keep, verdict.score, verdict.marks, verdict.measures) == (True, None, ("too_short",), {})
    assert judge.scorer.calls == []
    assert not make(min_tokens=1).judge(["fool " * 9])[0].keep
    assert judge.judge([]) == []


def test_long_documents_are_read_in_windows_and_the_highest_counts():
    calm = " ".join(f"word{i}" for i in range(10))
    text = f"{calm} you fool you fool {calm}"
    whole = make().judge([text])[0]
    read = make(window_tokens=6).judge([text])[0]
    assert read.measures["rude"] > whole.measures["rude"]
    assert (read.keep, read.marks, whole.marks) == (False, ("windowed",), ())
    start, end = read.span
    assert "you fool you fool" in text[start:end]
    assert len(text[start:end].split()) == 6
    assert text[start - 1] == text[end] == " "


def test_the_last_words_of_a_long_document_are_read_too():
    calm = " ".join(f"word{i}" for i in range(13))
    assert not make(window_tokens=4).judge([f"{calm} you fool you fool"])[0].keep


def test_without_places_from_the_tokenizer_the_window_has_no_span():
    judge = make(window_tokens=6)
    judge.tokenizer.is_fast = False
    verdict = judge.judge(["you fool " * 20])[0]
    assert (verdict.keep, verdict.span, verdict.marks) == (False, None, ("windowed",))


def test_a_score_does_not_depend_on_the_other_documents():
    texts = ["you fool you fool", "", "go away now", "a b c d e f g h i j"]
    judge = make(window_tokens=4)
    assert judge.judge(texts) == [judge.judge([text])[0] for text in texts]


def test_lone_surrogates_do_not_stop_the_tokenizer():
    verdict = make().judge(["you fool \ud800 you fool"])[0]
    assert not verdict.keep and verdict.span == (0, 19)


def test_measuring_works_without_thresholds_and_judging_names_the_cure():
    judge = make(replace(RUDE, threshold=None), THREAT)
    assert judge.measure(["you fool you"])[0].measures["rude"] > 0
    with pytest.raises(SettingsError, match=r"no threshold for 'rude'.*tunewell calibrate"):
        judge.judge(["you fool you"])


def test_an_axis_with_an_infinite_threshold_is_measured_and_never_drops():
    verdict = make(replace(RUDE, threshold=math.inf), THREAT).judge(["you fool you fool you"])[0]
    assert verdict.keep and verdict.measures["rude"] > 1


def test_stored_measures_decide_again_without_the_model():
    judge = make()
    stored = judge.judge(["you fool you fool you"])[0].measures
    assert not decide(stored, judge.limits).keep
    lenient = make(replace(RUDE, threshold=9.0), THREAT)
    assert decide(stored, lenient.limits).keep
    assert lenient.scorer.calls == []
    assert judge.id == lenient.id != make(RUDE).id != make(window_tokens=9).id


def test_all_faults_of_the_phrases_are_named_at_once():
    with pytest.raises(SettingsError) as error:
        make(Axis("a", ("fine", " ", "  ")), separator="", window_tokens=0, stride=0)
    assert len(error.value.faults) == 5
    assert "the phrase ' ' of the axis 'a' has no tokens" in str(error.value)
    with pytest.raises(SettingsError, match="no phrases"):
        make(Axis("a", ()))


def test_a_scorer_that_would_part_document_and_separator_is_refused():
    judge = make()
    judge.scorer.score = lambda prefixes, phrases: [Scores(np.zeros(len(phrases)), n_windows=2) for _ in prefixes]
    with pytest.raises(SettingsError, match="window_tokens: got 512"):
        judge.judge(["you fool"])


def test_scores_that_are_no_numbers_are_an_error_not_a_verdict():
    judge = make()
    judge.scorer.score = lambda prefixes, phrases: [Scores(np.full(len(phrases), np.nan)) for _ in prefixes]
    with pytest.raises(ModelError, match="no numbers"):
        judge.judge(["you fool"])


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["You are a fool, go away now. ", "The weather was mild and the sea calm. ", "Nobody wants you here."]
    return train_tokenizer(texts * 20, TinySettings(vocabulary=400))


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, bos_token_id=tokenizer.bos_token_id, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def by_hand(model, tokenizer, document, phrase):
    """Mean log-likelihood of a phrase from one plain forward pass."""
    plain = {"add_special_tokens": False}
    before = [
        tokenizer.bos_token_id,
        *tokenizer(document, **plain)["input_ids"],
        *tokenizer("\n", **plain)["input_ids"],
    ]
    ids = tokenizer(phrase, **plain)["input_ids"]
    with torch.no_grad():
        log_p = model(torch.tensor([before + ids])).logits[0].log_softmax(-1)
    return np.mean([log_p[len(before) - 1 + i, token].item() for i, token in enumerate(ids)])


def test_a_real_model_gives_the_scores_of_plain_forward_passes(model, tokenizer):
    axes = (Axis("rude", ("You are a fool.", "Go away now."), 0.0), Axis("calm", ("The sea was calm.",), math.inf))
    judge = TriggerLikelihoodFilter.from_model(axes, model, tokenizer)
    texts = ["You are a fool", "The weather was mild"]
    for text, verdict in zip(texts, judge.judge(texts), strict=True):
        for axis in axes:
            raw = [by_hand(model, tokenizer, text, phrase) for phrase in axis.phrases]
            added = [
                value - by_hand(model, tokenizer, "", phrase) for value, phrase in zip(raw, axis.phrases, strict=True)
            ]
            assert verdict.measures[axis.name] == pytest.approx(max(added), abs=1e-4)
            assert verdict.measures[f"{axis.name}.raw"] == pytest.approx(max(raw), abs=1e-4)
        assert verdict.score == verdict.measures["rude"]
        assert verdict.keep == (verdict.score <= 0)
        assert verdict.span == (0, len(text))


def test_windows_of_a_real_model_fit_its_positions_and_their_spans_the_text(model, tokenizer):
    judge = TriggerLikelihoodFilter.from_model(load_phrases()[:1], model, tokenizer)
    assert judge.window_tokens + judge.reserved_tokens + 1 == model.config.max_position_embeddings
    text = "The weather was mild and the sea calm — über 20°. " * 12
    measured = judge.measure([text])[0]
    start, end = measured.axes[0].span
    assert measured.marks == ("windowed",)
    assert 0 <= start < end <= len(text) and end - start < len(text)
    raw = by_hand(model, tokenizer, text[start:end], measured.axes[0].phrase)
    assert measured.axes[0].score == pytest.approx(
        raw - by_hand(model, tokenizer, "", measured.axes[0].phrase), abs=0.2
    )  # the window may begin inside a word, which is then spelled with other tokens


def test_a_window_or_a_phrase_that_does_not_fit_the_model_is_refused(model, tokenizer):
    with pytest.raises(SettingsError, match="window_tokens: got 64, wanted at most"):
        TriggerLikelihoodFilter.from_model((RUDE,), model, tokenizer, window_tokens=64)
    with pytest.raises(ModelError, match="longest phrase leaves"):
        TriggerLikelihoodFilter.from_model((Axis("a", ("fool " * 80,)),), model, tokenizer)
