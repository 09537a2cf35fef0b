"""A toxicity scorer is trained from labelled rows and measured on rows it has not seen."""

import csv
import json
import random
import re

import numpy as np
import pytest
from micro_run import QUIET, call, libraries_as_before
from tunewell.pipelines.toxicity import LabelRule, measure
from tunewell.toolkit.toxicity.scorer import open_scorer

pytestmark = [pytest.mark.filterwarnings(warning) for warning in QUIET]

RUDE = ("oaf", "rat", "clod", "lout")
KIND = ("friend", "neighbour", "guest", "teacher")
PLACES = [f"place{number}" for number in range(60)]


@pytest.fixture(autouse=True)
def _libraries():
    with libraries_as_before():
        yield


@pytest.fixture
def rows():
    rng = random.Random(0)
    return [
        {"text": f"You are a {rng.choice(words)} from {rng.choice(PLACES)} {number}.", "label": label}
        for number in range(300)
        for label, words in (((0, KIND),) if number % 2 else ((1, RUDE),))
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_scorer_is_trained_measured_and_saved_without_pickle(tmp_path, rows, monkeypatch, capsys):
    path = write(tmp_path / "rows.jsonl", [*rows, {"text": "", "label": 1}, {"text": "x", "label": None}])
    out = tmp_path / "s"
    called = call(monkeypatch, capsys, "toxicity", "train", path, "--out", out, "--json")
    assert called.code == 0, called.err
    told = json.loads(called.out.splitlines()[-1])
    assert told["rows"] == {
        "read": 302, "left_out": 2, "trained": 240, "held_out": 60,
        "trained_toxic": told["rows"]["trained_toxic"], "held_out_toxic": 150 - told["rows"]["trained_toxic"],
    }  # fmt: skip
    for name in ("auc", "precision", "recall"):
        assert told["figures"][name]["value"] > 0.95
        assert told["figures"][name]["low"] <= told["figures"][name]["value"] <= told["figures"][name]["high"]
    assert sorted(file.name for file in out.iterdir()) == ["arrays.safetensors", "scorer.json", "training.json"]
    scorer = open_scorer(f"tfidf:{out}")
    assert scorer.id == told["scorer"] == json.loads((out / "training.json").read_text())["scorer"]
    again = call(monkeypatch, capsys, "toxicity", "train", path, "--out", out)
    assert again.code == 0 and scorer.id == open_scorer(f"tfidf:{out}").id
    assert "auc" in again.out and "tfidf:" in again.out


def test_where_labels_say_nothing_the_held_out_area_is_that_of_chance(tmp_path, rows, monkeypatch, capsys):
    """The control: memorised training rows must not reach the figures."""
    rng = random.Random(1)
    noise = [{**row, "label": rng.randrange(2)} for row in rows for _ in range(2)]
    path = write(tmp_path / "rows.jsonl", noise)
    called = call(monkeypatch, capsys, "toxicity", "train", path, "--out", tmp_path / "s", "--json")
    auc = json.loads(called.out.splitlines()[-1])["figures"]["auc"]
    assert auc["low"] < 0.5 < auc["high"]


def test_tables_with_class_numbers_and_scores_are_read(tmp_path, rows, monkeypatch, capsys):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["tweet", "class", "score"])
        table.writerows([row["text"], 2 - row["label"], ["0.1", "0.9"][row["label"]]] for row in rows)
    arguments = ("toxicity", "train", path, "--text", "tweet")
    by_class = call(monkeypatch, capsys, *arguments, "--label", "class", "--toxic", "1", "--out", tmp_path / "a")
    by_score = call(monkeypatch, capsys, *arguments, "--label", "score", "--above", "0.5", "--out", tmp_path / "b")
    assert (by_class.code, by_score.code) == (0, 0)
    assert open_scorer(f"tfidf:{tmp_path / 'a'}").id == open_scorer(f"tfidf:{tmp_path / 'b'}").id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "kind"], r"no column 'kind'; it has text, label.*--label"),
        (["--toxic", "yes"], r"got yes, wanted values of the column 'label': \['0', '1'\]"),
        (["--toxic", "1", "--above", "0.5"], "wanted one of them"),
        (["--above", "5"], "labels are all alike"),
        (["--label", "text", "--above", "0.5"], "wanted a number"),
        (["--held-out", "1", "--threshold", "3", "--strength", "0"], r"(?s)3 faults.*held-out.*threshold.*strength"),
    ],
)
def test_faults_say_what_to_do(arguments, message, tmp_path, rows, monkeypatch, capsys):
    path = write(tmp_path / "rows.jsonl", rows)
    called = call(monkeypatch, capsys, "toxicity", "train", path, "--out", tmp_path / "s", *arguments)
    assert called.code == 2
    assert re.search(message, called.err), called.err
    assert not (tmp_path / "s").exists()


def test_a_folder_of_something_else_is_not_touched(tmp_path, rows, monkeypatch, capsys):
    path = write(tmp_path / "rows.jsonl", rows)
    called = call(monkeypatch, capsys, "toxicity", "train", path, "--out", tmp_path)
    assert called.code == 2 and "holds no trained scorer" in called.err
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_figures_are_those_of_the_scores_and_what_cannot_be_measured_is_missing():
    class Fixed:
        def score(self, texts):
            return np.array([float(text) for text in texts])

    figures = measure(Fixed(), ["0.9", "0.8", "0.6", "0.1"], [True, False, True, True], 0.5)
    assert figures["precision"].value == pytest.approx(2 / 3) and figures["precision"].n == 3
    assert figures["recall"].value == pytest.approx(2 / 3)
    assert figures["auc"].value == pytest.approx(1 / 3)
    assert figures["removed"].value == 0.75
    alike = measure(Fixed(), ["0.1", "0.2"], [False, False], 0.5)
    assert alike["auc"].value is None and alike["precision"].value is None and alike["recall"].value is None


def test_labels_are_read_by_their_rule():
    assert [LabelRule().label(value) for value in (1, "1", "toxic", 0, "False", "", None)] == [
        True, True, True, False, False, False, None,
    ]  # fmt: skip
    # A column of whole numbers is read as 0.0, 1.0 and NaN as soon as a row of it is empty.
    assert [LabelRule().label(value) for value in (0.0, "0.0", 1.0, float("nan"))] == [False, False, True, None]
    scores = LabelRule(above=0.5)
    assert [scores.label(value) for value in (0.5, "0.6", "", None, float("nan"))] == [False, True, None, None, None]
