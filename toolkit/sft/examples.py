"""Demonstrations become token ids with labels on the completion; pretraining text may be mixed in."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..model.sequences import sequence_ids
from ..ppo.prompts import tokenize_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
Row = Mapping[str, Any]


def completion_example(row: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, list[int]]:
    """Encode a demonstration; the loss counts what follows the prompt, the end token included.

    Args:
        row: `prompt` and `completion`, texts or chat messages.
        tokenizer: its special tokens and chat template apply.

    Returns:
        `input_ids` and `labels`, of one length.
    """
    ids = sequence_ids(row["prompt"], row["completion"], tokenizer)
    prompt = tokenize_prompts([{"prompt": row["prompt"]}], tokenizer, None)[0].ids
    # Where a token spans the border, it belongs to the completion: the model has to write it.
    start = next((index for index, (one, own) in enumerate(zip(prompt, ids, strict=False)) if one != own), len(prompt))
    return {"input_ids": ids, "labels": [IGNORED] * start + ids[start:]}


def mixed_texts(
    texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", *, rows: int, share: float, length: int, seed: int
) -> list[dict[str, list[int]]]:
    """Pretraining text to mix with demonstrations, so that so large a share of all rows is pretraining text.

    InstructGPT mixed 10% into the SFT that PPO starts from (Ouyang et al. 2022, appendix C.3).

    Args:
        texts: documents; they are drawn by lot, again from the start when they run out.
        tokenizer: of the model.
        rows: demonstrations that are mixed with.
        share: of all rows, demonstrations and texts together; below 1.
        length: longest row in tokens; longer documents give the piece that starts at a place drawn by lot.
        seed: decides the draws.

    Raises:
        DataError: there is no text of two tokens or more.
    """
    wanted = round(rows * share / (1 - share))
    encoded = [ids for text in texts if len(ids := _document(text, tokenizer)) > 1]
    if not encoded:
        raise DataError(
            f"got no text of two tokens or more among {len(texts)} documents to mix into SFT: give data.corpus, or set "
            "sft.ptx_share to 0"
        )
    rng = random.Random(f"sft mixture {seed}")
    drawn = [ids for _ in range(math.ceil(wanted / len(encoded))) for ids in rng.sample(encoded, len(encoded))]
    found = []
    for ids in drawn[:wanted]:
        start = rng.randrange(max(1, len(ids) - length + 1))
        piece = ids[start : start + length]
        found.append({"input_ids": piece, "labels": piece})
    return found


def _document(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    ids = [int(token) for token in tokenizer(text)["input_ids"]]
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, int(tokenizer.eos_token_id)]
