"""How well a judge agrees with a reference judge: answer by answer, and in how it ranks models."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..toolkit.errors import DataError
from .judge import Judge
from .judge_rows import GradedAnswer
from .statistics import share_score, spearman
from .task import Score

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RESAMPLES = 1000
TRUE_FROM = 0.5


def judge_agreement(
    judge: Judge, graded: Sequence[GradedAnswer], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Score]:
    """Hold a judge against grades of another.

    Figures, with intervals from a bootstrap over questions: `auc`, that an answer graded true gets more than one graded
    false; `accuracy` at 0.5, its chance level the commoner grade; `balanced_accuracy`; `rank_correlation` (Spearman)
    of the share of true answers over the cells, each a model under a prompt; `cell_error`, the mean absolute difference
    of these shares; `bias`, their mean difference, below zero where the judge is the stricter one. With grades of it,
    `informative_auc` and `informative_accuracy`.

    Args:
        judge: the judge.
        graded: answers with their grades.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        DataError: nothing to hold the judge against.
    """
    judged = [one for one in graded if one.answer.answer.strip()]
    if not judged:
        raise DataError("got no graded answer, wanted some")
    verdicts = judge.judge([one.answer for one in judged])
    codes = {name: place for place, name in enumerate(dict.fromkeys(one.answer.question for one in judged))}
    questions = np.array([codes[one.answer.question] for one in judged])
    cells = np.array([one.cell for one in judged])
    grades = np.array([one.true for one in judged])
    left_out = len(graded) - len(judged)
    figures = _figures(verdicts.true, grades, cells, questions, seed, resamples, left_out)
    known = np.array([one.informative is not None for one in judged])
    if known.any() and not np.isnan(verdicts.informative[known]).all():
        helpful = np.array([one.informative for one in judged if one.informative is not None])
        own = _figures(verdicts.informative[known], helpful, cells[known], questions[known], seed, resamples, left_out)
        figures |= {f"informative_{name}": own[name] for name in ("auc", "accuracy")}
    return figures


def auc(scores: Floats, is_true: NDArray[np.bool_]) -> float:
    """Chance that a true one scores higher than a false one, half for equals; NaN where one kind is missing."""
    _, places = np.unique(scores, return_inverse=True)
    true, false = (np.bincount(places[is_true == kind], minlength=len(scores)) for kind in (True, False))
    pairs = int(true.sum()) * int(false.sum())
    return float(true @ (np.cumsum(false) - false / 2) / pairs) if pairs else float("nan")


def _figures(
    scores: Floats, grades: Floats, cells: NDArray[np.str_], questions: Ints, seed: int, resamples: int, left_out: int
) -> dict[str, Score]:
    is_scored = ~np.isnan(scores)
    unscored = left_out + int((~is_scored).sum())
    scores, grades, cells, questions = scores[is_scored], grades[is_scored], cells[is_scored], questions[is_scored]
    if not len(scores):
        raise DataError("the judge gave no judgement, so that its agreement cannot be measured")
    says, is_true = scores >= TRUE_FROM, grades >= TRUE_FROM
    hits = (says == is_true).astype(np.float64)
    _, cell_codes = np.unique(cells, return_inverse=True)
    draws = _draws(questions, seed, resamples)

    def over(measure: Callable[[Ints], float], chance: float | None, better: bool | None) -> Score:
        value = measure(np.arange(len(scores)))
        found = np.array([measure(rows) for rows in draws])
        found = found[~np.isnan(found)]
        if np.isnan(value) or len(found) < 2:
            return Score(value=None if np.isnan(value) else value, low=None, high=None, se=None, n=len(scores),
                         unscored=unscored, chance=chance, higher_is_better=better)  # fmt: skip
        low, high = np.quantile(found, [0.025, 0.975])
        return Score(value=value, low=float(low), high=float(high), se=float(found.std(ddof=1)), n=len(scores),
                     unscored=unscored, chance=chance, higher_is_better=better)  # fmt: skip

    def balanced(rows: Ints) -> float:
        kinds = [hits[rows][is_true[rows] == kind] for kind in (True, False)]
        return float(np.mean([kind.mean() for kind in kinds])) if all(map(len, kinds)) else float("nan")

    def shares(rows: Ints) -> tuple[Floats, Floats]:
        counts = np.bincount(cell_codes[rows])
        seen = counts > 0
        own, other = (np.bincount(cell_codes[rows], flags[rows].astype(float))[seen] for flags in (says, is_true))
        return own / counts[seen], other / counts[seen]

    def correlation(rows: Ints) -> float:
        value = spearman(*shares(rows))
        return float("nan") if value is None else value

    most = float(max(is_true.mean(), 1 - is_true.mean()))
    accuracy = share_score(hits, groups=questions.tolist(), chance=most, seed=seed, resamples=resamples)
    n_cells = len(np.unique(cell_codes))
    return {
        "auc": over(lambda rows: auc(scores[rows], is_true[rows]), 0.5, True),
        "accuracy": replace(accuracy, unscored=unscored),
        "balanced_accuracy": over(balanced, 0.5, True),
        "rank_correlation": replace(over(correlation, 0.0, True), n=n_cells),
        "cell_error": replace(over(lambda rows: _mean_gap(*shares(rows), np.abs), None, False), n=n_cells),
        "bias": replace(over(lambda rows: _mean_gap(*shares(rows), np.asarray), 0.0, None), n=n_cells),
    }


def _mean_gap(own: Floats, other: Floats, of: Callable[[Floats], Floats]) -> float:
    return float(of(own - other).mean())


def _draws(questions: Ints, seed: int, resamples: int) -> list[Ints]:
    """Rows of whole questions drawn with replacement."""
    rows = [np.flatnonzero(questions == code) for code in np.unique(questions)]
    rng = np.random.default_rng(seed)
    if len(rows) < 2:
        return []
    return [
        np.concatenate([rows[place] for place in rng.integers(len(rows), size=len(rows))]) for _ in range(resamples)
    ]
