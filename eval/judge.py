"""Judges of truthfulness behind one interface, opened by a short text such as `lexical:FOLDER`."""

import difflib
import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..toolkit.errors import DataError, ModelError, SettingsError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer with what a judge may hold it against."""

    question: str
    """The question."""
    answer: str
    """What was answered."""
    correct: tuple[str, ...] = ()
    """True reference answers."""
    incorrect: tuple[str, ...] = ()
    """False reference answers."""


@dataclass(frozen=True)
class Judgements:
    """What a judge says of n answers, each as a probability, NaN where it cannot say."""

    true: Floats
    """(n,) that the answer is true; to say nothing is true too."""
    informative: Floats
    """(n,) that the answer helps whoever asked."""


class Judge(Protocol):
    """Anything that says whether answers are true."""

    @property
    def id(self) -> str:
        """Names the judge and the hash of what it learned: equal ids give equal judgements."""

    def judge(self, answers: Sequence[Answer]) -> Judgements:
        """Judge answers; NaN for an empty one, which is no answer."""


Verdicts = Sequence[tuple[float, float]] | Sequence[float]


class CallableJudge:
    """A judge made of a function of one's own: a hosted model, a panel, a rule.

    Args:
        function: from answers to one probability of truth each, or to pairs of truth and informativeness; NaN where it
            cannot say. It never sees an empty answer.
        name: stands in reports; by default the function's own name with the hash of its source.
    """

    def __init__(self, function: Callable[[Sequence[Answer]], Verdicts], name: str | None = None) -> None:
        self._function = function
        self.id = f"callable:{name or _name_of(function)}"

    def judge(self, answers: Sequence[Answer]) -> Judgements:
        """Judge answers.

        Raises:
            ModelError: the function returns something else than it should.
        """
        table = np.full((len(answers), 2), np.nan)
        rows = [row for row, one in enumerate(answers) if one.answer.strip()]
        if rows:
            got = np.asarray(self._function([answers[row] for row in rows]), dtype=np.float64)
            if got.shape not in ((len(rows),), (len(rows), 2)) or ((got < 0) | (got > 1)).any():
                raise ModelError(
                    f"{self.id}: got values of shape {got.shape}, wanted one probability from 0 to 1 for each of "
                    f"{len(rows)} answers, or pairs of them (true, informative)"
                )
            table[rows, : 1 if got.ndim == 1 else 2] = got.reshape(len(rows), -1)
        return Judgements(table[:, 0], table[:, 1])


def open_judge(spec: str | Callable[[Sequence[Answer]], Verdicts]) -> Judge:
    """Open a judge by its description.

    - `lexical:FOLDER`: scikit-learn over likeness to the reference answers, trained by `tunewell judge train`;
    - `hf:FOLDER` or `hf:ID`: a fine-tuned judge model that says yes or no to `True:`; `hf:TRUTH,INFO` names a second
      one that says yes or no to `Helpful:`;
    - a function, see `CallableJudge`.

    Raises:
        SettingsError: the description names no known judge.
        TunewellError: what it names cannot be opened; the message says why.
    """
    if callable(spec):
        return CallableJudge(spec)
    kind, _, rest = spec.partition(":")
    if kind not in _KINDS or not rest:
        near = difflib.get_close_matches(kind, _KINDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near and near[0] != kind else ""
        raise SettingsError(
            [f"judge: got {spec!r}{hint}, wanted lexical:FOLDER (made by `tunewell judge train`) or hf:FOLDER"],
            "the settings of the judge",
        )
    return _KINDS[kind](rest)


def _name_of(function: Callable[..., object]) -> str:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # made by exec, or an object with __call__
        source = repr(type(function))
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{name}:{hashlib.sha256(source.encode()).hexdigest()[:16]}"


# scikit-learn and torch are loaded with the judge that needs them, not before.
def _open_lexical(rest: str) -> Judge:
    from .judge_lexical import LexicalJudge

    return LexicalJudge.load(Path(rest))


def _open_model(rest: str) -> Judge:
    from .judge_model import ModelJudge

    truth, _, info = rest.partition(",")
    if not truth:
        raise DataError("judge: got hf: without a folder, wanted hf:FOLDER or hf:TRUTH,INFO")
    return ModelJudge(truth, info or None)


_KINDS: dict[str, Callable[[str], Judge]] = {"lexical": _open_lexical, "hf": _open_model}
