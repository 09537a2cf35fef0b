"""A reward model of another family, with a tokenizer of its own, as a reward function."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import DataError, ModelError
from ..files import read_json
from ..model.adapter_files import REWARD_META
from ..model.generation import window_of
from ..model.sequences import sequence_ids


class RewardModel:
    """Scores texts with any sequence classifier of one label; the policy's tokens never reach it.

    The prompt and the completion are put into its own tokens as one sequence: chat messages through its own chat
    template, text as it stands; its end token stands behind both, also where the policy was cut off (see
    `missing_eos_penalty`). A decoder's score is read at the last real token.

    Args:
        model: a sequence classifier with one label.
        tokenizer: that model's own.
        bias: subtracted from every score.
        batch_size: sequences per forward pass.
        name: how logs call it.

    Raises:
        ModelError: no tokenizer was given, it has no padding token of its own, or the model has several labels.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, bias: float = 0.0, batch_size: int = 16, name: str = "reward_model"
    ) -> None:
        if tokenizer is None:
            raise ModelError(
                f"the reward model {name!r} came without a tokenizer, wanted its own (not the policy's): give it, or "
                "use RewardModel.load() on a folder that holds both"
            )
        labels = getattr(model.config, "num_labels", None)
        if labels != 1:
            raise ModelError(f"the reward model {name!r} has {labels} labels, wanted a classifier with one score")
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
            raise ModelError(f"the tokenizer of {name!r} has no padding token of its own: add one to it")
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.bias = bias
        self.batch_size = batch_size
        self.__name__ = name
        vocabulary = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > vocabulary:
            raise ModelError(
                f"the tokenizer of {name!r} has {len(tokenizer)} tokens, the model embeds {vocabulary}: it is the "
                "tokenizer of another model"
            )

    @classmethod
    def load(cls, source: str | Path, *, device: str = "cpu", batch_size: int = 16, **options: Any) -> "RewardModel":
        """Load a reward model and its tokenizer from a folder or the hub; only safetensors weights are read.

        Args:
            source: a folder or an id of the hub.
            device: where it computes.
            batch_size: sequences per forward pass.
            options: passed on to `from_pretrained`, such as `dtype` or `quantization_config`.

        Raises:
            ModelError: there is no such model, or it has no tokenizer beside it.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from ..model.loading import LOAD_FAULTS

        try:
            model = AutoModelForSequenceClassification.from_pretrained(str(source), use_safetensors=True, **options)
        except LOAD_FAULTS as error:
            raise ModelError(f"cannot load the reward model {str(source)!r}: {error}") from error
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(str(source))
        except LOAD_FAULTS:
            tokenizer = None
        meta = Path(source) / REWARD_META
        bias = float(read_json(meta)["bias"]) if meta.is_file() else 0.0
        plain = Path(str(source)).name.replace("-", "_")
        return cls(model.to(device), tokenizer, bias=bias, batch_size=batch_size, name=plain)

    def __call__(
        self,
        prompts: Sequence[str | list[Mapping[str, Any]]],
        completions: Sequence[str],
        **columns: Any,
    ) -> list[float]:
        """Scores of completions, higher is better, the bias subtracted."""
        rows = [self._ids(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
        window = window_of(self.model)
        longest = max(map(len, rows), default=0)
        if window is not None and longest > window:
            raise DataError(
                f"the reward model {self.__name__} reads {window} tokens, an episode has {longest} of its own: leave "
                "out longer prompts, or lower response_length"
            )
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        found = [0.0] * len(rows)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            for row, score in zip(chosen, self._scores([rows[index] for index in chosen]).tolist(), strict=True):
                found[row] = score - self.bias
        return found

    def _ids(self, prompt: str | list[Mapping[str, Any]], completion: str) -> list[int]:
        if isinstance(prompt, str):
            return sequence_ids(prompt, completion, self.tokenizer)
        return sequence_ids(prompt, [{"role": "assistant", "content": completion}], self.tokenizer)

    @torch.no_grad()
    def _scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, rows))
        device = self.model.device
        padding = int(self.tokenizer.pad_token_id)
        ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
        if not hasattr(self.model, "score"):  # an encoder, which reads whole texts
            return cast(Tensor, self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float())
        # the head is read here, not by the model, whose idea of the last token depends on its padding token
        hidden = self.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        scores = self.model.score(hidden).squeeze(-1).float()
        return cast(Tensor, scores.gather(1, lengths[:, None] - 1).squeeze(1))
