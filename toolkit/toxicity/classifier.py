"""A Hugging Face sequence classifier as a toxicity scorer."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ..errors import ModelError
from ..files import sha256_of
from .scorer import Floats, is_blank

LONGEST_WINDOW = 512  # tokens: what nearly all released classifiers were trained on
_OVERLAP = 64  # tokens: an insult cut by the end of one window is whole in the next


class ClassifierToxicity:
    """Probability that a sequence classifier gives to its toxic label.

    A text longer than the window is scored window by window and gets the highest score: a mean would let a long
    innocent text hide an insult.

    Args:
        folder: of the model and tokenizer, or an id of the hub; safetensors only, no code of the model's is run.
        label: name of the toxic label; may be left out where there is only one.
        device: torch's name of it; None takes a GPU if there is one.
        batch_size: windows per forward pass.
        max_length: longest window in tokens.
        dtype: of the weights.

    Raises:
        ModelError: it cannot be loaded, has no such label, or has a head without trained weights.
    """

    def __init__(
        self,
        folder: str | Path,
        label: str | None = None,
        *,
        device: str | None = None,
        batch_size: int = 32,
        max_length: int = LONGEST_WINDOW,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._model = _load_model(folder, dtype)
        self._tokenizer = load_tokenizer(folder)
        self.labels = [self._model.config.id2label[index] for index in range(self._model.config.num_labels)]
        self.label = _toxic_label(label, self.labels, folder)
        self.id = f"hf:{content_hash(self._model, self._tokenizer)}#{self.label}"
        self._model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        self._batch_size = batch_size if self._tokenizer.pad_token_id is not None else 1
        self._max_length = min(max_length, _window(self._model.config, self._tokenizer))

    def score(self, texts: Sequence[str]) -> Floats:
        """Score texts: the probability of the toxic label, NaN for an empty text."""
        return self.score_labels(texts)[self.label]

    def score_labels(self, texts: Sequence[str]) -> dict[str, Floats]:
        """Score texts for every label of the classifier.

        Returns:
            by label (n,) probabilities, for each the highest of the text's windows; NaN for an empty text.
        """
        scores = np.full((len(texts), len(self.labels)), np.nan)
        rows = [row for row, text in enumerate(texts) if not is_blank(text)]
        if rows:
            windows, owners = self._windows([texts[row] for row in rows])
            highest = np.full((len(rows), len(self.labels)), -np.inf)
            np.maximum.at(highest, owners, self._probabilities(windows))  # NaN stays NaN
            scores[rows] = highest
        return {label: scores[:, index] for index, label in enumerate(self.labels)}

    def _windows(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Token ids of every window, and the text that each belongs to."""
        encoded = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self._max_length,
            stride=min(_OVERLAP, self._max_length // 4),
            return_overflowing_tokens=True,
        )
        return encoded["input_ids"], encoded["overflow_to_sample_mapping"]

    def _probabilities(self, windows: Sequence[list[int]]) -> Floats:
        """(windows, labels), computed in batches of like length."""
        result = np.empty((len(windows), len(self.labels)))
        order = sorted(range(len(windows)), key=lambda index: len(windows[index]))
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            result[batch] = self._forward([windows[index] for index in batch])
        return result

    @torch.inference_mode()
    def _forward(self, windows: Sequence[list[int]]) -> Floats:
        longest = max(map(len, windows))
        input_ids = torch.full((len(windows), longest), self._tokenizer.pad_token_id or 0)
        attention_mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(windows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = 1
        device = self._model.device
        logits = self._model(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device)).logits
        # As transformers' own pipeline: one output or several independent labels are sigmoids.
        is_multi = len(self.labels) == 1 or self._model.config.problem_type == "multi_label_classification"
        logits = logits.double().cpu()
        probabilities: Floats = (logits.sigmoid() if is_multi else logits.softmax(-1)).numpy()
        return probabilities


def load_tokenizer(folder: str | Path, *, local_files_only: bool = False) -> Any:
    """Load a tokenizer that can cut long texts into windows.

    Raises:
        ModelError: there is none, or it is written in Python.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=local_files_only)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a tokenizer from {folder}: {error}") from error
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer in {folder} has no tokenizer.json, which is needed to score long texts")
    return tokenizer


def content_hash(model: Any, tokenizer: Any) -> str:
    """16 hexadecimal digits that name weights, labels and tokenizer, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    labels = [model.config.id2label, model.config.problem_type]
    digest.update(sha256_of([labels, tokenizer.backend_tokenizer.to_str()]).encode())
    return digest.hexdigest()[:16]


def _load_model(folder: str | Path, dtype: torch.dtype) -> Any:
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(folder), dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot load a sequence classifier in safetensors from {folder}: {error}. Give a folder that holds "
            "config.json, model.safetensors and the tokenizer"
        ) from error
    if info["missing_keys"]:
        raise ModelError(
            f"{folder} lacks trained weights for {', '.join(sorted(info['missing_keys']))}: it is not a trained "
            "sequence classifier, and its scores would be random"
        )
    return model


def _toxic_label(label: str | None, labels: Sequence[str], folder: str | Path) -> str:
    if label is None and len(labels) == 1:
        return labels[0]
    if label is None or label not in labels:
        got = "no label" if label is None else f"the label {label!r}"
        raise ModelError(
            f"got {got} for {folder}, wanted the name of its toxic label: one of {', '.join(labels)} (hf:FOLDER#LABEL)"
        )
    return label


def _window(config: Any, tokenizer: Any) -> int:
    """Longest input in tokens that the model's positions reach."""
    positions = getattr(config, "max_position_embeddings", None) or LONGEST_WINDOW
    if "roberta" in config.model_type:
        positions -= 2  # RoBERTa counts positions from the padding token's id plus one
    return int(min(positions, tokenizer.model_max_length))
