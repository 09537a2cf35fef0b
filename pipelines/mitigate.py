"""Harm mitigations of a recipe, made ready for a stage's trainer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.data.row_shapes import require_columns
from ..toolkit.data.rows import read_rows
from ..toolkit.errors import DataError
from ..toolkit.mitigations.settings import MitigationSettings, StageName
from ..toolkit.mitigations.word_pairs import read_pairs, token_pairs, word_token
from ..toolkit.model.sequences import sequence_ids
from ..toolkit.model.tokens import encode_plain, start_ids
from ..toolkit.stage import Artifacts
from .sets import read_set
from .training import Row, window

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from ..toolkit.mitigations.control_rows import Scored
    from ..toolkit.mitigations.loss_terms import LossTerm
    from ..toolkit.mitigations.objectives import Unwanted
    from ..toolkit.mitigations.word_pairs import TokenPairs


class Treatment:
    """What a recipe's mitigations add to one training.

    Args:
        settings: the recipe's section.
        stage: the training.
        before: the artifacts that the stage gets.
    """

    def __init__(self, settings: MitigationSettings, stage: StageName, before: Artifacts) -> None:
        self.settings, self.stage, self.before = settings, stage, before
        self._callbacks: list[Any] = []
        self._warnings: list[str] = []

    def rows(self, rows: Sequence[Row], columns: Sequence[str], seed: int) -> list[Row]:
        """The training rows, with their counterfactuals where the recipe wants them."""
        wanted = self.settings.augment
        if wanted.share == 0 or self.stage not in wanted.stages:
            return list(rows)
        from ..toolkit.mitigations.counterfactual import Counterfactual, augment

        words = Counterfactual(read_pairs(self.settings.pairs), pronouns=self.settings.pairs is None)
        made = augment(rows, columns, words, mode=wanted.mode, share=wanted.share, seed=seed)
        if not made.swapped:
            self._warnings.append(f"No row of {self.stage} got a counterfactual: {made.unchanged} hold no listed word.")
        if made.skipped:
            self._warnings.append(f"{made.skipped} rows of {self.stage} speak of bodies and got no counterfactual.")
        return made.rows

    def trained_rows(self, model: Any, tokenizer: "PreTrainedTokenizerBase") -> Any:
        """What LoRA's `trainable_token_indices` is to be: listed words and control tokens, or None."""
        words = set[int]()
        if self.settings.embeddings.train_rows:
            pairs = self._pairs(tokenizer)
            words = {*pairs.first, *pairs.second, *self._neutral(tokenizer)}
        if self.settings.control.strength == 0:
            return sorted(words) or None
        from ..toolkit.mitigations.control_tokens import control_tokens, trainable_rows

        rows = trainable_rows(model, control_tokens(tokenizer).ids)
        if isinstance(rows, list):
            return sorted({*rows, *words})
        first = next(iter(rows))  # the input embedding; words have no rows of their own in an output layer
        return rows | {first: sorted({*rows[first], *words})}

    def row_rate(self) -> float | None:
        """The learning rate of trained embedding rows; None is the trainer's."""
        return self.settings.control.row_learning_rate if self.settings.control.strength else None

    def examples(self, rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", limit: int) -> list[Row]:
        """The rows as token ids with labels, with control tokens among them where the recipe wants them.

        Args:
            rows: the demonstrations, which count as safe.
            tokenizer: of the model.
            limit: longest sequence in tokens.
        """
        from ..toolkit.sft.examples import completion_example

        wanted = self.settings.control
        if wanted.strength == 0:
            return [completion_example(row, tokenizer) for row in rows]
        from ..toolkit.mitigations.control_rows import ControlRows, Scored

        scored = [Scored(prompt=row["prompt"], completion=row["completion"], is_unsafe=False) for row in rows]
        scored += self._scored()
        maker = ControlRows(
            tokenizer, every=wanted.every, unsafe=wanted.unsafe, refusal=wanted.refusal, dropped=wanted.dropped
        )
        made = maker.make(scored)
        fitting = [{"input_ids": row.input_ids, "labels": row.labels} for row in made if len(row.input_ids) <= limit]
        if left_out := len(made) - len(fitting):
            self._warnings.append(f"{left_out} rows with control tokens of more than {limit} tokens are left out.")
        return fitting

    def loss_terms(self, rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", limit: int) -> "list[LossTerm]":
        """Penalties beside the SFT loss; none while everything is off.

        Args:
            rows: the demonstrations that are trained on.
            tokenizer: of the model.
            limit: longest sequence in tokens.
        """
        from ..toolkit.mitigations import embeddings, objectives

        settings, terms = self.settings, list[Any]()
        if settings.unlikelihood.strength:
            unwanted = self._unwanted(tokenizer, limit)
            strength, size = settings.unlikelihood.strength, settings.unlikelihood.batch_size
            terms.append(objectives.Unlikelihood(unwanted, strength, size))
        if settings.control.strength:
            from ..toolkit.mitigations.control_tokens import control_tokens
            from ..toolkit.mitigations.loss_terms import VerdictLoss

            tokens = control_tokens(tokenizer)
            terms.append(VerdictLoss((tokens.safe, tokens.unsafe), settings.control.strength))
        if settings.equalise.strength:
            terms.append(objectives.Equalise(self._pairs(tokenizer), settings.equalise.strength))
        wanted = settings.embeddings
        if wanted.pair_distance:
            terms.append(embeddings.PairDistance(self._pairs(tokenizer), wanted.pair_distance))
        if wanted.bias_subspace:
            neutral = self._neutral(tokenizer)
            terms.append(embeddings.BiasSubspace(self._pairs(tokenizer), neutral, wanted.bias_subspace))
        if wanted.counterfactual_hidden:
            both = self._both_sides(rows, tokenizer, limit)
            terms.append(embeddings.CounterfactualHidden(both, wanted.counterfactual_hidden))
        return terms

    def callbacks(
        self,
        model: Any,
        tokenizer: "PreTrainedTokenizerBase",
        activate: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> "list[TrainerCallback]":
        """Callbacks for the trainer; none while everything is off.

        Args:
            model: the network, for the length of its window.
            tokenizer: of the model.
            activate: context in which the adapter that is trained computes and alone takes gradients.

        Raises:
            DataError: there are no texts to protect.
        """
        protect = self.settings.protect
        if protect.strength > 0 and self.stage in protect.stages:
            from ..toolkit.mitigations.update_projection import UpdateProjection

            self._callbacks.append(UpdateProjection(self._protected(model, tokenizer), protect, activate))
        return list(self._callbacks)

    def warnings(self) -> tuple[str, ...]:
        """What the user should know after the training."""
        return (*self._warnings, *(text for callback in self._callbacks for text in callback.warnings()))

    def _pairs(self, tokenizer: "PreTrainedTokenizerBase") -> "TokenPairs":
        pairs = token_pairs(read_pairs(self.settings.pairs), tokenizer)
        if (warning := pairs.warning()) and warning not in self._warnings:
            self._warnings.append(warning)
        return pairs

    def _neutral(self, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        if self.settings.embeddings.neutral is None:
            return []
        words = Path(self.settings.embeddings.neutral).expanduser().read_text(encoding="utf-8").split()
        ids = [token for word in words if (token := word_token(word, tokenizer)) is not None]
        if len(ids) < len(words):
            warning = f"{len(words) - len(ids)} of {len(words)} neutral words are not single tokens and are left out."
            if warning not in self._warnings:
                self._warnings.append(warning)
        return ids

    def _scored(self) -> "list[Scored]":
        wanted = self.settings.control
        if wanted.texts is not None:
            return scored_rows(wanted.texts, wanted.threshold)
        return scored_sides(read_set(self.before.data, "comparisons") if self.before.data else [])

    def _unwanted(self, tokenizer: "PreTrainedTokenizerBase", limit: int) -> "list[Unwanted]":
        from ..toolkit.mitigations.objectives import unwanted_of_pair

        wanted = self.settings.unlikelihood
        if wanted.texts is not None:
            rows = read_rows(Path(wanted.texts).expanduser())
            require_columns(rows, "prompt_completion", wanted.texts)
            sides = [(row["prompt"], "", row["completion"]) for row in rows]
        else:
            pairs = read_set(self.before.data, "comparisons") if self.before.data else []
            sides = [(row["prompt"], row["chosen"], row["rejected"]) for row in pairs]
        is_all = wanted.tokens == "all" or wanted.texts is not None
        found = []
        for prompt, chosen, rejected in sides:
            before, good = split_ids(prompt, chosen, tokenizer) if chosen else (None, [])
            own, bad = split_ids(prompt, rejected, tokenizer)
            if len(own) + len(bad) <= limit:
                found.append(unwanted_of_pair(before or own, good, bad, all_=is_all))
        if left_out := len(sides) - len(found):
            self._warnings.append(f"{left_out} unwanted texts of more than {limit} tokens are left out.")
        return found

    def _both_sides(
        self, rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", limit: int
    ) -> list[tuple[list[int], list[int]]]:
        from ..toolkit.mitigations.counterfactual import ORIGIN, Counterfactual, augment

        words = Counterfactual(read_pairs(self.settings.pairs), pronouns=self.settings.pairs is None)
        own = [row for row in rows if ORIGIN not in row]
        made = augment(own, ["prompt", "completion"], words).rows
        both = [
            (
                sequence_ids(own[row[ORIGIN]]["prompt"], own[row[ORIGIN]]["completion"], tokenizer),
                sequence_ids(row["prompt"], row["completion"], tokenizer),
            )
            for row in made
            if ORIGIN in row
        ]
        return [(a, b) for a, b in both if max(len(a), len(b)) <= limit]

    def _protected(self, model: Any, tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
        protect = self.settings.protect
        if protect.texts is not None:
            rows = read_rows(Path(protect.texts), limit=protect.limit)
            require_columns(rows, "text", protect.texts)
        elif self.before.data is not None:
            rows = read_set(self.before.data, "ptx")[: protect.limit]
        else:
            rows = []
        start, longest = start_ids(tokenizer), window(model, None)
        encoded = [[*start, *encode_plain(tokenizer, row["text"])] for row in rows]
        fitting = [row for row in encoded if len(row) <= longest]
        if not fitting:
            raise DataError(
                f"mitigations.protect: of {len(encoded)} texts none fits the window of {longest} tokens, wanted at "
                "least one to protect: give mitigations.protect.texts=FILE, rows with `text`"
            )
        if left_out := len(encoded) - len(fitting):
            self._warnings.append(f"{left_out} texts of more than {longest} tokens are not protected.")
        return fitting


def scored_sides(comparisons: Sequence[Row]) -> "list[Scored]":
    """Both sides of comparisons; the rejected one counts as unsafe."""
    from ..toolkit.mitigations.control_rows import Scored

    return [
        Scored(prompt=row["prompt"], completion=row[side], is_unsafe=side == "rejected")
        for row in comparisons
        for side in ("chosen", "rejected")
    ]


def scored_rows(path: str, threshold: float) -> "list[Scored]":
    """Rows of a file with `is_unsafe`, or with a `score` and a threshold.

    Raises:
        DataError: a row has neither.
    """
    from ..toolkit.mitigations.control_rows import Scored

    rows = read_rows(Path(path).expanduser())
    require_columns(rows, "prompt_completion", path)
    lacking = [number for number, row in enumerate(rows) if not {"is_unsafe", "score"} & row.keys()]
    if lacking:
        raise DataError(f"{path}: row {lacking[0]} has neither `is_unsafe` nor `score`, wanted one of them")
    return [
        Scored(
            prompt=row["prompt"],
            completion=row["completion"],
            is_unsafe=bool(row["is_unsafe"]) if "is_unsafe" in row else float(row["score"]) >= threshold,
            rationale=str(row.get("rationale") or ""),
        )
        for row in rows
    ]


def split_ids(prompt: Any, completion: Any, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of what follows it, encoded as one sequence and parted where the prompt ends."""
    whole = sequence_ids(prompt, completion, tokenizer)
    if isinstance(prompt, str):
        alone = list(tokenizer(prompt)["input_ids"])
    else:
        text = tokenizer.apply_chat_template([*prompt], tokenize=False, add_generation_prompt=True)
        alone = list(tokenizer(str(text), add_special_tokens=False)["input_ids"])
    same = next((at for at, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), len(alone))
    return whole[:same], whole[same:]
