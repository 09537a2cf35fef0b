"""How far a study is, and how well its labelers agree."""

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from ...eval.statistics import share_score
from ...toolkit.errors import MissingPackageError
from .log import Answer, standing_answers
from .questions import COMPLETION_FLAGS, SKIP_REASONS
from .store import Store
from .work import UNFINISHED

Judged = Mapping[Hashable, Mapping[int, float]]
"""What was judged (an item's completion, or a pair of them), and the value that each labeler gave it."""


def results_of(store: Store) -> dict[str, Any]:
    """Everything that the results page shows, as plain values.

    Agreement is of people with people; simulated labelers are counted apart and never take part in it.
    """
    answers = standing_answers(store)
    counted = [one for one in answers if one.kind == "answer" and not one.is_surplus]
    people = [one for one in counted if not one.is_simulated]
    settings = {name: store.number(name) for name in ("overlap", "skips")}
    with store.read() as base:
        wanted = settings | {"labeler": 0, "start": 0}
        (left,) = base.execute(f"SELECT count(*) FROM ({UNFINISHED})", wanted).fetchone()
        (undone,) = base.execute("SELECT count(*) FROM undone").fetchone()
    return {
        "items": store.count("items"),
        "left": left,
        "answers": len(counted),
        "simulated": len(counted) - len(people),
        "surplus": sum(one.is_surplus for one in answers),
        "undone": undone,
        "overlap": settings["overlap"],
        "skipped": _skipped(answers),
        "labelers": _labelers(answers),
        "agreement": agreement(people),
    }


def agreement(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Agreement on ratings, rankings and flags, from items that two or more labelers answered.

    Krippendorff's alpha (1 is perfect, 0 what chance gives) by the package krippendorff, source
    https://repository.upenn.edu/handle/20.500.14332/2089; and the plain share of pairs of labelers that say the same
    (for rankings: that put the same one of two completions first, ties told apart), with its 95% interval. The
    interval takes pairs of judgements as independent, so with many labelers per item it is too narrow.

    Returns:
        one entry per thing judged: `name`, `alpha`, `agree`, `low`, `high`, `n` (pairs of judgements), `units`. What
        nobody judged twice has `alpha` None, and so has what got one value from everybody: there is no chance level.
    """
    rated = [one for one in answers if "ratings" in one.body]
    ranked = [one for one in answers if "ranks" in one.body]
    ratings = _judged(rated, lambda one: enumerate(one.body["ratings"]))
    pairs = _judged(ranked, lambda one: _preferences(one.body["ranks"]))
    found = [_entry("ratings", ratings, "ordinal"), _entry("rankings", pairs, "nominal")]
    # Which of a pair stands first means nothing. Taken one way only, rows that happen to be sorted by quality would
    # show agreement as if it were chance.
    found[1]["alpha"] = alpha({**pairs, **_turned(pairs)}, "nominal")
    for flag in COMPLETION_FLAGS:
        judged = _judged(rated, partial(_ticks, flag.name))
        if any(any(values.values()) for values in judged.values()):
            found.append(_entry(flag.name, judged, "nominal") | {"label": flag.label})
    return found


def _ticks(flag: str, answer: Answer) -> list[tuple[Hashable, int]]:
    """For each completion whether the flag was ticked."""
    return [(at, int(flag in ticked)) for at, ticked in enumerate(answer.body["flags"])]


def _preferences(ranks: Sequence[int]) -> list[tuple[Hashable, int]]:
    """For each pair of completions 1 where the first is better, -1 where the second is, 0 for a tie."""
    return [
        ((i, j), (ranks[j] > ranks[i]) - (ranks[j] < ranks[i])) for i, j in itertools.combinations(range(len(ranks)), 2)
    ]


def _turned(pairs: Judged) -> Judged:
    """The same preferences with the other completion of each pair first."""
    return {
        (unit, "turned"): {labeler: -value or 0.0 for labeler, value in given.items()} for unit, given in pairs.items()
    }


def _judged(answers: Sequence[Answer], values: Callable[[Answer], Any]) -> dict[Hashable, dict[int, float]]:
    """Values by what was judged, of all that two or more labelers judged."""
    found: dict[Hashable, dict[int, float]] = defaultdict(dict)
    for one in answers:
        for unit, value in values(one):
            found[(one.item, unit)][one.labeler] = float(value)
    return {unit: given for unit, given in found.items() if len(given) > 1}


def _entry(name: str, judged: Judged, level: Literal["ordinal", "nominal"]) -> dict[str, Any]:
    same = [
        float(first == second)
        for given in judged.values()
        for first, second in itertools.combinations(given.values(), 2)
    ]
    score = share_score(same)
    return {
        "name": name,
        "label": {"ratings": "Ratings, 1 to 7", "rankings": "Rankings, pair by pair"}.get(name, name),
        "alpha": alpha(judged, level),
        "agree": score.value,
        "low": score.low,
        "high": score.high,
        "n": len(same),
        "units": len(judged),
    }


def alpha(judged: Judged, level: Literal["ordinal", "nominal"]) -> float | None:
    """Krippendorff's alpha; None where nothing was judged twice, or all values are equal.

    Raises:
        MissingPackageError: the package krippendorff is not installed.
    """
    import numpy as np

    values = sorted({value for given in judged.values() for value in given.values()})
    if len(values) < 2:
        return None
    try:
        import krippendorff
    except ImportError as error:
        raise MissingPackageError("krippendorff", "agreement between labelers", "collect") from error
    # Counts (units, values) rather than a table of labelers: the same result, and its size does not grow with them.
    place = {value: at for at, value in enumerate(values)}
    counts = np.zeros((len(judged), len(values)))
    for row, given in zip(counts, judged.values(), strict=True):
        for value in given.values():
            row[place[value]] += 1
    return float(krippendorff.alpha(value_counts=counts, value_domain=values, level_of_measurement=level))


def _skipped(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    counts = Counter(one.body["reason"] for one in answers if one.kind == "skip")
    return [{"reason": one.name, "label": one.label, "n": counts[one.name]} for one in SKIP_REASONS if counts[one.name]]


def _labelers(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    by_labeler: dict[int, list[Answer]] = defaultdict(list)
    for one in answers:
        by_labeler[one.labeler].append(one)
    return [
        {
            "name": own[0].name,
            "is_simulated": own[0].is_simulated,
            "answers": sum(one.kind == "answer" for one in own),
            "skips": sum(one.kind == "skip" for one in own),
            "seconds": _median([one.seconds for one in own if one.kind == "answer" and one.seconds is not None]),
            "mean_rating": _mean([rating for one in own for rating in one.body.get("ratings", ())]),
            "last": max(one.at for one in own),
        }
        for _, own in sorted(by_labeler.items())
    ]


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 1) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 2) if values else None
