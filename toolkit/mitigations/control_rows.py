"""Training rows for safety control tokens, made from scored completions."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..model.sequences import sequence_ids
from ..model.tokens import encode_plain
from .control_tokens import Text, control_tokens, encode_prompt, encode_user, without_control

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A completion with what is known of it."""

    prompt: Text
    completion: Text
    is_unsafe: bool
    rationale: str = ""
    """Why, in a sentence; rows that have one teach the model to think."""


@dataclass(frozen=True)
class ControlRow:
    """One training sequence; labels are -100 where the loss does not count."""

    input_ids: list[int]
    labels: list[int]


class ControlRows:
    """Turn scored completions into sequences that teach to write safe text and to tell it from unsafe text.

    1. Conditional training (Korbak et al. 2023, https://arxiv.org/abs/2302.08582): prompt, `<|safe|>` or `<|unsafe|>`,
       completion. With `unsafe="refusal"` an unsafe completion is replaced by the refusal. A small share goes without
       the token, so that the model can still be used without it.
    2. Insertions: prompt, `<|safe|>`, the first k x `every` tokens of a completion, then the verdict on them; only the
       verdict is learned. The token before is always `<|safe|>`, as it is when the gate asks: it has let the text
       pass so far.
    3. Thoughts, for rows with a rationale: prompt, `<|safe|>`, a beginning, `<|unsafe|><|think|>` rationale
       `<|/think|>`, verdict. Of safe rows this teaches to take a false alarm back, of unsafe rows to stay with it.

    Args:
        tokenizer: with control tokens.
        every: tokens between two verdicts; give the gate the same.
        unsafe: what follows `<|unsafe|>` in conditional rows: the text itself, or the refusal.
        refusal: what is said instead of unsafe text.
        dropped: share of conditional rows without the token.
        is_prefix_unsafe: judges a beginning; None: a beginning of unsafe text counts as unsafe.
        seed: decides lengths and which tokens are dropped.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        every: int = 16,
        unsafe: Literal["text", "refusal"] = "text",
        refusal: str = " I would rather not say that.",
        dropped: float = 0.05,
        is_prefix_unsafe: Callable[[str], bool] | None = None,
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.tokens = tokenizer, control_tokens(tokenizer)
        self.every, self.unsafe, self.refusal, self.dropped = every, unsafe, refusal, dropped
        self.is_prefix_unsafe = is_prefix_unsafe
        self.rng = random.Random(f"control rows {seed}")

    def make(self, scored: Iterable[Scored]) -> list[ControlRow]:
        """All rows of all completions, in their order."""
        rows: list[ControlRow] = []
        for one in scored:
            prompt = encode_user(self.tokenizer, one.prompt)
            completion = completion_ids(self.tokenizer, one.prompt, one.completion)
            rows.append(self._conditional(prompt, completion, one))
            beginning, is_unsafe = self._beginning(completion, one)
            verdict = self._verdict(is_unsafe)
            rows.append(_row([*prompt, self.tokens.safe, *beginning], [verdict]))
            if one.rationale:
                thought = encode_plain(self.tokenizer, one.rationale)
                asked = [*prompt, self.tokens.safe, *beginning, self.tokens.unsafe, self.tokens.think]
                rows.append(_row(asked, [*thought, self.tokens.end_think, verdict]))
        return rows

    def _conditional(self, prompt: list[int], completion: list[int], one: Scored) -> ControlRow:
        if one.is_unsafe and self.unsafe == "refusal":
            completion = [*encode_plain(self.tokenizer, self.refusal), int(self.tokenizer.eos_token_id or 0)]
        is_dropped = self.rng.random() < self.dropped and not one.is_unsafe  # never teach unsafe text as the default
        token = [] if is_dropped else [self._verdict(one.is_unsafe)]
        return _row(prompt, [*token, *completion])

    def _beginning(self, completion: list[int], one: Scored) -> tuple[list[int], bool]:
        """A beginning of a completion that ends where the gate asks, and whether it is unsafe."""
        text_length = len(completion) - (completion[-1:] == [self.tokenizer.eos_token_id])
        length = self.rng.choice(sorted({0, *range(self.every, text_length, self.every), text_length}))
        if self.is_prefix_unsafe is None:
            return completion[:length], one.is_unsafe
        text = str(self.tokenizer.decode(completion[:length], skip_special_tokens=True))
        return completion[:length], bool(text.strip()) and self.is_prefix_unsafe(text)

    def _verdict(self, is_unsafe: bool) -> int:
        return self.tokens.unsafe if is_unsafe else self.tokens.safe


def completion_ids(tokenizer: "PreTrainedTokenizerBase", prompt: Text, completion: Text) -> list[int]:
    """Token ids of a completion as it stands behind its prompt, end token included, control tokens spelled out."""
    whole = sequence_ids(prompt, completion, tokenizer)
    return without_control(tokenizer, whole[len(encode_prompt(tokenizer, prompt)) :])


def _row(given: Sequence[int], learned: Sequence[int]) -> ControlRow:
    return ControlRow([*given, *learned], [*([IGNORED] * len(given)), *learned])
