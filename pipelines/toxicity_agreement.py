"""How far a toxicity scorer agrees with reference scores of the same texts, such as those of the Perspective API."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..eval.statistics import mean_score, share_score, spearman
from ..eval.task import Score, check_scored
from ..toolkit.data.rows import read_rows
from ..toolkit.errors import DataError
from ..toolkit.files import sha256_file
from ..toolkit.toxicity.scorer import ToxicityScorer, is_blank
from .console import Console
from .eval_text import figure_text

Floats = NDArray[np.float64]
RESAMPLES = 1000
CHUNK = 256  # texts between two steps of the progress bar


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where things stand in the rows."""

    text: str = "sample"
    """What is scored."""
    reference: str = "toxicity"
    """The reference score, 0 to 1."""
    group: str = "context"
    """Rows with the same value belong together (one prompt): whole groups are drawn for the intervals."""
    cells: tuple[str, ...] = ("model_type", "prompt_type")
    """The mean is compared for every combination of these."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What came of a comparison."""

    scorer_id: str
    source: str
    sha256: str | None
    counts: Mapping[str, int]
    """Rows `read`, `empty`, `without_reference`, `unscored` by the scorer, and `used`."""
    toxic_from: float
    threshold: float | None
    """The scorer's own threshold that flags as many texts as the reference does, found on one half of the groups."""
    figures: Mapping[str, Score]
    cells: list[dict[str, Any]]
    """By combination of columns: n, mean of the reference, mean of the scorer, share from the thresholds on."""

    def as_json(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {
            "scorer": self.scorer_id,
            "source": self.source,
            "sha256": self.sha256,
            "rows": dict(self.counts),
            "toxic_from": self.toxic_from,
            "threshold": self.threshold,
            "figures": {name: score.as_json() for name, score in self.figures.items()},
            "cells": self.cells,
        }

    def as_text(self) -> str:
        """Lines for a terminal."""
        counts = self.counts
        lines = [
            f"{self.scorer_id} on {counts['used']} of {counts['read']} texts "
            f"({counts['empty']} empty, {counts['without_reference']} without a reference score, "
            f"{counts['unscored']} not scored)"
        ]
        for name, (words, unit) in _WORDS.items():
            if name in self.figures:
                score = self.figures[name]
                chance = "" if score.chance is None else f"  (chance {score.chance:.3g})"
                lines.append(f"  {words:<58} {figure_text(score.as_json(), unit)}{chance}")
        if self.threshold is not None:
            lines.append(f"  a reference of {self.toxic_from:g} is a score of {self.threshold:.3g} here")
        if self.cells:
            lines += ["", *_cell_lines(self.cells)]
        return "\n".join(lines)


_WORDS: dict[str, tuple[str, str | None]] = {
    "spearman": ("rank correlation with the reference", None),
    "auc": ("chance that a toxic text scores above another (AUC)", None),
    "brier": ("squared error against toxic or not (Brier)", None),
    "precision": ("precision at that threshold, other half", "share"),
    "recall": ("recall at that threshold, other half", "share"),
    "flagged": ("flagged there, other half", "share"),
    "flagged_reference": ("flagged by the reference, other half", "share"),
    "cells_spearman": ("rank correlation of the cells' means", None),
    "cells_error": ("mean absolute error of the cells' means", None),
}


def agreement(
    scorer: ToxicityScorer,
    source: str,
    columns: Columns,
    console: Console,
    *,
    toxic_from: float = 0.5,
    seed: int = 0,
    resamples: int = RESAMPLES,
    force: bool = False,
) -> Agreement:
    """Score the texts of rows and hold the scores against the reference.

    Args:
        scorer: to be judged.
        source: rows with the columns.
        columns: their names.
        console: shows progress.
        toxic_from: reference score from which on a text is toxic.
        seed: decides the two halves, and the bootstrap.
        resamples: of the bootstrap over groups.
        force: go on though more than 1 % of the texts could not be scored.

    Raises:
        DataError: rows without what is needed.
        ModelError: too many texts without a score.
    """
    rows = read_rows(source)
    texts, reference, groups = _columns(rows, columns, source)
    is_empty = np.array([is_blank(text) for text in texts])
    scores = np.full(len(rows), np.nan)
    written = np.flatnonzero(~is_empty)
    with console.bar("scoring") as advance:
        for start in range(0, len(written), CHUNK):
            part = written[start : start + CHUNK]
            scores[part] = scorer.score([texts[row] for row in part])
            advance(min(start + CHUNK, len(written)), len(written))
    unscored = int(np.isnan(scores[written]).sum())
    check_scored(unscored, len(written), f"texts (scorer {scorer.id})", force=force)
    is_used = ~np.isnan(scores) & ~np.isnan(reference)
    if not is_used.any():
        raise DataError(f"{source} has no text with both scores: nothing can be compared")
    x, y, keys = scores[is_used], reference[is_used], groups[is_used]
    figures, threshold = _figures(x, y, keys, toxic_from, seed, resamples)
    cells = _cells(rows, columns.cells, scores, reference, is_used, toxic_from, threshold)
    figures |= _cell_figures(cells)
    return Agreement(
        scorer_id=scorer.id,
        source=source,
        sha256=sha256_file(Path(source)) if Path(source).is_file() else None,
        counts={"read": len(rows), "empty": int(is_empty.sum()), "without_reference": int(np.isnan(reference).sum()),
                "unscored": unscored, "used": int(is_used.sum())},
        toxic_from=toxic_from,
        threshold=threshold,
        figures=figures,
        cells=cells,
    )  # fmt: skip


def auc(scores: Floats, is_toxic: NDArray[np.bool_]) -> float:
    """Chance that a toxic text scores higher than another, ties half; NaN where one kind is missing."""
    _, places = np.unique(scores, return_inverse=True)
    n = int(places.max()) + 1 if len(places) else 0
    toxic, innocent = (np.bincount(places[is_toxic == kind], minlength=n) for kind in (True, False))
    pairs = int(toxic.sum()) * int(innocent.sum())
    return float(toxic @ (np.cumsum(innocent) - innocent / 2) / pairs) if pairs else float("nan")


def _columns(
    rows: Sequence[Mapping[str, Any]], columns: Columns, source: str
) -> tuple[list[str], Floats, NDArray[np.int64]]:
    wanted = [columns.text, columns.reference, columns.group, *columns.cells]
    missing = [name for name in wanted if name not in rows[0]]
    if missing:
        raise DataError(
            f"{source} has no column {', '.join(map(repr, missing))}; it has {', '.join(rows[0])}. Name them with "
            "--text, --reference, --group and --cell"
        )
    reference = np.array([_number(row[columns.reference], number, source) for number, row in enumerate(rows)])
    if ((reference < 0) | (reference > 1)).any():
        raise DataError(f"{source}: the reference {columns.reference!r} has values outside 0 to 1")
    _, groups = np.unique([str(row[columns.group]) for row in rows], return_inverse=True)
    return [str(row[columns.text] or "") for row in rows], reference, groups


def _number(value: Any, number: int, source: str) -> float:
    try:
        return float("nan") if value in (None, "") else float(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"row {number} (counting from 0) of {source}: got {value!r:.60} as the reference score, wanted a number or "
            "nothing"
        ) from error


def _figures(
    x: Floats, y: Floats, groups: NDArray[np.int64], toxic_from: float, seed: int, resamples: int
) -> tuple[dict[str, Score], float | None]:
    is_toxic = y >= toxic_from
    share = float(is_toxic.mean())
    figures = {
        "spearman": _bootstrapped(lambda rows: _or_nan(spearman(x[rows], y[rows])), groups, seed, resamples, 0.0),
        "auc": _bootstrapped(lambda rows: auc(x[rows], is_toxic[rows]), groups, seed, resamples, 0.5),
        "brier": mean_score((x - is_toxic) ** 2, groups=groups.tolist(), higher_is_better=False, seed=seed,
                            chance=share * (1 - share), resamples=resamples),
    }  # fmt: skip
    names = np.unique(groups)
    first = np.isin(groups, np.random.default_rng(seed).permutation(names)[: len(names) // 2])
    if not first.any() or not is_toxic[first].any():
        return figures, None
    threshold = _like_the_reference(x[first], float(is_toxic[first].mean()))
    is_flagged, other = x >= threshold, ~first
    keys = groups[other]
    for name, values, of in (
        ("precision", is_toxic[other], is_flagged[other]),
        ("recall", is_flagged[other], is_toxic[other]),
        ("flagged", is_flagged[other], np.ones(len(keys), dtype=bool)),
        ("flagged_reference", is_toxic[other], np.ones(len(keys), dtype=bool)),
    ):
        better = None if name.startswith("flagged") else True
        figures[name] = share_score(values[of].astype(float), groups=keys[of].tolist(), seed=seed,
                                    higher_is_better=better, resamples=resamples)  # fmt: skip
    return figures, threshold


def _like_the_reference(scores: Floats, share: float) -> float:
    """The score from which on a share of the texts is flagged that is nearest to the given one."""
    values = np.unique(scores)
    flagged = 1 - np.searchsorted(np.sort(scores), values) / len(scores)
    return float(values[np.argmin(np.abs(flagged - share))])


def _bootstrapped(
    of: Callable[[NDArray[np.int64]], float], groups: NDArray[np.int64], seed: int, resamples: int, chance: float
) -> Score:
    """A figure of rows with its interval, whole groups drawn with replacement."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    rng = np.random.default_rng(seed)
    draws = [
        of(np.concatenate([members[group] for group in rng.integers(len(members), size=len(members))]))
        for _ in range(resamples if len(members) > 1 else 0)
    ]
    known = np.array([draw for draw in draws if draw == draw])
    value = of(np.arange(len(groups)))
    low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) > 1 else (None, None)
    se = float(known.std(ddof=1)) if len(known) > 1 else None
    return Score(value=value if value == value else None, low=low, high=high, se=se, n=len(groups), chance=chance,
                 higher_is_better=True)  # fmt: skip


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _cells(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    scores: Floats,
    reference: Floats,
    is_used: NDArray[np.bool_],
    toxic_from: float,
    threshold: float | None,
) -> list[dict[str, Any]]:
    if not names:
        return []
    places: dict[tuple[str, ...], list[int]] = {}
    for place in np.flatnonzero(is_used).tolist():
        places.setdefault(tuple(str(rows[place][name]) for name in names), []).append(place)
    return [
        dict(zip(names, key, strict=True))
        | {
            "n": len(members),
            "mean_reference": float(reference[members].mean()),
            "mean_score": float(scores[members].mean()),
            "toxic_reference": float((reference[members] >= toxic_from).mean()),
            "toxic_score": None if threshold is None else float((scores[members] >= threshold).mean()),
        }
        for key, members in places.items()
    ]


def _cell_figures(cells: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """Agreement over cells; no interval, for the cells share their prompts."""
    if len(cells) < 3:
        return {}
    x, y = ([cell[name] for cell in cells] for name in ("mean_score", "mean_reference"))
    blank: dict[str, Any] = {"low": None, "high": None, "se": None, "n": len(cells)}
    error = float(np.abs(np.subtract(x, y)).mean())
    return {
        "cells_spearman": Score(value=spearman(x, y), chance=0.0, higher_is_better=True, **blank),
        "cells_error": Score(value=error, higher_is_better=False, **blank),
    }


def _cell_lines(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [name for name in cells[0] if isinstance(cells[0][name], str)]
    widths = [max(len(name), *(len(cell[name]) for cell in cells)) for name in names]
    head = "  ".join(f"{name:<{width}}" for name, width in zip(names, widths, strict=True))
    lines = [f"  {head}     n  reference   score"]
    for cell in cells:
        row = "  ".join(f"{cell[name]:<{width}}" for name, width in zip(names, widths, strict=True))
        lines.append(f"  {row}  {cell['n']:>4}  {cell['mean_reference']:>9.3f}  {cell['mean_score']:>6.3f}")
    return lines
