"""Harm mitigations of a recipe, made ready for a stage's trainer."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.data.row_shapes import require_columns
from ..toolkit.data.rows import read_rows
from ..toolkit.errors import DataError
from ..toolkit.mitigations.settings import MitigationSettings, StageName
from ..toolkit.stage import Artifacts
from .sets import read_set
from .training import window

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerCallback


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

    def _protected(self, model: Any, tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
        from ..toolkit.model.tokens import encode_plain, start_ids

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
