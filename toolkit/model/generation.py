"""Batched generation in which every prompt draws from a random stream of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ..errors import DataError
from .choosing import Sampling, Sound, StopStrings, choosers
from .guarded import DoneDrafts, Draft, GuardedChoice
from .network import eval_mode, network_of
from .returned_text import TextReader
from .text_guard import TextGuard
from .token_loop import Batch, has_plain_steps, write

__all__ = ["Completion", "Sampling", "end_tokens", "generate", "window_of"]


@dataclass(frozen=True)
class Completion:
    """What a model wrote after one prompt."""

    ids: list[int]
    """Generated tokens, the end-of-sequence token included when the model emitted it."""
    text: str
    """Decoded without special tokens, cut before a stop string."""
    ended: bool
    """Whether it ended by itself (end-of-sequence token or stop string) rather than at the length limit."""
    refused: int = 0
    """Draws that the guard refused; 0 without a guard."""


def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seeds: Sequence[int] | None = None,
    batch_size: int = 32,
    stop: Sequence[str] = (),
    logits_processors: Sequence[LogitsProcessor] = (),
    guard: TextGuard | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Complete token prompts in batches of like length, with a key-value cache.

    A prompt's sample depends on its own seed alone, not on the batch size or its neighbours (up to rounding of the
    logits). Whatever adapter is active is used; train or eval mode is as before afterwards.

    Args:
        model: a causal language model in any precision, with or without adapters.
        tokenizer: decodes; its end-of-sequence token and those of the model's generation settings end a completion.
        prompts: token ids, special tokens included.
        sampling: how tokens are chosen.
        seeds: one per prompt; None draws them from torch's global generator.
        batch_size: prompts per batch.
        stop: strings that end a completion.
        logits_processors: applied before temperature and sampling.
        guard: objects to parts of texts, such as listed phrases; no text that is returned holds any of it, in whatever
            tokens it is spelled. A text judged so goes by itself: what a phrase has of its words in the prompt is not
            seen. A completion can end early where every token would be objected to.
        progress: called with (prompts done, prompts in all) after each batch.

    Returns:
        One completion per prompt, in the order given.

    Raises:
        DataError: when a prompt is empty or leaves no room for a completion, or there are not as many seeds as prompts.
        ModelError: the model gives logits that are not numbers.
    """
    network: PreTrainedModel = network_of(model)
    _check(prompts, seeds, sampling, window_of(network))
    if seeds is None:
        seeds = torch.randint(2**62, (len(prompts),)).tolist()
    ends = end_tokens(network, tokenizer)
    run = write if has_plain_steps(network) else _write_with_transformers
    padding = int(tokenizer.pad_token_id or 0)  # masked on the left, cut off on the right: its value is never read
    reader = TextReader(tokenizer, frozenset(ends), tuple(stop))
    drafts = [Draft(seed, sampling.max_new_tokens) for seed in seeds]
    todo = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    with eval_mode(network), torch.no_grad():
        while todo:
            rows, todo = todo[:batch_size], todo[batch_size:]
            batch = [drafts[row] for row in rows]
            begun = [[*prompts[row], *draft.ids] for row, draft in zip(rows, batch, strict=True)]
            steps, finished = _choice(sampling, batch, guard, reader, max(map(len, begun)))
            new_ids = run(
                network,
                Batch(
                    *_padded_left(begun, padding, network.device),
                    steps=sampling.max_new_tokens,
                    processors=[Sound(), *logits_processors, *steps],
                    finished=finished,
                    ends=sorted(ends),
                    padding=padding,
                ),
            )
            for row, draft, ids in zip(rows, batch, new_ids.tolist(), strict=True):
                if guard is None:
                    draft.ids = ids
                elif draft.is_stuck:
                    draft.rewind(guard, reader)
                    todo.append(row)
            if progress:
                progress(len(prompts) - len(todo), len(prompts))
    return [_completion(draft, reader) for draft in drafts]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Token ids that end a completion: the tokenizer's, and those of the model's generation settings."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None}


def window_of(model: PreTrainedModel) -> int | None:
    """Longest sequence the model's positions reach, in tokens; None where its configuration names none."""
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(window) if window else None


def _check(
    prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None, sampling: Sampling, window: int | None
) -> None:
    if seeds is not None and len(seeds) != len(prompts):
        raise DataError(f"got {len(seeds)} seeds for {len(prompts)} prompts, wanted one seed per prompt")
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise DataError(f"prompt {row} has no tokens, wanted at least one: drop it or begin it with a start token")
        if window is not None and len(prompt) + sampling.max_new_tokens > window:
            raise DataError(
                f"prompt {row} has {len(prompt)} tokens, which leaves {max(0, window - len(prompt))} of the model's "
                f"window of {window} for a completion of up to {sampling.max_new_tokens}: shorten or drop the prompt, "
                "or ask for fewer tokens"
            )


def _choice(
    sampling: Sampling, drafts: Sequence[Draft], guard: TextGuard | None, reader: TextReader, prompt_length: int
) -> tuple[list[LogitsProcessor], StoppingCriteria | None]:
    """How the tokens of a batch are chosen, and what ends its rows beside end tokens."""
    steps = list(choosers(sampling, [draft.own_seed for draft in drafts]))
    if guard is not None:
        return [GuardedChoice(guard, drafts, steps, reader)], DoneDrafts(drafts)
    return steps, StopStrings(reader.stop, reader.tokenizer, prompt_length) if reader.stop else None


def _padded_left(prompts: Sequence[Sequence[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as ids (B, T), and a mask (B, T) that is 1 at their tokens."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), padding)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _write_with_transformers(network: PreTrainedModel, batch: Batch) -> Tensor:
    """New tokens (B, N) of one batch, as `write` gives them; rows that ended early go on with padding."""
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=batch.steps,
        do_sample=False,  # the choice is made by our own processors
        use_cache=True,
        pad_token_id=batch.padding,
        eos_token_id=list(batch.ends) or None,
    )
    run: Any = network.generate
    with _settings_of_its_own(network, settings):
        output = run(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            logits_processor=LogitsProcessorList(batch.processors),
            stopping_criteria=StoppingCriteriaList([batch.finished] if batch.finished else []),
        )
    new_ids: Tensor = output[:, batch.ids.shape[1] :]
    return new_ids


def _completion(draft: Draft, reader: TextReader) -> Completion:
    """Cut a row of new tokens where it ended."""
    text, ended = reader.read(draft.ids)
    ids = draft.ids[: reader.up_to_end(draft.ids)]
    return Completion(ids[: reader.up_to_stop(ids)], text, ended, draft.refused)


@contextmanager
def _settings_of_its_own(network: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Set the model's own generation settings aside: transformers would fill gaps of ours from them."""
    shipped = network.generation_config
    network.generation_config = settings
    try:
        yield
    finally:
        network.generation_config = shipped
