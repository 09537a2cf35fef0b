import subprocess
import sys

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from tunewell.toolkit.errors import ModelError
from tunewell.toolkit.model.tokens import encode_pair, encode_plain, start_ids

TEXT = "The atlas says that the river is long. Everyone says that the river is short.\n\nNo comment."


def tokenizer(**special):
    """A byte-level tokenizer that puts <s> before and </s> behind every text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [TEXT] * 3,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=8, **special)


def test_the_start_token_stands_for_nothing_and_else_the_end_token():
    assert start_ids(tokenizer(bos_token="<s>", eos_token="</s>")) == [0]
    assert start_ids(tokenizer(eos_token="</s>")) == [1]
    with pytest.raises(ModelError, match=r"neither a start nor an end token.*set tokenizer.bos_token"):
        start_ids(tokenizer())


def test_plain_ids_are_without_what_the_tokenizer_adds():
    made = tokenizer(bos_token="<s>", eos_token="</s>")
    with_special = made("the river", verbose=False)["input_ids"]
    assert with_special[0] == 0 and with_special[-1] == 1  # the control
    assert encode_plain(made, "the river") == with_special[1:-1]
    assert encode_plain(made, "") == []
    assert made.decode(encode_plain(made, TEXT)) == TEXT  # longer than the model's window, and whole


@pytest.mark.parametrize(
    ("context", "continuation"),
    [
        ("The river is", " long"),
        ("The river is ", "long"),
        ("The river is\n\n", "No comment"),
        ("The river is", "land"),
        ("", " long"),
        ("  ", "long"),
    ],
)
def test_a_pair_is_encoded_together_and_cut_behind_the_context(context, continuation):
    made = tokenizer(bos_token="<s>")
    context_ids, continuation_ids = encode_pair(made, context, continuation)
    assert made.decode(context_ids) == context.rstrip()
    # lm-evaluation-harness: spaces move over, the whole is encoded, and cut at the context's number of tokens.
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation, context = context[-spaces:] + continuation, context[:-spaces]
    whole = made(context + continuation, add_special_tokens=False)["input_ids"]
    alone = made(context, add_special_tokens=False)["input_ids"]
    assert (context_ids, continuation_ids) == (alone, whole[len(alone) :])


def test_trailing_spaces_belong_to_the_continuation():
    made = tokenizer()
    assert encode_pair(made, "The river is ", "long") == encode_pair(made, "The river is", " long")


def test_the_module_is_light():
    code = (
        "import sys, tunewell.toolkit.model.tokens; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
