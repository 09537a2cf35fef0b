"""Lay out many continuations of one prefix so that one forward pass scores them all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
PREFIX_END = -1


@dataclass(frozen=True, eq=False)
class Pack:
    """Tokens to feed after a prefix, and what to read from the outputs.

    The last token of a continuation predicts nothing, so it is read but not fed. A *step* is one distinct prediction:
    the token that predicts and the token that is predicted. A *part* is one token of one continuation; several
    continuations have a step in common where they begin alike.
    """

    tokens: Ints
    """(rows, width), what is fed; rows shorter than the width end in zeros."""
    depth: Ints
    """(width,), how many tokens of its continuation come before each token."""
    is_seen: Bools | None
    """(width, width), whether the token of the row attends to that of the column; None for plain causal rows."""
    source: Ints
    """(steps,), flat index into `tokens` of the token that predicts, or PREFIX_END."""
    target: Ints
    """(steps,), the token predicted."""
    step: Ints
    """(parts,), the step of each part."""
    owner: Ints
    """(parts,), the continuation of each part, as an index into the list that was packed."""

    def totals(self, log_likelihoods: NDArray[np.float64], n_continuations: int) -> NDArray[np.float64]:
        """Sum the log-likelihoods (steps,) of the steps over each continuation; 0 for those of other packs."""
        summed = np.zeros(n_continuations)
        np.add.at(summed, self.owner, log_likelihoods[self.step])
        return summed


class _Tree:
    """Continuations as paths in one tree: what several have in common at their start stands in it once."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], int] = {}  # (parent node, token) -> node
        self._steps: dict[tuple[int, int], int] = {}
        self._depth: list[int] = []
        self._parts: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, owner: int, tokens: Sequence[int]) -> None:
        node = PREFIX_END
        for depth, token in enumerate(tokens):
            edge = (node, token)
            self._parts.append((self._steps.setdefault(edge, len(self._steps)), owner))
            if depth + 1 < len(tokens):
                if edge not in self._nodes:
                    self._nodes[edge] = len(self._nodes)
                    self._depth.append(depth)
                node = self._nodes[edge]

    def pack(self) -> Pack:
        is_seen = np.zeros((len(self), len(self)), dtype=np.bool_)
        for (parent, _), node in self._nodes.items():
            if parent != PREFIX_END:
                is_seen[node] = is_seen[parent]
            is_seen[node, node] = True
        return Pack(
            tokens=np.array([[token for _, token in self._nodes]], dtype=np.int64),
            depth=np.array(self._depth, dtype=np.int64),
            is_seen=is_seen,
            source=np.array([node for node, _ in self._steps], dtype=np.int64),
            target=np.array([token for _, token in self._steps], dtype=np.int64),
            step=np.array([step for step, _ in self._parts], dtype=np.int64),
            owner=np.array([owner for _, owner in self._parts], dtype=np.int64),
        )


def behind(prefix: Ints, pack: Pack) -> Pack:
    """One row in which a pack stands behind tokens that it sees: of the prefix, or the end of it."""
    n, is_seen = len(prefix), np.tri(len(prefix) + pack.tokens.size, dtype=np.bool_)
    is_seen[n:, n:] = pack.is_seen
    return Pack(
        tokens=np.concatenate([prefix[None], pack.tokens], axis=1),
        depth=np.concatenate([np.arange(n), n + pack.depth]),
        is_seen=is_seen,
        source=np.where(pack.source == PREFIX_END, n - 1, n + pack.source),
        target=pack.target,
        step=pack.step,
        owner=pack.owner,
    )


def n_alike(last: Ints, prefix: Ints) -> int:
    """How many tokens a prefix need not be read for, because another that was read just before begins with them.

    Its last token is read in any case. So is all of it where less than 1/32 is known: attention over a whole
    prefix needs no mask, and skips what no token sees.
    """
    n = min(len(last), len(prefix) - 1)
    differ = np.flatnonzero(last[:n] != prefix[:n])
    known = int(differ[0]) if len(differ) else n
    return known if known >= len(prefix) / 32 else 0


def pack_in_one_row(continuations: Sequence[Sequence[int]], max_tokens: int) -> list[Pack]:
    """Pack continuations side by side in one row, each token seeing only its own continuation before it.

    Continuations that begin with the same tokens share them: a token sees its ancestors in the tree of all
    continuations, so shared tokens are computed once and the numbers stay those of separate passes.

    Args:
        continuations: at least one token each.
        max_tokens: about how many tokens one row may hold. A row is closed when it reaches this number; the packs come
            out about equal in size. One continuation is never divided.

    Returns:
        packs of one row each that together hold all continuations.
    """
    # In lexical order, continuations with the same start fall into the same pack.
    order = sorted(range(len(continuations)), key=lambda index: tuple(continuations[index]))
    whole = _Tree()
    for index in order:
        whole.add(index, continuations[index])
    if len(whole) <= max_tokens:
        return [whole.pack()]
    enough = math.ceil(len(whole) / math.ceil(len(whole) / max_tokens))
    packs, tree = list[Pack](), _Tree()
    for place, index in enumerate(order):
        tree.add(index, continuations[index])
        if len(tree) >= enough or place + 1 == len(order):
            packs.append(tree.pack())
            tree = _Tree()
    return packs


def pack_in_rows(continuations: Sequence[Sequence[int]], max_rows: int) -> list[Pack]:
    """Pack continuations one to a row, as plain causal rows that need no mask.

    Args:
        continuations: at least one token each.
        max_rows: how many rows a pack may hold.

    Returns:
        packs that together hold all continuations, the longest first.
    """
    order = sorted(range(len(continuations)), key=lambda index: -len(continuations[index]))
    return [_rows(continuations, order[at : at + max_rows]) for at in range(0, len(order), max_rows)]


def _rows(continuations: Sequence[Sequence[int]], owners: Sequence[int]) -> Pack:
    width = max(len(continuations[owner]) for owner in owners) - 1
    tokens = np.zeros((len(owners), width), dtype=np.int64)
    source, target, owner_of = list[int](), list[int](), list[int]()
    for row, owner in enumerate(owners):
        fed = continuations[owner][:-1]
        tokens[row, : len(fed)] = fed
        source += [PREFIX_END, *range(row * width, row * width + len(fed))]
        target += continuations[owner]
        owner_of += [owner] * len(continuations[owner])
    return Pack(
        tokens=tokens,
        depth=np.arange(width),
        is_seen=None,
        source=np.array(source, dtype=np.int64),
        target=np.array(target, dtype=np.int64),
        step=np.arange(len(source)),
        owner=np.array(owner_of, dtype=np.int64),
    )


def window_starts(n_tokens: int, size: int, stride: int) -> list[int]:
    """Where the windows over `n_tokens` tokens begin.

    Args:
        n_tokens: length of the text, in tokens.
        size: length of a window, at least 1.
        stride: tokens from one window to the next; a stride above the size is taken as the size, so that no token is
            left out.

    Returns:
        [0] if all fits in one window; else starts of full windows, of which the last ends where the text ends.
    """
    last = max(0, n_tokens - size)
    return [*range(0, last, min(stride, size)), last]
