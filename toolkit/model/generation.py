"""Batched generation in which every prompt draws from a random stream of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import DataError, ModelError, SettingsError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen."""

    max_new_tokens: int = 64
    """Longest completion in tokens."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token always."""
    top_p: float = 1.0
    """Keeps the likeliest tokens that together have this probability; 1 keeps all."""
    top_k: int = 0
    """Keeps this many of the likeliest tokens; 0 keeps all."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, all at once."""
        faults = []
        if self.max_new_tokens < 1:
            faults.append(f"max_new_tokens: got {self.max_new_tokens}, wanted at least 1")
        if self.temperature < 0:
            faults.append(f"temperature: got {self.temperature}, wanted 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            faults.append(f"top_p: got {self.top_p}, wanted more than 0 and at most 1")
        if self.top_k < 0:
            faults.append(f"top_k: got {self.top_k}, wanted 0 (off) or more")
        if faults:
            raise SettingsError(faults, "the sampling settings")


@dataclass(frozen=True)
class Completion:
    """What a model wrote after one prompt."""

    ids: list[int]
    """Generated tokens, the end-of-sequence token included when the model emitted it."""
    text: str
    """Decoded without special tokens, cut before a stop string."""
    ended: bool
    """Whether it ended by itself (end-of-sequence token or stop string) rather than at the length limit."""


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
        progress: called with (prompts done, prompts in all) after each batch.

    Returns:
        One completion per prompt, in the order given.

    Raises:
        DataError: when a prompt is empty or leaves no room for a completion, or there are not as many seeds as prompts.
        ModelError: the model gives logits that are not numbers.
    """
    network = model.get_base_model() if isinstance(model, PeftModel) else model
    _check(prompts, seeds, sampling, window_of(network))
    if seeds is None:
        seeds = torch.randint(2**62, (len(prompts),)).tolist()
    ends = end_tokens(network, tokenizer)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,  # the choice is made by our own processors
        use_cache=True,
        pad_token_id=_padding(tokenizer),
        eos_token_id=sorted(ends) or None,
    )
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    done: dict[int, Completion] = {}
    with _eval_mode(network), _settings_of_its_own(network, settings), torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            processors = LogitsProcessorList(
                [_Sound(), *logits_processors, *_choosers(sampling, [seeds[row] for row in rows])]
            )
            new_ids = _run(network, tokenizer, [prompts[row] for row in rows], processors, stop)
            for row, ids in zip(rows, new_ids.tolist(), strict=True):
                done[row] = _completion(ids, tokenizer, ends, stop)
            if progress:
                progress(len(done), len(prompts))
    return [done[row] for row in range(len(prompts))]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Token ids that end a completion: the tokenizer's, and those of the model's generation settings."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None}


def window_of(model: PreTrainedModel) -> int | None:
    """Longest sequence the model's positions reach, in tokens; None where its configuration names none."""
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(window) if window else None


class _Sound(LogitsProcessor):
    """Stops at logits that are not numbers: the argmax of NaN is a token like any other, and would pass for speech."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Pass the logits (B, V) on as they are."""
        if not torch.isfinite(scores.amax()):  # NaN and +inf come through a maximum; -inf forbids a token, as it may
            raise ModelError(
                "the model gave logits that are not numbers while it wrote: is it damaged, or has its training "
                "diverged? A model in float16 may overflow: load it in bfloat16 or float32"
            )
        return scores


class _GumbelMax(LogitsProcessor):
    """Sample by the Gumbel-max trick: the argmax of logit + Gumbel noise is a draw from the softmax.

    Each row has its own generator, which is what makes a sample independent of the batch (Maddison et al. 2014,
    https://arxiv.org/abs/1411.0030).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.generators: list[torch.Generator] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Add noise to the scores (B, V)."""
        if not self.generators:
            self.generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self.seeds]
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        # -log of an exponential variable is Gumbel distributed
        noisy: torch.FloatTensor = scores.float() - noise.log()  # type: ignore[assignment]
        return noisy


class _StopStrings(StoppingCriteria):
    """Ends a row once one of the strings is in what it generated."""

    def __init__(self, strings: Sequence[str], tokenizer: PreTrainedTokenizerBase, prompt_length: int) -> None:
        self.strings = strings
        self.tokenizer = tokenizer
        self.prompt_length = prompt_length
        # a token brings at least one byte, and a character has at most four: enough of the end to see a stop string
        self.tail = max(len(string.encode()) for string in strings) + 4

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        """Tell for each row of (B, T) whether it is finished."""
        recent = input_ids[:, max(self.prompt_length, input_ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(recent, skip_special_tokens=True)
        hits = [any(string in text for string in self.strings) for text in texts]
        return torch.tensor(hits, device=input_ids.device)  # type: ignore[return-value]


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


def _choosers(sampling: Sampling, seeds: Sequence[int]) -> Iterator[LogitsProcessor]:
    if sampling.temperature == 0:
        return
    if sampling.temperature != 1:
        yield TemperatureLogitsWarper(sampling.temperature)
    if sampling.top_k:
        yield TopKLogitsWarper(sampling.top_k)
    if sampling.top_p < 1:
        yield TopPLogitsWarper(sampling.top_p)
    yield _GumbelMax(seeds)


def _run(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    processors: LogitsProcessorList,
    stop: Sequence[str],
) -> Tensor:
    """New tokens (B, N) of one batch; rows that ended early go on with padding."""
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), _padding(tokenizer))
    attention_mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, longest - len(prompt) :] = 1
    run: Any = network.generate
    output = run(
        input_ids=input_ids.to(network.device),
        attention_mask=attention_mask.to(network.device),
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([_StopStrings(stop, tokenizer, longest)] if stop else []),
    )
    new_ids: Tensor = output[:, longest:]
    return new_ids


def _completion(ids: list[int], tokenizer: PreTrainedTokenizerBase, ends: set[int], stop: Sequence[str]) -> Completion:
    """Cut a row of new tokens where it ended."""
    length = next((position + 1 for position, token in enumerate(ids) if token in ends), len(ids))
    has_end_token = length > 0 and ids[length - 1] in ends
    ids = ids[:length]
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    found = [text.index(string) for string in stop if string in text]
    if not found:
        return Completion(ids, text, has_end_token)
    return Completion(_up_to_stop(ids, tokenizer, stop), text[: min(found)], True)


def _up_to_stop(ids: list[int], tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> list[int]:
    """The shortest run of tokens whose text holds a stop string: what comes after it is padding."""
    for length in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:length], skip_special_tokens=True)
        if any(string in text for string in stop):
            return ids[:length]
    return ids


def _padding(tokenizer: PreTrainedTokenizerBase) -> int:
    # masked on the left, cut off on the right: its value is never read
    return int(tokenizer.pad_token_id or 0)


@contextmanager
def _settings_of_its_own(network: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Set the model's own generation settings aside: transformers would fill gaps of ours from them."""
    shipped = network.generation_config
    network.generation_config = settings
    try:
        yield
    finally:
        network.generation_config = shipped


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is in the mode it was in."""
    was_training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True
