from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
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


SHOTS = "Q: What is ice?\nA: Frozen water.\n\nQ: Who are we?\nA: I have no comment.\n\n" * 3
QUESTIONS = ("Who", "What", "1 + 1", *TEXTS, "Which bats", " ", "", "...", "Why", "When", "漢", "Whose", "Where", "How")
ASKED = [(f"{SHOTS}Q: {question}?\nA:", answer) for question in QUESTIONS for answer in (" 2", " Bats")]


class Counting:
    """A tokenizer that counts the characters it encodes."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer, self.n_characters = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: Any, **options: Any) -> Any:
        self.n_characters += len("".join(texts))
        return self._tokenizer(texts, **options)


def trained(splitter: Any, normalizer: Any = None, added: tuple[str, ...] = ()) -> Counting:
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.normalizer, core.decoder = splitter, normalizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", *added],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([SHOTS, *("".join(pair) for pair in ASKED)] * 3, trainer)
    return Counting(PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>"))


def pairs_one_by_one(tokenizer: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    found = (encode_pair(tokenizer, *pair) for pair in ASKED)
    return [(tuple(context), tuple(answer)) for context, answer in found]


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize("splitter", [BYTES, pre_tokenizers.Whitespace()])
def test_what_all_texts_begin_with_is_encoded_once(splitter: Any) -> None:
    tokenizer = trained(splitter)
    assert encode_pairs(tokenizer, ASKED) == pairs_one_by_one(tokenizer._tokenizer)
    assert tokenizer.n_characters < 20 * len(SHOTS)  # 45 texts begin with it


@pytest.mark.parametrize(
    ("splitter", "normalizer", "added"),
    [
        (None, None, ()),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), None, ()),
        (pre_tokenizers.Metaspace(), None, ()),
        (pre_tokenizers.Metaspace(split=False), None, ()),
        (pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", "_"), ()),
        (BYTES, normalizers.Prepend("x"), ()),
        (BYTES, None, (".\n\nQ",)),
        (BYTES, None, ("\n\nQ:",)),
    ],
)  # fmt: skip
def test_no_kind_of_tokenizer_is_cut_where_it_would_not_cut(splitter: Any, normalizer: Any, added: Any) -> None:
    tokenizer = trained(splitter, normalizer, added)
    assert encode_pairs(tokenizer, ASKED) == pairs_one_by_one(tokenizer._tokenizer)


def test_a_special_token_that_texts_differ_in_is_not_cut() -> None:
    tokenizer = trained(BYTES, added=("<|a_special_token_of_kind_1|>", "<|a_special_token_of_kind_2|>"))
    pairs = [(f"{SHOTS}<|a_special_token_of_kind_{kind}|>", " Bats") for kind in (1, 2)]
    n_shots = len(tokenizer([SHOTS])["input_ids"][0])
    assert [len(context) for context, _ in encode_pairs(tokenizer, pairs)] == [n_shots + 1] * 2
