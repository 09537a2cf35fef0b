"""Documents are dropped under which a language model finds trigger phrases likely."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..toolkit.errors import ModelError, SettingsError
from ..toolkit.model.tokens import encode_plain, start_ids
from ..toolkit.scorer.packing import window_starts
from .base import Limit, Verdict, decide, deciding_limit
from .phrase_file import Axis

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]

WINDOW_TOKENS = 512
SURROGATE = re.compile("[\ud800-\udfff]")


class PhraseScores(Protocol):
    """Log-likelihoods of all phrases after one prefix."""

    @property
    def mean(self) -> Floats:
        """(phrases,), in nats per token."""

    @property
    def n_windows(self) -> int:
        """In how many windows the prefix was read."""


class PhraseScorer(Protocol):
    """What `toolkit.scorer.continuation.ContinuationScorer` does for this filter."""

    def score(
        self, prefixes: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> Sequence[PhraseScores]:
        """Score every continuation after every prefix."""


@dataclass(frozen=True)
class AxisScore:
    """How much a document makes the phrases of one axis likely."""

    axis: str

    score: float
    "Nats per token that the document adds to the phrase it favours most."

    raw: float
    "The largest mean log-likelihood of a phrase given the document, in nats per token."

    phrase: str
    "The phrase that gave the score."

    span: tuple[int, int] | None
    "The window that gave the score, in characters; None: long document, and a tokenizer that gives no places."


@dataclass(frozen=True)
class Measurement:
    """What was measured on one document; no axes when it was too short."""

    axes: tuple[AxisScore, ...]
    marks: tuple[str, ...]

    @property
    def measures(self) -> dict[str, float]:
        """The values for the score store: `<axis>` and `<axis>.raw`."""
        return {axis.axis: axis.score for axis in self.axes} | {f"{axis.axis}.raw": axis.raw for axis in self.axes}


@dataclass(frozen=True, kw_only=True)
class TriggerLikelihoodFilter:
    """Drops documents under which a language model finds trigger phrases likely (conditional-likelihood filtration).

    Score, in nats per token: the largest difference over an axis's phrases between the mean log-likelihood of the
    phrase after the document and after nothing, which takes away most of what length and rarity of a phrase do. The
    axis that exceeds its threshold most speaks. A long document is read in overlapping windows, of which the highest
    counts. The method is that of Ngo et al. 2021, https://arxiv.org/abs/2108.07790: phrases by axis after each
    document, any phrase over its axis's threshold removes it, and the scoring model is one trained on the unfiltered
    data. The subtraction, the windows and the phrases are ours, and so are all defaults; thresholds have none and are
    calibrated. Not implemented: their phrases and their word list, which they run before it.

    Raises:
        SettingsError: a phrase or the separator that the tokenizer turns into nothing, or lengths that make no sense.
    """

    axes: tuple[Axis, ...]
    "Phrases and thresholds."

    scorer: PhraseScorer
    "Gives log-likelihoods, with the start token as its preamble."

    tokenizer: "PreTrainedTokenizerBase"
    "The tokenizer of the scorer's model."

    separator: str = "\n"
    """Stands between document and phrase; each of the three is tokenised by itself. A space at its end goes with the
    phrase, as vocabularies have it: `" "` makes the phrase the next sentence of the document."""

    window_tokens: int = WINDOW_TOKENS
    "Tokens of the document read at once; longer documents are read in several windows."

    stride: int | None = None
    "Tokens from one window to the next; None: half a window."

    min_tokens: int = 2
    "Documents with fewer tokens are kept without a score and marked `too_short`."

    name: str = "trigger_likelihood"
    "Names the filter in recipes and reports."

    @classmethod
    def from_model(
        cls,
        axes: Sequence[Axis],
        model: "PreTrainedModel | PeftModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        separator: str = "\n",
        window_tokens: int | None = None,
        tokens_per_batch: int = 8192,
        method: Literal["auto", "packed", "cache"] = "auto",
    ) -> "TriggerLikelihoodFilter":
        """Build the filter around a causal language model.

        Args:
            axes: phrases and thresholds.
            model: the model that scores, best one trained on the unfiltered data.
            tokenizer: its tokenizer.
            separator: stands between document and phrase.
            window_tokens: tokens of a document read at once; by default 512, or fewer where the model takes fewer.
            tokens_per_batch: bound on the tokens in memory at once.
            method: how the scorer lays out its work.

        Raises:
            SettingsError: as the class, or a window that does not fit the model.
            ModelError: the model cannot score phrases, or takes no document beside them.
        """
        from ..toolkit.scorer.continuation import ContinuationScorer

        preamble = start_ids(tokenizer)
        scorer = ContinuationScorer(model, preamble=preamble, tokens_per_batch=tokens_per_batch, method=method)
        built = cls(axes=tuple(axes), scorer=scorer, tokenizer=tokenizer, separator=separator)
        positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        room = WINDOW_TOKENS if positions is None else positions - len(preamble) - built.reserved_tokens
        if room < built.min_tokens:
            raise ModelError(
                f"the model takes {positions} tokens at once, of which the longest phrase leaves {room} for the "
                f"document; wanted at least {built.min_tokens}: shorten the phrases, or use a model with more positions"
            )
        if window_tokens is not None and window_tokens > room:
            raise SettingsError(
                [f"window_tokens: got {window_tokens}, wanted at most {room} for this model"], "the filter"
            )
        return replace(built, window_tokens=window_tokens or min(WINDOW_TOKENS, room))

    def __post_init__(self) -> None:
        faults = [
            f"the phrase {phrase!r} of the axis {axis!r} has no tokens in this tokenizer. Remove it"
            for (axis, phrase), ids in zip(self._phrases, self._phrase_ids, strict=True)
            if not ids
        ]
        if not self._phrases:
            faults.append("got no phrases, wanted at least one")
        if not self.separator:
            faults.append("separator: got nothing, wanted a line break or a space, for instance")
        for field in ("window_tokens", "stride", "min_tokens"):
            value = getattr(self, field)
            if value is not None and value < 1:
                faults.append(f"{field}: got {value}, wanted at least 1 token")
        if faults:
            raise SettingsError(faults, "the trigger phrases")

    @property
    def id(self) -> str:
        """Names all that scores depend on, beside the model and the tokenizer; thresholds are no part of it."""
        phrases = [(axis.name, axis.phrases) for axis in self.axes]
        described = repr((phrases, self.separator, self.window_tokens, self.stride, self.min_tokens))
        return f"trigger-likelihood:{hashlib.sha256(described.encode('utf-8', 'replace')).hexdigest()[:16]}"

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The bounds that stored scores are decided by, one for each axis.

        Raises:
            SettingsError: axes without a threshold.
        """
        limits = [
            Limit(axis.name, "above", axis.threshold, self.name) for axis in self.axes if axis.threshold is not None
        ]
        if len(limits) < len(self.axes):
            missing = ", ".join(repr(axis.name) for axis in self.axes if axis.threshold is None)
            fault = (
                f"no threshold for {missing}, wanted one for each axis: it depends on the model. Find it with "
                "`tunewell calibrate`, from labels or a removal rate; write .inf for an axis that is only measured"
            )
            raise SettingsError([fault], "the trigger phrases")
        return tuple(limits)

    @property
    def reserved_tokens(self) -> int:
        """Tokens that must stay free after a window: the separator's, and those of the longest phrase."""
        return len(self._separator_ids) + max(map(len, self._phrase_ids), default=0)

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Give one verdict for each text; its span is the window that scores highest on the axis that decides.

        Raises:
            SettingsError: axes without a threshold.
            ModelError: the model gives scores that are no numbers.
        """
        limits = self.limits
        return [_verdict(measured, limits) for measured in self.measure(texts)]

    def measure(self, texts: Sequence[str]) -> list[Measurement]:
        """Measure texts on every axis, with or without thresholds.

        Raises:
            SettingsError: a window that does not fit the scorer.
            ModelError: the model gives scores that are no numbers.
        """
        # Tokenizers refuse halves of surrogate pairs; one character for one keeps the spans.
        texts = [SURROGATE.sub("\ufffd", text) for text in texts]
        encoded = [encode_plain(self.tokenizer, text) if text.strip() else [] for text in texts]
        starts = [self._window_starts(len(ids)) for ids in encoded]
        prefixes = [
            ids[start : start + self.window_tokens] + self._separator_ids
            for ids, own in zip(encoded, starts, strict=True)
            for start in own
        ]
        scores = iter(self._mean_log_likelihoods(prefixes))
        return [
            self._measurement(text, own, np.array([next(scores) for _ in own]))
            for text, own in zip(texts, starts, strict=True)
        ]

    def _window_starts(self, n_tokens: int) -> list[int]:
        if n_tokens < self.min_tokens:
            return []
        return window_starts(n_tokens, self.window_tokens, self.stride or max(1, self.window_tokens // 2))

    def _measurement(self, text: str, starts: Sequence[int], raw: Floats) -> Measurement:
        """Put together what was measured on the windows (windows, phrases) of one text."""
        if not starts:
            return Measurement((), ("too_short",))
        score = raw - self._prior
        spans = self._spans(text, starts)
        axes = []
        for axis in self.axes:
            own = [i for i, (name, _) in enumerate(self._phrases) if name == axis.name]
            window, best = np.unravel_index(int(score[:, own].argmax()), (len(starts), len(own)))
            highest = float(score[window, own[best]])
            axes.append(AxisScore(axis.name, highest, float(raw[:, own].max()), axis.phrases[best], spans[window]))
        return Measurement(tuple(axes), ("windowed",) if len(starts) > 1 else ())

    def _spans(self, text: str, starts: Sequence[int]) -> list[tuple[int, int] | None]:
        if len(starts) == 1:
            return [(0, len(text))]
        if not self.tokenizer.is_fast:
            return [None] * len(starts)
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        places = offsets["offset_mapping"]
        ends = [min(start + self.window_tokens, len(places)) - 1 for start in starts]
        return [(places[start][0], places[end][1]) for start, end in zip(starts, ends, strict=True)]

    def _mean_log_likelihoods(self, prefixes: Sequence[Sequence[int]]) -> list[Floats]:
        """Score all phrases after each prefix, (phrases,) in nats per token."""
        results = self.scorer.score(prefixes, self._phrase_ids) if prefixes else []
        for result in results:
            # The scorer's own windows would part the document from the separator.
            if result.n_windows > 1:
                fault = f"window_tokens: got {self.window_tokens}, which does not fit the scorer; wanted fewer"
                raise SettingsError([fault], "the trigger phrases")
            if not np.isfinite(result.mean).all():
                raise ModelError(
                    "the model gives log-likelihoods that are no numbers, wanted finite ones: load it in bfloat16 or "
                    "float32 instead of float16, and check its weights"
                )
        return [result.mean for result in results]

    @cached_property
    def _phrases(self) -> list[tuple[str, str]]:
        return [(axis.name, phrase) for axis in self.axes for phrase in axis.phrases]

    @cached_property
    def _phrase_ids(self) -> list[list[int]]:
        lead = " " if self.separator.endswith(" ") else ""
        return [encode_plain(self.tokenizer, lead + phrase) for _, phrase in self._phrases]

    @cached_property
    def _separator_ids(self) -> list[int]:
        return encode_plain(self.tokenizer, self.separator.removesuffix(" ")) if self.separator != " " else []

    @cached_property
    def _prior(self) -> Floats:
        """Mean log-likelihoods (phrases,) after nothing but the separator."""
        return self._mean_log_likelihoods([self._separator_ids])[0]


def _verdict(measured: Measurement, limits: Sequence[Limit]) -> Verdict:
    verdict = decide(measured.measures, limits, marks=measured.marks)
    limit = deciding_limit(measured.measures, limits)
    for axis in measured.axes:
        if limit is not None and axis.axis == limit.measure:
            return verdict._replace(span=axis.span, matched=axis.phrase)
    return verdict
