import json

import pytest
from micro_run import QUIET, call, libraries_as_before
from tunewell.filters.phrase_file import load_phrases
from tunewell.toolkit.settings.base import TinySettings
from tunewell.toolkit.tiny import cached_base
from tunewell.toolkit.world import build_world

pytestmark = [pytest.mark.filterwarnings(warning) for warning in QUIET]


@pytest.fixture(autouse=True)
def _libraries():
    with libraries_as_before():
        yield


@pytest.fixture(scope="module")
def corpus():
    return build_world(0).corpus[:160]


@pytest.fixture(scope="module")
def base(corpus):
    settings = TinySettings(hidden_size=64, layers=1, heads=2, steps=5)
    return cached_base([row["text"] for row in corpus], settings=settings)


@pytest.fixture
def sample(tmp_path, corpus):
    path = tmp_path / "sample.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in corpus))
    return path


def test_a_removal_rate_gives_a_phrase_file_whose_threshold_drops_that_share(
    tmp_path, sample, base, monkeypatch, capsys
):
    out = tmp_path / "phrases.yaml"
    arguments = ("calibrate", sample, "--model", base, "--phrases", "world", "--out", out, "--json")
    called = call(monkeypatch, capsys, *arguments, "--rate", "0.2")
    assert called.code == 0, called.err
    (axis,) = load_phrases(out)
    told = json.loads(called.out)["axes"]["contempt"]
    assert axis.threshold == told["threshold"]
    (share,) = told["shares"]
    assert share["name"] == "removal_rate"
    assert share["expected"][0] <= 0.2 + 0.01
    assert share["actual"][1] <= share["actual"][0] <= share["actual"][2]
    # Another target decides again from the stored scores, without the model.
    monkeypatch.setattr("tunewell.toolkit.model.loading.load_base", None)
    again = call(monkeypatch, capsys, *arguments, "--recall", "0.5")
    assert again.code == 0, again.err
    assert "scores of an earlier call" in again.err
    assert json.loads(again.out)["axes"]["contempt"]["threshold"] != told["threshold"]


def test_faults_of_calibration_say_what_to_do(tmp_path, sample, base, monkeypatch, capsys):
    arguments = ("calibrate", sample, "--model", base, "--phrases", "world", "--out", tmp_path / "phrases.yaml")
    for more, message in (
        ((), "got none as target, wanted one of --precision, --recall, --rate"),
        (("--rate", "0.1", "--recall", "0.9"), "got recall, removal_rate as target"),
        (("--recall", "0.9", "--label", "is_bad"), "no column 'is_bad'"),
    ):
        called = call(monkeypatch, capsys, *arguments, *more)
        assert called.code == 2
        assert message in called.err and "Traceback" not in called.err
    assert not (tmp_path / "phrases.yaml").exists()


def test_what_is_no_phrase_file_is_not_overwritten(tmp_path, sample, base, monkeypatch, capsys):
    before = sample.read_bytes()
    called = call(
        monkeypatch,
        capsys,
        "calibrate",
        sample,
        "--model",
        base,
        "--phrases",
        "world",
        "--out",
        sample,
        "--rate",
        "0.2",
    )
    assert called.code == 2 and "exists and is no phrase file" in called.err
    assert sample.read_bytes() == before
