"""Mitigations that act while a model writes: fitted by the stage eval, kept in its folder, found there by others."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.data.row_shapes import require_columns
from ..toolkit.data.rows import read_rows
from ..toolkit.errors import DataError
from ..toolkit.files import read_json, write_json
from ..toolkit.mitigations.settings import ControlSettings, EraseSettings, MitigationSettings
from ..toolkit.mitigations.word_pairs import read_pairs, token_pairs
from ..toolkit.model.tokens import encode_plain, start_ids
from .mitigate import scored_rows, scored_sides, split_ids
from .model_source import RUN, ModelSource
from .sets import read_set
from .training import window

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..toolkit.mitigations.decoding import Erasure
    from ..toolkit.mitigations.gate_calibration import Calibration
    from ..toolkit.mitigations.gate_settings import GateSettings
    from ..toolkit.model.stack import ModelStack

NEUTRAL = 60  # texts that the lean of a model is measured on


@dataclass(frozen=True, kw_only=True)
class AtDecoding:
    """What a run wants to act while its model writes, as far as it is there."""

    erasure: Path | None = None
    """File of `Erasure`."""
    gate: "GateSettings | None" = None
    """The calibrated gate."""
    missing: tuple[str, ...] = ()
    """What the run wants and has not made, each with the reason."""

    @property
    def names(self) -> tuple[str, ...]:
        """What acts, in words."""
        found = ("an erased concept",) if self.erasure else ()
        return (*found, "the gate of its control tokens") if self.gate else found


def wanted_at_decoding(source: ModelSource) -> list[str]:
    """Names of the recipe's mitigations that act at decoding, for a model that they concern."""
    if source.run is None or source.role not in ("sft", "ppo"):
        return []
    tree = read_json(source.run / RUN)["settings"].get("mitigations", {})
    return [name for name in ("erase", "control") if tree.get(name, {}).get("strength")]


def find_at_decoding(source: ModelSource) -> AtDecoding:
    """What the stage eval of a run has kept for one of its models; nothing for other models."""
    from ..toolkit.mitigations.gate_settings import GateSettings

    wanted = wanted_at_decoding(source)
    if not wanted or source.run is None:
        return AtDecoding()
    stage = read_json(source.run / RUN)["stages"].get("eval")
    folder = source.run / stage["folder"] if stage else None
    eraser = folder / eraser_file(source.role) if folder else None
    gate = folder / gate_file(source.role) if folder else None
    has_eraser, has_gate = eraser is not None and eraser.is_file(), gate is not None and gate.is_file()
    missing = [name for name, is_there in (("erase", has_eraser), ("control", has_gate)) if name in wanted
               and not is_there]  # fmt: skip
    return AtDecoding(
        erasure=eraser if has_eraser and "erase" in wanted else None,
        gate=GateSettings(**read_json(gate)["gate"]) if gate and has_gate and "control" in wanted else None,
        missing=tuple(f"mitigations.{name} (it is made by the stage eval)" for name in missing),
    )


def eraser_file(adapter: str) -> str:
    """Its name in the folder of the stage eval."""
    return f"eraser-{adapter}.safetensors"


def gate_file(adapter: str) -> str:
    """Its name in the folder of the stage eval."""
    return f"gate-{adapter}.json"


# ---- erasing ---------------------------------------------------------------------------------------------------


def erasing(
    settings: MitigationSettings, stack: "ModelStack", data: Path | None, seed: int, folder: Path
) -> Callable[[str | None], AbstractContextManager[Any]]:
    """For each adapter, a context in which the concept is erased from what the output layer reads.

    The bare base is left as it is, to be compared with. Each adapter gets an eraser of its own, which is kept in the
    folder.
    """
    made: dict[str, Erasure] = {}

    def context(adapter: str | None) -> AbstractContextManager[Any]:
        if adapter is None or settings.erase.strength == 0:
            return nullcontext()
        if adapter not in made:
            with stack.using(adapter) as model:
                made[adapter] = fitted_erasure(settings, model, stack.tokenizer, data, seed)
            made[adapter].save(folder / eraser_file(adapter))
        return made[adapter].acting(stack.base)

    return context


def fitted_erasure(
    settings: MitigationSettings, model: Any, tokenizer: "PreTrainedTokenizerBase", data: Path | None, seed: int
) -> "Erasure":
    """Fit an eraser on what the output layer of a model reads.

    Raises:
        DataError: there are no texts, or of one kind only.
    """
    from ..toolkit.mitigations.decoding import Erasure

    if settings.erase.method == "a-inlp":
        return _of_pairs(settings, model, tokenizer, data)
    return Erasure(_fitted_eraser(settings.erase, model, tokenizer, data, seed), settings.erase.strength)


def _of_pairs(
    settings: MitigationSettings, model: Any, tokenizer: "PreTrainedTokenizerBase", data: Path | None
) -> "Erasure":
    """The differences of word pairs, erased where the next words lean to one side."""
    import torch

    from ..toolkit.mitigations.decoding import Erasure, calibrated, head_of
    from ..toolkit.mitigations.erasure import Eraser

    words = [*read_pairs(settings.pairs), *([("her", "his")] if settings.pairs is None else [])]
    pairs = token_pairs(words, tokenizer)
    weight = head_of(model).weight.detach()
    apart = (weight[list(pairs.first)] - weight[list(pairs.second)]).float()
    if settings.erase.texts is not None:
        rows = read_rows(Path(settings.erase.texts).expanduser(), limit=settings.erase.limit)
        require_columns(rows, "text", settings.erase.texts)
    else:
        rows = read_set(data, "clean_text") if data else []
    start, longest = start_ids(tokenizer), window(model, None)
    neutral = [[*start, *encode_plain(tokenizer, row["text"])][:longest] for row in rows[:NEUTRAL]]
    if not neutral:
        raise DataError(
            "mitigations.erase: a-inlp needs neutral text to measure how much this model leans: give "
            "mitigations.erase.texts=FILE, rows with `text`, or data.clean_text"
        )
    axis = torch.linalg.svd(apart, full_matrices=False)[2][0]
    return Erasure(Eraser.of_directions(apart), settings.erase.strength, calibrated(model, axis, neutral))


def _fitted_eraser(
    settings: EraseSettings, model: Any, tokenizer: "PreTrainedTokenizerBase", data: Path | None, seed: int
) -> Any:
    from torch import cat, tensor

    from ..toolkit.mitigations.decoding import head_inputs
    from ..toolkit.mitigations.erasure import fit_inlp, fit_leace

    longest = window(model, None)
    texts = [(ids, start, label) for ids, start, label in _labelled(settings, tokenizer, data) if len(ids) <= longest]
    if {label for _, _, label in texts} != {0, 1}:
        raise DataError(
            f"mitigations.erase: {len(texts)} texts fit the window and have the labels "
            f"{sorted({label for _, _, label in texts})}, wanted some of 0 and of 1: give mitigations.erase.texts=FILE"
        )
    states = head_inputs(model, [ids for ids, _, _ in texts])
    # What predicts the tokens of the text: the state before its first one up to that before its last one.
    kept = [one[start - 1 : -1] for one, (_, start, _) in zip(states, texts, strict=True)]
    labels = tensor([label for one, (_, _, label) in zip(kept, texts, strict=True) for _ in one])
    if settings.method == "leace":
        return fit_leace(cat(kept), labels)
    return fit_inlp(cat(kept), labels, seed=seed).eraser


def _labelled(
    settings: EraseSettings, tokenizer: "PreTrainedTokenizerBase", data: Path | None
) -> list[tuple[list[int], int, int]]:
    """Token ids of each text, where what counts of it begins, and its label."""
    if settings.texts is not None:
        rows = read_rows(Path(settings.texts).expanduser(), limit=settings.limit)
        lacking = [number for number, row in enumerate(rows) if not {"text", "label"} <= row.keys()]
        if lacking:
            raise DataError(f"{settings.texts}: row {lacking[0]} lacks `text` or `label`, wanted both")
        start = start_ids(tokenizer)
        return [([*start, *encode_plain(tokenizer, row["text"])], 1, int(row["label"])) for row in rows]
    comparisons = read_set(data, "comparisons")[: settings.limit // 2] if data else []
    found = []
    for row in comparisons:
        for label, side in enumerate(("chosen", "rejected")):
            prompt, rest = split_ids(row["prompt"], row[side], tokenizer)
            found.append(([*prompt, *rest], len(prompt), label))
    return found


# ---- the gate --------------------------------------------------------------------------------------------------


def calibrated_gate(
    settings: ControlSettings, model: Any, tokenizer: "PreTrainedTokenizerBase", data: Path | None, seed: int
) -> "tuple[Calibration, Calibration] | None":
    """Thresholds from one half of the held-out texts, and what they do on the other; None where there are too few."""
    from ..toolkit.mitigations.control_rows import completion_ids
    from ..toolkit.mitigations.control_tokens import encode_user
    from ..toolkit.mitigations.gate_calibration import check_gate, fit_gate
    from ..toolkit.mitigations.gate_settings import GateSettings

    if settings.held_out is not None:
        scored = scored_rows(settings.held_out, settings.threshold)
    else:
        scored = scored_sides(read_set(data, "comparisons_held_out") if data else [])
    room = window(model, None) - settings.think_tokens - 4
    texts = [
        (one.prompt, one.completion, one.is_unsafe)
        for one in scored
        if len(encode_user(tokenizer, one.prompt)) + len(completion_ids(tokenizer, one.prompt, one.completion)) <= room
    ]
    halves = [[*_half(texts, True, part), *_half(texts, False, part)] for part in (0, 1)]
    if any({is_unsafe for _, _, is_unsafe in half} != {False, True} for half in halves):
        return None
    wanted = GateSettings(every=settings.every, think_tokens=settings.think_tokens, refusal=settings.refusal.strip())
    found = fit_gate(
        model, tokenizer, halves[0], wanted, seed=seed,
        most_false_alarms=settings.most_false_alarms, most_missed=settings.most_missed,
    )  # fmt: skip
    return found, check_gate(model, tokenizer, halves[1], found.gate, seed=seed)


def keep_gate(found: "Calibration", checked: "Calibration", path: Path) -> None:
    """Write a calibrated gate with its figures on the texts that it was, and was not, calibrated on."""
    write_json(path, {"gate": asdict(found.gate), "calibration": found.as_json(), "held_out": checked.as_json()})


def _half(texts: Sequence[tuple[Any, Any, bool]], is_unsafe: bool, part: int) -> list[tuple[Any, Any, bool]]:
    return [text for text in texts if text[2] == is_unsafe][part::2]
