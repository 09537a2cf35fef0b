"""Token ids of what a model is asked, begun as its tokenizer begins a text."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..toolkit.model.tokens import encode_plain, start_ids

Tokens = tuple[int, ...]


def encode_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> list[tuple[Tokens, Tokens]]:
    """Token ids of many contexts with their continuations, by the rule of `tokens.encode_pair` and many times faster.

    Returns:
        for each pair the context, begun by `with_start`, and the continuation.
    """
    if not pairs:
        return []
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    bare = [context.rstrip() for context in contexts]
    alone = dict(zip(contexts, tokenizer(bare, add_special_tokens=False, verbose=False)["input_ids"], strict=True))
    start = _own_start(tokenizer)
    begun = {context: tuple(_begun(tokenizer, ids, start)) for context, ids in alone.items()}
    texts = [context + continuation for context, continuation in pairs]
    together = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [
        (begun[context], tuple(whole[len(alone[context]) :]))
        for (context, _), whole in zip(pairs, together, strict=True)
    ]


def with_start(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """`ids` after what the tokenizer itself puts before a text: a start token, or nothing.

    It is not put there twice (a chat template may have written it), and an empty text gets a start token in any case.
    """
    return _begun(tokenizer, ids, _own_start(tokenizer))


def _begun(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], start: list[int]) -> list[int]:
    if not ids:
        return start_ids(tokenizer)
    return list(ids) if list(ids[: len(start)]) == start else [*start, *ids]


def _own_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    plain, whole = encode_plain(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    places = range(len(whole) - len(plain) + 1)
    begin = next((place for place in places if whole[place : place + len(plain)] == plain), 0)
    return whole[:begin]
