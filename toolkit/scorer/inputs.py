"""Check what the continuation scorer is given before anything is computed."""

from collections.abc import Sequence
from numbers import Real
from typing import cast

import numpy as np

from ..errors import DataError, SettingsError
from .packing import Ints

Tokens = Sequence[int]
METHODS = ("auto", "packed", "cache")
SHORTEST_LENGTH = 8
"""Least length of a sequence, in tokens: the trial of a model at construction needs as many."""


def check_settings(
    positions: int | None, max_length: int | None, stride: int | None, tokens_per_batch: int, method: str
) -> int:
    """Check the constructor's settings against the positions that the model has, None where it names no limit.

    Returns:
        the longest sequence in tokens.

    Raises:
        SettingsError: with all faults found.
    """
    length = positions if max_length is None else max_length
    faults = list[str]()
    if length is None:
        faults.append("max_length: got none and the model names no limit, wanted the longest sequence in tokens")
    elif length < SHORTEST_LENGTH or (positions is not None and length > positions):
        most = "" if positions is None else f" and at most the model's {positions} positions"
        faults.append(f"max_length: got {length}, wanted at least {SHORTEST_LENGTH}{most}")
    if stride is not None and stride < 1:
        faults.append(f"stride: got {stride}, wanted at least 1 token")
    if tokens_per_batch < 1:
        faults.append(f"tokens_per_batch: got {tokens_per_batch}, wanted at least 1 token")
    if method not in METHODS:
        faults.append(f"method: got {method!r}, wanted one of {', '.join(METHODS)}")
    if faults:
        raise SettingsError(faults, "the continuation scorer")
    return cast(int, length)


def as_ids(tokens: Tokens, name: str, vocabulary: int) -> Ints:
    """Token ids as an array.

    Raises:
        DataError: something is not a token id, or none that the model knows.
    """
    if not len(tokens):
        return np.zeros(0, dtype=np.int64)
    ids = np.asarray(tokens)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"{name} starts with {tokens[0]!r}, wanted a list of token ids: encode the text first")
    if ids.min() < 0 or ids.max() >= vocabulary:
        wrong = next(int(i) for i in ids if not 0 <= i < vocabulary)
        raise DataError(
            f"{name} holds the token id {wrong}, wanted 0 to {vocabulary - 1}: encode with the model's own tokenizer"
        )
    return ids.astype(np.int64)


def prefix_ids(prefixes: Sequence[Tokens], n_preamble: int, vocabulary: int) -> list[Ints]:
    """Prefixes as arrays, none of them without a token to predict from.

    Raises:
        DataError: a prefix is empty and there is no preamble, or holds what is no token id.
    """
    rows = [as_ids(prefix, f"prefix {index}", vocabulary) for index, prefix in enumerate(prefixes)]
    for index, row in enumerate(rows):
        if not len(row) + n_preamble:
            raise DataError(
                f"prefix {index} has no tokens and there is no preamble, wanted at least one token to predict from: "
                "put the tokenizer's start token in front (toolkit.tokens.start_ids)"
            )
    return rows


def continuation_sets(
    continuations: Sequence[Tokens] | Sequence[Sequence[Tokens]], n_prefixes: int, vocabulary: int
) -> list[list[list[int]]]:
    """One list of continuations for all prefixes, or one for each.

    Raises:
        DataError: a list is empty or missing, or a continuation is empty or holds what is no token id.
    """
    if _are_shared(continuations):
        return [_continuations(cast(Sequence[Tokens], continuations), "", vocabulary)]
    if len(continuations) != n_prefixes:
        raise DataError(
            f"got {len(continuations)} lists of continuations for {n_prefixes} prefixes, wanted one list per prefix, "
            "or one list of token ids for all"
        )
    sets = cast(Sequence[Sequence[Tokens]], continuations)
    return [_continuations(own, f" of prefix {index}", vocabulary) for index, own in enumerate(sets)]


def _are_shared(continuations: Sequence[Tokens] | Sequence[Sequence[Tokens]]) -> bool:
    """Whether this is one list of continuations for all; the first thing in it that is not empty tells."""
    first: object = next((item[0] for item in continuations if len(item)), 0)
    return isinstance(first, Real | str)


def _continuations(continuations: Sequence[Tokens], whose: str, vocabulary: int) -> list[list[int]]:
    if not len(continuations):
        raise DataError(f"got no continuations{whose}, wanted at least one")
    arrays = [as_ids(tokens, f"continuation {index}{whose}", vocabulary) for index, tokens in enumerate(continuations)]
    for index, array in enumerate(arrays):
        if not len(array):
            raise DataError(f"continuation {index}{whose} has no tokens, wanted at least one: leave it out")
    return [array.tolist() for array in arrays]
