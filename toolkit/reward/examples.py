"""Rows become training examples: the tokens of a prompt's completions and the pairs or verdicts among them."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DataError
from ..model.sequences import sequence_ids
from .losses import ranked_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]
Example = dict[str, Any]
LossName = Literal["kwise", "pairwise", "pointwise"]
LEFT_OUT = {
    "too_long": "completions that are too long (reward.max_length, or the model's window)",
    "empty": "empty completions",
    "same_text": "pairs of equal texts",
    "ties": "pairs ranked equal",
    "nothing_to_learn": "rows without a single pair",
}
"""What is left out of training, by the name of its count."""


@dataclass(kw_only=True)
class Examples:
    """Examples for the trainer, with what was left out of them.

    Attributes:
        examples: one per batch element. `completions_ids` (K lists of tokens); `better`, `worse`, `margin`, `weight`
            (one entry per pair); `wins`, `losses` (one per completion); `row`, the number of the row it came from.
        counts: rows, pairs, and what was left out, by the names of `LEFT_OUT`.
    """

    examples: list[Example] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def left_out(self) -> str:
        """What was left out in words; empty when nothing was."""
        return ", ".join(f"{self.counts[name]} {words}" for name, words in LEFT_OUT.items() if self.counts[name])


@dataclass(frozen=True, kw_only=True)
class ExampleMaker:
    """Turns rows of comparisons, rankings and ratings into examples.

    Args:
        tokenizer: of the base model.
        max_length: longest prompt with completion in tokens; a longer completion is left out with its pairs.
        loss: `kwise`: all pairs of a prompt in one batch element, each completion encoded once; `pairwise`: every pair
            is a batch element of its own; `pointwise`: the better one of a pair is good, the other one bad.
        margin: lead that the better one is to have, per step of rank; a column `margin` of a comparison adds to it.
        rating_scale: ratings that mean bad and good.
    """

    tokenizer: "PreTrainedTokenizerBase"
    max_length: int
    loss: LossName = "kwise"
    margin: float = 0.0
    rating_scale: tuple[float, float] = (1.0, 7.0)

    def rankings(self, rows: Iterable[Row]) -> Examples:
        """Rows of `prompt`, `completions`, `ranks` (1 is best, equal ranks are a tie)."""
        made = Examples()
        for number, row in enumerate(rows):
            self._add_ranking(made, number, row, row["completions"], row["ranks"], row.get("margin"))
        return made

    def comparisons(self, rows: Iterable[Row]) -> Examples:
        """Rows of `prompt`, `chosen`, `rejected`, and perhaps `margin`: rankings of two."""
        made = Examples()
        for number, row in enumerate(rows):
            self._add_ranking(made, number, row, [row["chosen"], row["rejected"]], [1, 2], row.get("margin"))
        return made

    def ratings(self, rows: Iterable[Row]) -> Examples:
        """Rows of `prompt`, `completion`, `rating`.

        Each is judged by itself in every loss: (rating - bad) / (good - bad) is the target of the cross-entropy.

        Raises:
            DataError: a rating outside of the scale.
        """
        made = Examples()
        low, high = self.rating_scale
        for number, row in enumerate(rows):
            made.counts["rows"] += 1
            if not low <= row["rating"] <= high:
                raise DataError(
                    f"row {number} (counting from 0) of the ratings has the rating {row['rating']!r}, wanted {low:g} "
                    f"(bad) to {high:g} (good): mend the row, or set reward.rating_low and reward.rating_high"
                )
            ids = self._ids(made, row["prompt"], row["completion"])
            if ids is None:
                made.counts["nothing_to_learn"] += 1
                continue
            good = (row["rating"] - low) / (high - low)
            made.counts["rated"] += 1
            made.examples.append(_example(number, [ids], [], [], 0.0, [good], [1.0 - good]))
        return made

    def _add_ranking(
        self,
        made: Examples,
        number: int,
        row: Row,
        completions: Sequence[Any],
        ranks: Sequence[int],
        margin: float | None,
    ) -> None:
        made.counts["rows"] += 1
        encoded = [self._ids(made, row["prompt"], completion) for completion in completions]
        pairs = [pair for pair in ranked_pairs(ranks) if encoded[pair[0]] is not None and encoded[pair[1]] is not None]
        made.counts["ties"] += math.comb(len(ranks), 2) - len(ranked_pairs(ranks))
        differing = [(high, low) for high, low in pairs if encoded[high] != encoded[low]]
        made.counts["same_text"] += len(pairs) - len(differing)
        made.counts["pairs"] += len(differing)
        if not differing:
            made.counts["nothing_to_learn"] += 1
            return
        leads = [self.margin * (ranks[low] - ranks[high]) + (margin or 0.0) for high, low in differing]
        weight = 1 / math.comb(len(ranks), 2)
        if self.loss == "pairwise":
            for (high, low), lead in zip(differing, leads, strict=True):
                made.examples.append(_example(number, [encoded[high], encoded[low]], [(0, 1)], [lead], 1.0))
            return
        used = sorted({index for pair in differing for index in pair})
        place = {index: position for position, index in enumerate(used)}
        moved = [(place[high], place[low]) for high, low in differing]
        if self.loss == "kwise":
            made.examples.append(_example(number, [encoded[index] for index in used], moved, leads, weight))
            return
        # Cross-entropy of both sides of every pair, halved: the same as counting wins and losses of each completion.
        wins, losses = ([0.0] * len(used) for _ in range(2))
        for high, low in moved:
            wins[high] += weight / 2
            losses[low] += weight / 2
        made.examples.append(_example(number, [encoded[index] for index in used], moved, leads, 0.0, wins, losses))

    def fault(self, prompt: Any, completion: Any) -> str | None:
        """Why a completion is left out, as a name of `LEFT_OUT`; None when it is not."""
        found = self._encoded(prompt, completion)
        return found if isinstance(found, str) else None

    def fits(self, prompt: Any, completion: Any) -> bool:
        """Whether a completion is not empty and short enough with its prompt."""
        return self.fault(prompt, completion) is None

    def _encoded(self, prompt: Any, completion: Any) -> list[int] | str:
        """Token ids, or the reason to leave the completion out."""
        if _is_empty(completion):
            return "empty"
        ids = sequence_ids(prompt, completion, self.tokenizer)
        return "too_long" if len(ids) > self.max_length else ids

    def _ids(self, made: Examples, prompt: Any, completion: Any) -> list[int] | None:
        found = self._encoded(prompt, completion)
        if isinstance(found, str):
            made.counts[found] += 1
            return None
        return found


def _example(
    row: int,
    completions: Sequence[list[int] | None],
    pairs: Sequence[tuple[int, int]],
    margins: Sequence[float],
    weight: float,
    wins: Sequence[float] | None = None,
    losses: Sequence[float] | None = None,
) -> Example:
    zeros = [0.0] * len(completions)
    return {
        "completions_ids": list(completions),
        "better": [high for high, _ in pairs],
        "worse": [low for _, low in pairs],
        "margin": [float(margin) for margin in margins],
        "weight": [weight] * len(pairs),
        "wins": list(wins or zeros),
        "losses": list(losses or zeros),
        "row": row,
    }


def _is_empty(completion: Any) -> bool:
    if isinstance(completion, str):
        return not completion.strip()
    return not any(str(message["content"]).strip() for message in completion)
