"""The arms of the comparison of mitigations: each method of the toolkit at three strengths, on one base and budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..toolkit.mitigations.settings import (
    OFF,
    AugmentSettings,
    ControlSettings,
    EmbeddingSettings,
    EqualiseSettings,
    MitigationSettings,
    ProtectSettings,
    UnlikelihoodSettings,
)

UNTREATED = "untreated"
BASE = "base"
Aim = Literal["toxicity", "bias", "tax"]
Decoding = Literal["blocklist", "leace", "inlp", "a-inlp", "gate"]
DataFilter = Literal["blocklist", "trigger"]


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files that the stage writes for some of the methods."""

    neutral: Path
    """Occupations, one a line."""
    scored: Path
    """Completions with `is_unsafe` and `rationale`."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to make a model less harmful, and how strongly it is tried."""

    title: str
    aim: Aim
    """The figure that it is meant to improve."""
    unit: str
    """What a strength is."""
    strengths: tuple[float, float, float]
    training: Callable[[float, Files], MitigationSettings] | None = None
    """What the recipe's section is at a strength; None: trained as the untreated model."""
    drops: DataFilter | None = None
    """The filter that training rows pass; the strength is the share of the rows it finds that are dropped."""
    decoding: Decoding | None = None
    """What is done while the model writes."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A method at one strength."""

    name: str
    method: str
    strength: float
    trained: str
    """Name of the training; arms that differ in decoding alone share one."""


def _distance(strength: float, files: Files) -> MitigationSettings:
    return replace(OFF, embeddings=EmbeddingSettings(train_rows=True, pair_distance=strength))


def _subspace(strength: float, files: Files) -> MitigationSettings:
    wanted = EmbeddingSettings(bias_subspace=strength, neutral=str(files.neutral), train_rows=True)
    return replace(OFF, embeddings=wanted)


def _control(strength: float, files: Files) -> MitigationSettings:
    return replace(OFF, control=ControlSettings(strength=2.0, texts=str(files.scored), every=8, row_learning_rate=2e-2))


METHODS: Mapping[str, Method] = {
    "blocklist-data": Method(
        title="Word list over training rows", aim="toxicity", unit="share of found rows dropped",
        strengths=(0.33, 0.67, 1.0), drops="blocklist",
    ),
    "trigger-data": Method(
        title="Trigger-phrase likelihood over training rows", aim="toxicity", unit="share of found rows dropped",
        strengths=(0.33, 0.67, 1.0), drops="trigger",
    ),
    "blocklist-decoding": Method(
        title="Word list while the model writes", aim="toxicity", unit="share of the list",
        strengths=(0.33, 0.67, 1.0), decoding="blocklist",
    ),
    "control": Method(
        title="Safety control tokens with the gate", aim="toxicity", unit="share of safe texts thought over",
        strengths=(0.05, 0.2, 0.5), training=_control, decoding="gate",
    ),
    "unlikelihood": Method(
        title="Unlikelihood of rejected text", aim="toxicity", unit="weight", strengths=(0.1, 0.5, 2.0),
        training=lambda weight, _: replace(OFF, unlikelihood=UnlikelihoodSettings(strength=weight)),
    ),
    "leace": Method(
        title="LEACE of rudeness at decoding", aim="toxicity", unit="share erased", strengths=(0.33, 0.67, 1.0),
        decoding="leace",
    ),
    "inlp": Method(
        title="INLP of rudeness at decoding", aim="toxicity", unit="share erased", strengths=(0.33, 0.67, 1.0),
        decoding="inlp",
    ),
    "protect": Method(
        title="Null-space projection of updates", aim="tax", unit="share of the protected part taken out",
        strengths=(0.5, 0.9, 1.0),
        training=lambda share, _: replace(OFF, protect=ProtectSettings(strength=share, energy=0.9, limit=100)),
    ),
    "augment": Method(
        title="Counterfactual data augmentation", aim="bias", unit="share of rows", strengths=(0.33, 0.67, 1.0),
        training=lambda share, _: replace(OFF, augment=AugmentSettings(share=share)),
    ),
    "equalise": Method(
        title="Gender-equalising loss", aim="bias", unit="weight", strengths=(0.1, 0.5, 2.0),
        training=lambda weight, _: replace(OFF, equalise=EqualiseSettings(strength=weight)),
    ),
    "pair-distance": Method(
        title="Distance of paired word embeddings", aim="bias", unit="weight", strengths=(0.1, 1.0, 10.0),
        training=_distance,
    ),
    "bias-subspace": Method(
        title="Neutral words off the gender axis", aim="bias", unit="weight", strengths=(0.1, 1.0, 10.0),
        training=_subspace,
    ),
    "counterfactual-hidden": Method(
        title="Like states for counterfactual rows", aim="bias", unit="weight", strengths=(1.0, 10.0, 100.0),
        training=lambda weight, _: replace(OFF, embeddings=EmbeddingSettings(counterfactual_hidden=weight)),
    ),
    "a-inlp": Method(
        title="A-INLP of gender at decoding", aim="bias", unit="largest share erased", strengths=(0.33, 0.67, 1.0),
        decoding="a-inlp",
    ),
}  # fmt: skip


def arms(methods: tuple[str, ...]) -> list[Arm]:
    """The bare base, the untreated arm, then every method at each of its strengths."""
    found = [Arm(name=name, method=name, strength=0.0, trained=name) for name in (BASE, UNTREATED)]
    for name in methods:
        method = METHODS[name]
        for strength in method.strengths:
            own = f"{name}-{strength:g}"
            is_own = method.drops is not None or (method.training is not None and method.decoding is None)
            shared = name if method.training is not None else UNTREATED
            found.append(Arm(name=own, method=name, strength=strength, trained=own if is_own else shared))
    return found
