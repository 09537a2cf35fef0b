"""Token ids of a prompt with its completion, ending where a generated completion ends."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Text = str | Sequence[Mapping[str, Any]]


def sequence_ids(prompt: Text, completion: Text, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Encode a row as a reward model is to see it, in training and in PPO alike: the last token is the end token.

    Many chat templates put a line break behind the end token of the last turn, which a policy never generates; a
    reward head trained on it would be read at a place that it was not trained for.

    Args:
        prompt: text, or chat messages.
        completion: text that follows the prompt, or the answering messages.
        tokenizer: its special tokens and chat template apply.
    """
    end = tokenizer.eos_token_id
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt + str(completion))["input_ids"])
        return ids if ids and ids[-1] == end else [*ids, end]
    text = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
    ids = list(tokenizer(str(text), add_special_tokens=False)["input_ids"])
    if end in ids:
        cut = len(ids) - ids[::-1].index(end)
        # Words behind it: that end token belongs to an earlier turn, and the template puts none behind the last.
        if not str(tokenizer.decode(ids[cut:], skip_special_tokens=True)).strip():
            return ids[:cut]
    return [*ids, end]
