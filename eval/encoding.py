"""Token ids of what a model is asked, begun as its tokenizer begins a text."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..toolkit.model.tokens import encode_plain, start_ids

Tokens = tuple[int, ...]
TRIES = 8
"""Places that are tried before texts are encoded whole."""


def encode_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> list[tuple[Tokens, Tokens]]:
    """Token ids of many contexts with their continuations, by the rule of `tokens.encode_pair` and many times faster.

    Returns:
        for each pair the context, begun by `with_start`, and the continuation.
    """
    if not pairs:
        return []
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    texts = [context.rstrip() for context in contexts] + [context + continuation for context, continuation in pairs]
    ids = _encode(tokenizer, texts)
    alone, together = dict(zip(contexts, ids, strict=False)), ids[len(contexts) :]
    start = _own_start(tokenizer)
    begun = {context: tuple(_begun(tokenizer, ids, start)) for context, ids in alone.items()}
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


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts; what all begin with (solved questions) is encoded once if the tokenizer lets us see how."""

    def encode(*some: str) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(some), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    # The first and the last in order differ the earliest: what they share, all share.
    first, last = min(texts), max(texts)
    pairs = enumerate(zip(first, last, strict=False))
    shared = first[: next((place for place, (one, other) in pairs if one != other), len(first))]
    expected = encode(first, last)
    for cut in _cuts(tokenizer, shared):
        head, *tails = encode(shared[:cut], first[cut:], last[cut:])
        if [head + tail for tail in tails] == expected:
            return [head + tail for tail in encode(*(text[cut:] for text in texts))]
    return encode(*texts)


def _cuts(tokenizer: PreTrainedTokenizerBase, shared: str) -> list[int]:
    """Where texts that begin with `shared` may perhaps be cut so that both parts can be encoded apart, the last first.

    Most tokenizers split a text into pieces, such as words, and encode each by itself. Where a piece ends may depend on
    a few characters behind it, so the last pieces of what is shared go to the second part.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is None:
        return []
    if backend.normalizer is not None and backend.normalizer.normalize_str(shared) != shared:
        return []
    begins = [begin for _, (begin, _) in backend.pre_tokenizer.pre_tokenize_str(shared)]
    return begins[-3:0:-1][:TRIES]
