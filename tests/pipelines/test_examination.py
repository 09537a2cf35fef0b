"""What the stage eval can ask of what it is given, and what it says of the rest."""

import shutil
from pathlib import Path

import pytest
from micro_run import QUIET, micro_run
from tunewell.pipelines.examination import EvalSettings, Examination
from tunewell.pipelines.model_source import find_model
from tunewell.pipelines.report.view import build
from tunewell.pipelines.report_data import build_report
from tunewell.toolkit.data.rows import write_rows
from tunewell.toolkit.files import read_json, write_json

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return micro_run(tmp_path_factory.getbasetemp()).folder


@pytest.fixture(scope="module")
def stack(run):
    made = find_model(str(run), role="base").load()
    made.load("sft", run / "02-sft" / "policy")
    made.load("reward", run / "03-reward" / "reward")
    return made


def reasons(stack, data, folder, **settings):
    asks, missing = Examination(EvalSettings(**settings), stack, data, 0, None, folder).tasks()
    return set(asks), {entry["what"]: entry["reason"] for entry in missing}


def test_prompts_that_are_missing_or_too_long_leave_two_tasks_unasked_and_stop_nothing(run, stack, tmp_path):
    data = run / read_json(run / "01-filter" / "stage.json")["artifacts"]["data"]
    asked, missing = reasons(stack, data, tmp_path)
    assert asked == {"truthfulness", "toxicity", "perplexity", "reward"} and not missing
    asked, missing = reasons(stack, data, tmp_path, max_new_tokens=505)
    assert asked == {"truthfulness", "perplexity"}
    assert missing["reward"] == "no held-out prompt leaves room for eval.max_new_tokens=505 in the model's window"
    for name in ("clean_text", "toxicity_rows", "questions"):
        (tmp_path / f"{name}.jsonl").write_bytes((data / f"{name}.jsonl").read_bytes())
    write_rows(tmp_path / "held_out_prompts.jsonl", [{"prompt": "Who?", "kind": "question"}])
    asked, missing = reasons(stack, tmp_path, tmp_path)
    assert "reward" in asked
    assert missing["toxicity"] == (
        "no held-out prompt that is no question of fact was given (data.held_out_prompts=FILE)"
    )


def test_the_page_calls_a_difference_one_only_where_the_adjusted_test_agrees(run, tmp_path):
    rows = read_json(run / "05-eval" / "comparisons.json")
    heads = {"truthfulness": "mc1", "toxicity": "toxicity_probability", "perplexity": "nll", "reward": "reward"}
    adjusted = [row for row in rows if row["p_holm"] is not None]
    assert {(row["task"], row["metric"]) for row in adjusted} == set(heads.items())
    assert all(row["p_holm"] >= row["p"] for row in adjusted)

    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for p_holm, shown in ((0.03, "better"), (0.125, "no clear change")):  # four gained, none lost: McNemar's p
        for row in rows:
            if row["metric"] == "mc1":
                row |= {"delta": 0.1, "low": 0.05, "high": 0.2, "p": 0.03, "p_holm": p_holm}
        write_json(copy / "05-eval" / "comparisons.json", rows)
        cards = {card["label"]: card for card in build(build_report(copy), [])["results"]["cards"]}
        assert {pair["tendency"] for pair in cards["Truthful answers (MC1)"]["paired"]} == {shown}


def test_the_page_says_when_the_scorer_that_filtered_also_marks_the_model(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for filtered, marks, is_told in (("tfidf:a", "tfidf:a", True), ("tfidf:a", "tfidf:b", False), (None, None, False)):
        record = read_json(run / "run.json")
        record["settings"]["filter"]["toxicity"], record["settings"]["eval"]["toxicity"] = filtered, marks
        write_json(copy / "run.json", record)
        told = [text for text in build_report(copy)["warnings"] if "use the same scorer (tfidf:a)" in text]
        assert bool(told) == is_told
