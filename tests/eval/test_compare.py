from typing import Any

import numpy as np
import pytest
from tunewell.eval.compare import compare, holm_adjusted
from tunewell.eval.statistics import mean_score
from tunewell.eval.task import TaskResult
from tunewell.toolkit.errors import DataError

DETAILS: dict[str, Any] = {"preset": "none", "scorer": "wordlist:1", "decoding": {"k": 4, "temperature": 1.0}}


def result(values: dict[str, float | None], metric: str = "mc1", **changes: Any) -> TaskResult:
    items = [{"id": name, "values": {metric: value}} for name, value in values.items()]
    numbers = [float("nan") if value is None else value for value in values.values()]
    extra = {name: changes.pop(name) for name in ("groups", "weights") if name in changes}
    for place, group in enumerate(extra.get("groups", [])):
        items[place]["group"] = group
    for place, weight in enumerate(extra.get("weights", [])):
        items[place]["weights"] = {metric: weight}
    return TaskResult(name="t", scores={metric: mean_score(numbers)}, items=items, details=DETAILS | changes)


def hits(bits: str) -> dict[str, float | None]:
    return {f"q{place}": float(bit) for place, bit in enumerate(bits)}


def test_a_run_compared_with_itself_shows_nothing() -> None:
    [row] = compare(result(hits("1100101")), result(hits("1100101")))
    assert (row.delta, row.low, row.high, row.p, row.gained, row.lost) == (0, 0, 0, 1, (), ())


def test_hits_are_compared_by_mcnemar_with_the_flips_named() -> None:
    [row] = compare(result(hits("0000011111")), result(hits("1111111110")))
    assert row.gained == ("q0", "q1", "q2", "q3", "q4")
    assert row.lost == ("q9",)
    assert row.method == "exact McNemar"
    assert row.p == pytest.approx(2 * 7 / 64)  # C(6,0) + C(6,1) of 2^6, twice
    assert (row.before, row.after, row.delta, row.n_pairs) == (0.5, 0.9, pytest.approx(0.4), 10)


def test_items_are_paired_by_id_whatever_their_order() -> None:
    values = {"a": 0.2, "b": 0.5, "c": 0.9}
    backwards = {name: value + 0.1 for name, value in reversed(values.items())}
    [row] = compare(result(values), result(backwards))
    assert row.delta == pytest.approx(0.1)
    assert row.se == pytest.approx(0.0, abs=1e-9)


def test_items_of_one_side_alone_are_counted_and_left_out() -> None:
    [row] = compare(result({"a": 0.1, "b": 0.2, "x": 0.9}), result({"a": 0.2, "b": None, "y": 0.1, "z": 0.1}))
    assert (row.n_pairs, row.unscored, row.only_before, row.only_after) == (1, 1, 1, 2)
    assert (row.before, row.after) == (0.1, 0.2)


def test_values_between_hits_go_by_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    before = {f"q{place}": value for place, value in enumerate(rng.random(50).tolist())}
    after = {name: value - 0.2 for name, value in before.items()}
    [row] = compare(result(before), result(after))
    assert row.method == "paired bootstrap"
    assert row.p < 0.001 and row.high < 0
    assert (row.gained, row.lost) == ((), ())


def test_hits_in_groups_are_not_given_to_mcnemar() -> None:
    groups = [place // 5 for place in range(10)]
    [row] = compare(result(hits("0000011111"), groups=groups), result(hits("1111111111"), groups=groups))
    assert row.method == "paired bootstrap"
    assert row.p > 0.05  # two groups prove little, though five items flipped (McNemar: 2/32)


def test_weights_of_each_side_are_heeded() -> None:
    [row] = compare(result({"a": 1.0, "b": 3.0}, weights=[1, 1]), result({"a": 1.0, "b": 3.0}, weights=[1, 3]))
    assert (row.before, row.after) == (2.0, 2.5)
    assert row.delta == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"decoding": {"k": 8, "temperature": 1.0}}, r"decoding\.k: 4 and 8"),
        ({"preset": "six"}, "preset: 'none' and 'six'"),
        ({"scorer": "tfidf:2"}, "scorer: 'wordlist:1' and 'tfidf:2'"),
        ({"condition": "biased"}, "condition: None and 'biased'"),
    ],
)
def test_results_measured_differently_are_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        compare(result(hits("10")), result(hits("10"), **changes))


def test_results_on_other_rows_are_refused() -> None:
    with pytest.raises(DataError, match="share no item"):
        compare(result({"a": 1.0}), result({"b": 1.0}))


def test_the_smallest_difference_that_would_be_found_stands_beside() -> None:
    [row] = compare(result(hits("0101010101")), result(hits("1101010101")))
    assert row.minimal_detectable == pytest.approx(2.8016 * row.se, rel=1e-3)
    [same] = compare(result(hits("0101")), result(hits("0101")))
    [shifted] = compare(result({"a": 0.1, "b": 0.4, "c": 0.7}), result({"a": 0.2, "b": 0.5, "c": 0.8}))
    # Four items that did not change do not show that any difference, however small, would have been found.
    assert same.minimal_detectable is None and shifted.minimal_detectable is None


def test_loss_per_token_of_different_tokenizers_is_refused() -> None:
    values = {"a": 2.0, "b": 3.0}
    first, second = result(values, "nll", weights=[10, 20]), result(values, "nll", weights=[10, 31])
    assert compare(first, first)
    with pytest.raises(DataError, match=r"tokenizer: 1 of 2 texts have another number of tokens"):
        compare(first, second)


def test_p_values_read_together_are_adjusted_together() -> None:
    rows = compare(result(hits("0000000000")), result(hits("1111111111")))
    rows += compare(result(hits("0011")), result(hits("1100")))
    adjusted = holm_adjusted(rows)
    assert [row.p_holm for row in adjusted] == [pytest.approx(2 * rows[0].p), 1.0]
    assert rows[0].p_holm is None
