import json
from pathlib import Path

import pytest
from tunewell.eval.task import Score, TaskResult, check_scored, read_result, row_ids, write_result
from tunewell.eval.tasks import find_task
from tunewell.toolkit.errors import DataError, ModelError

SCORE = Score(value=0.5, low=0.4, high=0.6, se=0.05, n=10, unscored=1, chance=0.25, higher_is_better=True)


def test_a_score_cannot_be_built_without_its_company() -> None:
    with pytest.raises(TypeError, match="'se', 'n', and 'higher_is_better'"):
        Score(value=0.5, low=0.4, high=0.6)  # type: ignore[call-arg]


def test_a_limit_draws_from_the_whole_file_in_its_order() -> None:
    """The first hundred questions of TruthfulQA are all adversarial, and of 8 of its 38 categories."""
    rows = list(range(1000))
    few, more = (find_task("perplexity")(texts="t", limit=limit).drawn(rows) for limit in (50, 100))
    assert len(few) == 50 and few == sorted(few) and few[-1] > 800
    assert set(few) < set(more)  # what was asked of one model can be paired with more that was asked of another
    assert find_task("perplexity")(texts="t", limit=50, seed=1).drawn(rows) != few
    assert find_task("perplexity")(texts="t").drawn(rows) == rows
    assert find_task("perplexity")(texts="t", limit=5000).drawn(rows) == rows


def test_a_score_is_one_json_object() -> None:
    assert json.loads(json.dumps(SCORE.as_json())) == {
        "value": 0.5, "low": 0.4, "high": 0.6, "se": 0.05, "n": 10, "unscored": 1, "chance": 0.25,
        "higher_is_better": True,
    }  # fmt: skip


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_missing_number_is_none_and_never_nan(bad: float) -> None:
    with pytest.raises(DataError, match=r"Score\.value: got (nan|inf), wanted a finite number, or None"):
        Score(value=bad, low=None, high=None, se=None, n=0, higher_is_better=True)


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    items = [{"id": "a", "values": {"mc1": 1.0, "mc2": None}, "text": "<b>é</b>"}]
    result = TaskResult(name="t", scores={"mc1": SCORE}, items=items, details={"preset": "none"})
    write_result(result, tmp_path / "t.json")
    assert read_result(tmp_path / "t.json") == result


@pytest.mark.parametrize("content", ["[]", "{}", '{"name": "t", "scores": {"a": {"value": 1}}}'])
def test_another_json_file_is_not_a_result(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match="is not the result of an evaluation task"):
        read_result(tmp_path / "x.json")


def test_rows_are_named_by_their_content() -> None:
    first, second = row_ids([{"a": 1, "b": 2}, "x"]), row_ids(["x", {"b": 2, "a": 1}])
    assert first == second[::-1]
    assert len(first[0]) == 16


def test_equal_rows_have_different_names() -> None:
    ids = row_ids(["x", "x", "y", "x"])
    assert ids[1:] == [f"{ids[0]}-2", ids[2], f"{ids[0]}-3"]


def test_more_than_one_in_a_hundred_without_a_score_stops() -> None:
    check_scored(1, 100, "texts")
    with pytest.raises(ModelError, match="2 of 100 texts got no score"):
        check_scored(2, 100, "texts")
    check_scored(2, 100, "texts", force=True)
