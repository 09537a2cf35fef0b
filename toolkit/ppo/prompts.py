"""Prompts of text or chat messages, turned into tokens for PPO."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import DataError


@dataclass(frozen=True)
class Prompt:
    """One prompt with what came beside it."""

    shown: str | list[dict[str, Any]]
    """The prompt as it stood in the row."""
    ids: list[int]
    """Its tokens, special tokens and the opening of the answer included."""
    columns: dict[str, Any]
    """The row's other columns, for reward functions."""


def tokenize_prompts(
    rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, longest: int | None
) -> list[Prompt]:
    """Tokenise the `prompt` column of rows; chat messages go through the tokenizer's chat template.

    Args:
        rows: mappings with `prompt`: text, or a list of messages with `role` and `content`.
        tokenizer: the policy's.
        longest: tokens a prompt may have, so that a completion fits behind it; None for no limit.

    Raises:
        DataError: when there are no rows, a prompt is missing, empty or of another type, or prompts are too long.
    """
    prompts = [_prompt(index, row, tokenizer) for index, row in enumerate(rows)]
    if not prompts:
        raise DataError("got no prompts, wanted at least one row with a `prompt` column")
    too_long = [index for index, prompt in enumerate(prompts) if longest is not None and len(prompt.ids) > longest]
    if too_long:
        first = too_long[0]
        raise DataError(
            f"{len(too_long)} of {len(prompts)} prompts leave no room for a completion; the first, row {first}, has "
            f"{len(prompts[first].ids)} tokens where {longest} fit: drop or shorten them, or lower response_length"
        )
    return prompts


def _prompt(index: int, row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Prompt:
    if "prompt" not in row:
        raise DataError(f"row {index} has the columns {sorted(row)}, wanted `prompt`: rename or add it")
    shown = row["prompt"]
    if isinstance(shown, str):
        ids = tokenizer(shown)["input_ids"]
        if ids and ids[-1] == tokenizer.eos_token_id and not shown.endswith(str(tokenizer.eos_token)):
            ids = ids[:-1]  # some tokenizers close every text, but a prompt is open
    elif isinstance(shown, list) and shown and all(isinstance(message, Mapping) for message in shown):
        if not tokenizer.chat_template:
            raise DataError(
                f"row {index} has chat messages, but the tokenizer has no chat template: set one, or use text"
            )
        ids = tokenizer.apply_chat_template(shown, add_generation_prompt=True, tokenize=True, return_dict=False)
    else:
        raise DataError(f"row {index} has a prompt of type {type(shown).__name__}, wanted text or a list of messages")
    if not ids:
        raise DataError(f"row {index} has a prompt without tokens, wanted at least one: drop the row")
    return Prompt(shown, [int(token) for token in ids], {key: row[key] for key in row if key != "prompt"})
