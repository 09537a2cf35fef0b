import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast
from tunewell.eval.encoding import encode_pairs, with_start
from tunewell.toolkit.model.tokens import encode_pair, encode_plain
from tunewell.toolkit.tiny import BOS, EOS, TinySettings, train_tokenizer

TEXTS = ["Q: What is snow?\nA: Water.", "Q: Who can fly?\nA: Birds and some bats."]


def tokenizer_that_adds(*, start: bool, end: bool) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer(TEXTS, TinySettings(vocabulary=300))
    template = f"{BOS} " * start + "$A" + f" {EOS}" * end
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (BOS, EOS)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("end", [True, False])
def test_a_text_begins_as_its_tokenizer_begins_it_and_never_ends(start: bool, end: bool) -> None:
    tokenizer = tokenizer_that_adds(start=start, end=end)
    plain = encode_plain(tokenizer, "Who can fly?")
    assert with_start(tokenizer, plain) == [tokenizer.bos_token_id] * start + plain


def test_a_start_token_that_is_there_already_is_not_put_there_twice() -> None:
    tokenizer = tokenizer_that_adds(start=True, end=False)
    ids = encode_plain(tokenizer, f"{BOS}Who?")
    assert ids[0] == tokenizer.bos_token_id
    assert with_start(tokenizer, ids) == ids


@pytest.mark.parametrize("start", [True, False])
def test_an_empty_text_gets_a_start_token_in_any_case(start: bool) -> None:
    tokenizer = tokenizer_that_adds(start=start, end=False)
    assert with_start(tokenizer, []) == [tokenizer.bos_token_id]


def test_many_pairs_are_encoded_as_one_by_one() -> None:
    tokenizer = tokenizer_that_adds(start=True, end=True)
    pairs = [
        ("Q: Who?\nA:", " Birds."),
        ("Q: Who?\nA: ", "Birds."),
        ("Q: Who?\nA:", " bats"),
        ("", "Bats"),
        ("é", "漢"),
    ]
    for (context, answer), pair in zip(encode_pairs(tokenizer, pairs), pairs, strict=True):
        expected = encode_pair(tokenizer, *pair)
        assert (list(context), list(answer)) == (with_start(tokenizer, expected[0]), expected[1])
    assert encode_pairs(tokenizer, []) == []
