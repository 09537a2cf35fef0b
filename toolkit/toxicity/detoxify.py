"""Checkpoints of the package detoxify, read safely and without the network."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from ..errors import ModelError, RunError
from ..files import sha256_file, sha256_of, unfinished_folder
from .classifier import ClassifierToxicity, load_tokenizer

RELEASES = "https://github.com/unitaryai/detoxify/releases"
# The names end in what should be the first eight digits of the file's SHA-256.
RELEASED = {
    "original": "toxic_original-c1212f89.ckpt",
    "unbiased": "toxic_debiased-c7548aa0.ckpt",
    "multilingual": "multilingual_debiased-0b549669.ckpt",
    "original-small": "original-albert-0e1d6498.ckpt",
    "unbiased-small": "unbiased-albert-c8519128.ckpt",
}
UNCHECKED = "skip"
# As detoxify itself does: its models name the same thing in two ways.
_RENAMED = {"toxic": "toxicity", "identity_hate": "identity_attack", "severe_toxic": "severe_toxicity"}


class DetoxifyToxicity(ClassifierToxicity):
    """A Detoxify model (https://github.com/unitaryai/detoxify) as a toxicity scorer.

    The package loads its checkpoints as unrestricted pickles, asks the hub for the configuration, takes any number of
    texts as one batch and cuts long ones. Here the file is checked by its hash and read as tensors and plain values
    only, converted once to safetensors, and scored in batches and windows. Scores of texts that fit one window are
    those of `Detoxify.predict`.

    Args:
        checkpoint: a file, or the name of a release (`unbiased` is the usual choice), then looked for in torch's hub
            cache; nothing is downloaded.
        sha256: hash of the file, at least its first eight digits; `skip` takes the file unchecked. Not needed for a
            release, whose file name holds it.
        config_folder: with the config.json and tokenizer of the architecture that the checkpoint names. None looks
            beside the checkpoint, then in the hub's cache.
        cache: where converted models are kept; None: under the user's cache folder.
        label: which of the labels is the score.
        device: torch's name of it; None takes a GPU if there is one.
        batch_size: windows per forward pass.

    Raises:
        ModelError: the checkpoint is missing, is not the one that the hash names, or cannot be read.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        sha256: str | None = None,
        *,
        config_folder: Path | None = None,
        cache: Path | None = None,
        label: str = "toxicity",
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        path, expected = _find(str(checkpoint), sha256)
        digest = _verified(path, expected)
        folder = _converted(path, digest, config_folder, cache or _user_cache())
        super().__init__(folder, label, device=device, batch_size=batch_size)
        self.id = self.id.replace("hf:", "detoxify:", 1)


def _find(checkpoint: str, sha256: str | None) -> tuple[Path, str | None]:
    """The file, and what its hash must begin with."""
    if checkpoint not in RELEASED:
        return Path(checkpoint), sha256
    path = Path(torch.hub.get_dir()) / "checkpoints" / RELEASED[checkpoint]
    if not path.exists():
        raise ModelError(
            f"the Detoxify release {checkpoint!r} is not on this machine. Put {path.name} from {RELEASES} into "
            f"{path.parent}, or give the path of the file"
        )
    return path, sha256 or path.stem.rsplit("-", 1)[-1]


def _verified(path: Path, expected: str | None) -> str:
    """SHA-256 of the file, compared with what was expected."""
    if not path.is_file():
        raise ModelError(f"no checkpoint at {path}: give a file, or one of {', '.join(RELEASED)}")
    digest = sha256_file(path)
    if expected == UNCHECKED:
        return digest
    if expected is None:
        raise ModelError(
            f"{path} came without its SHA-256. It is {digest} here: compare that with the publisher's and give it "
            f"(detoxify:{path}@{digest[:16]}), or take the file unchecked (@{UNCHECKED})"
        )
    if len(expected) < 8 or not digest.startswith(expected.lower()):
        raise ModelError(
            f"{path} has the SHA-256 {digest}, wanted one that begins with {expected!r} (eight digits or more): it "
            f"is damaged or another file. Fetch it again, or, if you trust it, give its own hash (@{digest[:16]})"
        )
    return digest


def _converted(path: Path, digest: str, config_folder: Path | None, cache: Path) -> Path:
    """A plain Hugging Face folder with the checkpoint's weights in safetensors, made at first use."""
    beside = path.parent if (path.parent / "config.json").is_file() else None
    source = config_folder or beside
    folder = cache / sha256_of([digest, _files(source)])[:32]
    if folder.is_dir():
        return folder
    classes, arch, state = _read(path)
    model, tokenizer = _build(str(source or arch["model_type"]), classes, arch, path)
    _fill(model, state, path)
    _save(model, tokenizer, folder)
    return folder


def _files(source: Path | None) -> dict[str, str]:
    """Hashes of what decides the architecture and the tokens; nothing for the hub's cache."""
    if source is None:
        return {}
    if not (source / "config.json").is_file():
        raise ModelError(f"{source} holds no config.json: give the folder of the architecture's configuration")
    names = [file for file in sorted(source.iterdir()) if file.suffix in (".json", ".txt", ".model")]
    return {file.name: sha256_file(file) for file in names}


def _read(path: Path) -> tuple[list[str], dict[str, Any], dict[str, torch.Tensor]]:
    """Class names, arguments of the architecture, and weights of a checkpoint."""
    try:
        # Never with weights_only=False: an unrestricted pickle runs whatever code it holds.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint makes the reader fail in any way it likes
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"cannot read {path} as tensors and plain values ({first_line}): it is damaged, or it would run code of "
            "its own, which is refused"
        ) from error
    try:
        config = content["config"]
        classes = [_RENAMED.get(name, name) for name in config["dataset"]["args"]["classes"]]
        arch = {key: config["arch"]["args"][key] for key in ("num_classes", "model_type", "model_name")}
        return classes, arch, dict(content["state_dict"])
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is not a Detoxify checkpoint (reading it failed with {error!r}): wanted state_dict, "
            "config.dataset.args.classes and config.arch.args"
        ) from error


def _build(source: str, classes: Sequence[str], arch: Mapping[str, Any], path: Path) -> tuple[Any, Any]:
    """The untrained model and the tokenizer, from files on this machine."""
    count = int(arch["num_classes"])
    try:
        config = AutoConfig.from_pretrained(source, num_labels=count, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} needs the configuration and tokenizer of {arch['model_type']!r}, which are not on this machine: "
            f"put its config.json and tokenizer files beside the checkpoint ({error})"
        ) from error
    # Some releases have more outputs than names: identity groups that were only trained along.
    names = [*classes, *(f"unnamed_{index}" for index in range(len(classes), count))]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in config.id2label.items()}
    config.problem_type = "multi_label_classification"
    with torch.random.fork_rng(devices=[]):  # weights are drawn only to be replaced: no other draw may notice
        model = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    if type(model).__name__ != arch["model_name"]:
        raise ModelError(
            f"{path} holds a {arch['model_name']}, but the configuration in {source} makes a {type(model).__name__}: "
            f"give that of {arch['model_type']!r}"
        )
    return model, load_tokenizer(source, local_files_only=True)


def _fill(model: Any, state: dict[str, torch.Tensor], path: Path) -> None:
    """Put the weights into the model, every one of them."""
    # Older versions of transformers saved the numbers 0, 1, 2 ... as if they were weights.
    state = {name: tensor for name, tensor in state.items() if not name.endswith("embeddings.position_ids")}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelError(f"the weights in {path} do not fit the configuration: {error}") from error


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the folder whole or not at all."""
    try:
        with unfinished_folder(folder) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            os.rename(part, folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was quicker
            raise RunError(f"cannot write the converted model to {folder}: {error}. Free some space there") from error


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunewell" / "detoxify"
