"""How the next token is drawn, and when the rows of a batch are finished."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import ModelError, SettingsError


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


def choosers(sampling: Sampling, seeds: Sequence[int]) -> Iterator[LogitsProcessor]:
    """The steps after which the highest score is the token drawn, each row by its own seed."""
    if sampling.temperature == 0:
        return
    if sampling.temperature != 1:
        yield TemperatureLogitsWarper(sampling.temperature)
    if sampling.top_k:
        yield TopKLogitsWarper(sampling.top_k)
    if sampling.top_p < 1:
        yield TopPLogitsWarper(sampling.top_p)
    yield GumbelMax(seeds)


class Sound(LogitsProcessor):
    """Stops at logits that are not numbers: the argmax of NaN is a token like any other, and would pass for speech."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Pass the logits (B, V) on as they are."""
        if not torch.isfinite(scores.amax()):  # NaN and +inf come through a maximum; -inf forbids a token, as it may
            raise ModelError(
                "the model gave logits that are not numbers while it wrote: is it damaged, or has its training "
                "diverged? A model in float16 may overflow: load it in bfloat16 or float32"
            )
        return scores


class GumbelMax(LogitsProcessor):
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
        # -log of an exponential variable is Gumbel distributed
        noisy: torch.FloatTensor = scores.float() - self._exponential(scores).log()  # type: ignore[assignment]
        return noisy

    def _exponential(self, like: Tensor) -> Tensor:
        """Exponential variables in float32, a row from each generator."""
        if like.device.type != "cpu":
            noise = torch.empty_like(like, dtype=torch.float32)
            for row, generator in zip(noise, self.generators, strict=True):
                row.exponential_(generator=generator)
            return noise
        # the numbers of exponential_, which takes logarithms one by one on a CPU: nearly twice as fast in one pass
        uniform = torch.empty_like(like, dtype=torch.float64)
        for row, generator in zip(uniform, self.generators, strict=True):
            row.uniform_(generator=generator)
        return uniform.neg_().log1p_().neg_().float()


class StopStrings(StoppingCriteria):
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
