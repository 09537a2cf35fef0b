"""Adapter folders on disk: plain PEFT files, and beside them the base they belong to."""

import copy
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import ModelError
from ..files import read_json, unfinished_folder, write_json
from .ensemble import Ensemble
from .score_probe import differs

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
REWARD_META = "reward_meta.json"
BASE_META = "base_meta.json"
_PROBES = 32


@dataclass(frozen=True)
class SavedAdapter:
    """What an adapter folder holds."""

    folder: Path
    config: LoraConfig
    weights: dict[str, Tensor]
    bias: float
    base_name: str
    ensemble: Ensemble | None = None
    probe: tuple[float, ...] | None = None
    """Scores of `score_probe.probe_ids` when the adapter was saved."""

    def foreign(self, base: PreTrainedModel, reason: str) -> str:
        """The message for an adapter that does not fit this base."""
        return (
            f"the adapter in {self.folder} does not fit the base {name_of(base)!r}: {reason}. It was trained on "
            f"{self.base_name!r}: load that base, or train the adapter again on this one"
        )

    def check_fit(self, base: PreTrainedModel, weights: dict[str, Tensor]) -> None:
        """Compare keys and shapes with those of an adapter on this base, both ways.

        Raises:
            ModelError: when keys are missing or unexpected, or a shape differs.
        """
        have = {key: tuple(tensor.shape) for key, tensor in weights.items()}
        got = {key: tuple(tensor.shape) for key, tensor in self.weights.items()}
        faults = [f"missing key {key}" for key in have.keys() - got.keys()]
        faults += [f"unexpected key {key}" for key in got.keys() - have.keys()]
        faults += [
            f"{key} has shape {got[key]}, wanted {have[key]}"
            for key in have.keys() & got.keys()
            if have[key] != got[key]
        ]
        if faults:
            raise ModelError(self.foreign(base, f"{len(faults)} differences, such as: {min(faults)}"))

    def check_scores(self, base: PreTrainedModel, scores: Sequence[float]) -> None:
        """Compare the scores of `probe_ids` on this base with those when the adapter was saved.

        Equal keys and embeddings do not make an equal base: one that an adapter was merged into has both.

        Raises:
            ModelError: when they differ by more than rounding.
        """
        recorded = self.probe or ()
        if (largest := differs(recorded, scores)) is not None:
            raise ModelError(
                self.foreign(
                    base,
                    f"its scores of fixed sequences differ by up to {largest:.3g} from those when it was saved (they "
                    f"were about {max(map(abs, recorded)):.3g}); the same base in another precision, or with an "
                    "adapter merged into it, is another base to a reward head",
                )
            )


def read(folder: Path, base: PreTrainedModel) -> SavedAdapter:
    """Read an adapter folder.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`, perhaps the two `*_meta.json`.
        base: the model the adapter is meant for; compared with the recorded base when there is a record.

    Raises:
        ModelError: when files are missing or broken, the adapter is no LoRA, or it belongs to another base.
    """
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise ModelError(f"got the folder {folder} without {' and '.join(missing)}, wanted a PEFT adapter folder")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_file(folder / WEIGHTS)
        meta = _read_json(folder / REWARD_META)
        recorded = _read_json(folder / BASE_META)
        bias = float(meta.get("bias", 0.0))
        ensemble = Ensemble.from_json(meta.get("ensemble"))
        probe = tuple(map(float, meta["probe"])) if meta.get("probe") is not None else None
    except ModelError:
        raise
    except (SafetensorError, TypeError, ValueError) as error:
        raise ModelError(f"the adapter in {folder} cannot be read ({error}): save or download it again") from error
    if not isinstance(config, LoraConfig):
        raise ModelError(f"got a {config.peft_type} adapter in {folder}, wanted LoRA: train the adapter with LoRA")
    base_name = recorded.get("name") or config.base_model_name_or_path or "a base without a name"
    saved = SavedAdapter(folder, config, weights, bias, base_name, ensemble, probe)
    difference = _base_difference(recorded, base)
    if difference:
        raise ModelError(saved.foreign(base, difference))
    return saved


def write(
    folder: Path,
    config: LoraConfig,
    weights: dict[str, Tensor],
    base: PreTrainedModel,
    reward_meta: dict[str, Any] | None,
) -> None:
    """Write an adapter folder; one that is there changes only once the new files are complete.

    Args:
        folder: where the files go, directly.
        config: the LoRA configuration; it is stored for inference, as PEFT does.
        weights: tensors under PEFT's names.
        base: the model the adapter belongs to.
        reward_meta: of a reward adapter its `bias`, its `probe` and perhaps its `ensemble`; None for any other.
    """
    config = copy.deepcopy(config)
    config.inference_mode = True
    config.base_model_name_or_path = getattr(base, "name_or_path", None) or config.base_model_name_or_path
    with unfinished_folder(folder) as part:
        # cloned, because tensors that share memory cannot be stored and contiguous() keeps the sharing
        plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in weights.items()}
        save_file(plain, part / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(part))
        write_base_meta(part, base)
        if reward_meta is not None:
            write_json(part / REWARD_META, reward_meta)
        _move_in(part, folder)


def write_base_meta(folder: Path, base: PreTrainedModel) -> None:
    """Record beside an adapter which base it belongs to, so that loading it onto another one is an error."""
    record = {"name": name_of(base), "embedding_shape": _embedding_shape(base), "embedding_probe": _probe(base)}
    write_json(folder / BASE_META, record)


def digest(weights: dict[str, Tensor], bias: float) -> str:
    """SHA-256 over names, shapes and values of an adapter's tensors, and its bias."""
    total = hashlib.sha256(repr(bias).encode())
    for key, tensor in sorted(weights.items()):
        total.update(f"{key}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def name_of(base: PreTrainedModel) -> str:
    """The hub id or folder a base came from."""
    return getattr(base, "name_or_path", "") or f"an unnamed {type(base).__name__}"


def _move_in(part: Path, folder: Path) -> None:
    """Put the files of `part` in `folder`; other files there stay, for a checkpoint keeps more than the adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (CONFIG, WEIGHTS, BASE_META, REWARD_META):
        if (part / file).exists():
            os.replace(part / file, folder / file)
        else:
            (folder / file).unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _embedding_shape(base: PreTrainedModel) -> list[int]:
    return list(_embedding(base).shape)


def _embedding(base: PreTrainedModel) -> Tensor:
    layer: Any = base.get_input_embeddings()
    weight: Any = getattr(layer, "original_module", layer).weight  # rows that an adapter trains are not the base's
    return cast(Tensor, weight.detach())


def _probe(base: PreTrainedModel) -> list[float]:
    """Some numbers of the input embedding, which stays unquantised: they tell models of one shape apart."""
    weight = _embedding(base)
    rows = torch.linspace(0, weight.shape[0] - 1, _PROBES).long()
    columns = torch.linspace(0, weight.shape[1] - 1, _PROBES).long()
    return [float(value) for value in weight[rows.to(weight.device), columns.to(weight.device)].float()]


def _base_difference(recorded: dict[str, Any], base: PreTrainedModel) -> str | None:
    """Say how a recorded base differs from this one; None when it does not, or nothing was recorded."""
    if not recorded:
        return None
    shape = _embedding_shape(base)
    if recorded.get("embedding_shape") != shape:
        return f"its base has an embedding of shape {recorded.get('embedding_shape')}, this one of {shape}"
    was, now = torch.tensor(recorded.get("embedding_probe") or [], dtype=torch.float), torch.tensor(_probe(base))
    # two per cent covers the rounding of half precision; another model differs by a hundred
    if was.shape != now.shape or not torch.allclose(was, now, rtol=0.02, atol=1e-3 * float(now.abs().max() + 1e-12)):
        return "the embeddings hold other numbers, so it is another model of the same shape"
    return None
