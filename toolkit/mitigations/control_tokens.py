"""Safety control tokens: a model that says of its own text whether it is safe, and may think about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAFE, UNSAFE, THINK, END_THINK = "<|safe|>", "<|unsafe|>", "<|think|>", "<|/think|>"
LITERALS = (SAFE, UNSAFE, THINK, END_THINK)
Text = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ControlTokens:
    """Ids of the four tokens."""

    safe: int
    unsafe: int
    think: int
    end_think: int

    @property
    def ids(self) -> tuple[int, int, int, int]:
        """All four."""
        return (self.safe, self.unsafe, self.think, self.end_think)


def add_control_tokens(tokenizer: "PreTrainedTokenizerBase") -> ControlTokens:
    """Add the four tokens to a tokenizer; `loading.load_base` then makes room for them in the model.

    Raises:
        ModelError: some of them are there already: they may mean something else to this model.
    """
    there = [literal for literal in LITERALS if literal in tokenizer.get_vocab()]
    if there:
        raise ModelError(
            f"the tokenizer has {', '.join(there)} already, wanted none of the control tokens {', '.join(LITERALS)}: "
            "if this model was trained with them use base.control_tokens=false, else rename them in its tokenizer"
        )
    tokenizer.add_special_tokens({"additional_special_tokens": list(LITERALS)}, replace_extra_special_tokens=False)
    return control_tokens(tokenizer)


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> ControlTokens:
    """Find the four tokens.

    Raises:
        ModelError: one is missing, or is more than one token.
    """
    vocabulary = tokenizer.get_vocab()
    if missing := [literal for literal in LITERALS if literal not in vocabulary]:
        raise ModelError(
            f"the tokenizer lacks the control tokens {', '.join(missing)}, wanted all four: set "
            "base.control_tokens=true, and train with mitigations.control.strength above 0"
        )
    return ControlTokens(*(vocabulary[literal] for literal in LITERALS))


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: Text) -> list[int]:
    """Token ids of a prompt, control tokens in it included."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    turns = [dict(turn) for turn in prompt]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_user(tokenizer: "PreTrainedTokenizerBase", prompt: Text) -> list[int]:
    """Token ids of a prompt in which no control token can be: a user who writes <|safe|> gets its letters.

    Everything else is encoded as ever, the special tokens of a chat template included.

    Raises:
        ModelError: the tokenizer cannot spell a control token in letters.
    """
    return without_control(tokenizer, encode_prompt(tokenizer, prompt))


def without_control(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[int]:
    """The same ids with every control token spelled out in letters."""
    control = {id_: literal for literal, id_ in zip(LITERALS, control_tokens(tokenizer).ids, strict=True)}
    spelled = [part for id_ in ids for part in (_letters(tokenizer, control[id_]) if id_ in control else [id_])]
    if control.keys() & set(spelled):
        raise ModelError("the tokenizer cannot spell <|safe|> without its control token, wanted one that can")
    return spelled


def trainable_rows(model: "PreTrainedModel", ids: Sequence[int]) -> list[int] | dict[str, list[int]]:
    """What LoRA's `trainable_token_indices` must be for these rows alone to be trained, input and output alike.

    A tied output layer follows the input by itself; one of its own is named too.
    """
    if model.config.get_text_config().tie_word_embeddings:
        return list(ids)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
    names = [name for name, module in model.named_modules() if any(module is layer for layer in layers)]
    return {name.rpartition(".")[2]: list(ids) for name in names}


def _letters(tokenizer: "PreTrainedTokenizerBase", literal: str) -> list[int]:
    ids: list[int] = tokenizer(literal, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    tokenizer(literal, add_special_tokens=False, split_special_tokens=False)  # the flag stays set otherwise
    return ids
