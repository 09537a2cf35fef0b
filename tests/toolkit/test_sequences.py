from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from tunewell.toolkit.model.sequences import sequence_ids
from tunewell.toolkit.settings.base import TinySettings
from tunewell.toolkit.tiny import train_tokenizer

ASKED = [{"role": "user", "content": "Who are you?"}]
ANSWERED = [{"role": "assistant", "content": "A tiny model."}]
LONG = [*ASKED, *ANSWERED, {"role": "user", "content": "Where?"}]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<eos>\\n' }}"
    "{% endfor %}"
)
# Puts the end token between turns only, none behind the last.
SEPARATED = "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}<eos>{% endif %}{% endfor %}"
TWO_ENDS = "{% for message in messages %}{{ message['content'] + '<eos>' }}{% endfor %}\n<pad>"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["Who are you?", "A tiny model.", "Where? Here."], TinySettings(vocabulary=300))


def text_of(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> str:
    return tokenizer.decode(ids)


def test_a_text_starts_with_the_start_token_and_ends_with_one_end_token(tokenizer):
    ids = sequence_ids("Who are you?", " A tiny model.", tokenizer)
    assert text_of(ids, tokenizer) == "<bos>Who are you? A tiny model.<eos>"
    assert ids == sequence_ids("Who are you?", " A tiny model.<eos>", tokenizer)


def test_an_empty_completion_still_ends(tokenizer):
    assert text_of(sequence_ids("Who?", "", tokenizer), tokenizer) == "<bos>Who?<eos>"


def test_a_chat_has_one_start_token_and_ends_with_the_end_token(tokenizer):
    ids = sequence_ids(ASKED, ANSWERED, tokenizer)
    assert text_of(ids, tokenizer) == "<bos>Human: Who are you?\n\nAssistant: A tiny model.<eos>"
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id


def test_what_a_template_puts_behind_the_last_end_token_is_cut(tokenizer):
    tokenizer.chat_template = CHATML
    text = text_of(sequence_ids(LONG, ANSWERED, tokenizer), tokenizer)
    assert text.endswith("<eos>\n<|im_start|>assistant\nA tiny model.<eos>")
    assert text.count("<eos>") == 4  # those of earlier turns stay
    tokenizer.chat_template = TWO_ENDS
    assert text_of(sequence_ids(ASKED, ANSWERED, tokenizer), tokenizer) == "Who are you?<eos>A tiny model.<eos>"


def test_a_template_without_any_end_token_gets_one(tokenizer):
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    ids = sequence_ids(ASKED, ANSWERED, tokenizer)
    assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1


def test_the_last_answer_stays_whole_where_only_earlier_turns_have_an_end_token(tokenizer):
    tokenizer.chat_template = SEPARATED
    assert text_of(sequence_ids(ASKED, ANSWERED, tokenizer), tokenizer) == "Who are you?<eos>A tiny model.<eos>"


def test_chosen_and_rejected_differ_in_the_answer_only(tokenizer):
    good = sequence_ids(ASKED, ANSWERED, tokenizer)
    bad = sequence_ids(ASKED, [{"role": "assistant", "content": "A rude model."}], tokenizer)
    shared = next(index for index, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b)
    assert text_of(good[:shared], tokenizer).startswith("<bos>Human: Who are you?\n\nAssistant: A")


def test_a_saved_tokenizer_gives_the_same_ids(tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert sequence_ids(LONG, ANSWERED, again) == sequence_ids(LONG, ANSWERED, tokenizer)
