"""Filters are built from their settings, each by one entry of one plain dict."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, cast

from ..filters.base import CorpusFilter, Filter
from ..toolkit.settings.base import BaseSettings
from .console import Console
from .filter_settings import FilterSettings, resource

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..filters.trigger import TriggerLikelihoodFilter

AnyFilter: TypeAlias = Filter | CorpusFilter
CALIBRATION_SAMPLE = 500  # documents; the interval of a removal rate of 2% is then about 1% to 4%


@dataclass(frozen=True, kw_only=True)
class FilterModel:
    """The causal model of the trigger-phrase filter, loaded when it is first asked for.

    Attributes:
        source: folder or hub id.
        base: how it is held in memory.
    """

    source: str = ""
    base: BaseSettings = BaseSettings()

    @cached_property
    def loaded(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """The model and its tokenizer."""
        from transformers.utils import logging

        from ..toolkit.model.loading import load_base

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # worker processes do not own the screen
        return load_base(self.source, self.base)


def build_filters(settings: FilterSettings, model: FilterModel) -> dict[str, AnyFilter]:
    """Build the filters that the settings ask for, by name, in the order in which they have the first word.

    Args:
        settings: which filters.
        model: what the trigger-phrase filter scores with.

    Raises:
        SettingsError: faulty lists or phrases, or axes without a threshold.
        ModelError: a model that cannot be loaded or cannot score.
    """
    made = {name: build(settings, model) for name, build in BUILDERS.items()}
    return {name: one for name, one in made.items() if one is not None}


def split_filters(filters: Mapping[str, AnyFilter]) -> tuple[dict[str, Filter], dict[str, CorpusFilter]]:
    """Part those that judge a text by itself from those that compare it with all texts before it."""
    rows: dict[str, Filter] = {}
    corpus: dict[str, CorpusFilter] = {}
    for name, one in filters.items():
        if _compares(one):
            corpus[name] = one
        else:
            rows[name] = cast(Filter, one)
    return rows, corpus


def _compares(one: AnyFilter) -> TypeGuard[CorpusFilter]:
    return hasattr(one, "summarise")


def with_calibrated_thresholds(
    settings: FilterSettings, model: FilterModel, texts: Sequence[str], seed: int, console: Console
) -> FilterSettings:
    """Set the thresholds that trigger phrases lack by the removal rate, on a sample of texts.

    Args:
        settings: which filters; without a removal rate, or with all thresholds there, they come back unchanged.
        model: what the trigger-phrase filter scores with.
        texts: what will be filtered, or an even sample of it.
        seed: of the sample taken from them.
        console: shows progress.
    """
    if settings.phrases is None or settings.removal_rate is None:
        return settings
    from ..filters.calibration import threshold_for_rate

    found = _trigger(settings, model)
    missing = [axis.name for axis in found.axes if axis.threshold is None]
    if not missing:
        return settings
    sample = random.Random(seed).sample(list(texts), min(len(texts), CALIBRATION_SAMPLE))
    measured: list[Mapping[str, float]] = []
    with console.bar("scoring a sample for the thresholds") as advance:
        for start in range(0, len(sample), 64):
            measured += [one.measures for one in found.measure(sample[start : start + 64])]
            advance(len(measured), len(sample), "")
    thresholds = {
        name: threshold_for_rate(
            [one[name] for one in measured if name in one], settings.removal_rate, seed=seed
        ).threshold
        for name in missing
    }
    return replace(settings, thresholds=settings.thresholds | thresholds)


def _trigger(settings: FilterSettings, model: FilterModel) -> "TriggerLikelihoodFilter":
    from ..filters.phrase_file import load_phrases, with_thresholds
    from ..filters.trigger import TriggerLikelihoodFilter

    axes = with_thresholds(load_phrases(resource(str(settings.phrases), "phrases", ".yaml")), settings.thresholds)
    return TriggerLikelihoodFilter.from_model(axes, *model.loaded, tokens_per_batch=settings.tokens_per_batch)


def _trigger_or_none(settings: FilterSettings, model: FilterModel) -> AnyFilter | None:
    return None if settings.phrases is None else _trigger(settings, model)


def _blocklist(settings: FilterSettings, model: FilterModel) -> AnyFilter | None:
    if settings.blocklist is None:
        return None
    from ..filters.blocklist import Blocklist, BlocklistFilter

    patterns = Blocklist.from_file(resource(settings.blocklist, "lists", ".txt"))
    return BlocklistFilter(patterns, settings.max_matches, settings.leetspeak)


def _contamination(settings: FilterSettings, model: FilterModel) -> AnyFilter | None:
    if not settings.benchmarks:
        return None
    from ..filters.benchmark_texts import read_benchmarks
    from ..filters.contamination import SHORTEST, ContaminationFilter

    n_words = settings.benchmark_ngram
    return ContaminationFilter(
        items=read_benchmarks(settings.benchmarks), n_words=n_words, shortest=min(n_words, SHORTEST)
    )


def _toxicity(settings: FilterSettings, model: FilterModel) -> AnyFilter | None:
    if settings.toxicity is None:
        return None
    from ..filters.toxicity import ToxicityFilter
    from ..toolkit.toxicity.scorer import open_scorer

    return ToxicityFilter(scorer=open_scorer(settings.toxicity), threshold=settings.toxicity_threshold)


def _exact(settings: FilterSettings, model: FilterModel) -> AnyFilter | None:
    from ..filters.duplicates import ExactDuplicateFilter

    return ExactDuplicateFilter() if settings.exact_duplicates else None


# From cheap to dear; the first that drops a row is named as the one that did. Those that compare a text with the whole
# corpus come last in any case.
BUILDERS: dict[str, Callable[[FilterSettings, FilterModel], AnyFilter | None]] = {
    "blocklist": _blocklist,
    "contamination": _contamination,
    "length": lambda settings, model: settings.length,
    "repetition": lambda settings, model: settings.repetition,
    "personal_data": lambda settings, model: settings.personal_data,
    "toxicity": _toxicity,
    "trigger_likelihood": _trigger_or_none,
    "exact_duplicate": _exact,
    "near_duplicate": lambda settings, model: settings.near_duplicates,
}
