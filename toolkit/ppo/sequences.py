"""Prompts with completions as padded tensors, and what a model computes over their tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..model.generation import Completion
from ..model.roles import RoleStack
from .math import entropy
from .prompts import Prompt

CHUNK = 1024
"""Tokens whose logits are held at once: 1024 of them at a vocabulary of 128,000 take 0.5 GB."""


@dataclass(frozen=True)
class Sequences:
    """B prompts with their completions, padded on the right; T tokens at most in all, C in a completion."""

    input_ids: Tensor
    """(B, T) prompt and completion."""
    attention_mask: Tensor
    """(B, T), 1 at real tokens."""
    tokens: Tensor
    """(B, C) the completion."""
    is_completion: Tensor
    """(B, C) True at its real tokens."""
    state_index: Tensor
    """(B, C) where in T the model stands before it writes token t: prompt length - 1 + t."""

    def __len__(self) -> int:
        """B."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device) -> "Sequences":
        """The same on another device."""
        return Sequences(*(getattr(self, field.name).to(device) for field in fields(self)))

    def take(self, rows: Tensor) -> "Sequences":
        """Some rows, without the padding that none of them needs."""
        longest = int(self.attention_mask[rows].sum(1).max())
        completion = int(self.is_completion[rows].sum(1).max())
        widths = {"input_ids": longest, "attention_mask": longest}
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Sequences(**{name: part[rows, : widths.get(name, completion)] for name, part in parts.items()})


@dataclass(frozen=True)
class Experience:
    """What an update learns from; all tensors but `sequences` are (B, C) and zero at padding."""

    sequences: Sequences
    logp: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def take(self, rows: Tensor) -> "Experience":
        """Some rows, without the padding that none of them needs."""
        sequences = self.sequences.take(rows)
        width = sequences.tokens.shape[1]
        parts = (self.logp, self.values, self.advantages, self.returns)
        return Experience(sequences, *(part[rows, :width] for part in parts))


def join(prompts: Sequence[Prompt], completions: Sequence[Completion], padding: int, device: torch.device) -> Sequences:
    """Put prompts and completions into tensors."""
    rows = [[*prompt.ids, *completion.ids] for prompt, completion in zip(prompts, completions, strict=True)]
    starts = torch.tensor([len(prompt.ids) for prompt in prompts])
    lengths = torch.tensor([len(completion.ids) for completion in completions])
    steps = torch.arange(int(lengths.max()))
    is_completion = steps < lengths[:, None]
    # padding looks at the last state there is, which keeps the index in range
    state_index = starts[:, None] - 1 + torch.minimum(steps, lengths[:, None] - 1)
    sequences = Sequences(
        _padded(rows, padding),
        (torch.arange(max(map(len, rows))) < (starts + lengths)[:, None]).long(),
        _padded([completion.ids for completion in completions], padding),
        is_completion,
        state_index,
    )
    return sequences.to(device)


def every_token(input_ids: Tensor, attention_mask: Tensor) -> Sequences:
    """Texts (B, T) in which every token but the first is to be predicted, as ptx does."""
    steps = torch.arange(input_ids.shape[1] - 1, device=input_ids.device)
    is_predicted = attention_mask[:, 1:].bool()
    return Sequences(input_ids, attention_mask, input_ids[:, 1:], is_predicted, steps.expand_as(is_predicted))


def states_before_tokens(stack: RoleStack, sequences: Sequences) -> Tensor:
    """Hidden states (B, C, H) from which the active adapter writes, or values, each completion token."""
    hidden = stack.hidden(sequences.input_ids, sequences.attention_mask)
    index = sequences.state_index[:, :, None].expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, index)


def token_log_probabilities(stack: RoleStack, states: Tensor, sequences: Sequences, temperature: float) -> Tensor:
    """Log-probability of each completion token under the active role, (B, C), zero at padding.

    Logits are made for completion tokens alone, in chunks, in float32; with gradients, the chunks are made again in
    the backward instead of being kept.

    Args:
        stack: the model.
        states: (B, C, H) from `states_before_tokens`.
        sequences: the B rows.
        temperature: divides the logits.
    """
    is_completion = sequences.is_completion
    chosen, flat = sequences.tokens[is_completion], states[is_completion]

    def chunk(part: Tensor, tokens: Tensor) -> Tensor:
        return _of_tokens(_logits(stack, part, temperature), tokens)

    pairs = zip(torch.split(flat, CHUNK), torch.split(chosen, CHUNK), strict=True)
    if torch.is_grad_enabled() and len(flat) > CHUNK:
        return _spread([checkpoint(chunk, *pair, use_reentrant=False) for pair in pairs], is_completion)
    return _spread([chunk(*pair) for pair in pairs], is_completion)


@torch.no_grad()
def log_probabilities_and_entropies(
    stack: RoleStack, states: Tensor, sequences: Sequences, temperature: float
) -> tuple[Tensor, Tensor]:
    """What `token_log_probabilities` gives, and the entropies in nats (B, C) from the same logits; no gradients."""
    is_completion = sequences.is_completion
    pairs = zip(
        torch.split(states[is_completion], CHUNK), torch.split(sequences.tokens[is_completion], CHUNK), strict=True
    )
    logp, entropies = [], []
    for part, tokens in pairs:
        logits = _logits(stack, part, temperature)
        logp.append(_of_tokens(logits, tokens))
        entropies.append(entropy(logits))
    return _spread(logp, is_completion), _spread(entropies, is_completion)


def in_batches(
    sequences: Sequences, batch_size: int, compute: Callable[[Sequences], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Run a pass over batches of rows of like length and put the results back in order, padded with zeros.

    Args:
        sequences: B rows.
        batch_size: rows per batch.
        compute: gives tensors of shape (b,) or (b, c) for b rows.

    Returns:
        Tensors (B,) or (B, C).
    """
    order = sequences.attention_mask.sum(1).argsort(stable=True)
    parts = [(rows, compute(sequences.take(rows))) for rows in torch.split(order, batch_size)]
    results = []
    for number, example in enumerate(parts[0][1]):
        shape = sequences.tokens.shape[: example.dim()]
        whole = torch.zeros(shape, dtype=example.dtype, device=example.device)
        for rows, part in parts:
            if example.dim() == 1:
                whole[rows] = part[number]
            else:
                whole[rows, : part[number].shape[1]] = part[number]
        results.append(whole)
    return tuple(results)


def _logits(stack: RoleStack, states: Tensor, temperature: float) -> Tensor:
    logits = stack.logits(states).float()
    return logits if temperature == 1.0 else logits / temperature


def _of_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    # the chosen logit less log Z: a softmax over the vocabulary would be one more tensor of that size
    return logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(-1)


def _padded(rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    result = torch.full((len(rows), max(map(len, rows))), padding)
    for row, ids in enumerate(rows):
        result[row, : len(ids)] = torch.tensor(ids)
    return result


def _spread(parts: Sequence[Tensor], is_completion: Tensor) -> Tensor:
    values = torch.cat(list(parts))
    result = torch.zeros(is_completion.shape, dtype=values.dtype, device=values.device)
    result[is_completion] = values
    return result
