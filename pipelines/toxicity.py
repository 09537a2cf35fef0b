"""Train a toxicity scorer on labelled rows, and measure it on rows that had no part in the training."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..eval.statistics import share_score
from ..eval.task import Score
from ..toolkit.data.rows import read_rows
from ..toolkit.errors import DataError, RunError, SettingsError
from ..toolkit.files import sha256_file, write_json
from .console import Console

if TYPE_CHECKING:
    from ..toolkit.toxicity.tfidf import TfidfToxicity

Floats = NDArray[np.float64]

REPORT = "training.json"
RESAMPLES = 1000
FALSE_WORDS = ("0", "false", "no", "")


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """Which rows count as toxic."""

    column: str = "label"
    """Column that holds the label."""
    toxic: tuple[str, ...] = ()
    """Values that mean toxic, as text; none given: every value but 0, false, no and nothing."""
    above: float | None = None
    """The column holds scores, and higher ones mean toxic; a row without a score is left out."""

    def __post_init__(self) -> None:
        """Refuse two rules at once."""
        if self.toxic and self.above is not None:
            raise SettingsError(["got --toxic and --above, wanted one of them"], "the command line")

    def label(self, value: Any) -> bool | None:
        """Read one label; None: the row has none.

        Raises:
            ValueError: a score was wanted and the value is no number.
        """
        if self.above is not None:
            number = float("nan") if value in (None, "") else float(value)
            return None if number != number else number > self.above
        if value is None or value != value:  # NaN, as tables write what is missing
            return None
        text = str(value).strip()
        return text in self.toxic if self.toxic else not (text.lower() in FALSE_WORDS or _is_zero(text))


def _is_zero(text: str) -> bool:
    """Whether a label is 0 in the form that a column of numbers has once a row of it was empty."""
    try:
        return float(text) == 0
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of a training."""

    folder: Path
    scorer_id: str
    rows: Mapping[str, int]
    """Rows `read`, `left_out` (no label or no text), `trained`, `held_out`, and how many of the last two are toxic."""
    threshold: float
    figures: Mapping[str, Score]
    """On the held-out rows: `auc`, and `precision`, `recall` and `removed` at the threshold."""

    def as_json(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {
            "folder": str(self.folder),
            "scorer": self.scorer_id,
            "rows": dict(self.rows),
            "threshold": self.threshold,
            "figures": {name: score.as_json() for name, score in self.figures.items()},
        }

    def as_text(self) -> str:
        """Lines for a terminal."""
        rows, lines = self.rows, []
        lines.append(
            f"trained on {rows['trained']} rows ({rows['trained_toxic']} toxic), measured on {rows['held_out']} others "
            f"({rows['held_out_toxic']} toxic); {rows['left_out']} of {rows['read']} rows had no text or no label"
        )
        for name, score in self.figures.items():
            shown = "nothing to measure" if score.value is None else f"{score.value:.3f}"
            interval = "" if score.low is None or score.high is None else f" [{score.low:.3f}, {score.high:.3f}]"
            at = "" if name == "auc" else f" at a threshold of {self.threshold:g}"
            lines.append(f"  {name:<10}{shown}{interval}  n {score.n}{at}")
        lines.append(f"scorer: tfidf:{self.folder}")
        return "\n".join(lines)


def train_toxicity(
    source: str,
    folder: Path,
    rule: LabelRule,
    console: Console,
    *,
    text: str = "text",
    held_out: float = 0.2,
    threshold: float = 0.5,
    strength: float = 10.0,
    seed: int = 0,
) -> Trained:
    """Train a TF-IDF scorer on a part of labelled rows, measure it on the rest, and save it.

    Rows with the same text stand on the same side, so that nothing held out was seen in training.

    Args:
        source: the rows.
        folder: where the scorer goes, with the figures in training.json.
        rule: which rows are toxic.
        console: shows progress.
        text: column that holds the text.
        held_out: share of the distinct texts to measure on.
        threshold: score from which on a text counts as found.
        strength: inverse regularisation of the logistic regression.
        seed: decides the two parts, and the bootstrap.

    Raises:
        DataError: rows without what is needed, or that cannot be trained on.
        SettingsError: values that make no sense.
        RunError: the folder holds something else.
    """
    from ..toolkit.toxicity.tfidf import TfidfToxicity

    _check(folder, held_out, threshold, strength)
    rows = read_rows(source)
    texts, labels = _labelled(rows, text, rule, source)
    train, test = _parts(texts, held_out, seed)
    console.say(f"training on {len(train)} of {len(texts)} labelled rows")
    scorer = TfidfToxicity.train([texts[i] for i in train], [labels[i] for i in train], strength=strength)
    figures = measure(scorer, [texts[i] for i in test], [labels[i] for i in test], threshold, seed)
    trained = Trained(
        folder=folder,
        scorer_id=scorer.id,
        rows={
            "read": len(rows),
            "left_out": len(rows) - len(texts),
            "trained": len(train),
            "trained_toxic": sum(labels[i] for i in train),
            "held_out": len(test),
            "held_out_toxic": sum(labels[i] for i in test),
        },
        threshold=threshold,
        figures=figures,
    )
    scorer.save(folder)
    data = {"source": source, "sha256": sha256_file(Path(source)) if Path(source).is_file() else None}
    write_json(folder / REPORT, trained.as_json() | {"data": data, "seed": seed})
    return trained


def measure(
    scorer: "TfidfToxicity", texts: Sequence[str], labels: Sequence[bool], threshold: float, seed: int = 0
) -> dict[str, Score]:
    """Hold a scorer against labels: area under the ROC curve, and precision, recall and share removed."""
    scores = scorer.score(texts)
    is_toxic = np.array(labels, dtype=np.bool_)
    is_found = scores > threshold
    return {
        "auc": _area(scores, is_toxic, seed),
        "precision": share_score(is_toxic[is_found].astype(np.float64)),
        "recall": share_score(is_found[is_toxic].astype(np.float64)),
        "removed": share_score(is_found.astype(np.float64), higher_is_better=None),
    }


def _area(scores: Floats, is_toxic: NDArray[np.bool_], seed: int) -> Score:
    """Chance that a toxic text scores higher than an innocent one (half of it for equals), with a 95 % bootstrap."""
    n = len(scores)
    _, places = np.unique(scores, return_inverse=True)

    def area(rows: NDArray[np.int64]) -> float:
        toxic, innocent = (np.bincount(places[rows[is_toxic[rows] == kind]], minlength=n) for kind in (True, False))
        below = np.cumsum(innocent) - innocent / 2
        n_pairs = int(toxic.sum()) * int(innocent.sum())
        return float(toxic @ below / n_pairs) if n_pairs else float("nan")

    value = area(np.arange(n))
    if value != value:
        return Score(value=None, low=None, high=None, se=None, n=0, chance=0.5, unscored=n, higher_is_better=True)
    rng = np.random.default_rng(seed)
    draws = np.array([area(rng.integers(0, n, n)) for _ in range(RESAMPLES)])
    low, high = (float(bound) for bound in np.nanquantile(draws, [0.025, 0.975]))
    se = float(np.nanstd(draws, ddof=1))
    return Score(value=value, low=low, high=high, se=se, n=n, chance=0.5, unscored=0, higher_is_better=True)


def _check(folder: Path, held_out: float, threshold: float, strength: float) -> None:
    faults = []
    if not 0 < held_out < 1:
        faults.append(f"held-out: got {held_out}, wanted a share between 0 and 1, such as 0.2")
    if not 0 <= threshold <= 1:
        faults.append(f"threshold: got {threshold}, wanted a score between 0 and 1")
    if strength <= 0:
        faults.append(f"strength: got {strength}, wanted more than 0")
    if faults:
        raise SettingsError(faults, "the command line")
    if folder.exists() and not (folder.is_dir() and ((folder / REPORT).exists() or not any(folder.iterdir()))):
        raise RunError(f"{folder} exists and holds no trained scorer: give another --out, or remove it")


def _labelled(
    rows: Sequence[Mapping[str, Any]], text: str, rule: LabelRule, where: str
) -> tuple[list[str], list[bool]]:
    """Texts and labels of the rows that have both."""
    texts, labels = [], []
    for number, row in enumerate(rows):
        missing = [column for column in (text, rule.column) if column not in row]
        if missing:
            raise DataError(
                f"row {number} (counting from 0) of {where} has no column {missing[0]!r}; it has {', '.join(row)}. "
                "Name the columns with --text and --label"
            )
        try:
            label = rule.label(row[rule.column])
        except (TypeError, ValueError) as error:
            raise DataError(
                f"row {number} (counting from 0) of {where} has {row[rule.column]!r:.60} in {rule.column!r}, wanted a "
                "number: for labels use --toxic VALUE in place of --above"
            ) from error
        value = row[text]
        if label is not None and isinstance(value, str) and value.strip():
            texts.append(value)
            labels.append(label)
    if not set(rule.toxic) <= {str(row[rule.column]).strip() for row in rows}:
        seen = sorted({str(row[rule.column]).strip() for row in rows})[:10]
        raise DataError(f"--toxic: got {', '.join(rule.toxic)}, wanted values of the column {rule.column!r}: {seen}")
    return texts, labels


def _parts(texts: Sequence[str], held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to measure on; equal texts on the same side."""
    distinct = sorted(set(texts))
    chosen = set(random.Random(seed).sample(distinct, max(1, round(held_out * len(distinct))) if distinct else 0))
    train = [index for index, text in enumerate(texts) if text not in chosen]
    return train, [index for index, text in enumerate(texts) if text in chosen]
