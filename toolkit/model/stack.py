"""One base model in memory that plays several roles through named LoRA adapters."""

import copy
import hashlib
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, PeftModelForCausalLM, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ModelError
from . import adapter_files
from .ensemble import Ensemble, member_folder, member_names
from .score_probe import differs, evaluating, probe_ids
from .switch import AdapterSwitch

HEAD = "score"
_HEAD_KEY = f"base_model.model.{HEAD}.weight"


class ModelStack:
    """ONE base causal language model with named LoRA adapters; `using` is the only way to switch between them.

    The base is never changed. Adapters and reward heads are kept in float32, also on a 4-bit base, because bfloat16
    swallows most of an update at usual learning rates. One adapter belongs to one forward and its backward: under
    gradient checkpointing the backward runs the forward again, with the adapter that is active *then*.

    Args:
        base: the causal language model, in any precision, 4-bit included.
        tokenizer: the tokenizer of `base`.

    Raises:
        ModelError: when the weights of a 4-bit base are already packed in a form that gradients cannot pass.
    """

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        keep_differentiable(base)
        self.base = base
        self.tokenizer = tokenizer
        self._peft: PeftModel | None = None
        self._switch = AdapterSwitch()
        self._found: dict[str, list[tuple[str, nn.Parameter]]] = {}
        self.is_direct = False
        """Whether `using` leaves PEFT's bookkeeping out of every LoRA layer; for code that calls nothing of PEFT's."""
        self._biases: dict[str, float] = {}
        self._ensembles: dict[str, Ensemble] = {}
        trunk_arguments = inspect.signature(base.base_model.forward).parameters
        self._takes_positions = "position_ids" in trunk_arguments

    # ---- what is there -------------------------------------------------------------------------------------------

    @property
    def model(self) -> PeftModel:
        """The base with all its adapters, for code that wants a PEFT model."""
        if self._peft is None:
            raise ModelError("the stack has no adapter yet, wanted at least one: call add() or load() first")
        return self._peft

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all adapters, in the order they came."""
        return () if self._peft is None else tuple(self._peft.peft_config)

    @property
    def active(self) -> str | None:
        """Name of the adapter that computes now; None is the bare base."""
        return self._switch.active

    @property
    def device(self) -> torch.device:
        """Where the base computes."""
        return torch.device(self.base.device)

    def config(self, name: str) -> LoraConfig:
        """A copy of an adapter's LoRA configuration."""
        return copy.deepcopy(self.model.peft_config[self._known(name)])

    def parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of one adapter, its reward head included."""
        if self._known(name) not in self._found:
            kinds = r"lora_\w+|modules_to_save|trainable_tokens_delta"
            pattern = re.compile(rf"(^|\.)({kinds})\.{re.escape(name)}(\.|$)")
            self._found[name] = [(key, value) for key, value in self.model.named_parameters() if pattern.search(key)]
        return list(self._found[name])

    def has_head(self, name: str) -> bool:
        """Whether the adapter brings a reward head."""
        head = getattr(self.base, HEAD, None)
        return isinstance(head, ModulesToSaveWrapper) and self._known(name) in head.modules_to_save

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

    def weights(self, name: str) -> dict[str, Tensor]:
        """The adapter's tensors under the names of a PEFT file; they share memory with the model."""
        # PEFT 0.21 asks every layer with trained token rows for those of this adapter, and fails where there are none.
        lacking = {f"{place}.token_adapter.trainable_tokens_delta" for place in self._places_without_rows(name)}
        every = self.model.state_dict() | {f"{key}.{name}": torch.empty(0) for key in lacking}
        state: dict[str, Tensor] = get_peft_model_state_dict(
            self.model, state_dict=every, adapter_name=self._known(name), save_embedding_layers=False
        )
        return {key: tensor for key, tensor in state.items() if key not in lacking}

    def digest(self, name: str) -> str:
        """SHA-256 of an adapter's weights and bias, and of its ensemble: equal digests, equal behaviour."""
        own = adapter_files.digest(self.weights(name), self.bias(name))
        if (ensemble := self.ensemble(name)) is None:
            return own
        members = [self.digest(member) for member in member_names(name, ensemble.size)[1:]]
        return hashlib.sha256(repr([own, members, ensemble]).encode()).hexdigest()

    # ---- adding, loading, saving ---------------------------------------------------------------------------------

    def add(self, name: str, config: LoraConfig, *, trainable: bool) -> None:
        """Add a fresh adapter, which does not change what the model computes until it is trained.

        Args:
            name: a new name of letters, digits and underscores.
            config: its shape; `modules_to_save=["score"]` gives it a reward head.
            trainable: whether its parameters take gradients outside of `using`.

        Raises:
            ModelError: when the name is taken or malformed, or the configuration does not fit the base.
        """
        self._check_new(name)
        config = copy.deepcopy(config)
        start = config.init_lora_weights
        if isinstance(start, str) and start.lower().startswith(("pissa", "olora", "corda")):
            raise ModelError(
                f"got init_lora_weights={start!r} for adapter {name!r}, which rewrites the base under all other "
                'adapters, wanted an initialisation that leaves the base alone: use True or "gaussian"'
            )
        if HEAD in (config.modules_to_save or ()):
            self._attach_head()
        if config.target_modules == "all-linear" and hasattr(self.base, HEAD):
            config.exclude_modules = rf"{HEAD}(\..*)?"
        self._inject(name, config)
        self.to_float32(name)
        self._require_grad(name, trainable)

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
            self._check_fit(name, saved)
        except ModelError:
            self.delete(name)
            raise
        self._write(name, saved.weights)
        self._biases[name] = saved.bias
        try:
            self._check_scores(name, saved)
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
        self._check_fit(self._known(name), saved)
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
        self._found.clear()
        others = [other for other in self.names if other != name]
        if not others:
            self.model.unload()
            self._peft = None
            self._switch = AdapterSwitch()
            return
        with self._same_flags():
            if self.active == name:
                self._switch.to(self.model, others[0], direct=False)
            self.model.delete_adapter(name)

    def to_float32(self, name: str) -> None:
        """Turn an adapter to float32, for instance after a trainer turned it to bfloat16."""
        for _, parameter in self.parameters(name):
            parameter.data = parameter.data.float()

    # ---- computing -----------------------------------------------------------------------------------------------

    @contextmanager
    def using(self, name: str | None, *, trainable: bool = False, summed: bool = False) -> Iterator[PeftModel]:
        """Compute with one adapter; afterwards the adapter and all gradient flags are as before, also on an error.

        Args:
            name: the adapter, or None for the bare base.
            trainable: whether this adapter takes gradients inside; all others never do. Run the backward inside too.
            summed: whether layers in float32 on a CPU compute with W + s B A where `is_direct` holds: one product
                instead of three, without gradients, for the memory of a second set of their weights, which is kept
                for the next adapter until one is trained.

        Raises:
            ModelError: when there is no such adapter.
        """
        if name is not None:
            self._known(name)
        before, was_direct = self._switch.active, self._switch.direct is not None
        # a switch touches adapters alone; PPO switches so often that walks through all modules would be felt
        flags = [(value, value.requires_grad) for other in self.names for _, value in self.parameters(other)]
        try:
            if trainable:
                self._switch.forget_sums()
            self._switch.to(self.model, name, direct=self.is_direct, summed=summed)
            for other in self.names:
                self._require_grad(other, trainable and other == name)
            yield self.model
        finally:
            self._switch.to(self.model, before, direct=was_direct)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states under the active adapter; positions count the real tokens, so padding may be anywhere.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, T), 1 at real tokens.

        Returns:
            (B, T, H), what the output embedding reads.
        """
        positions: dict[str, Tensor] = {}
        if self._takes_positions:
            positions["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        trunk = self.base.base_model
        output = trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **positions)
        states: Tensor = output.last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., H), under the active adapter."""
        output: Any = self.base.get_output_embeddings()  # type: ignore[no-untyped-call]
        return cast(Tensor, output(hidden))

    def head(self, hidden: Tensor) -> Tensor:
        """The active adapter's reward head on hidden states (..., H): float32 scores (...), bias not subtracted."""
        name = self.active
        if name is None or not self.has_head(name):
            raise ModelError(
                f"adapter {name!r} has no reward head, wanted one trained as a reward model: load that one"
            )
        with torch.autocast(hidden.device.type, enabled=False):
            head: Any = self.base.score
            return cast(Tensor, head(hidden.float())).squeeze(-1)

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
        last = (attention_mask * torch.arange(attention_mask.shape[1], device=attention_mask.device)).argmax(-1)
        # the head reads every position, as transformers' classifier does: the same product, so the same bits
        scores = self.head(self.hidden(input_ids, attention_mask))
        return scores.gather(1, last[:, None]).squeeze(1) - self.bias(self.active or "")

    def _probe(self, name: str) -> list[float]:
        """Scores of a few fixed sequences, the bias left out."""
        ids = probe_ids(self.base).to(self.device)
        with evaluating(self.model), self.using(name):
            scores: list[float] = (self._own_score(ids, torch.ones_like(ids)) + self.bias(name)).tolist()
        return scores

    def _check_scores(self, name: str, saved: adapter_files.SavedAdapter) -> None:
        """Equal keys and embeddings do not make an equal base: one that an adapter was merged into has both."""
        if saved.probe is None or not self.has_head(name):
            return
        if (largest := differs(saved.probe, self._probe(name))) is not None:
            raise ModelError(
                saved.foreign(
                    self.base,
                    f"its scores of fixed sequences differ by up to {largest:.3g} from those when it was saved (they "
                    f"were about {max(map(abs, saved.probe)):.3g}); the same base in another precision, or with an "
                    "adapter merged into it, is another base to a reward head",
                )
            )

    def _known(self, name: str) -> str:
        if name not in self.names:
            have = ", ".join(self.names) or "none"
            raise ModelError(f"got adapter {name!r}, wanted one of the stack's ({have}): add() or load() it first")
        return name

    def _check_new(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z]\w*", name) or "lora" in name or name in (HEAD, "default"):
            raise ModelError(f"got adapter name {name!r}, wanted a word such as policy, reference, reward or value")
        if name in self.names:
            raise ModelError(f"adapter {name!r} is already in the stack: delete() it first, or restore() its weights")

    def _attach_head(self) -> None:
        """Give the base a slot for reward heads; each adapter that saves `score` gets its own copy of it."""
        if not hasattr(self.base, HEAD):
            size = self.base.config.get_text_config().hidden_size
            head = nn.Linear(int(size), 1, bias=False, device=self.device, dtype=torch.float32)
            nn.init.zeros_(head.weight)
            self.base.score = head.requires_grad_(False)

    def _inject(self, name: str, config: LoraConfig) -> None:
        self._found.clear()
        if self._peft is None:
            self._peft = PeftModelForCausalLM(self.base, config, adapter_name=name)
            self._switch.active = name
        else:
            with self._same_flags():
                self._peft.add_adapter(name, config)
        self._switch.watch(self._peft)
        # PEFT makes new layers in training mode: their dropout would make every score of a loaded model random.
        self._peft.train(self.base.training)
        self._show_bias()

    def _show_bias(self) -> None:
        """Let an output layer whose rows are trained show its bias: TRL's fused head asks for it, PEFT hides it."""
        head: Any = self.base.get_output_embeddings()  # type: ignore[no-untyped-call]
        if isinstance(head, TrainableTokensWrapper) and "bias" not in head.__dict__:
            object.__setattr__(head, "bias", head.original_module.bias)

    def _places_without_rows(self, name: str) -> list[str]:
        """Layers in which other adapters have trained token rows, and this one has none."""
        return [
            place
            for place, module in self.model.named_modules()
            if isinstance(module, TrainableTokensWrapper)
            and name not in module.token_adapter.trainable_tokens_delta
            and not module.token_adapter.tied_adapter
        ]

    def _require_grad(self, name: str, flag: bool) -> None:
        for _, parameter in self.parameters(name):
            parameter.requires_grad_(flag)

    @contextmanager
    def _same_flags(self) -> Iterator[None]:
        """Undo what PEFT does to `requires_grad` when adapters come, go and take turns."""
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        try:
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def _check_fit(self, name: str, saved: adapter_files.SavedAdapter) -> None:
        """Compare keys and shapes of a file with those of an adapter, both ways."""
        have = {key: tuple(tensor.shape) for key, tensor in self.weights(name).items()}
        got = {key: tuple(tensor.shape) for key, tensor in saved.weights.items()}
        faults = [f"missing key {key}" for key in have.keys() - got.keys()]
        faults += [f"unexpected key {key}" for key in got.keys() - have.keys()]
        faults += [
            f"{key} has shape {got[key]}, wanted {have[key]}"
            for key in have.keys() & got.keys()
            if have[key] != got[key]
        ]
        if faults:
            raise ModelError(saved.foreign(self.base, f"{len(faults)} differences, such as: {min(faults)}"))

    def _write(self, name: str, weights: dict[str, Tensor]) -> None:
        # As in `weights`: PEFT wants rows for every layer where some adapter has them, and drops what it cannot place.
        fill = {f"{place}.token_adapter.trainable_tokens_delta": torch.empty(0)
                for place in self._places_without_rows(name)}  # fmt: skip
        set_peft_model_state_dict(self.model, weights | fill, adapter_name=name)


def keep_differentiable(model: nn.Module) -> None:
    """Stop bitsandbytes from packing 4-bit weights for inference on a CPU: the packed kernel has no backward.

    On CPUs with AVX512-BF16, the first forward in eval mode without gradients repacks the weights in place, and later
    training steps then miss most of their gradient without an error. Call this before a 4-bit model is used.

    Raises:
        ModelError: when weights are already packed.
    """
    for name, module in model.named_modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        state: Any = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ModelError(
                f"the 4-bit weight {name!r} was packed for inference by an earlier forward pass, wanted an unused "
                "model: load the model again and hand it over before the first use"
            )
        setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010
