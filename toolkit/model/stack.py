"""One base model in memory that plays several roles through named LoRA adapters."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ModelError
from . import adapter_files
from .adapters import Adapters
from .ensemble import Ensemble, member_folder, member_names
from .forward import HEAD, at_last_token, head_scores, last_hidden, next_token_logits
from .four_bit import keep_differentiable
from .network import eval_mode
from .score_probe import probe_ids

_HEAD_KEY = f"base_model.model.{HEAD}.weight"


class ModelStack(Adapters):
    """ONE base causal language model with named LoRA adapters; `using` is the only way to switch between them.

    To what `Adapters` keeps it adds what a role is: forward passes, scores with a bias or of an ensemble, and folders.

    Args:
        base: the causal language model, in any precision, 4-bit included.
        tokenizer: the tokenizer of `base`.

    Raises:
        ModelError: when the weights of a 4-bit base are already packed in a form that gradients cannot pass.
    """

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        keep_differentiable(base)
        super().__init__(base)
        self.tokenizer = tokenizer
        self._biases: dict[str, float] = {}
        self._ensembles: dict[str, Ensemble] = {}

    # ---- what is there -------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the base computes."""
        return torch.device(self.base.device)

    def bias(self, name: str) -> float:
        """What `score` subtracts, so that demonstrations have mean score zero; 0.0 where none was set."""
        return self._biases.get(self._known(name), 0.0)

    def set_bias(self, name: str, bias: float) -> None:
        """Set what `score` subtracts; `save` writes it beside the adapter."""
        self._biases[self._known(name)] = bias

    def ensemble(self, name: str) -> Ensemble | None:
        """How `score` combines an adapter with its other members, named `NAME_2`, `NAME_3` and so on; or None."""
        return self._ensembles.get(self._known(name))

    def set_ensemble(self, name: str, ensemble: Ensemble | None) -> None:
        """Let `score` combine adapters: `name` and, as its other members, `NAME_2`, `NAME_3` and so on.

        Raises:
            ModelError: when a member is missing or has no reward head.
        """
        self._ensembles.pop(self._known(name), None)
        if ensemble is None:
            return
        for member in member_names(name, ensemble.size):
            if not self.has_head(member):
                raise ModelError(f"adapter {member!r} has no reward head, wanted one in every member of an ensemble")
        self._ensembles[name] = ensemble

    def digest(self, name: str) -> str:
        """SHA-256 of an adapter's weights and bias, and of its ensemble: equal digests, equal behaviour."""
        own = adapter_files.digest(self.weights(name), self.bias(name))
        if (ensemble := self.ensemble(name)) is None:
            return own
        members = [self.digest(member) for member in member_names(name, ensemble.size)[1:]]
        return hashlib.sha256(repr([own, members, ensemble]).encode()).hexdigest()

    # ---- adding, loading, saving ---------------------------------------------------------------------------------

    def copy(self, source: str, name: str, *, trainable: bool) -> None:
        """Add an adapter `name` with the weights, head and bias that `source` has now; of an ensemble, the first."""
        self.add(name, self.config(source), trainable=trainable)
        self._write(name, self.weights(source))
        self._biases[name] = self.bias(source)

    def add_scorer(self, name: str, like: str, *, trainable: bool) -> None:
        """Add a fresh adapter of another's shape, with a reward head that gives zero to everything."""
        config = self.config(like)
        config.modules_to_save = [*(config.modules_to_save or []), HEAD]
        config.task_type = "SEQ_CLS"
        self.add(name, config, trainable=trainable)

    def load(self, name: str, folder: str | Path, *, trainable: bool = False) -> None:
        """Load an adapter from a plain PEFT folder; a reward adapter gets its head back, bit for bit.

        Args:
            name: a new name of letters, digits and underscores.
            folder: holds `adapter_config.json`, `adapter_model.safetensors`, perhaps `reward_meta.json`, and of an
                ensemble the other members in sub-folders.
            trainable: whether its parameters take gradients outside of `using`.

        Raises:
            ModelError: when files are missing, the adapter belongs to another base, keys are missing or unexpected, or
                a reward adapter gives other scores than when it was saved.
        """
        self._check_new(name)
        saved = adapter_files.read(Path(folder), self.base)
        if _HEAD_KEY in saved.weights:
            self._attach_head()
        try:
            self.add(name, saved.config, trainable=trainable)
        except ModelError:
            raise
        except (ValueError, RuntimeError) as error:  # PEFT finds no module to attach to
            raise ModelError(saved.foreign(self.base, str(error))) from error
        try:
            saved.check_fit(self.base, self.weights(name))
        except ModelError:
            self.delete(name)
            raise
        self._write(name, saved.weights)
        self._biases[name] = saved.bias
        try:
            if saved.probe is not None and self.has_head(name):
                saved.check_scores(self.base, self._probe(name))
            if saved.ensemble is not None:
                for number, member in enumerate(member_names(name, saved.ensemble.size)[1:], 2):
                    self.load(member, Path(folder) / member_folder(number), trainable=trainable)
                self.set_ensemble(name, saved.ensemble)
        except ModelError:
            self.delete(name)
            raise

    def restore(self, name: str, folder: str | Path) -> None:
        """Overwrite the weights of an adapter that is already in the stack with those of a folder.

        Raises:
            ModelError: as `load` does.
        """
        saved = adapter_files.read(Path(folder), self.base)
        saved.check_fit(self.base, self.weights(self._known(name)))
        self._write(name, saved.weights)
        self._biases[name] = saved.bias

    def save(self, name: str, folder: str | Path) -> None:
        """Write an adapter as a plain PEFT folder; one that is there changes only once the new files are complete.

        `peft` and `transformers` load the folder without tunewell: as a causal language model, or, when the adapter
        has a reward head, as a sequence classifier with one label.
        """
        config = self.config(name)
        has_head = self.has_head(name)
        config.task_type = config.task_type or ("SEQ_CLS" if has_head else "CAUSAL_LM")
        meta: dict[str, Any] = {"bias": self.bias(name), "probe": self._probe(name)} if has_head else {}
        if (ensemble := self.ensemble(name)) is not None:
            for number, member in enumerate(member_names(name, ensemble.size)[1:], 2):
                self.save(member, Path(folder) / member_folder(number))
            meta["ensemble"] = ensemble.as_json()
        adapter_files.write(Path(folder), config, self.weights(name), self.base, meta or None)

    def delete(self, name: str) -> None:
        """Forget an adapter; when it was the active one, the first of the others becomes active."""
        self._known(name)
        if (ensemble := self._ensembles.pop(name, None)) is not None:
            for member in member_names(name, ensemble.size)[1:]:
                self.delete(member)
        self._biases.pop(name, None)
        super().delete(name)

    # ---- computing -----------------------------------------------------------------------------------------------

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states under the active adapter; positions count the real tokens, so padding may be anywhere.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, T), 1 at real tokens.

        Returns:
            (B, T, H), what the output embedding reads.
        """
        return last_hidden(self.base, input_ids, attention_mask)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., H), under the active adapter."""
        return next_token_logits(self.base, hidden)

    def head(self, hidden: Tensor) -> Tensor:
        """The active adapter's reward head on hidden states (..., H): float32 scores (...), bias not subtracted."""
        name = self.active
        if name is None or not self.has_head(name):
            raise ModelError(
                f"adapter {name!r} has no reward head, wanted one trained as a reward model: load that one"
            )
        return head_scores(self.base, hidden)

    def score(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Reward of whole sequences: the head at the last real token minus the stored bias.

        Where the active adapter is the first of an ensemble, its members' scores are combined.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, T), 1 at real tokens.

        Returns:
            (B,) float32.
        """
        name = self.active or ""
        ensemble = self._ensembles.get(name)
        if ensemble is None:
            return self._own_score(input_ids, attention_mask)
        scores = []
        for member in member_names(name, ensemble.size):
            with self.using(member):
                scores.append(self._own_score(input_ids, attention_mask))
        return ensemble.combined(torch.stack(scores)) - ensemble.bias

    # ---- private -------------------------------------------------------------------------------------------------

    def _own_score(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B,) scores of the active adapter alone."""
        # the head reads every position, as transformers' classifier does: the same product, so the same bits
        scores = self.head(self.hidden(input_ids, attention_mask))
        return at_last_token(scores, attention_mask) - self.bias(self.active or "")

    def _probe(self, name: str) -> list[float]:
        """Scores of a few fixed sequences, the bias left out."""
        ids = probe_ids(self.base).to(self.device)
        with eval_mode(self.model), torch.no_grad(), self.using(name):
            scores: list[float] = (self._own_score(ids, torch.ones_like(ids)) + self.bias(name)).tolist()
        return scores
