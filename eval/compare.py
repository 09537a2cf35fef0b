"""Two models on the same items: paired differences, a test, and the items that changed sides."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..toolkit.errors import DataError
from .statistics import NO_SPREAD, RESAMPLES, holm, mcnemar, minimal_detectable_effect, paired_difference
from .task import TaskResult

MUST_AGREE = ("mode", "preset", "prompt_sha256", "condition", "decoding", "scorer", "window")
PER_TOKEN = "nll"  # a figure whose items are weighted by their tokens


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of two results, paired by item."""

    task: str
    """Name of the task."""
    metric: str
    """Name of the figure."""
    before: float
    """First model, over the paired items alone."""
    after: float
    """Second model, over the same items."""
    delta: float
    """After minus before."""
    low: float | None
    """Lower end of the 95 % interval of delta."""
    high: float | None
    """Upper end of the 95 % interval of delta."""
    se: float | None
    """Standard error of delta."""
    p: float | None
    """Two-sided p-value; None for a single item or group."""
    method: str
    """Where p comes from: exact McNemar or paired bootstrap."""
    p_holm: float | None
    """p adjusted for the number of comparisons made together; None until `holm_adjusted`."""
    n_pairs: int
    """Items with a value on both sides."""
    unscored: int
    """Items of both results that the figure is about and that lack a value on one side."""
    only_before: int
    """Items that only the first result has."""
    only_after: int
    """Items that only the second result has."""
    gained: tuple[str, ...]
    """Ids of the items that went from 0 to 1, where the figure is made of hits."""
    lost: tuple[str, ...]
    """Ids of the items that went from 1 to 0."""
    minimal_detectable: float | None
    """Smallest true difference that would be found four times in five."""
    higher_is_better: bool | None
    """As in the scores."""

    def as_json(self) -> dict[str, Any]:
        """The comparison as one JSON object."""
        return asdict(self)


def compare(before: TaskResult, after: TaskResult, *, seed: int = 0, resamples: int = RESAMPLES) -> list[Comparison]:
    """Compare every figure that two results of one task have item by item.

    Args:
        before: the first model.
        after: the second model.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        DataError: the results were not measured in the same way, or share no item.
    """
    if faults := how_they_differ(before, after):
        raise DataError(
            "the two results were not measured in the same way and cannot be compared:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
            + "\nEvaluate both models with the same settings"
        )
    first = {item["id"]: item for item in before.items}
    second = {item["id"]: item for item in after.items}
    pairs = [(first[name], second[name]) for name in first if name in second]
    if not pairs:
        raise DataError(
            f"the two results of {before.name!r} share no item: they were measured on different rows, so nothing can "
            "be paired. Evaluate both models on the same file"
        )
    metrics = [name for name in dict.fromkeys(name for a, _ in pairs for name in a["values"]) if name in before.scores]
    rows = []
    for metric in metrics:
        asked = [pair for pair in pairs if all(metric in item["values"] for item in pair)]
        known = [pair for pair in asked if all(item["values"][metric] is not None for item in pair)]
        if known:  # a figure that one side could not measure at all has nothing to compare
            row = _compare_one(before, metric, known, seed, resamples)
            rows.append(replace(row, unscored=len(asked) - len(known), only_before=len(first) - len(pairs),
                                only_after=len(second) - len(pairs)))  # fmt: skip
    return rows


def holm_adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with p-values adjusted for their number: give it those that are read together."""
    tested = [(place, row.p) for place, row in enumerate(comparisons) if row.p is not None]
    adjusted = dict(zip((place for place, _ in tested), holm([p for _, p in tested]), strict=True))
    return [replace(row, p_holm=adjusted.get(place)) for place, row in enumerate(comparisons)]


def how_they_differ(before: TaskResult, after: TaskResult) -> list[str]:
    """What was asked otherwise of the second model, so that no figure of the two can be compared; mostly nothing."""
    faults = [] if before.name == after.name else [f"task: {before.name!r} and {after.name!r}"]
    for key in MUST_AGREE:
        a, b = before.details.get(key), after.details.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names = [name for name in sorted(set(a) | set(b)) if a.get(name) != b.get(name)]
            faults += [f"{key}.{name}: {a.get(name)!r} and {b.get(name)!r}" for name in names]
        elif a != b:
            faults.append(f"{key}: {a!r} and {b!r}")
    return faults + _other_tokens(before, after)


def _other_tokens(before: TaskResult, after: TaskResult) -> list[str]:
    """Loss per token has another unit where the same texts are cut into another number of tokens."""
    counts = {item["id"]: item["weights"][PER_TOKEN] for item in before.items if PER_TOKEN in item.get("weights", {})}
    both = [(counts[item["id"]], item["weights"][PER_TOKEN]) for item in after.items if item["id"] in counts]
    other = sum(a != b for a, b in both)
    if not other:
        return []
    return [
        f"tokenizer: {other} of {len(both)} texts have another number of tokens, so loss per token has another unit"
    ]


def _compare_one(
    before: TaskResult, metric: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], seed: int, resamples: int
) -> Comparison:
    a, b = ([pair[side]["values"][metric] for pair in pairs] for side in (0, 1))
    weights_a, weights_b = ([pair[side].get("weights", {}).get(metric, 1.0) for pair in pairs] for side in (0, 1))
    has_groups = any("group" in item for item, _ in pairs)
    groups = [item.get("group", item["id"]) for item, _ in pairs] if has_groups else None
    difference = paired_difference(a, b, weights_before=weights_a, weights_after=weights_b, groups=groups, seed=seed,
                                   resamples=resamples)  # fmt: skip
    are_hits = all(value in (0, 1) for value in (*a, *b)) and {*weights_a, *weights_b} == {1.0}
    changed = [(item["id"], after - now) for (item, _), now, after in zip(pairs, a, b, strict=True)]
    gained = tuple(name for name, change in changed if are_hits and change > 0)
    lost = tuple(name for name, change in changed if are_hits and change < 0)
    # McNemar's test takes items as independent; where they come in groups only the bootstrap by groups is right.
    is_exact = are_hits and not has_groups
    return Comparison(
        task=before.name,
        metric=metric,
        before=_mean(a, weights_a),
        after=_mean(b, weights_b),
        delta=difference.delta,
        low=difference.low,
        high=difference.high,
        se=difference.se,
        p=mcnemar(len(gained), len(lost)) if is_exact else difference.p,
        method="exact McNemar" if is_exact else "paired bootstrap",
        p_holm=None,
        n_pairs=difference.n_pairs,
        unscored=0,
        only_before=0,
        only_after=0,
        gained=gained,
        lost=lost,
        minimal_detectable=_detectable(difference.se),
        higher_is_better=before.scores[metric].higher_is_better,
    )


def _detectable(se: float | None) -> float | None:
    """None too where all items changed alike (most of all: not at all): such a bootstrap knows nothing of its power."""
    return None if se is None or se < NO_SPREAD else minimal_detectable_effect(se)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    total = sum(value * weight for value, weight in zip(values, weights, strict=True))
    return total / sum(weights)
