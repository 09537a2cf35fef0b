import math

import numpy as np
import pytest
from tunewell.eval.reward_model import Ranked, report_on
from tunewell.toolkit.errors import DataError


def drawn(count: int, sharpness: float, *, length_pull: float = 0.0, seed: int = 0) -> list[Ranked]:
    """Pairs whose labels follow the logistic function of the score difference, scaled by `sharpness`."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        scores, lengths = rng.normal(0, 2, 2), rng.integers(1, 40, 2)
        scores = scores + length_pull * lengths
        is_first = rng.random() < 1 / (1 + math.exp(-sharpness * (scores[0] - scores[1])))
        ranks = [1, 2] if is_first else [2, 1]
        made.append(Ranked(scores=scores.tolist(), ranks=ranks, lengths=lengths.tolist()))
    return made


def test_figures_by_hand():
    # three pairs of (2, 1, 1) are right, equal and wrong: 2 > 1, 2 = 2, 1 < 2
    rankings = [Ranked(scores=[2.0, 1.0, 2.0], ranks=[1, 2, 2], lengths=[5, 3, 9], kind="a"),
                Ranked(scores=[1.0, 2.0], ranks=[1, 2], lengths=[2, 2], kind="b")]  # fmt: skip
    report = report_on(rankings)
    accuracy = report.scores["accuracy"]
    assert accuracy.value == pytest.approx(1.5 / 3) and accuracy.n == 3 and accuracy.chance == 0.5
    assert accuracy.low < accuracy.value < accuracy.high
    assert report.scores["accuracy.a"].value == pytest.approx(0.75)
    assert report.scores["accuracy.b"].value == 0
    losses = [math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.exp(1))]
    assert report.scores["log_loss"].value == pytest.approx(sum(losses) / 3)
    assert [(one["from"], one["to"], one["n"]) for one in report.by_length] == [(-8, -2, 1), (-2, 3, 2)]


def test_a_model_that_knows_how_sure_it_may_be_is_calibrated_and_one_too_sure_is_not():
    good, proud = (report_on(drawn(2000, sharpness)) for sharpness in (1.0, 0.3))
    assert good.scores["calibration_error"].value < 0.04 < 0.1 < proud.scores["calibration_error"].value
    assert all(one["share_right"] < one["confidence"] for one in proud.calibration[-3:])
    assert sum(one["n"] for one in good.calibration) == 2000
    found = proud.scores["calibration_error"]
    assert found.low <= found.value <= found.high


def test_a_score_that_follows_length_is_found_out():
    plain, pulled = report_on(drawn(400, 1.0)), report_on(drawn(400, 1.0, length_pull=0.3))
    for name in ("length_correlation", "length_correlation.within_prompt"):
        assert plain.scores[name].low < 0.1
        assert pulled.scores[name].low > 0.5
    assert plain.scores["length_correlation"].n == 800


def test_rankings_without_a_pair_are_refused():
    with pytest.raises(DataError, match="no held-out pair that is no tie"):
        report_on([Ranked(scores=[1.0, 2.0], ranks=[1, 1], lengths=[1, 1])])


def test_what_cannot_be_told_is_none():
    report = report_on([Ranked(scores=[1.0, 2.0], ranks=[2, 1], lengths=[3, 3])])
    assert report.scores["length_correlation"].value is None
    assert report.scores["log_loss"].low is None
