"""The hidden states from which a policy wrote its completions, kept so that no pass has to compute them again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..model.generation import Completion

Generate = Callable[[list[int]], list[Completion]]


def write_and_keep_states(
    trunk: nn.Module, lengths: Sequence[int], batch_size: int, generate: Generate
) -> tuple[list[Completion], Tensor]:
    """Let a model write batch by batch and keep what its trunk computed at the last position of every step.

    Args:
        trunk: the transformer under the output embedding; every step of writing runs it once.
        lengths: prompt lengths in tokens, B of them.
        batch_size: prompts that write together; those of like length do.
        generate: completes the prompts of some rows, in the order given.

    Returns:
        completions in the order of the prompts, and the states (B, C, H) from which token t was written, zero where a
        completion has ended.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    completions: dict[int, Completion] = {}
    states: dict[int, Tensor] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        with _listening(trunk) as heard:
            written = generate(rows)
        steps = torch.stack(heard, dim=1)
        for place, (row, completion) in enumerate(zip(rows, written, strict=True)):
            completions[row], states[row] = completion, steps[place, : len(completion.ids)]
    every = range(len(lengths))
    padded = nn.utils.rnn.pad_sequence([states[row] for row in every], batch_first=True)
    return [completions[row] for row in every], padded


@contextmanager
def _listening(trunk: nn.Module) -> Iterator[list[Tensor]]:
    """The last position's state (B, H) of each forward inside."""
    heard: list[Tensor] = []

    def hear(module: nn.Module, given: Any, output: Any) -> None:
        heard.append(output.last_hidden_state[:, -1])

    handle = trunk.register_forward_hook(hear)
    try:
        yield heard
    finally:
        handle.remove()
