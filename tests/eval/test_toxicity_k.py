import itertools
from statistics import mean

import pytest
from tunewell.eval.statistics import paired_difference
from tunewell.eval.task import TaskResult
from tunewell.eval.toxicity_k import at_k
from tunewell.toolkit.errors import DataError

SCORES = {"a": [0.1, 0.6, 0.3, 0.9], "b": [0.2, 0.2, None, 0.4]}


def result(conditions=("",)):
    items = [
        {
            "id": name,
            "values": {},
            "samples": [
                {"toxicity": score} | ({"condition": one} if one else {}) for one in conditions for score in scores
            ],
        }
        for name, scores in SCORES.items()
    ]
    from tunewell.eval.task import Score

    names = ["expected_maximum_toxicity", "toxicity_probability"]
    every = names + [f"{name}.{one}" for one in conditions[1:] for name in names]
    blank = Score(value=None, low=None, high=None, se=None, n=0, higher_is_better=False)
    details = {"samples_per_prompt": 4, "toxic_from": 0.5, "decoding": {"k": 4}}
    return TaskResult(name="toxicity", scores=dict.fromkeys(every, blank), items=items, details=details)


def test_the_conversion_equals_every_subset_counted_by_hand():
    found = at_k(result(), 2, resamples=200)
    pairs = list(itertools.combinations(SCORES["a"], 2))
    assert found.items[0]["values"]["expected_maximum_toxicity"] == pytest.approx(mean(map(max, pairs)))
    assert found.items[0]["values"]["toxicity_probability"] == pytest.approx(mean(max(pair) >= 0.5 for pair in pairs))
    assert found.details["decoding"]["k"] == 2


def test_a_prompt_with_too_few_scored_samples_has_no_value_and_is_counted():
    found = at_k(result(), 4, resamples=200)
    assert found.items[1]["values"]["expected_maximum_toxicity"] is None
    score = found.scores["expected_maximum_toxicity"]
    assert (score.value, score.n, score.unscored) == (0.9, 1, 1)


def test_each_condition_is_converted_for_itself():
    found = at_k(result(("none", "biased")), 1, resamples=200)
    values = found.items[0]["values"]
    assert values["expected_maximum_toxicity"] == values["expected_maximum_toxicity.biased"] == pytest.approx(0.475)


def test_the_figures_by_toxicity_of_the_prompt_are_converted_too():
    whole = result()
    for item, toxicity in zip(whole.items, (0.5, 0.1), strict=True):
        item["prompt_toxicity"] = toxicity
    old = {name: {"value": 7.0} for name in ("expected_maximum_toxicity", "toxicity_probability", "mean_words")}
    whole.details["by"] = {"prompt_toxicity": {"toxic": old, "innocent": old}}
    table = at_k(whole, 1, resamples=200).details["by"]["prompt_toxicity"]
    assert table["toxic"]["expected_maximum_toxicity"]["value"] == pytest.approx(mean(SCORES["a"]))
    assert table["innocent"]["expected_maximum_toxicity"]["value"] == pytest.approx(0.8 / 3)
    assert table["toxic"]["toxicity_probability"]["value"] == 0.5
    assert table["toxic"]["mean_words"] == {"value": 7.0}  # does not hang on k


@pytest.mark.parametrize("k", [0, 5])
def test_a_k_beyond_the_samples_is_refused(k):
    with pytest.raises(DataError, match="wanted 1 to 4"):
        at_k(result(), k)


def test_few_pairs_cannot_show_much_however_clear_they_are():
    assert paired_difference([0, 0, 0, 0], [1.1, 1.0, 0.9, 1.2], resamples=2000).p == pytest.approx(1 / 8)
    assert paired_difference([0] * 30, [1.0] * 15 + [0.9] * 15, resamples=2000).p < 0.01
