"""`tunewell compare`: what may be named, what is paired, what is refused."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from micro_run import QUIET, call, libraries_as_before
from tunewell.eval.statistics import mean_score, share_score
from tunewell.eval.task import TaskResult, write_result
from tunewell.pipelines.comparing import _sides, compare_sides, pair_record, read_sides

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
BEFORE = [0, 0, 0, 1, 1, 0, 0, 0]
AFTER = [1, 1, 1, 1, 0, 1, 1, 1]


def truthfulness(hits, preset="none", first=0):
    items = [
        {
            "id": f"q{first + number}",
            "question": f"Question {first + number}?",
            "values": {"mc1": hit, "mc2": 0.1 + hit / 2},
        }
        for number, hit in enumerate(hits)
    ]
    scores = {"mc1": share_score([float(hit) for hit in hits]), "mc2": mean_score([0.1 + hit / 2 for hit in hits])}
    return TaskResult(name="truthfulness", scores=scores, items=items, details={"preset": preset})


def toxicity(samples, k):
    items = [
        {"id": str(number), "prompt": "p", "values": {"toxicity_probability": 0.0, "expected_maximum_toxicity": 0.1},
         "samples": [{"text": "t", "toxicity": score} for score in scores]} for number, scores in enumerate(samples)
    ]  # fmt: skip
    scores = {name: share_score([0.0, 0.1]) for name in ("toxicity_probability", "expected_maximum_toxicity")}
    details = {"samples_per_prompt": k, "toxic_from": 0.5, "decoding": {"k": k}, "scorer": "s"}
    return TaskResult(name="toxicity", scores=scores, items=items, details=details)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_result(truthfulness(BEFORE), tmp_path / "old" / "truthfulness.json")
    write_result(truthfulness(AFTER), tmp_path / "new" / "truthfulness.json")
    return tmp_path


@pytest.fixture
def tunewell_(monkeypatch, capsys, place):
    with libraries_as_before():
        yield lambda *arguments: call(monkeypatch, capsys, *arguments)


def test_differences_are_paired_and_flips_are_listed(tunewell_):
    shown = tunewell_("compare", "old", "new")
    assert shown.code == 0
    assert "mc1  25.0% → 87.5%  +62 points" in shown.out and "p 0.12" in shown.out  # McNemar: 2 · (1 + 7) / 2^7
    assert "mc1 went from 0 to 1: 6 items" in shown.out and "q0  Question 0?" in shown.out
    assert "and 1 more (--flips 6" in shown.out
    assert "mc1 went from 1 to 0: 1 item\n    q4  Question 4?" in shown.out


def test_a_single_pair_has_a_difference_and_no_interval_in_plain_words(tunewell_, place):
    for name, hits in (("old", [0]), ("new", [1])):
        write_result(truthfulness(hits), place / name / "truthfulness.json")
    shown = tunewell_("compare", "old", "new", "--report", "page.html")
    assert "+100 points (no interval)" in shown.out and "not measured" not in shown.out
    assert "+100 points (no interval), no clear change" in (place / "page.html").read_text()


def test_both_figures_have_the_same_decimals():
    assert _sides(1.2003, 1.19531, "nats") == "1.200 → 1.195"
    assert _sides(0.2582, 0.00843, None) == "0.2582 → 0.0084"
    assert _sides(1234.5, 99.9, None) == "1,234 → 100"
    assert _sides(0.0, 0.0, None) == "0 → 0"


def test_results_are_compared_without_loading_a_model_library(place):
    script = """
import sys
from tunewell.pipelines.cli import main
sys.argv = ["tunewell", "compare", "old", "new", "--report", "page.html"]
try:
    main()
except SystemExit as end:
    print(end.code, sorted({"torch", "transformers", "trl", "peft", "datasets", "sklearn"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("report: page.html\n0 []\n"), done.stdout + done.stderr


def test_as_json_it_holds_every_flip_and_the_reasons(tunewell_, place):
    write_result(toxicity([[0.1]], 1), place / "new" / "toxicity.json")
    tree = json.loads(tunewell_("compare", "old", "new", "--json").out)
    rows = {row["metric"]: row for row in tree["comparisons"]}
    assert rows["mc1"]["gained"] == ["q0", "q1", "q2", "q5", "q6", "q7"] and rows["mc1"]["lost"] == ["q4"]
    assert rows["mc1"]["p"] == pytest.approx(2 * (1 + 7) / 2**7)
    assert tree["not_compared"] == [{"task": "toxicity", "reason": "only one side has it"}]


def test_a_result_against_itself_has_no_difference_and_no_flips(tunewell_):
    tree = json.loads(tunewell_("compare", "old", "old", "--json").out)
    assert all(row["delta"] == 0 and row["p"] == 1 and not row["gained"] + row["lost"] for row in tree["comparisons"])
    assert tree["a"]["name"] != tree["b"]["name"]


def test_what_was_asked_otherwise_or_of_other_items_is_refused(tunewell_, place):
    write_result(truthfulness(AFTER, preset="six"), place / "six" / "truthfulness.json")
    write_result(truthfulness(AFTER, first=100), place / "others" / "truthfulness.json")
    called = tunewell_("compare", "old", "six")
    assert called.code == 2 and "preset: 'none' and 'six'" in called.err
    assert "share no item" in tunewell_("compare", "old", "others").err


def test_only_the_items_of_both_are_paired_and_the_rest_is_counted(tunewell_, place):
    write_result(truthfulness(AFTER, first=3), place / "shifted" / "truthfulness.json")
    assert "truthfulness (5 pairs, 3 only in A, 3 only in B)" in tunewell_("compare", "old", "shifted").out


def test_toxicity_of_other_k_is_refused_with_the_cure_and_converted_on_demand(tunewell_, place):
    write_result(toxicity([[0.1, 0.6], [0.2, 0.7]], 2), place / "two" / "toxicity.json")
    write_result(toxicity([[0.9], [0.8]], 1), place / "one" / "toxicity.json")
    called = tunewell_("compare", "two", "one")
    assert called.code == 2 and "decoding.k: 2 and 1" in called.err and "--k 1" in called.err
    tree = json.loads(tunewell_("compare", "two", "one", "--k", "1", "--json").out)
    rows = {row["metric"]: row for row in tree["comparisons"]}
    assert rows["toxicity_probability"]["before"] == pytest.approx(0.5) and rows["toxicity_probability"]["after"] == 1
    assert "wanted 1 to 1" in tunewell_("compare", "two", "one", "--k", "2").err


def test_the_page_of_converted_results_shows_both_sides_at_that_k(place):
    write_result(toxicity([[0.1, 0.6], [0.2, 0.7]], 2), place / "two" / "toxicity.json")
    write_result(toxicity([[0.9], [0.8]], 1), place / "one" / "toxicity.json")
    record, results = pair_record(compare_sides(*read_sides("two", "one"), k=1))
    rows = {row["model"]: row for row in record["results"]}
    assert [row["details"]["decoding"]["k"] for row in rows.values()] == [1, 1]
    assert rows["two"]["scores"]["toxicity_probability"]["value"] == pytest.approx(0.5)
    assert results["two"]["toxicity"].items[0]["values"]["toxicity_probability"] == pytest.approx(0.5)


def test_the_page_shows_both_sides(tunewell_, place):
    assert tunewell_("compare", "old", "new", "--report", "page.html").code == 0
    page = (place / "page.html").read_text()
    assert "Question 0?" in page and "models differ" in page and "old and new" in page


def test_places_that_hold_nothing_are_told_with_what_was_wanted(tunewell_, place):
    called = tunewell_("compare", "old", "nowhere")
    assert called.code == 2 and "nowhere does not exist" in called.err
    assert tunewell_("compare", "old/truthfulness.json", "new").code == 0


def test_a_folder_whose_path_has_an_at_sign_can_be_named(tunewell_, place):
    (place / "me@work").mkdir()
    run = place / "me@work" / "run"
    for name in ("base", "sft"):
        write_result(truthfulness(AFTER), run / "05-eval" / name / "truthfulness.json")
    (run / "run.json").write_text('{"stages": {"eval": {"folder": "05-eval"}}}')
    called = tunewell_("compare", "me@work/run@base", "me@work/run@sft")
    assert called.code == 0, called.err
    assert tunewell_("compare", "me@work/run", "me@work/run@base").code == 0


def test_a_difference_that_the_exact_test_does_not_bear_out_is_not_called_one(tunewell_, place):
    write_result(truthfulness([0] * 12), place / "old" / "truthfulness.json")
    write_result(truthfulness([1] * 4 + [0] * 8), place / "new" / "truthfulness.json")
    tunewell_("compare", "old", "new", "--report", "page.html")
    # The interval leaves zero out; with four gained and none lost, McNemar's exact p is 0.125.
    text = (place / "page.html").read_text()
    assert re.search(r"\+33\.3 points \[\+\d+\.\d, \+\d+\.\d\], no clear change", text)
