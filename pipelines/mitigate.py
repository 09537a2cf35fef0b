"""Harm mitigations of a recipe, made ready for a stage's trainer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.data.row_shapes import require_columns
from ..toolkit.data.rows import read_rows
from ..toolkit.errors import DataError
from ..toolkit.mitigations.settings import EraseSettings, MitigationSettings, StageName
from ..toolkit.mitigations.word_pairs import read_pairs, token_pairs, word_token
from ..toolkit.model.sequences import sequence_ids
from ..toolkit.model.tokens import encode_plain, start_ids
from ..toolkit.stage import Artifacts
from .sets import read_set
from .training import Row, window

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from ..toolkit.mitigations.control_rows import Scored
    from ..toolkit.mitigations.erasure import Eraser
    from ..toolkit.mitigations.loss_terms import LossTerm
    from ..toolkit.mitigations.objectives import Unwanted
    from ..toolkit.mitigations.word_pairs import TokenPairs
    from ..toolkit.model.stack import ModelStack


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

            terms.append(VerdictLoss(control_tokens(tokenizer).ids, settings.control.strength))
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
        from ..toolkit.mitigations.control_rows import Scored

        wanted = self.settings.control
        if wanted.texts is None:
            pairs = read_set(self.before.data, "comparisons") if self.before.data else []
            return [
                Scored(prompt=row["prompt"], completion=row[side], is_unsafe=side == "rejected")
                for row in pairs
                for side in ("chosen", "rejected")
            ]
        rows = read_rows(Path(wanted.texts).expanduser())
        require_columns(rows, "prompt_completion", wanted.texts)
        lacking = [number for number, row in enumerate(rows) if not {"is_unsafe", "score"} & row.keys()]
        if lacking:
            raise DataError(f"{wanted.texts}: row {lacking[0]} has neither `is_unsafe` nor `score`, wanted one of them")
        return [
            Scored(
                prompt=row["prompt"],
                completion=row["completion"],
                is_unsafe=bool(row["is_unsafe"]) if "is_unsafe" in row else float(row["score"]) >= wanted.threshold,
                rationale=str(row.get("rationale") or ""),
            )
            for row in rows
        ]

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


def erasing(
    settings: EraseSettings, stack: "ModelStack", data: Path | None, seed: int, folder: Path
) -> Callable[[str | None], AbstractContextManager[Any]]:
    """For each adapter, a context in which the concept is erased from what the output layer reads.

    The bare base is left as it is, to be compared with. Each adapter gets an eraser of its own, which is kept in the
    folder as `eraser-NAME.safetensors`.
    """
    erasers: dict[str, Eraser] = {}

    def context(adapter: str | None) -> AbstractContextManager[Any]:
        if adapter is None or settings.strength == 0:
            return nullcontext()
        from ..toolkit.mitigations.decoding import erased

        if adapter not in erasers:
            with stack.using(adapter) as model:
                erasers[adapter] = fitted_eraser(settings, model, stack.tokenizer, data, seed)
            erasers[adapter].save(folder / f"eraser-{adapter}.safetensors")
        return erased(stack.base, erasers[adapter], settings.strength)

    return context


def fitted_eraser(
    settings: EraseSettings, model: Any, tokenizer: "PreTrainedTokenizerBase", data: Path | None, seed: int
) -> "Eraser":
    """Fit an eraser on what the output layer of a model reads in texts of two kinds.

    Raises:
        DataError: there are no texts, or of one kind only.
    """
    from torch import cat, tensor

    from ..toolkit.mitigations.decoding import head_inputs
    from ..toolkit.mitigations.erasure import fit_inlp, fit_leace

    longest = window(model, None)
    pairs = [(ids, start, label) for ids, start, label in _labelled(settings, tokenizer, data) if len(ids) <= longest]
    if {label for _, _, label in pairs} != {0, 1}:
        raise DataError(
            f"mitigations.erase: {len(pairs)} texts fit the window and have the labels "
            f"{sorted({label for _, _, label in pairs})}, wanted some of 0 and of 1: give mitigations.erase.texts=FILE"
        )
    states = head_inputs(model, [ids for ids, _, _ in pairs])
    # What predicts the tokens of the text: the state before its first one up to that before its last one.
    kept = [one[start - 1 : -1] for one, (_, start, _) in zip(states, pairs, strict=True)]
    labels = tensor([label for one, (_, _, label) in zip(kept, pairs, strict=True) for _ in one])
    if settings.method == "leace":
        return fit_leace(cat(kept), labels)
    return fit_inlp(cat(kept), labels, seed=seed).eraser


def _labelled(
    settings: EraseSettings, tokenizer: "PreTrainedTokenizerBase", data: Path | None
) -> list[tuple[list[int], int, int]]:
    """Token ids of each text, where what counts of it begins, and its label."""
    if settings.texts is not None:
        rows = read_rows(Path(settings.texts).expanduser(), limit=settings.limit)
        if missing := {"text", "label"} - set(rows[0]):
            raise DataError(f"{settings.texts}: the first row lacks {', '.join(sorted(missing))}")
        start = start_ids(tokenizer)
        return [([*start, *encode_plain(tokenizer, row["text"])], 1, int(row["label"])) for row in rows]
    comparisons = read_set(data, "comparisons")[: settings.limit // 2] if data else []
    found = []
    for row in comparisons:
        for label, side in enumerate(("chosen", "rejected")):
            prompt, rest = split_ids(row["prompt"], row[side], tokenizer)
            found.append(([*prompt, *rest], len(prompt), label))
    return found


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
