"""Load a base model and its tokenizer: any causal model of the hub, full or 4-bit, with a padding token of its own."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError

from ..errors import DeviceError, ModelError
from ..mitigations.control_tokens import add_control_tokens
from ..settings.base import BaseSettings, names_path

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Head = Literal["language", "score"]
# What transformers raises for files that are missing, damaged, or of another model.
LOAD_FAULTS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
NEW_PAD = "<|pad|>"
# Serves rows of chat messages where a tokenizer brings no template of its own.
PLAIN_CHAT = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{{ {'user': 'Human', 'assistant': 'Assistant', 'system': 'System'}[message['role']] + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def device_of(settings: BaseSettings) -> str:
    """Decide where the model runs.

    Raises:
        DeviceError: a GPU was asked for and there is none.
    """
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "base.device: got 'cuda', but torch sees no GPU here. Use base.device=cpu, or install a torch build with "
            "CUDA and check `nvidia-smi`."
        )
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return settings.device


def dtype_name(settings: BaseSettings) -> str:
    """Name of the type of the weights that are not quantised; `auto` is what it comes to on this machine."""
    if settings.dtype == "auto":
        return "bfloat16" if device_of(settings) == "cuda" else "float32"
    return settings.dtype


def dtype_of(settings: BaseSettings) -> "torch.dtype":
    """The type of the weights that are not quantised."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype_name(settings)]


def load_tokenizer(source: str | Path, settings: BaseSettings) -> "PreTrainedTokenizerBase":
    """Load a tokenizer and see to it that it has a padding token of its own.

    Where it has none and the settings name none, a spare special token of its vocabulary serves, else one is added.

    Raises:
        ModelError: no tokenizer is there, it has no end token, or the settings name that for padding.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source), revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except LOAD_FAULTS as error:
        raise _unknown_model(source, error) from error
    if tokenizer.eos_token is None:
        raise ModelError(
            f"{source}: the tokenizer has no end token, so no answer would ever end. Name one in its "
            "tokenizer_config.json (eos_token)."
        )
    _set_pad_token(tokenizer, settings.pad_token, source)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_CHAT
    if settings.control_tokens:
        add_control_tokens(tokenizer)
    return tokenizer


def load_base(
    source: str | Path, settings: BaseSettings, *, head: Head = "language"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load the base model, in evaluation mode, and its tokenizer.

    Args:
        source: an id of the hub or a folder; only safetensors weights are read.
        settings: precision, device, revision.
        head: `language` for a causal language model, `score` for the same trunk with one score per sequence.

    Raises:
        ModelError: the model cannot be found, has no safetensors weights, or lacks some of its weights.
        DeviceError: a GPU was asked for and there is none.
    """
    import transformers

    from .memory_faults import is_out_of_memory

    tokenizer = load_tokenizer(source, settings)
    auto = transformers.AutoModelForCausalLM if head == "language" else transformers.AutoModelForSequenceClassification
    options: dict[str, Any] = {"num_labels": 1} if head == "score" else {}
    options |= {"dtype": dtype_of(settings), "device_map": {"": device_of(settings)}}
    try:
        loaded: Any = auto.from_pretrained(
            str(source),
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=True,
            quantization_config=_quantization(settings),
            output_loading_info=True,
            **options,
        )
    except LOAD_FAULTS as error:
        if is_out_of_memory(error):
            raise  # the model is sound, the device is too small for it
        raise _unknown_model(source, error) from error
    model, loading = loaded
    if missing := sorted(set(loading["missing_keys"]) - {"score.weight"}):
        raise ModelError(
            f"base.model: {source} lacks {len(missing)} of the model's weights ({', '.join(missing[:3])}, ...), which "
            "would stay random. Wanted all of them in its safetensors files: copy or download the model again."
        )
    _fit_embeddings(model, len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def _quantization(settings: BaseSettings) -> Any:
    if settings.quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype_of(settings),
    )


def _fit_embeddings(model: Any, tokens: int) -> None:
    """Make room for added tokens; each starts as the mean of the others, so that every loading gives the same model.

    The mean's logit is the mean logit, so such a token takes at most 1/vocabulary of the probability (Jensen), and
    moves no log-likelihood by more.
    """
    import torch

    old = model.get_input_embeddings().weight.shape[0]
    if tokens <= old:
        return
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                layer.weight[old:] = layer.weight[:old].mean(dim=0)


def padding_note(tokenizer: "PreTrainedTokenizerBase", settings: BaseSettings) -> str | None:
    """What the user should know of a padding token that was chosen for a tokenizer without one; None where it has one.

    Args:
        tokenizer: as `load_tokenizer` gives it.
        settings: those that it was loaded with.
    """
    named = tokenizer.init_kwargs.get("pad_token")
    if settings.pad_token is not None or str(named) == tokenizer.pad_token:
        return None
    got = (
        "has no padding token"
        if named is None
        else f"pads with its end token {str(named)!r}, so that the end could not be learned nor a reward be read there"
    )
    return f"The tokenizer {got}: {tokenizer.pad_token!r} pads instead (base.pad_token names another)."


def _set_pad_token(tokenizer: "PreTrainedTokenizerBase", wanted: str | None, source: str | Path) -> None:
    """A padding token that is also the end token hides the end from the loss and shifts where a reward is read."""
    if wanted is None and not _pads_by_itself(tokenizer):
        wanted = _spare_token(tokenizer) or NEW_PAD
    if wanted is not None:
        if wanted not in tokenizer.get_vocab():
            tokenizer.add_special_tokens({"pad_token": wanted})
        tokenizer.pad_token = wanted
    if not _pads_by_itself(tokenizer):
        raise ModelError(
            f"{source}: base.pad_token is {wanted!r}, which is also its end token; training needs one of its own. Mend "
            f"it with base.pad_token='{_spare_token(tokenizer) or NEW_PAD}'."
        )


def _pads_by_itself(tokenizer: "PreTrainedTokenizerBase") -> bool:
    return tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id


def _spare_token(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """A special token of the vocabulary that was made for padding; ordinary ones may stand in a text."""
    added = sorted(tokenizer.added_tokens_decoder.items())
    return next((one.content for _, one in added if one.special and "pad" in one.content.lower()), None)


def _unknown_model(source: str | Path, error: Exception) -> ModelError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    path = Path(source).expanduser()
    if not path.exists() and names_path(str(source)):
        first_line = "there is no such folder; if it has moved, put it back, or a link to it"
    near = difflib.get_close_matches(path.name, _model_folders(path.parent), n=1)
    hint = f" Did you mean {path.with_name(near[0])}?" if near and not path.exists() else ""
    return ModelError(
        f"base.model: cannot load {str(source)!r} ({first_line}). Wanted `tiny`, a folder with a Hugging Face model "
        "(config.json, tokenizer, safetensors weights), or an id of the hub with network access or a cached copy."
        f"{hint}"
    )


def _model_folders(folder: Path) -> list[str]:
    return sorted(found.parent.name for found in folder.glob("*/config.json"))
