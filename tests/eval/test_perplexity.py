import math
from typing import Any

import pytest
import torch
from tunewell.eval.compare import compare
from tunewell.eval.perplexity import perplexity
from tunewell.toolkit.errors import DataError, ModelError
from tunewell.toolkit.tiny import TinySettings, new_model, train_tokenizer

TEXTS = [
    "A text.",
    "The second text is a little longer than the first one.",
    "Third!",
    "And a fourth, to end with.",
]
LONG = " ".join(f"word {number} of a long text" for number in range(40))


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    torch.set_num_threads(1)
    settings = TinySettings(vocabulary=320, hidden_size=64, layers=2, heads=4, context=512)
    tokenizer = train_tokenizer([*TEXTS, LONG], settings)
    return new_model(tokenizer, settings, seed=0).eval(), tokenizer


def losses(model: Any, ids: list[int]) -> list[float]:
    """Loss of each token after the first, from one plain forward pass."""
    with torch.inference_mode():
        logs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [-float(logs[place - 1, ids[place]]) for place in range(1, len(ids))]


def test_every_token_counts_once_whatever_its_document(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    every = [loss for text in TEXTS for loss in losses(model, tokenizer(text)["input_ids"])]
    result = perplexity(model, tokenizer, TEXTS)
    assert result.scores["nll"].value == pytest.approx(sum(every) / len(every), abs=1e-5)
    assert result.scores["perplexity"].value == pytest.approx(math.exp(sum(every) / len(every)), rel=1e-5)
    assert result.details["tokens"] == len(every)
    assert result.scores["nll"].n == 4
    assert result.scores["perplexity"].low < result.scores["perplexity"].value < result.scores["perplexity"].high


def test_the_first_token_is_predicted_from_the_start_token(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    ids = tokenizer(TEXTS[0])["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert perplexity(model, tokenizer, TEXTS[:1]).details["tokens"] == len(ids) - 1


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 15), (16, 1), (20, 7)])
def test_windows_score_every_token_once_with_the_widest_view_they_give(
    tiny: tuple[Any, Any], window: int, stride: int
) -> None:
    model, tokenizer = tiny
    ids = tokenizer(LONG)["input_ids"]
    expected = []
    for place in range(1, len(ids)):
        # the first window that holds the token: it begins at a multiple of the stride
        begin = 0 if place < window else stride * math.ceil((place - window + 1) / stride)
        expected.append(losses(model, ids[begin : place + 1])[-1])
    result = perplexity(model, tokenizer, [LONG], max_length=window, stride=stride)
    assert result.details["tokens"] == len(ids) - 1
    assert result.scores["nll"].value == pytest.approx(sum(expected) / len(expected), abs=1e-4)


@pytest.mark.parametrize("tokens_per_batch", [1, 64, 100_000])
def test_the_batch_changes_nothing(tiny: tuple[Any, Any], tokens_per_batch: int) -> None:
    reference = perplexity(*tiny, [*TEXTS, LONG]).scores["nll"].value
    result = perplexity(*tiny, [*TEXTS, LONG], tokens_per_batch=tokens_per_batch)
    assert result.scores["nll"].value == pytest.approx(reference, abs=1e-5)


def test_an_empty_text_is_unscored_and_no_zero(tiny: tuple[Any, Any]) -> None:
    full, holed = perplexity(*tiny, TEXTS), perplexity(*tiny, [*TEXTS, "", "  "])
    assert holed.scores["nll"].value == full.scores["nll"].value
    assert (holed.scores["nll"].n, holed.scores["nll"].unscored) == (4, 2)
    assert holed.items[-1]["values"]["nll"] is None


def test_the_model_is_left_in_the_mode_it_was_in(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    model.train()
    perplexity(model, tokenizer, TEXTS[:1])
    assert model.training
    model.eval()


def test_a_model_that_gives_no_numbers_is_refused(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    kept = model.model.norm.weight.data.clone()
    try:
        model.model.norm.weight.data.fill_(math.nan)
        with pytest.raises(ModelError, match=r"4 of 4 documents .* got no score"):
            perplexity(model, tokenizer, TEXTS)
        assert perplexity(model, tokenizer, TEXTS, force=True).scores["perplexity"].value is None
    finally:
        model.model.norm.weight.data.copy_(kept)


def test_windows_and_texts_that_mean_nothing_are_refused(tiny: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match="got no texts"):
        perplexity(*tiny, [])
    with pytest.raises(DataError, match="window of 8 tokens and a stride of 8"):
        perplexity(*tiny, TEXTS, max_length=8, stride=8)


def test_two_models_are_compared_document_by_document(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    other = new_model(tokenizer, TinySettings(vocabulary=320, hidden_size=64, layers=2, heads=4, context=512), seed=1)
    before, after = perplexity(model, tokenizer, TEXTS), perplexity(other.eval(), tokenizer, TEXTS)
    [row] = compare(before, after)
    assert row.metric == "nll"
    assert row.delta == pytest.approx(after.scores["nll"].value - before.scores["nll"].value)
    with pytest.raises(DataError, match=r"window\.tokens: 512 and 16"):
        compare(before, perplexity(model, tokenizer, TEXTS, max_length=16))
