"""Turn texts into token ids under rules that do not depend on what a tokenizer adds by default."""

from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def start_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The one token that stands for "given nothing": the start token, or the end token where there is none.

    Raises:
        ModelError: the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [int(token)]
    raise ModelError(
        f"the tokenizer {tokenizer.name_or_path!r} has neither a start nor an end token, wanted one of them to stand "
        "before a text: set tokenizer.bos_token"
    )


def encode_plain(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of the text itself, without the special tokens that the tokenizer would add around it."""
    # verbose=False: a text longer than the model's window is no fault here, windows take care of it.
    return [int(token) for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def encode_pair(tokenizer: "PreTrainedTokenizerBase", context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of a context and of its continuation, by the rule of lm-evaluation-harness.

    White space at the end of the context moves to the continuation; both are encoded together; the continuation is
    what lies behind as many tokens as the context has alone. Source: `_encode_pair` in
    https://github.com/EleutherAI/lm-evaluation-harness (lm_eval/api/model.py, 0.4.13).

    Returns:
        ids of the context (none for an empty one: put `start_ids` there) and ids of the continuation.
    """
    kept = context.rstrip()
    whole = encode_plain(tokenizer, context + continuation)
    context_ids = encode_plain(tokenizer, kept)
    return context_ids, whole[len(context_ids) :]
