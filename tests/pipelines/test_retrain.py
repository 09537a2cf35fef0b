from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from micro_run import MICRO, QUIET, call, libraries_as_before
from tunewell.pipelines.recipe import find_recipe, read_recipe
from tunewell.pipelines.retrain import _documents, _lines
from tunewell.toolkit.errors import DataError, SettingsError
from tunewell.toolkit.files import read_json

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_the_control_has_as_many_documents_as_were_kept_and_all_are_in_the_order_of_the_corpus(corpus, rng):
    kept = [text for text in corpus[:-1] if rng.random() < 0.5] or corpus[:1]
    documents = _documents(corpus, kept, seed=0)
    assert documents["unfiltered"] == corpus
    assert Counter(documents["filtered"]) == Counter(kept)
    assert len(documents["random"]) == len(kept)
    assert not Counter(documents["random"]) - Counter(corpus)
    assert _documents(corpus, kept, seed=0) == documents


@pytest.mark.parametrize(
    ("corpus", "kept", "message"),
    [
        (["a", "b"], ["a", "b"], "kept 2 of 2 documents"),
        (["a", "b"], [], "kept 0 of 2 documents"),
        (["a", "b"], ["c"], "of which 0 are among the 2"),
        (["a", "b"], ["a", "a"], "of which 1 are among the 2"),
    ],
)
def test_a_corpus_of_which_nothing_can_be_compared_is_refused(corpus, kept, message):
    with pytest.raises(DataError, match=message):
        _documents(corpus, kept, seed=0)


def test_the_table_in_words_leaves_out_intervals_that_there_are_none_of():
    figure = {"value": 0.25, "low": 0.1, "high": 0.4}
    table = {"toxicity": {"unfiltered": figure, "filtered": figure | {"low": None, "high": None},
                          "random": {"value": None, "low": None, "high": None}}}  # fmt: skip
    difference = {"value": "toxicity", "from": "random", "delta": -0.1, "low": None, "high": None}
    lines = _lines(table, [difference, difference | {"low": -0.2, "high": 0.05}])
    assert lines[1].split() == ["toxicity", "0.250", "[0.100,", "0.400]", "0.250", "not", "measured"]
    assert [line.strip() for line in lines[2:]] == [
        "toxicity, random to filtered: -0.100", "toxicity, random to filtered: -0.100 [-0.200, +0.050]",
    ]  # fmt: skip


def test_only_a_tiny_base_can_be_trained_anew():
    with pytest.raises(SettingsError, match=r"needs base\.model=tiny"):
        read_recipe(find_recipe("findings/trigger-likelihood"), ["base.model=gpt2"])


@pytest.mark.slow
def test_three_arms_are_trained_asked_and_compared_and_a_second_run_trains_none(tmp_path, monkeypatch, capsys):
    settings = [one for one in MICRO if one.startswith(("base.", "eval."))]
    arguments = ["run", "findings/trigger-likelihood", *settings, "filter.phrases=null", "filter.blocklist=world",
                 "retrain.repeats=2", "--out", str(tmp_path / "run"), "--json"]  # fmt: skip
    with libraries_as_before():
        assert call(monkeypatch, capsys, *arguments).code == 0
    found = read_json(tmp_path / "run" / "02-retrain" / "retrain.json")
    assert found["documents"]["documents.filtered"] == found["documents"]["documents.random"]
    assert found["documents"]["documents.filtered"] < found["documents"]["documents.unfiltered"]
    bases = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "02-retrain" / "bases").iterdir()}
    assert len(bases) == 6
    for name in ("toxicity", "perplexity", "truthfulness"):
        for arm in ("unfiltered", "filtered", "random"):
            figure = found["figures"][name][arm]
            assert len(figure["repeats"]) == 2 and figure["low"] <= figure["value"] <= figure["high"]
    assert {row["from"] for row in found["differences"]} == {"unfiltered", "random"}
    with libraries_as_before():
        assert call(monkeypatch, capsys, *arguments).code == 0
    again = (tmp_path / "run" / "02-retrain" / "bases").iterdir()
    assert {path.name: path.stat().st_mtime_ns for path in again} == bases
