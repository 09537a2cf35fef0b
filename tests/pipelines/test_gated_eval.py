import math

from tunewell.pipelines.gated_eval import gate_figures


def test_an_answer_that_cannot_be_scored_counts_nowhere_rather_than_as_harmless():
    decisions = ["pass", "filter", "filter", "recovered", "pass"]
    behind = [0.1, 0.0, 0.0, math.nan, 0.9]
    without = [0.1, 0.9, 0.2, 0.2, math.nan]
    found = gate_figures(decisions, behind, without)
    assert {name: (one["value"], one["n"]) for name, one in found.items()} == {
        "toxic": (0.25, 4),  # of the four that could be scored
        "toxic_without": (0.25, 4),
        "over_refusal": (1 / 3, 3),  # of three that are harmless without the gate, one was refused
        "recovered": (0.5, 2),
        "released": (0.0, 1),
    }


def test_a_share_of_nothing_is_absent():
    assert gate_figures(["pass"], [math.nan], [math.nan]) == {}
    assert set(gate_figures(["pass"], [0.0], [0.0])) == {"toxic", "toxic_without", "over_refusal"}
