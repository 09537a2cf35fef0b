"""What a user asks of `tunewell filter` is done or refused, and never passed over."""

import io
import itertools
import json
from types import SimpleNamespace

import pytest
from corpus_runs import QUIET, run, settings
from micro_run import call, libraries_as_before
from tunewell.pipelines import console as console_module
from tunewell.pipelines import filter_building
from tunewell.pipelines.corpus import inputs as inputs_module
from tunewell.pipelines.corpus.again import plan_again
from tunewell.pipelines.corpus.dry_run import estimate
from tunewell.pipelines.corpus.inputs import open_dataset
from tunewell.pipelines.corpus.plan import check_same
from tunewell.pipelines.corpus.runner import make_plan
from tunewell.pipelines.filter_settings import FilterSettings
from tunewell.toolkit.errors import DataError, RunError, SettingsError
from tunewell.toolkit.settings.base import BaseSettings
from tunewell.toolkit.stage import lock


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("fine", "badword", "fine too")))
    (tmp_path / "words.txt").write_text("badword\n")
    return path


@pytest.fixture
def told(monkeypatch, capsys, tmp_path):
    """Calls `tunewell filter`; gives the exit status, and what it says."""
    monkeypatch.chdir(tmp_path)

    def asked(*arguments):
        with libraries_as_before():
            called = call(monkeypatch, capsys, "filter", *arguments)
        return called.code, called.out + called.err

    return asked


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--min-words", 1, "--dry-run", 0], "--dry-run: got 0, wanted at least 1 row"),
        (["--min-words", 1, "--dry-run", 9, "--engine", "spark"], "--engine: got 'spark'"),
        (["--min-words", 1, "--dry-run", 9, "--workers", 0], "--workers: got 0"),
        (["--min-words", 1, "--max-bad-rate", 2], "--max-bad-rate: got 2, wanted a share from 0 to 1"),
        (["--min-words", 1, "--max-bad-rate", "nan"], "--max-bad-rate: got nan"),
        (["--min-words", 1, "--unit-mb", 0], "--unit-mb: got 0, wanted at least 0.001 MB"),
        (["--min-words", 1, "--unit-mb", "inf"], "--unit-mb: got inf"),
        (["--min-words", 1, "--toxicity-threshold", 0.4], "toxicity_threshold: says nothing without its filter. Add"),
        (["--min-words", 1, "--leetspeak"], "Add --blocklist FILE"),
        (["--min-words", 1, "--model", "x"], "model: says nothing without its filter. Add --phrases FILE"),
        (["--min-words", 1, "--set", "removal_rate=0.5"], "removal_rate: says nothing without its filter"),
        (["--min-words", 1, "--split", "test"], "--split: got 'test', but none of the inputs is a data set"),
    ],
)
def test_what_is_out_of_range_or_would_change_nothing_is_refused(rows, tmp_path, told, arguments, words):
    status, shown = told(rows, "--out", tmp_path / "out", *arguments)
    assert status == 2 and words in shown
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_decided_again_refuses_what_only_a_new_run_can_do(rows, tmp_path, told):
    run([rows], tmp_path / "one", settings(tmp_path))
    more = ["--column", "x", "--role", "user", "--split", "test", "--unit-mb", 1, "--dry-run", 5]
    status, shown = told("--again", tmp_path / "one", "--out", tmp_path / "two", *more)
    assert status == 2 and "5 faults" in shown
    for option in ("--column", "--role", "--split", "--unit-mb", "--dry-run"):
        assert f"{option}: " in shown


def test_deciding_again_knows_the_axes_and_sets_no_threshold_by_a_rate(rows, tmp_path):
    run([rows], tmp_path / "one", settings(tmp_path))
    path = tmp_path / "one" / "summary.json"
    summary = json.loads(path.read_text())
    summary["limits"]["trigger_likelihood"] = [["rude", "above", 1.0, "rude"]]
    summary["made_with"]["filter"]["phrases"] = "world"
    path.write_text(json.dumps(summary))
    new = FilterSettings(phrases="world", thresholds={"rdue": 2.0}, removal_rate=0.1)
    with pytest.raises(SettingsError, match=r"(?s)removal_rate: was None.*Give the thresholds.*'rdue', .* run: rude"):
        plan_again(tmp_path / "one", tmp_path / "two", new)


def test_without_a_filter_a_warning_says_so(rows, tmp_path, told):
    status, shown = told(rows, "--out", tmp_path / "out")
    assert status == 0 and "No filter is on" in shown
    status, shown = told(rows, "--out", tmp_path / "other", "--min-words", 1)
    assert status == 0 and "No filter is on" not in shown


def test_what_could_not_be_read_is_told_by_kind_at_the_end(rows, tmp_path, told):
    with rows.open("a") as file:
        file.write("broken\n[1]\n")
    status, shown = told(rows, "--out", tmp_path / "out", "--min-words", 1, "--max-bad-rate", 1)
    assert status == 0
    assert "could not be read: bad_json: 1" in shown and "could not be read: not_an_object: 1" in shown


def test_files_of_a_folder_that_are_not_read_are_named(rows, tmp_path, told):
    folder = tmp_path / "in"
    (folder / "sub" / ".cache").mkdir(parents=True)
    (folder / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    (folder / "a.jsonl").write_bytes(rows.read_bytes())
    for name in ("b.csv", "sub/c.jsonl.bz2", "sub/.cache/d.csv", ".hidden"):
        (folder / name).write_text("x")
    status, shown = told(folder, "--out", tmp_path / "out", "--min-words", 1)
    assert status == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    names = [str(folder / name) for name in ("b.csv", "sub/c.jsonl.bz2", "elsewhere")]
    assert record["passed_over"] == [*names[:2], f"{names[2]} (a link to a folder)"]
    page = (tmp_path / "out" / "report.html").read_text()
    for name in names:
        assert name in "".join(shown.split()) and name in page
    status, shown = told(folder / "a.jsonl", "--out", tmp_path / "alone", "--min-words", 1)
    assert json.loads((tmp_path / "alone" / "run.json").read_text())["passed_over"] == []


@pytest.mark.parametrize(("content", "words"), [("", "no rows"), ("broken\n", r"1 rows .* the first bad_json")])
def test_a_dry_run_over_nothing_that_can_be_judged_says_so(tmp_path, content, words):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    (tmp_path / "b.txt").write_text("badword")
    with pytest.raises(DataError, match=words):
        estimate(make_plan([str(path)], tmp_path / "out", settings(tmp_path)), 10, QUIET)


def test_a_dry_run_of_standard_input_leaves_nothing_behind(rows, tmp_path, told, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(rows.read_bytes())

    monkeypatch.setattr(inputs_module.sys, "stdin", Stdin())
    before = sorted(tmp_path.rglob("*"))
    status, shown = told("-", "--out", "out", "--dry-run", 2, "--min-words", 1)
    assert status == 0 and "2 rows judged" in shown
    assert sorted(tmp_path.rglob("*")) == before


def test_standard_input_of_a_run_that_is_going_on_is_not_written_over(rows, tmp_path, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(rows.read_bytes())

    kept = tmp_path / "out" / ".work" / "stdin.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text("rows of the run that is going on\n")
    monkeypatch.setattr(inputs_module.sys, "stdin", Stdin())
    with lock(tmp_path / "out"), pytest.raises(RunError, match="in use"):
        make_plan(["-"], tmp_path / "out", settings(tmp_path))
    assert kept.read_text() == "rows of the run that is going on\n"


def test_a_split_that_a_saved_data_set_does_not_have_is_told(tmp_path):
    import datasets

    datasets.Dataset.from_list([{"text": "x"}]).save_to_disk(tmp_path / "saved")
    assert len(open_dataset(str(tmp_path / "saved"), "train")) == 1
    with pytest.raises(DataError, match="without splits"):
        open_dataset(str(tmp_path / "saved"), "test")


def test_differences_between_runs_are_those_of_the_user(tmp_path):
    old = {"inputs": [], "files": {"words.txt": "1"}, "filter": {"thresholds": {}, "blocklist": "words.txt"}}
    new = {"inputs": [], "files": {}, "filter": {"thresholds": {}, "blocklist": None}}
    with pytest.raises(RunError) as error:
        check_same(old, new, tmp_path)
    assert "files was" not in str(error.value) and "the file words.txt was read too" in str(error.value)


def test_the_help_names_the_extra_that_brings_ray(told):
    status, shown = told("--help")
    assert status == 0 and "extra 'cluster'" in " ".join(shown.replace("│", " ").split())


def test_a_sample_for_thresholds_is_scored_in_pieces_that_are_shown(monkeypatch, capsys):
    texts = [f"text {number}" for number in range(130)]
    pieces = []

    class Phrases:
        axes = (SimpleNamespace(name="rude", threshold=None),)

        def measure(self, piece):
            pieces.append(len(piece))
            return [SimpleNamespace(measures={"rude": float(text.split()[1])}) for text in piece]

    monkeypatch.setattr(filter_building, "_trigger", lambda settings, model: Phrases())
    minutes = itertools.count(0, 60)  # lines come at most every ten seconds
    monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: next(minutes)))
    wanted = FilterSettings(phrases="world", removal_rate=0.1)
    model = filter_building.FilterModel(source="none", base=BaseSettings())
    found = filter_building.with_calibrated_thresholds(wanted, model, texts, 0, console_module.Console())
    assert pieces == [64, 64, 2]
    assert sum(number > found.thresholds["rude"] for number in range(130)) == 13
    assert "scoring a sample for the thresholds: 64 of 130" in capsys.readouterr().err


def test_a_list_of_ones_own_that_is_named_like_a_bundled_one_is_read_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "world").write_text("theatre")
    (own,) = FilterSettings(blocklist="./world").files()
    (bundled,) = FilterSettings(blocklist="world").files()
    assert own.read_text() == "theatre" != bundled.read_text()
