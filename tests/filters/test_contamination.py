"""Texts that give away benchmark items are found, with the item and the place."""

import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunewell.filters import BenchmarkItem, ContaminationFilter, ContaminationReport, read_benchmarks
from tunewell.filters.base import decide
from tunewell.filters.benchmark_texts import items_of
from tunewell.toolkit.errors import DataError, SettingsError

QUESTION = "If a red ball is dropped from a tower twice as high how much longer does it fall"  # 18 words
SHORT = "Which of the seven sleepers of Ephesus woke first?"  # 9 words
ITEMS = (
    BenchmarkItem("physics.jsonl", 1, (QUESTION, "About 1.41 times as long")),
    BenchmarkItem("legends.jsonl", 7, (SHORT,)),
    BenchmarkItem("legends.jsonl", 8, ("Who was it?",)),
)
JUDGE = ContaminationFilter(items=ITEMS)


def test_one_shared_13_gram_is_enough_and_12_words_are_not():
    words = QUESTION.split()
    thirteen, twelve = (f"Teacher: {' '.join(words[2 : 2 + n])} ... quite!" for n in (13, 12))
    found, clean = JUDGE.judge([thirteen, twelve])
    assert (found.keep, found.score, found.reason, found.matched) == (
        False,
        1,
        "benchmark_item",
        "physics.jsonl, row 1",
    )
    assert found.measures == {"ngrams": 1, "coverage": 1 / 6, "items": 1}
    assert thirteen[slice(*found.span)] == " ".join(words[2:15])
    assert (clean.keep, clean.score, clean.span, clean.matched) == (True, 0, None, "")


def test_case_punctuation_and_disguises_do_not_count_and_the_span_is_that_of_the_original():
    text = "¿ﬁ¿ " + QUESTION.upper().replace(" ", ",\u200b  ") + " !"
    (verdict,) = JUDGE.judge([text])
    assert verdict.measures == {"ngrams": 6, "coverage": 1, "items": 1}
    start, end = verdict.span
    assert text[start:end].startswith("IF,") and text[start:end].endswith("HOW")


def test_a_shorter_passage_must_be_there_whole_and_still_shorter_ones_are_named_as_unseen():
    whole, part, tiny = JUDGE.judge(
        [
            "a: which of the SEVEN sleepers of ephesus woke first",
            "Which of the seven sleepers of Ephesus woke",
            "Who was it?",
        ]
    )
    assert (whole.keep, whole.matched, whole.measures["coverage"]) == (False, "legends.jsonl, row 7", 1)
    assert part.keep and tiny.keep
    assert JUDGE.unseen == {"legends.jsonl, row 8"}


def test_the_item_of_which_most_was_found_is_named_and_all_are_counted():
    text = " ".join(QUESTION.split()[:13]) + " ... " + SHORT
    (verdict,) = JUDGE.judge([text])
    assert (verdict.matched, verdict.measures["items"], verdict.measures["coverage"]) == ("legends.jsonl, row 7", 2, 1)
    assert [overlap.item.row for overlap in JUDGE.overlaps(text)] == [7, 1]


@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), min_size=1, max_size=4),
    st.lists(st.sampled_from("abcd"), max_size=14),
    st.integers(1, 3),
    st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_what_is_found_is_what_comparing_all_with_all_finds(passages, text, shortest, more):
    n = shortest + more
    items = tuple(BenchmarkItem("b", row, (" ".join(words),)) for row, words in enumerate(passages, start=1))
    judge = ContaminationFilter(items=items, n_words=n, shortest=shortest)
    expected = {}
    for row, words in enumerate(passages, start=1):
        size = min(len(words), n)
        own = [words[at : at + size] for at in range(len(words) - size + 1)] if len(words) >= shortest else []
        places = [at for at in range(len(text) - size + 1) if text[at : at + size] in own]
        if places:
            held = [gram for gram in own if any(text[at : at + size] == gram for at in places)]
            expected[row] = (len(places), len(held) / len(own), (places[0], places[0] + size))
    found = {one.item.row: (one.ngrams, one.coverage, one.words) for one in judge.overlaps(" ".join(text))}
    assert found == expected


def test_scripts_without_spaces_are_compared_by_character():
    judge = ContaminationFilter(items=(BenchmarkItem("zh", 1, ("世界上最高的山是哪一座山呢请回答",)),))
    text = "问 世界上最高的山是哪一座山呢请"
    (verdict,) = judge.judge([text])
    assert not verdict.keep and text[slice(*verdict.span)] == "世界上最高的山是哪一座山呢"


def test_more_can_be_allowed_and_stored_scores_decide_again():
    lenient = ContaminationFilter(items=ITEMS, max_ngrams=4)
    text = " ".join(QUESTION.split()[:16])
    assert lenient.judge([text])[0].keep and not lenient.judge([QUESTION])[0].keep
    assert not decide(lenient.judge([text])[0].measures, JUDGE.limits).keep


def test_it_travels_between_processes_and_equal_items_have_equal_ids():
    JUDGE.judge([QUESTION])
    copy = pickle.loads(pickle.dumps(JUDGE))
    assert copy.judge([QUESTION, ""]) == JUDGE.judge([QUESTION, ""]) and copy.id == JUDGE.id
    assert ContaminationFilter(items=ITEMS[:2]).id != JUDGE.id != ContaminationFilter(items=ITEMS, n_words=12).id


def test_every_text_of_a_row_is_a_passage_but_addresses():
    rows = [
        {"Question": " Why? ", "Correct Answers": "One thing; another thing;", "Source": "https://a.b/c", "n": 3},
        {"turns": [{"role": "user", "content": "Hello there"}], "choices": {"text": ["x y", "x y"]}},
        {"n": 4, "empty": None},
    ]
    assert list(items_of(rows, "b")) == [
        BenchmarkItem("b", 1, ("Why?", "One thing", "another thing")),
        BenchmarkItem("b", 2, ("user", "Hello there", "x y")),
    ]


def test_files_are_read_and_faults_named(tmp_path):
    (tmp_path / "tasks.jsonl").write_text('{"q": "What is it?"}\n')
    (tmp_path / "more.csv").write_text("q,n\nWho is it?,1\n")
    read = read_benchmarks([tmp_path / "tasks.jsonl", str(tmp_path / "more.csv")])
    assert [(one.label, one.passages) for one in read] == [
        ("tasks.jsonl, row 1", ("What is it?",)), ("more.csv, row 1", ("Who is it?", "1")),
    ]  # fmt: skip
    (tmp_path / "none.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(DataError, match="holds no text"):
        read_benchmarks([tmp_path / "none.jsonl"])
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        read_benchmarks([tmp_path / "gone.jsonl"])


def test_values_that_make_no_sense_are_refused_at_once():
    with pytest.raises(SettingsError) as error:
        ContaminationFilter(items=(), n_words=5, shortest=8, max_ngrams=-1)
    assert len(error.value.faults) == 3


def test_a_report_tells_item_by_item_what_is_in_the_corpus():
    report = ContaminationReport(JUDGE)
    part = " ".join(QUESTION.split()[:13])
    report.add([("a:1", part), ("a:2", "nothing"), ("a:3", f"{QUESTION} {SHORT}")])
    assert [(one.item, one.texts, one.coverage, one.examples) for one in report.items] == [
        ("physics.jsonl, row 1", 2, 1, ["a:1", "a:3"]), ("legends.jsonl, row 7", 1, 1, ["a:3"]),
    ]  # fmt: skip
    rows = [(one.benchmark, one.items, one.unseen, one.found, one.whole) for one in report.benchmarks]
    assert rows == [("physics.jsonl", 1, 0, 1, 1), ("legends.jsonl", 2, 1, 1, 1)]


def test_truthfulqa_is_found_in_data_made_from_it_and_not_in_other_data(shared_data):
    """The judge's training rows are made of its questions; tweets are not."""
    import csv
    import gzip

    import orjson

    judge = ContaminationFilter(items=read_benchmarks([shared_data / "truthfulqa" / "TruthfulQA.csv"]))
    rng = random.Random(0)
    with gzip.open(shared_data / "truthfulqa" / "finetune_truth_dev.jsonl.gz") as file:
        made = [orjson.loads(line)["prompt"] for line in rng.sample(file.readlines(), 300)]
    with (shared_data / "hate-speech" / "labeled_data-dev.csv").open(newline="") as file:
        tweets = [row["tweet"] for row in csv.DictReader(file)]
    found = sum(not verdict.keep for verdict in judge.judge(made))
    assert found >= 0.7 * len(made)
    assert sum(not verdict.keep for verdict in judge.judge(rng.sample(tweets, 2000))) <= 1
